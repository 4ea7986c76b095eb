//! The file store as a process sees it that does not hold its lock: it reads everything and writes drops.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::drops::{Drop, Drops};
use super::seal::Keys;
use super::{Adopted, Saved, StateKey, Store, StoreError, folder, record};
use crate::provider::exchange::Pending;

/// Reads records as they will be once their drops are adopted; what it saves goes into drops of its own.
#[derive(Clone, Debug)]
pub struct VisitorStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    keys: Keys,
    drops: Drops,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Records as they were loaded: only what differs is left in a drop, for the holder of the lock goes on meanwhile.
    records: HashMap<StateKey, Saved>,
    left: Vec<Drop>,
}

impl VisitorStore {
    /// Touches nothing.
    pub fn new(path: PathBuf, keys: Keys) -> Self {
        Self {
            shared: Arc::new(Shared {
                drops: Drops::of(&path),
                path,
                keys,
                seen: Mutex::default(),
            }),
        }
    }

    /// Whether everything that was left here has been adopted. Blocks, briefly.
    pub fn all_adopted(&self) -> bool {
        let seen = self.shared.seen();
        let mut left = seen.left.iter();
        left.all(|drop| !self.shared.drops.file(drop).exists())
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Pending<'_, Result<T, StoreError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let path = shared.path.clone();
            tokio::task::spawn_blocking(move || work(&shared))
                .await
                .unwrap_or_else(|error| {
                    Err(folder::failed("use", &path)(std::io::Error::other(error)))
                })
        })
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

    fn adopt<'a>(&'a self, _key: &'a StateKey) -> Pending<'a, Result<Adopted, StoreError>> {
        // Not ours to do.
        Box::pin(std::future::ready(Ok(Adopted::default())))
    }
}

impl Shared {
    fn load(&self, key: &StateKey) -> Result<Option<Saved>, StoreError> {
        // Drops first: one that is adopted right after is in the record that is read then.
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
        for (id, left) in &pending {
            if !saved.adopted.contains(id) {
                saved.merge(left);
            }
        }
        let records = &mut self.seen().records;
        records.insert(key.clone(), saved.clone());
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
        // Both sides first write their mark and then look for the other's: of two that want to send the same input at
        // least one sees the other.
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
        let path = record::file(&self.path, key);
        let Some(text) = folder::read(&path)? else {
            return Ok(None);
        };
        let saved = record::decode(&self.keys, key.as_str(), &text);
        saved.map(Some).map_err(|reason| StoreError::Unopenable {
            path,
            reason: reason.to_owned(),
        })
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
