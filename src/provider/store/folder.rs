//! Files and folders of the store: private, atomic, durable. Blocks.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::StoreError;

/// Makes a folder, or the one that is there, private to this user.
pub(super) fn make(path: &Path) -> Result<(), StoreError> {
    let missing: Vec<&Path> = (path.ancestors())
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(failed("make the folder", path))?;
    for parent in missing.iter().filter_map(|folder| folder.parent()) {
        // What is in a folder is as durable as its name. Whoever may not read the one above does without.
        let _ = sync(match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        });
    }
    Ok(())
}

/// `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    // Room for nearly every record: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(64 * 1024));
    file.read_to_end(&mut text).map_err(failed("read", path))?;
    Ok(Some(text))
}

/// Writes a whole file: at every instant the old one is there, or the new one. Durable when it returns.
pub(super) fn write(path: &Path, text: &[u8]) -> Result<(), StoreError> {
    let new = path.with_extension("tmp");
    write_new(&new, text).map_err(failed("write", &new))?;
    reached("synced");
    fs::rename(&new, path).map_err(failed("rename to", path))?;
    reached("renamed");
    // The rename itself is durable only once the folder is.
    path.parent().map_or(Ok(()), sync)?;
    reached("folder synced");
    Ok(())
}

pub(super) fn sync(folder: &Path) -> Result<(), StoreError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", folder))
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Io {
        action,
        path,
        reason: error.to_string(),
    }
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    reached("created");
    file.write_all(text)?;
    reached("written");
    file.sync_all()
}

/// A step of a write, at which a test may end the process.
#[cfg(not(test))]
fn reached(_step: &str) {}

#[cfg(test)]
use super::file::killed::reached;
