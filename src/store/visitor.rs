//! The file store for a process without its lock: reads records and writes drops.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::drops::Drop;
use super::error::StoreError;
use super::folder::{self, StoreFolder};
use super::interface::{Store, StoreFuture};
use super::saved::{Saved, StateKey};
use super::seal::Keys;

/// Reads records with all pending drops merged, and saves changes as drops.
#[derive(Clone, Debug)]
pub struct VisitorStore {
    shared: Arc<VisitorShared>,
}

#[derive(Debug)]
struct VisitorShared {
    folder: StoreFolder,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Records as loaded: a drop holds only changes, because the lock holder may save meanwhile.
    records: HashMap<StateKey, Saved>,
    left: Vec<Drop>,
}

impl VisitorStore {
    /// Creates the store without any access to the file system.
    pub fn new(path: PathBuf, keys: Keys) -> Self {
        Self {
            shared: Arc::new(VisitorShared {
                folder: StoreFolder { path, keys },
                seen: Mutex::default(),
            }),
        }
    }

    /// Whether every drop of this store has been adopted. Blocks, briefly.
    pub fn all_adopted(&self) -> bool {
        let seen = self.shared.seen();
        let mut left = seen.left.iter();
        left.all(|drop| !self.shared.folder.drop_file(drop).exists())
    }
}

impl Store for VisitorStore {
    fn load<'a>(&'a self, key: &'a StateKey) -> StoreFuture<'a, Result<Option<Saved>, StoreError>> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        Box::pin(folder::blocking(move || shared.load(&key)))
    }

    fn save<'a>(
        &'a self,
        key: &'a StateKey,
        saved: &'a Saved,
    ) -> StoreFuture<'a, Result<(), StoreError>> {
        let (shared, key, saved) = (Arc::clone(&self.shared), key.clone(), saved.clone());
        Box::pin(folder::blocking(move || shared.save(&key, &saved)))
    }
}

impl VisitorShared {
    fn load(&self, key: &StateKey) -> Result<Option<Saved>, StoreError> {
        // Drops are read first: a drop that is adopted in between is already in the record.
        let mut pending = Vec::new();
        for drop in self.folder.drops_for(key)? {
            if let Some(left) = self.folder.read_drop(&drop)? {
                pending.push((drop.id, left));
            }
        }
        let record = self.folder.load(key)?;
        if record.is_none() && pending.is_empty() {
            return Ok(None);
        }
        let mut saved = record.unwrap_or_default();
        for (id, left) in pending {
            if !saved.adopted.contains(&id) {
                saved.merge(left);
            }
        }
        self.seen().records.insert(key.clone(), saved.clone());
        Ok(Some(saved))
    }

    fn save(&self, key: &StateKey, saved: &Saved) -> Result<(), StoreError> {
        let base = self.seen().records.get(key).cloned().unwrap_or_default();
        let left = saved.since(&base);
        if left == Saved::default() {
            return Ok(());
        }
        let drop = self.folder.leave_drop(key, &left)?;
        self.seen().left.push(drop.clone());
        // This store and the lock holder both write their mark before they look for the other: if
        // both want to send the same input, at least one sees the conflict.
        if !left.spent.is_empty()
            && let Some(record) = self.folder.load(key)?
            && !record.adopted.contains(&drop.id)
            && !record.spent.is_disjoint(&left.spent)
        {
            return Err(StoreError::Claimed);
        }
        self.seen().records.insert(key.clone(), saved.clone());
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
