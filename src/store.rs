//! Control flow: state that outlives one access token or the process.
//!
//! Each identity has one small record: the refresh token, the spent one-time inputs, and the access
//! token where a new one is costly (single-active, one-time, longer-lived than a day). Records are
//! read and written whole, so that any store with an atomic "set" will do.

mod drops;
mod file;
mod folder;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod memory;
mod record;
mod seal;
mod visitor;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::config;
use crate::dialect::Var;
use crate::provider::inputs::{self, InputError};
use crate::secret::Secret;

pub use file::FileStore;
pub use memory::MemoryStore;
pub use seal::Keys;
pub use visitor::VisitorStore;

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
    fn left<'a>(&'a self, _key: &'a StateKey) -> StoreFuture<'a, ()> {
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

/// The store as opened by a process other than `run`.
pub enum Beside {
    /// No process held the lock; this store holds the lock until dropped.
    Ours(FileStore),
    /// The process `holder` (a process id) holds the lock, most likely the running proxy.
    Visited { store: VisitorStore, holder: String },
}

/// Name of an identity's record: a hash, because identities hold values that file names must not
/// show.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey(String);

/// Record of one identity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    pub refresh_token: Option<Secret>,
    /// Hash of the configured refresh token from which `refresh_token` descends. A configured token
    /// with another hash is newer than `refresh_token`.
    pub seed: Option<String>,
    pub access: Option<SavedAccess>,
    /// Hashes of one-time inputs that were sent. Never shortened: an old code must never be sent
    /// again.
    pub spent: BTreeSet<String>,
    /// Updates of other processes that are merged already, by their names in the store.
    pub adopted: BTreeSet<String>,
}

/// A stored access token. Times are wall-clock times, since the boot clock restarts with the
/// machine.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedAccess {
    pub token: Secret,
    pub fetched_at: SystemTime,
    pub expires_at: Option<SystemTime>,
    /// For each provider in the chain, the [digest](StateKey::digest) of the token that bought this
    /// one. Empty for an unchained or unknown purchase.
    pub bought_with: BTreeMap<String, String>,
}

/// Failure to open, read or write a store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("store.path: cannot {action} {}: {reason}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error(
        "store.path: {} is in use by process {holder}: \
         stop that process, or set another store.path",
        path.display()
    )]
    Locked { path: PathBuf, holder: String },
    #[error(
        "store.path: {} cannot be used: {reason}. Nothing was changed; \
         move the file away if its state may be lost",
        path.display()
    )]
    Unopenable { path: PathBuf, reason: String },
    #[error("store.key: {0}")]
    Key(String),
    /// The blocking task panicked, or the runtime is shutting down.
    #[error("a store operation did not finish: {0}")]
    Unfinished(String),
    #[error("another process has just sent this one-time input, which is never sent twice")]
    Claimed,
    #[error(
        "store.kind = \"memory\" keeps nothing after its process ends: \
         set store.kind = \"file\" and store.path"
    )]
    NotDurable,
    #[error(
        "store.path: {} belongs to another user (uid {owner}), \
         who could not read the files that this command writes: run the command as that user",
        path.display()
    )]
    ForeignOwner { path: PathBuf, owner: u32 },
    #[error(transparent)]
    Input(#[from] InputError),
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
pub async fn beside(config: &config::Store) -> Result<Beside, StoreError> {
    let path = durable_path(config)?;
    check_owner(path)?;
    match open_file(path.to_owned(), read_keys(&config.keys).await?).await {
        Ok(store) => Ok(Beside::Ours(store)),
        Err(StoreError::Locked { holder, .. }) => Ok(Beside::Visited {
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

impl Saved {
    /// Applies an update of another process: its tokens replace these, and its spent inputs are
    /// added.
    fn merge(&mut self, left: Self) {
        self.refresh_token = left.refresh_token.or_else(|| self.refresh_token.take());
        self.seed = left.seed.or_else(|| self.seed.take());
        self.access = left.access.or_else(|| self.access.take());
        self.spent.extend(left.spent);
    }

    /// Returns the difference to `base`, which [`Self::merge`] applies.
    fn since(&self, base: &Self) -> Self {
        fn new<T: Clone + PartialEq>(now: &Option<T>, base: &Option<T>) -> Option<T> {
            now.clone().filter(|_| now != base)
        }
        Self {
            refresh_token: new(&self.refresh_token, &base.refresh_token),
            seed: new(&self.seed, &base.seed),
            access: new(&self.access, &base.access),
            spent: self.spent.difference(&base.spent).cloned().collect(),
            adopted: BTreeSet::new(),
        }
    }
}

impl StateKey {
    pub fn new(identity: &str) -> Self {
        Self(hex(&Sha256::digest(identity.as_bytes())))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Hashes `inputs` salted with the identity: a plain hash of a six-digit code could be
    /// reversed, and equal codes of two providers would show as equal.
    pub fn digest<'a>(&self, inputs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.0);
        for part in inputs.into_iter().flat_map(|(name, value)| [name, value]) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hex(&hash.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
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
