//! Drop files: updates that a process without the lock (`login`) leaves for the lock holder.
//!
//! Each drop is a file `drops/KEY.ID.drop`, encoded like a record and sealed under that whole name,
//! so that it opens neither for another provider nor as a record. A drop is never changed. Only the
//! lock holder removes it, after its content is durable in the record.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::StoreError;
use super::folder::{self, StoreFolder, failed};
use super::saved::{Saved, StateKey};

const FOLDER: &str = "drops";
const SUFFIX: &str = "drop";

/// Age at which a half-written drop is abandoned: its writer must have died.
const ABANDONED: Duration = Duration::from_secs(3600);

/// One drop file. Ordered by identity, then by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Drop {
    pub(super) key: String,
    pub(super) id: String,
    /// `ctime` in seconds and nanoseconds: a repaired drop is tried again.
    changed: (i64, i64),
}

/// All methods block.
impl StoreFolder {
    /// Lists all drops; none if the folder of drops does not exist.
    pub(super) fn list_drops(&self) -> Result<BTreeSet<Drop>, StoreError> {
        let path = self.path.join(FOLDER);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(failed("list", &path)(error)),
        };
        let mut drops = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &path))?;
            // Adopted since the folder was listed.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            drops.extend(Drop::parse(&entry.path(), changed));
        }
        Ok(drops)
    }

    pub(super) fn drops_for(&self, key: &StateKey) -> Result<Vec<Drop>, StoreError> {
        let drops = self.list_drops()?.into_iter();
        Ok(drops.filter(|drop| drop.key == key.as_str()).collect())
    }

    /// Returns `None` if the drop is gone.
    pub(super) fn read_drop(&self, drop: &Drop) -> Result<Option<Saved>, StoreError> {
        self.read(&self.drop_file(drop), &drop.name())
    }

    /// Writes a drop, durably.
    pub(super) fn leave_drop(&self, key: &StateKey, left: &Saved) -> Result<Drop, StoreError> {
        folder::make(&self.path.join(FOLDER))?;
        let drop = Drop::new(key);
        self.write(&self.drop_file(&drop), &drop.name(), left)?;
        Ok(drop)
    }

    pub(super) fn remove_drops(&self, drops: &[Drop]) -> Result<(), StoreError> {
        for drop in drops {
            let path = self.drop_file(drop);
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != ErrorKind::NotFound
            {
                return Err(failed("remove", &path)(error));
            }
        }
        match drops {
            [] => Ok(()),
            _ => folder::sync(&self.path.join(FOLDER)),
        }
    }

    /// Removes abandoned half-written drops.
    pub(super) fn sweep_drops(&self) -> Result<(), StoreError> {
        let Ok(entries) = fs::read_dir(self.path.join(FOLDER)) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            if path.extension().is_some_and(|suffix| suffix == "tmp")
                && modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED))
            {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    pub(super) fn drop_file(&self, drop: &Drop) -> PathBuf {
        // Not `with_extension`, which would replace the id.
        let name = format!("{}.{SUFFIX}", drop.name());
        self.path.join(FOLDER).join(name)
    }
}

impl Drop {
    fn new(key: &StateKey) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let digits = &uuid::Uuid::new_v4().simple().to_string()[..8];
        Self {
            key: key.as_str().to_owned(),
            id: format!("{:020}-{digits}", now.as_nanos()),
            changed: (0, 0),
        }
    }

    pub(super) fn parse(path: &Path, changed: (i64, i64)) -> Option<Self> {
        let (name, suffix) = path.file_name()?.to_str()?.rsplit_once('.')?;
        let (key, id) = name.split_once('.')?;
        (suffix == SUFFIX).then(|| Self {
            key: key.to_owned(),
            id: id.to_owned(),
            changed,
        })
    }

    fn name(&self) -> String {
        format!("{}.{}", self.key, self.id)
    }
}

#[cfg(test)]
mod tests;
