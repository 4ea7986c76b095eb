//! A store in memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::error::StoreError;
use super::interface::{Store, StoreFuture};
use super::saved::{Saved, StateKey};

/// Keeps records until the process ends: enough where a new fetch after a restart costs nothing.
#[derive(Debug, Default)]
pub struct MemoryStore {
    records: Mutex<HashMap<StateKey, Saved>>,
}

impl Store for MemoryStore {
    fn load<'a>(&'a self, key: &'a StateKey) -> StoreFuture<'a, Result<Option<Saved>, StoreError>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let found = records.get(key).cloned();
        Box::pin(std::future::ready(Ok(found)))
    }

    fn save<'a>(
        &'a self,
        key: &'a StateKey,
        saved: &'a Saved,
    ) -> StoreFuture<'a, Result<(), StoreError>> {
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), saved.clone());
        Box::pin(std::future::ready(Ok(())))
    }
}
