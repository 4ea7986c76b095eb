//! Format of a record on disk: JSON, sealed if there are keys.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::error::StoreError;
use super::folder::{self, StoreFolder, failed};
use super::saved::{Saved, SavedAccess, StateKey};
use super::seal::{Keys, Sealed};
use crate::secret::Secret;

const VERSION: u32 = 1;

/// A file: either `state` or `sealed`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileJson {
    version: u32,
    /// The file's own name, to detect a renamed file even without keys.
    key: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    state: Option<StateJson>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    sealed: Option<SealedJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedJson {
    nonce: String,
    ciphertext: String,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct StateJson {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    seed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    access: Option<AccessJson>,
    #[serde(default)]
    spent: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    adopted: Vec<String>,
}

/// Times are milliseconds since the Unix epoch.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct AccessJson {
    token: String,
    fetched_at: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_at: Option<u64>,
    /// Digests are not secret.
    #[zeroize(skip)]
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    bought_with: BTreeMap<String, String>,
}

pub(super) const SUFFIX: &str = "json";

/// All methods but `open` block.
impl StoreFolder {
    pub(super) fn load(&self, key: &StateKey) -> Result<Option<Saved>, StoreError> {
        self.read(&file(&self.path, key), key.as_str())
    }

    pub(super) fn save(&self, key: &StateKey, saved: &Saved) -> Result<(), StoreError> {
        self.write(&file(&self.path, key), key.as_str(), saved)
    }

    /// Reads the record or drop at `path`; `None` if there is no such file.
    pub(super) fn read(&self, path: &Path, name: &str) -> Result<Option<Saved>, StoreError> {
        let text = folder::read(path)?;
        text.map(|text| self.open(path, name, &text)).transpose()
    }

    /// Decodes the content of the file at `path`.
    pub(super) fn open(&self, path: &Path, name: &str, text: &[u8]) -> Result<Saved, StoreError> {
        decode(&self.keys, name, text).map_err(|reason| StoreError::Unopenable {
            path: path.to_owned(),
            reason: reason.to_owned(),
        })
    }

    /// Writes the record or drop at `path` atomically and durably.
    pub(super) fn write(&self, path: &Path, name: &str, saved: &Saved) -> Result<(), StoreError> {
        let text = encode(&self.keys, name, saved).map_err(failed("encode", path))?;
        folder::write(path, &text)
    }
}

pub(super) fn file(folder: &Path, key: &StateKey) -> PathBuf {
    folder.join(key.as_str()).with_extension(SUFFIX)
}

/// Encodes a file; `name` is its name without the suffix.
pub(super) fn encode(keys: &Keys, name: &str, saved: &Saved) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut state = Some(StateJson::from(saved));
    let mut sealed = None;
    if !keys.is_empty() {
        let text = to_json(&state.take())?;
        let Sealed { nonce, ciphertext } = keys
            .seal(name, &text)
            .ok_or_else(|| io::Error::other("it cannot be sealed"))?;
        sealed = Some(SealedJson {
            nonce: BASE64_STANDARD.encode(nonce),
            ciphertext: BASE64_STANDARD.encode(ciphertext),
        });
    }
    to_json(&FileJson {
        version: VERSION,
        key: name.to_owned(),
        state,
        sealed,
    })
}

/// Decodes a file. Errors are fixed texts, since serde errors quote their input.
pub(super) fn decode(keys: &Keys, name: &str, text: &[u8]) -> Result<Saved, &'static str> {
    let file: FileJson = serde_json::from_slice(text)
        .map_err(|_| "it is damaged, or not a state file of this program")?;
    if file.version != VERSION {
        return Err("it was written by another version of this program");
    }
    if file.key != name {
        return Err("it belongs to another provider: its name was changed");
    }
    let state = match (file.state, file.sealed) {
        (Some(state), None) if keys.is_empty() => state,
        // Accepting it would let anyone with write access to the folder plant a token.
        (Some(_), None) => {
            return Err(
                "it is not sealed, but store.key is set, and anybody may have written the file: \
                 remove store.key to keep this state, or move the file away to start without it \
                 (and run `cupbearer login` for providers that then need it)",
            );
        }
        (None, Some(_)) if keys.is_empty() => {
            return Err("it is sealed, but store.key is not set: set it to the key that sealed it");
        }
        (None, Some(sealed)) => unseal(keys, name, &sealed)?,
        _ => return Err("it is damaged"),
    };
    Ok(Saved::from(&state))
}

/// Whether the record was sealed with a key that is not the first: that key is still needed.
pub(super) fn is_outdated(keys: &Keys, name: &str, text: &[u8]) -> bool {
    let file = serde_json::from_slice::<FileJson>(text).ok();
    let sealed = file.and_then(|file| file.sealed?.decode().ok());
    sealed.is_some_and(|sealed| !keys.is_current(name, &sealed))
}

fn unseal(keys: &Keys, name: &str, sealed: &SealedJson) -> Result<StateJson, &'static str> {
    let text = keys
        .open(name, &sealed.decode()?)
        .ok_or("no key of store.key opens it: put the one that sealed it at the end of the list")?;
    serde_json::from_slice(&text).map_err(|_| "it is damaged")
}

impl SealedJson {
    fn decode(&self) -> Result<Sealed, &'static str> {
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| "it is damaged");
        let nonce = decode(&self.nonce)?.try_into();
        Ok(Sealed {
            nonce: nonce.map_err(|_| "it is damaged")?,
            ciphertext: decode(&self.ciphertext)?,
        })
    }
}

impl From<&Saved> for StateJson {
    fn from(saved: &Saved) -> Self {
        let text = |secret: &Secret| secret.expose().to_owned();
        Self {
            refresh_token: saved.refresh_token.as_ref().map(text),
            seed: saved.seed.clone(),
            access: saved.access.as_ref().map(|access| AccessJson {
                token: text(&access.token),
                fetched_at: millis(access.fetched_at),
                expires_at: access.expires_at.map(millis),
                bought_with: access.bought_with.clone(),
            }),
            spent: saved.spent.iter().cloned().collect(),
            adopted: saved.adopted.iter().cloned().collect(),
        }
    }
}

impl From<&StateJson> for Saved {
    fn from(state: &StateJson) -> Self {
        Self {
            refresh_token: state.refresh_token.as_deref().map(Secret::new),
            seed: state.seed.clone(),
            access: state.access.as_ref().and_then(access),
            spent: state.spent.iter().cloned().collect(),
            adopted: state.adopted.iter().cloned().collect(),
        }
    }
}

/// Returns `None` for times outside the range of `SystemTime`.
fn access(json: &AccessJson) -> Option<SavedAccess> {
    Some(SavedAccess {
        token: Secret::new(json.token.as_str()),
        fetched_at: at(json.fetched_at)?,
        expires_at: match json.expires_at {
            Some(millis) => Some(at(millis)?),
            None => None,
        },
        bought_with: json.bought_with.clone(),
    })
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn at(millis: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

fn to_json(value: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Large enough for nearly every record: a vector that grows leaves copies of secrets behind.
    let mut text = Zeroizing::new(Vec::with_capacity(64 * 1024));
    serde_json::to_writer(&mut *text, value)?;
    Ok(text)
}
