//! Private, atomic and durable files and folders of the store. Functions block unless they return a
//! future.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::StoreError;
use super::seal::Keys;

/// A store's folder, and the keys of the files in it.
#[derive(Debug)]
pub(super) struct StoreFolder {
    pub(super) path: PathBuf,
    pub(super) keys: Keys,
}

/// Creates the folder if it is missing, and makes it private to this user.
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
    for parent in missing.into_iter().filter_map(Path::parent) {
        // A new folder is durable once its parent is synced. A parent that this user may not open
        // is skipped.
        let _ = sync(match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        });
    }
    Ok(())
}

/// Returns `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    // Large enough for nearly every record: a vector that grows leaves copies of secrets behind.
    let mut text = Zeroizing::new(Vec::with_capacity(64 * 1024));
    file.read_to_end(&mut text).map_err(failed("read", path))?;
    Ok(Some(text))
}

/// Replaces a file atomically and durably.
pub(super) fn write(path: &Path, text: &[u8]) -> Result<(), StoreError> {
    let new = path.with_extension("tmp");
    write_new(&new, text).map_err(failed("write", &new))?;
    reached("synced");
    fs::rename(&new, path).map_err(failed("rename to", path))?;
    reached("renamed");
    // The rename is durable only once its folder is synced.
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

/// Runs `work` on the blocking pool, where a dropped future does not stop it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Unfinished(error.to_string())))
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

#[cfg(not(test))]
fn reached(_step: &str) {}

#[cfg(test)]
use kill_point::reached;

/// Steps of a write, at which a test may kill the process.
#[cfg(test)]
pub(super) mod kill_point {
    use rustix::process::{Signal, getpid, kill_process};

    /// Environment variable: the step at which the process dies.
    pub(in crate::store) const VARIABLE: &str = "CUPBEARER_TEST_DIE_AT";

    pub(super) fn reached(step: &str) {
        if std::env::var(VARIABLE).is_ok_and(|at| at == step) {
            kill_process(getpid(), Signal::KILL).unwrap();
            // The signal may arrive after `kill` returns.
            loop {
                std::thread::park();
            }
        }
    }
}
