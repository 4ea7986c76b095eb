//! A folder with one file per record.
//!
//! A write goes to a new file, which is synced, renamed over the old one, and the folder synced after it: at every
//! instant the record is the old one or the new one. One process at a time holds the lock; what it left half-written
//! is a `.tmp` file that nobody reads.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::seal::{Keys, Sealed};
use super::{Saved, SavedAccess, StateKey, Store, StoreError};
use crate::provider::exchange::Pending;
use crate::secret::Secret;

const VERSION: u32 = 1;
const LOCK: &str = "lock";
const SUFFIX: &str = "json";

/// The store of `kind = "file"`. Dropping it gives the folder free.
#[derive(Clone, Debug)]
pub struct FileStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    keys: Keys,
    /// Held, never read: the lock ends with it.
    _lock: File,
}

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
}

/// Times are milliseconds since the Unix epoch.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct AccessJson {
    token: String,
    fetched_at: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_at: Option<u64>,
}

// === impl FileStore ===

impl FileStore {
    /// Makes the folder if need be, locks it, and opens every record once. Blocks on the file system.
    pub fn open(path: PathBuf, keys: Keys) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o700)))
            .map_err(failed("make the folder", &path))?;
        let lock = lock(&path)?;
        let store = Self {
            shared: Arc::new(Shared {
                path,
                keys,
                _lock: lock,
            }),
        };
        store.shared.check()?;
        Ok(store)
    }
}

impl Store for FileStore {
    fn load<'a>(&'a self, key: &'a StateKey) -> Pending<'a, Result<Option<Saved>, StoreError>> {
        let key = key.clone();
        self.blocking("read", move |shared| shared.load(&key))
    }

    fn save<'a>(
        &'a self,
        key: &'a StateKey,
        saved: &'a Saved,
    ) -> Pending<'a, Result<(), StoreError>> {
        let (key, saved) = (key.clone(), saved.clone());
        self.blocking("write", move |shared| shared.save(&key, &saved))
    }
}

impl FileStore {
    fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Pending<'_, Result<T, StoreError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let path = shared.path.clone();
            tokio::task::spawn_blocking(move || work(&shared))
                .await
                .unwrap_or_else(|error| Err(failed(action, &path)(io::Error::other(error))))
        })
    }
}

// === impl Shared ===

impl Shared {
    fn load(&self, key: &StateKey) -> Result<Option<Saved>, StoreError> {
        let path = self.file(key);
        match read(&path) {
            Ok(text) => self.decode(key, &text, &path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    fn save(&self, key: &StateKey, saved: &Saved) -> Result<(), StoreError> {
        let path = self.file(key);
        let text = self.encode(key, saved).map_err(failed("encode", &path))?;
        let new = path.with_extension("tmp");
        write_new(&new, &text).map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("rename to", &path))?;
        // The rename itself is durable only once the folder is.
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(failed("sync", &self.path))
    }

    /// Every record must open now: an error at start-up is seen, one at three in the morning costs a refresh token.
    fn check(&self) -> Result<(), StoreError> {
        let entries = fs::read_dir(&self.path).map_err(failed("list", &self.path))?;
        for entry in entries {
            let path = entry.map_err(failed("list", &self.path))?.path();
            if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
                let text = read(&path).map_err(failed("read", &path))?;
                let name = path.file_stem().and_then(|stem| stem.to_str());
                let key = StateKey(name.unwrap_or_default().to_owned());
                self.decode(&key, &text, &path)?;
            } else if path.extension().is_some_and(|suffix| suffix == "tmp") {
                // Left by a process that died while it wrote: never the newest record, since it was not renamed.
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    fn encode(&self, key: &StateKey, saved: &Saved) -> io::Result<Zeroizing<Vec<u8>>> {
        let state = StateJson::from(saved);
        let mut file = FileJson {
            version: VERSION,
            key: key.as_str().to_owned(),
            state: None,
            sealed: None,
        };
        if self.keys.is_empty() {
            file.state = Some(state);
        } else {
            let sealed = self
                .keys
                .seal(key, &to_json(&state)?)
                .ok_or_else(|| io::Error::other("it cannot be sealed"))?;
            file.sealed = Some(SealedJson {
                nonce: BASE64_STANDARD.encode(sealed.nonce),
                ciphertext: BASE64_STANDARD.encode(sealed.ciphertext),
            });
        }
        to_json(&file)
    }

    fn decode(&self, key: &StateKey, text: &[u8], path: &Path) -> Result<Saved, StoreError> {
        self.decoded(key, text)
            .map_err(|reason| StoreError::Unopenable {
                path: path.to_owned(),
                reason: reason.to_owned(),
            })
    }

    /// The reasons are fixed texts: serde's own quote what they read.
    fn decoded(&self, key: &StateKey, text: &[u8]) -> Result<Saved, &'static str> {
        let file: FileJson = serde_json::from_slice(text)
            .map_err(|_| "it is damaged, or not a state file of this program")?;
        if file.version != VERSION {
            return Err("it was written by another version of this program");
        }
        if file.key != key.as_str() {
            return Err("it belongs to another provider: its name was changed");
        }
        let state = match (file.state, file.sealed) {
            (Some(state), None) if self.keys.is_empty() => state,
            // Taking it would let anybody who can write to the folder put a token of theirs there.
            (Some(_), None) => return Err("it is not sealed, but store.key is set"),
            (None, Some(_)) if self.keys.is_empty() => {
                return Err("it is sealed, but store.key is not set");
            }
            (None, Some(sealed)) => self.unseal(key, &sealed)?,
            _ => return Err("it is damaged"),
        };
        Ok(Saved::from(&state))
    }

    fn unseal(&self, key: &StateKey, sealed: &SealedJson) -> Result<StateJson, &'static str> {
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| "it is damaged");
        let sealed = Sealed {
            nonce: decode(&sealed.nonce)?
                .try_into()
                .map_err(|_| "it is damaged")?,
            ciphertext: decode(&sealed.ciphertext)?,
        };
        let text = self
            .keys
            .open(key, &sealed)
            .ok_or("no key of store.key opens it")?;
        serde_json::from_slice(&text).map_err(|_| "it is damaged")
    }

    fn file(&self, key: &StateKey) -> PathBuf {
        self.path.join(key.as_str()).with_extension(SUFFIX)
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
            }),
            spent: saved.spent.iter().cloned().collect(),
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

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut text = Zeroizing::new(Vec::with_capacity(64 * 1024));
    file.read_to_end(&mut text)?;
    Ok(text)
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// The lock file stays when the lock ends: removing it would let two processes lock two files of that name.
fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // For people only: without it the message just says less.
            let _ = file.read_to_string(&mut holder);
            return Err(StoreError::Locked {
                path: folder.to_owned(),
                holder: holder.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed("write", &path))?;
    Ok(file)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Io {
        action,
        path,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
