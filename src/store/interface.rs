//! The interface of all stores.

use std::pin::Pin;

use super::error::StoreError;
use super::saved::{Saved, StateKey};

/// A store operation in progress.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Storage of records.
pub trait Store: Send + Sync {
    /// Returns `None` if nothing was ever saved under `key`.
    fn load<'a>(&'a self, key: &'a StateKey) -> StoreFuture<'a, Result<Option<Saved>, StoreError>>;

    /// Saves the record, as durably as the store can. A failed save leaves the old record whole.
    fn save<'a>(
        &'a self,
        key: &'a StateKey,
        saved: &'a Saved,
    ) -> StoreFuture<'a, Result<(), StoreError>>;

    /// Waits until another process has left an update for this identity. Cancel safe.
    fn wait_for_update<'a>(&'a self, _key: &'a StateKey) -> StoreFuture<'a, ()> {
        Box::pin(std::future::pending())
    }

    /// Merges the updates that other processes left into the record, durably. The caller must not
    /// save the record meanwhile.
    fn adopt<'a>(&'a self, _key: &'a StateKey) -> StoreFuture<'a, Result<Adopted, StoreError>> {
        Box::pin(std::future::ready(Ok(Adopted::default())))
    }
}

/// Result of [`Store::adopt`].
#[derive(Debug, Default)]
pub struct Adopted {
    /// The new record; `None` if there was no update.
    pub saved: Option<Saved>,
    /// Errors of updates that could not be opened. Those updates are neither merged nor removed.
    pub refused: Vec<StoreError>,
}
