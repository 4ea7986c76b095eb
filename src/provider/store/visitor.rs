//! The file store for a process without its lock: reads records and writes drops.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::drops::{Drop, Drops};
use super::seal::Keys;
use super::{Saved, StateKey, Store, StoreError, folder, record};
use crate::provider::exchange::Pending;

/// Reads records with all pending drops merged, and saves changes as drops.
#[derive(Clone, Debug)]
pub struct VisitorStore {
    shared: Arc<VisitorShared>,
}

#[derive(Debug)]
struct VisitorShared {
    path: PathBuf,
    keys: Keys,
    drops: Drops,
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
                drops: Drops::of(&path),
                path,
                keys,
                seen: Mutex::default(),
            }),
        }
    }

    /// Whether every drop of this store has been adopted. Blocks, briefly.
    pub fn all_adopted(&self) -> bool {
        let seen = self.shared.seen();
        let mut left = seen.left.iter();
        left.all(|drop| !self.shared.drops.file(drop).exists())
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&VisitorShared) -> Result<T, StoreError> + Send + 'static,
    ) -> Pending<'static, Result<T, StoreError>> {
        folder::blocking(&self.shared, &self.shared.path, work)
    }
}

impl Store for VisitorStore {
    fn load<'a>(&'a self, key: &'a StateKey) -> Pending<'a, Result<Option<Saved>, StoreError>> {
        let key = key.clone();
        self.blocking(move |shared| shared.load(&key))
    }

    fn save<'a>(
        &'a self,
        key: &'a StateKey,
        saved: &'a Saved,
    ) -> Pending<'a, Result<(), StoreError>> {
        let (key, saved) = (key.clone(), saved.clone());
        self.blocking(move |shared| shared.save(&key, &saved))
    }
}

impl VisitorShared {
    fn load(&self, key: &StateKey) -> Result<Option<Saved>, StoreError> {
        // Drops are read first: a drop that is adopted in between is already in the record.
        let mut pending = Vec::new();
        for drop in self.drops.list_for(key)? {
            if let Some(left) = self.drops.read(&self.keys, &drop)? {
                pending.push((drop.id, left));
            }
        }
        let record = self.record(key)?;
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
        let drop = self.drops.leave(&self.keys, key, &left)?;
        self.seen().left.push(drop.clone());
        // This store and the lock holder both write their mark before they look for the other: if
        // both want to send the same input, at least one sees the conflict.
        if !left.spent.is_empty()
            && let Some(record) = self.record(key)?
            && !record.adopted.contains(&drop.id)
            && !record.spent.is_disjoint(&left.spent)
        {
            return Err(StoreError::Claimed);
        }
        self.seen().records.insert(key.clone(), saved.clone());
        Ok(())
    }

    fn record(&self, key: &StateKey) -> Result<Option<Saved>, StoreError> {
        record::read(&record::file(&self.path, key), &self.keys, key.as_str())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
