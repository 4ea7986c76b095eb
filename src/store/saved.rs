//! The record of one identity and its name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::secret::Secret;

/// Name of an identity's record: a hash, because identities hold values that file names must not
/// show.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey(pub(super) String);

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

impl Saved {
    /// Applies an update of another process: its tokens replace these, and its spent inputs are
    /// added.
    pub(super) fn merge(&mut self, left: Self) {
        self.refresh_token = left.refresh_token.or_else(|| self.refresh_token.take());
        self.seed = left.seed.or_else(|| self.seed.take());
        self.access = left.access.or_else(|| self.access.take());
        self.spent.extend(left.spent);
    }

    /// Returns the difference to `base`, which [`Self::merge`] applies.
    pub(super) fn since(&self, base: &Self) -> Self {
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
