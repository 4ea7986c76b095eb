//! Drop files: what a process without the lock (`login`) leaves for the one that holds it.
//!
//! Each is a file of its own in `drops/`, named `KEY.ID.drop`, written like a record and sealed under that whole name, so
//! that it opens neither for another provider nor as a record. Nobody ever writes to one again; only the holder of the
//! lock removes it, after the record with its content is durable.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::folder::{self, failed};
use super::seal::Keys;
use super::{Saved, StateKey, StoreError, record};

const FOLDER: &str = "drops";
const SUFFIX: &str = "drop";

/// A half-written drop that is older has nobody left who writes it.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The folder `drops/` of a store.
#[derive(Debug)]
pub(super) struct Drops {
    path: PathBuf,
}

/// One drop file. Ordered by identity, then by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Drop {
    pub(super) key: String,
    pub(super) id: String,
    /// When the file last changed in any way: who repairs one gets it looked at again.
    changed: (i64, i64),
}

impl Drops {
    pub(super) fn of(store: &Path) -> Self {
        Self {
            path: store.join(FOLDER),
        }
    }

    /// Every drop there is. A store that never had one has no folder for them.
    pub(super) fn list(&self) -> Result<BTreeSet<Drop>, StoreError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(BTreeSet::new());
            }
            Err(error) => return Err(failed("list", &self.path)(error)),
        };
        let mut drops = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.path))?;
            // Gone while we looked: adopted.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            drops.extend(Drop::parse(&entry.path(), changed));
        }
        Ok(drops)
    }

    pub(super) fn list_for(&self, key: &StateKey) -> Result<Vec<Drop>, StoreError> {
        let mut drops: Vec<Drop> = self.list()?.into_iter().collect();
        drops.retain(|drop| drop.key == key.as_str());
        Ok(drops)
    }

    /// `None` if it is gone.
    pub(super) fn read(&self, keys: &Keys, drop: &Drop) -> Result<Option<Saved>, StoreError> {
        let path = self.file(drop);
        let Some(text) = folder::read(&path)? else {
            return Ok(None);
        };
        let left = record::decode(keys, &drop.name(), &text);
        left.map(Some).map_err(|reason| StoreError::Unopenable {
            path,
            reason: reason.to_owned(),
        })
    }

    /// Leaves a drop, durably.
    pub(super) fn leave(
        &self,
        keys: &Keys,
        key: &StateKey,
        left: &Saved,
    ) -> Result<Drop, StoreError> {
        folder::make(&self.path)?;
        let drop = Drop::new(key);
        let path = self.file(&drop);
        let text = record::encode(keys, &drop.name(), left).map_err(failed("encode", &path))?;
        folder::write(&path, &text)?;
        Ok(drop)
    }

    pub(super) fn remove(&self, drops: &[Drop]) -> Result<(), StoreError> {
        for drop in drops {
            let path = self.file(drop);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
        }
        if drops.is_empty() {
            return Ok(());
        }
        folder::sync(&self.path)
    }

    /// Removes what processes left half-written that died long ago.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|at| SystemTime::now().duration_since(at).ok());
            if path.extension().is_some_and(|suffix| suffix == "tmp")
                && age.is_some_and(|age| age > ABANDONED)
            {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    pub(super) fn file(&self, drop: &Drop) -> PathBuf {
        // Not `with_extension`: it would take the id for one.
        self.path.join(format!("{}.{SUFFIX}", drop.name()))
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
        let name = path.file_name()?.to_str()?;
        let (name, suffix) = name.rsplit_once('.')?;
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
