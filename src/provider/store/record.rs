//! A record as it is on disk: JSON, sealed where there are keys. Pure.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::seal::{Keys, Sealed};
use super::{Saved, SavedAccess, StateKey};
use crate::secret::Secret;

const VERSION: u32 = 1;

/// A record as it is on disk. Either `state` or `sealed`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileJson {
    version: u32,
    /// The file's own name again, so that a renamed one is noticed even in the clear.
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
    /// Digests, which are no secrets.
    #[zeroize(skip)]
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    bought_with: BTreeMap<String, String>,
}

pub(super) const SUFFIX: &str = "json";

/// Where a record is.
pub(super) fn file(folder: &Path, key: &StateKey) -> PathBuf {
    folder.join(key.as_str()).with_extension(SUFFIX)
}

/// `name` is the file's, without suffix.
pub(super) fn encode(keys: &Keys, name: &str, saved: &Saved) -> io::Result<Zeroizing<Vec<u8>>> {
    let state = StateJson::from(saved);
    let mut file = FileJson {
        version: VERSION,
        key: name.to_owned(),
        state: None,
        sealed: None,
    };
    if keys.is_empty() {
        file.state = Some(state);
    } else {
        let sealed = keys
            .seal(name, &to_json(&state)?)
            .ok_or_else(|| io::Error::other("it cannot be sealed"))?;
        file.sealed = Some(SealedJson {
            nonce: BASE64_STANDARD.encode(sealed.nonce),
            ciphertext: BASE64_STANDARD.encode(sealed.ciphertext),
        });
    }
    to_json(&file)
}

/// The reasons are fixed texts: serde's own quote what they read.
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
        // Taking it would let anybody who can write to the folder put a token of theirs there.
        (Some(_), None) => {
            return Err(
                "it is not sealed, but store.key is set, and state that anybody may have written is not taken: \
                 take store.key away again to keep this state, or move the file away and start without it \
                 (`cupbearer login` for providers that then ask for it) to seal from now on",
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

/// Whether a record that opens was sealed by a key that only opens, and keeps that key from being given up.
pub(super) fn is_outdated(keys: &Keys, name: &str, text: &[u8]) -> bool {
    let Ok(file) = serde_json::from_slice::<FileJson>(text) else {
        return false;
    };
    let sealed = file.sealed.and_then(|sealed| sealed.decode().ok());
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
        Ok(Sealed {
            nonce: decode(&self.nonce)?
                .try_into()
                .map_err(|_| "it is damaged")?,
            ciphertext: decode(&self.ciphertext)?,
        })
    }
}

// === impl StateJson ===

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
            access: state.access.as_ref().and_then(SavedAccess::from_json),
            spent: state.spent.iter().cloned().collect(),
            adopted: state.adopted.iter().cloned().collect(),
        }
    }
}

impl SavedAccess {
    /// `None` for times that this system's clock cannot hold.
    fn from_json(json: &AccessJson) -> Option<Self> {
        Some(Self {
            token: Secret::new(json.token.as_str()),
            fetched_at: at(json.fetched_at)?,
            expires_at: match json.expires_at {
                Some(millis) => Some(at(millis)?),
                None => None,
            },
            bought_with: json.bought_with.clone(),
        })
    }
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn at(millis: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

fn to_json(value: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for nearly every record: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(64 * 1024));
    serde_json::to_writer(&mut *text, value)?;
    Ok(text)
}
