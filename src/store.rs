//! Control flow: state that outlives one access token or the process.
//!
//! Each identity has one small record: the refresh token, the spent one-time inputs, and the access
//! token where a new one is costly (single-active, one-time, longer-lived than a day). Records are
//! read and written whole, so that any store with an atomic "set" will do.

mod drops;
mod error;
mod file;
mod folder;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod interface;
mod memory;
mod record;
mod saved;
mod seal;
mod visitor;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::config;
use crate::dialect::Var;
use crate::provider::inputs;

pub use error::StoreError;
pub use file::FileStore;
pub use interface::{Adopted, Store, StoreFuture};
pub use memory::MemoryStore;
pub use saved::{Saved, SavedAccess, StateKey};
pub use seal::Keys;
pub use visitor::VisitorStore;

/// The store as opened by a process other than `run`.
pub enum OpenedStore {
    /// No process held the lock; this store holds the lock until dropped.
    Ours(FileStore),
    /// The process `holder` (a process id) holds the lock, most likely the running proxy.
    Visited { store: VisitorStore, holder: String },
}

/// Opens the store of `[store]` and checks every record in it.
pub async fn open(config: &config::Store) -> Result<Arc<dyn Store>, StoreError> {
    let keys = read_keys(&config.keys).await?;
    match &config.kind {
        config::StoreKind::Memory => Ok(Arc::new(MemoryStore::default())),
        config::StoreKind::File { path } => Ok(Arc::new(open_file(path.clone(), keys).await?)),
    }
}

/// Opens the store for `login`: the store itself if its lock is free, else as a visitor.
pub async fn open_for_login(config: &config::Store) -> Result<OpenedStore, StoreError> {
    let path = durable_path(config)?;
    check_owner(path)?;
    match open_file(path.to_owned(), read_keys(&config.keys).await?).await {
        Ok(store) => Ok(OpenedStore::Ours(store)),
        Err(StoreError::Locked { holder, .. }) => Ok(OpenedStore::Visited {
            store: visit(config).await?,
            holder,
        }),
        Err(error) => Err(error),
    }
}

/// Opens the store without its lock, to read it.
pub async fn visit(config: &config::Store) -> Result<VisitorStore, StoreError> {
    let path = durable_path(config)?.to_owned();
    Ok(VisitorStore::new(path, read_keys(&config.keys).await?))
}

async fn open_file(path: PathBuf, keys: Keys) -> Result<FileStore, StoreError> {
    folder::blocking(move || FileStore::open(path, keys)).await
}

fn durable_path(config: &config::Store) -> Result<&Path, StoreError> {
    match &config.kind {
        config::StoreKind::Memory => Err(StoreError::NotDurable),
        config::StoreKind::File { path } => Ok(path),
    }
}

/// Refuses the folder of another user: a proxy that runs as that user could not read files that
/// root writes there.
fn check_owner(path: &Path) -> Result<(), StoreError> {
    match std::fs::metadata(path).map(|folder| folder.uid()) {
        Ok(owner) if owner != rustix::process::geteuid().as_raw() => {
            let path = path.to_owned();
            Err(StoreError::ForeignOwner { path, owner })
        }
        // A missing folder will be created by this user.
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn read_keys(values: &[config::Value]) -> Result<Keys, StoreError> {
    let mut keys = Vec::new();
    for (number, value) in (1..).zip(values) {
        let unusable = |reason: &str| StoreError::Key(format!("key {number}: {reason}"));
        let Var::Text(text) = inputs::read("store.key", value).await? else {
            return Err(unusable("must be a string"));
        };
        let bytes = BASE64_STANDARD
            .decode(text.expose())
            .map(Zeroizing::new)
            .map_err(|_| unusable("is not base64"))?;
        let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| {
            unusable("is not 32 bytes long; `openssl rand -base64 32` makes one that is")
        })?;
        keys.push(Zeroizing::new(key));
    }
    Ok(Keys::new(keys))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Value;

    #[tokio::test]
    async fn keys_are_32_bytes_of_base64() {
        let value = |text: &str| Value::Literal(Var::Text(text.into()));
        let good = value("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        assert!(
            !read_keys(std::slice::from_ref(&good))
                .await
                .unwrap()
                .is_empty()
        );
        for bad in ["hunter2!", "aHVudGVyMg==", ""] {
            let keys = [good.clone(), value(bad)];
            let error = read_keys(&keys).await.unwrap_err().to_string();
            assert!(error.starts_with("store.key: key 2: "), "{error}");
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[tokio::test]
    async fn memory_store_keeps_one_record_for_each_key() {
        let store = MemoryStore::default();
        let (one, two) = (StateKey::new("one"), StateKey::new("two"));
        let saved = Saved {
            seed: Some("x".to_owned()),
            ..Saved::default()
        };
        store.save(&one, &saved).await.unwrap();
        assert_eq!(store.load(&one).await.unwrap(), Some(saved));
        assert_eq!(store.load(&two).await.unwrap(), None);
    }

    #[test]
    fn a_spent_inputs_digest_depends_on_identity_name_and_value() {
        let key = StateKey::new("identity");
        let digests: BTreeSet<String> = [
            key.digest([("sms", "123456")]),
            key.digest([("sms", "123457")]),
            key.digest([("code", "123456")]),
            key.digest([("sms1", "23456")]),
            StateKey::new("other").digest([("sms", "123456")]),
        ]
        .into();
        assert_eq!(digests.len(), 5);
        assert_eq!(
            key.digest([("sms", "123456")]),
            key.digest([("sms", "123456")])
        );
    }
}
