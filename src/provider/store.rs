//! CONTROL, store: what must outlive a token, or the process.
//!
//! One small record per identity: the refresh token, which one-time inputs are spent, and the access token where
//! fetching another one is costly (single-active, one-time, longer-lived than a day). Whole records are read and
//! written, so that any store with an atomic "set" will do.

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
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::config;
use crate::dialect::Var;
use crate::provider::exchange::Pending;
use crate::provider::inputs::{self, InputError};
use crate::secret::Secret;

pub use file::FileStore;
pub use memory::MemoryStore;
pub use seal::Keys;
pub use visitor::VisitorStore;

/// Where records are kept.
pub trait Store: Send + Sync {
    /// `None` if nothing was ever saved under this key.
    fn load<'a>(&'a self, key: &'a StateKey) -> Pending<'a, Result<Option<Saved>, StoreError>>;

    /// When it answers, the record is durable (as far as this store can be). A record that was there before is
    /// replaced as a whole or, on failure, not at all.
    fn save<'a>(
        &'a self,
        key: &'a StateKey,
        saved: &'a Saved,
    ) -> Pending<'a, Result<(), StoreError>>;

    /// Waits until another process has left something for this identity. Cancel safe.
    fn left<'a>(&'a self, _key: &'a StateKey) -> Pending<'a, ()> {
        Box::pin(std::future::pending())
    }

    /// Makes what other processes left for this identity part of its record, durably. Nobody else may save the record
    /// meanwhile.
    fn adopt<'a>(&'a self, _key: &'a StateKey) -> Pending<'a, Result<Adopted, StoreError>> {
        Box::pin(std::future::ready(Ok(Adopted::default())))
    }
}

/// What [`Store::adopt`] did.
#[derive(Debug, Default)]
pub struct Adopted {
    /// The record as it is now; `None` if there was nothing new.
    pub saved: Option<Saved>,
    /// What could not be opened, and was neither taken nor removed.
    pub refused: Vec<StoreError>,
}

/// The store as a process other than `run` finds it.
pub enum Beside {
    /// Nobody held it: it is ours as long as this lives.
    Ours(FileStore),
    /// The process with this id holds it, most likely the running proxy.
    Visited { store: VisitorStore, holder: String },
}

/// The name of an identity's record: a hash, since an identity may hold what nobody should read in a listing.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey(String);

/// One identity's record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    pub refresh_token: Option<Secret>,
    /// Hash of the configured refresh token that `refresh_token` descends from: when another one is configured, that
    /// one is the newer.
    pub seed: Option<String>,
    pub access: Option<SavedAccess>,
    /// Hashes of one-time inputs that were sent. Never shortened: an old code must not be sent again, ever.
    pub spent: BTreeSet<String>,
    /// What other processes left and is part of this record already, as the store names it.
    pub adopted: BTreeSet<String>,
}

/// A stored access token. Its life is on the wall clock: a boot clock ends with its boot.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedAccess {
    pub token: Secret,
    pub fetched_at: SystemTime,
    pub expires_at: Option<SystemTime>,
    /// By provider, the [digest](StateKey::digest) of the token of theirs that this one was bought with: after a restart
    /// theirs may be another. Empty for a token that was bought with none, and where that is not known.
    pub bought_with: BTreeMap<String, String>,
}

/// Why a store cannot be opened, read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("store.path: cannot {action} {}: {reason}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error(
        "store.path: {} is in use by process {holder}: stop that one, or give this one a store.path of its own",
        path.display()
    )]
    Locked { path: PathBuf, holder: String },
    #[error(
        "store.path: {} cannot be used: {reason}. Nothing was changed; move the file away if its state may be lost",
        path.display()
    )]
    Unopenable { path: PathBuf, reason: String },
    #[error("store.key: {0}")]
    Key(String),
    #[error("another process has just sent this one-time input, and it is never sent twice")]
    Claimed,
    #[error(
        "store.kind is \"memory\", which ends with its process: set store.kind = \"file\" and store.path"
    )]
    NotDurable,
    #[error(
        "store.path: {} belongs to another user (uid {owner}), who could not read what is written there: run this as that user",
        path.display()
    )]
    ForeignOwner { path: PathBuf, owner: u32 },
    #[error(transparent)]
    Input(#[from] InputError),
}

/// Opens what `[store]` asks for, and checks all that is in it: state that cannot be opened is a start-up error.
pub async fn open(config: &config::Store) -> Result<Arc<dyn Store>, StoreError> {
    let keys = read_keys(&config.keys).await?;
    match &config.kind {
        config::StoreKind::Memory => Ok(Arc::new(MemoryStore::default())),
        config::StoreKind::File { path } => {
            let path = path.clone();
            let opened = tokio::task::spawn_blocking(move || FileStore::open(path, keys)).await;
            match opened {
                Ok(store) => Ok(Arc::new(store?)),
                Err(_) => Err(StoreError::Key("this process is shutting down".to_owned())),
            }
        }
    }
}

/// For `login`: the store itself where no proxy holds it, else a visit.
pub async fn beside(config: &config::Store) -> Result<Beside, StoreError> {
    let path = durable_path(config)?;
    check_owner(path)?;
    let (path, keys) = (path.to_owned(), read_keys(&config.keys).await?);
    let opened = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || FileStore::open(path, keys)).await
    };
    match opened {
        Ok(Ok(store)) => Ok(Beside::Ours(store)),
        Ok(Err(StoreError::Locked { holder, .. })) => Ok(Beside::Visited {
            store: VisitorStore::new(path, read_keys(&config.keys).await?),
            holder,
        }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StoreError::Key("this process is shutting down".to_owned())),
    }
}

/// For those who only look: changes nothing, needs no lock.
pub async fn visit(config: &config::Store) -> Result<VisitorStore, StoreError> {
    let path = durable_path(config)?.to_owned();
    Ok(VisitorStore::new(path, read_keys(&config.keys).await?))
}

fn durable_path(config: &config::Store) -> Result<&Path, StoreError> {
    match &config.kind {
        config::StoreKind::Memory => Err(StoreError::NotDurable),
        config::StoreKind::File { path } => Ok(path),
    }
}

/// What root writes into the folder of a proxy that runs as somebody else, that proxy cannot read.
fn check_owner(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(metadata) = std::fs::metadata(path) else {
        // Not there yet: then it will be ours.
        return Ok(());
    };
    if metadata.uid() == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(StoreError::ForeignOwner {
        path: path.to_owned(),
        owner: metadata.uid(),
    })
}

async fn read_keys(values: &[config::Value]) -> Result<Keys, StoreError> {
    let mut keys = Vec::new();
    for (place, value) in values.iter().enumerate() {
        let unusable = |reason: &str| StoreError::Key(format!("key {}: {reason}", place + 1));
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

// === impl Saved ===

impl Saved {
    /// Takes up what another process left: its tokens replace ours, what it spent is spent.
    fn merge(&mut self, left: &Self) {
        let Self {
            refresh_token,
            seed,
            access,
            spent,
            adopted: _,
        } = left.clone();
        self.refresh_token = refresh_token.or_else(|| self.refresh_token.take());
        self.seed = seed.or_else(|| self.seed.take());
        self.access = access.or_else(|| self.access.take());
        self.spent.extend(spent);
    }

    /// What is new here since `base`: the other side of [`Self::merge`].
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

// === impl StateKey ===

impl StateKey {
    pub fn new(identity: &str) -> Self {
        Self(hex(&Sha256::digest(identity.as_bytes())))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a spent input leaves behind. Salted with the identity: a six-digit code under a bare hash is no secret,
    /// and equal codes of two providers would show as equal.
    pub fn digest<'a>(&self, inputs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        let mut hash = Sha256::new();
        hash.update(self.0.as_bytes());
        for (name, value) in inputs {
            for part in [name, value] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part.as_bytes());
            }
        }
        hex(&hash.finalize())
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
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
    async fn memory_keeps_records_apart() {
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
