//! A folder with one file per record.
//!
//! A write goes to a new file, which is synced, renamed over the old one, and the folder synced after it: at every
//! instant the record is the old one or the new one. One process at a time holds the lock; what it left half-written
//! is a `.tmp` file that nobody reads. Other processes leave [drops](super::drops), which become part of the record in
//! three steps: the record with their content and names is written, then they are removed, and the names are forgotten
//! with the next ones. Cut off anywhere, the next attempt ends at the same record.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::drops::{Drop, Drops};
use super::folder::{self, failed};
use super::seal::Keys;
use super::{Adopted, Saved, StateKey, Store, StoreError, record};
use crate::provider::exchange::Pending;

const LOCK: &str = "lock";

/// How often drops are looked for: within 2 s of a login its result is in use. One listing of a folder that is nearly
/// always empty, whatever the number of providers.
const DROP_POLL: Duration = Duration::from_secs(1);

/// The store of `kind = "file"`. Dropping it gives the folder free.
#[derive(Clone, Debug)]
pub struct FileStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    keys: Keys,
    drops: Drops,
    /// The drops that are there, as of the last look.
    there: watch::Sender<BTreeSet<Drop>>,
    /// Drops that need no further look: adopted, or refused as they are.
    looked_at: Mutex<BTreeSet<Drop>>,
    /// Whether somebody looks for drops already.
    polled: Mutex<bool>,
    /// Held, never read: the lock ends with it.
    _lock: File,
}

// === impl FileStore ===

impl FileStore {
    /// Makes the folder if need be, locks it, and opens every record once. Blocks on the file system.
    pub fn open(path: PathBuf, keys: Keys) -> Result<Self, StoreError> {
        folder::make(&path)?;
        let lock = lock(&path)?;
        let drops = Drops::of(&path);
        let store = Self {
            shared: Arc::new(Shared {
                path,
                keys,
                drops,
                there: watch::Sender::default(),
                looked_at: Mutex::default(),
                polled: Mutex::default(),
                _lock: lock,
            }),
        };
        store.shared.check()?;
        Ok(store)
    }

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

    /// One look-out for all providers, as a task of the first one's runtime; it ends with the store.
    fn start_polling(&self) {
        let mut polled = locked(&self.shared.polled);
        if !std::mem::replace(&mut *polled, true) {
            tokio::spawn(poll(Arc::downgrade(&self.shared)));
        }
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

    fn left<'a>(&'a self, key: &'a StateKey) -> Pending<'a, ()> {
        Box::pin(async move {
            self.start_polling();
            let mut there = self.shared.there.subscribe();
            let waiting = |drops: &BTreeSet<Drop>| self.shared.has_news(key, drops);
            if there.wait_for(waiting).await.is_err() {
                // The sender lives as long as the store, which we borrow.
                std::future::pending::<()>().await;
            }
        })
    }

    fn adopt<'a>(&'a self, key: &'a StateKey) -> Pending<'a, Result<Adopted, StoreError>> {
        let key = key.clone();
        self.blocking("read", move |shared| shared.adopt(&key))
    }
}

async fn poll(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(DROP_POLL).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let looked = tokio::task::spawn_blocking(move || shared.look()).await;
        match looked {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("{error}"),
            Err(_) => return,
        }
    }
}

// === impl Shared ===

impl Shared {
    fn load(&self, key: &StateKey) -> Result<Option<Saved>, StoreError> {
        let path = record::file(&self.path, key);
        match folder::read(&path)? {
            Some(text) => self.decode(key.as_str(), &text, &path).map(Some),
            None => Ok(None),
        }
    }

    fn save(&self, key: &StateKey, saved: &Saved) -> Result<(), StoreError> {
        let before = match saved.spent.is_empty() {
            true => None,
            false => self.load(key)?,
        };
        self.write(key, saved)?;
        let known = before.unwrap_or_default().spent;
        let claimed: Vec<&String> = saved.spent.difference(&known).collect();
        if claimed.is_empty() {
            return Ok(());
        }
        // See `VisitorStore`: first the own mark, then a look for the other's.
        for drop in self.drops.list_for(key)? {
            let left = match saved.adopted.contains(&drop.id) {
                true => None,
                // One that does not open is reported by those who adopt.
                false => self.drops.read(&self.keys, &drop).ok().flatten(),
            };
            if left.is_some_and(|left| claimed.iter().any(|mark| left.spent.contains(*mark))) {
                return Err(StoreError::Claimed);
            }
        }
        Ok(())
    }

    fn write(&self, key: &StateKey, saved: &Saved) -> Result<(), StoreError> {
        let path = record::file(&self.path, key);
        let text =
            record::encode(&self.keys, key.as_str(), saved).map_err(failed("encode", &path))?;
        folder::write(&path, &text)
    }

    fn adopt(&self, key: &StateKey) -> Result<Adopted, StoreError> {
        let drops = self.drops.list_for(key)?;
        if drops.is_empty() {
            return Ok(Adopted::default());
        }
        let mut saved = self.load(key)?.unwrap_or_default();
        let (mut taken, mut refused, mut news) = (Vec::new(), Vec::new(), false);
        for drop in &drops {
            if saved.adopted.contains(&drop.id) {
                taken.push(drop.clone());
                continue;
            }
            match self.drops.read(&self.keys, drop) {
                Ok(None) => continue,
                Ok(Some(left)) => {
                    saved.merge(&left);
                    saved.adopted.insert(drop.id.clone());
                    taken.push(drop.clone());
                    news = true;
                }
                Err(error) => refused.push(error),
            }
        }
        if news {
            // Names of drops that are gone need not be remembered any more.
            saved
                .adopted
                .retain(|id| drops.iter().any(|drop| drop.id == *id));
            self.write(key, &saved)?;
        }
        // They are in the record, by name: one that cannot be removed is not taken twice.
        refused.extend(self.drops.remove(&taken).err());
        locked(&self.looked_at).extend(drops);
        Ok(Adopted {
            saved: news.then_some(saved),
            refused,
        })
    }

    fn look(&self) -> Result<(), StoreError> {
        let drops = self.drops.list()?;
        locked(&self.looked_at).retain(|drop| drops.contains(drop));
        self.there.send_if_modified(|there| {
            let changed = *there != drops;
            *there = drops;
            changed
        });
        Ok(())
    }

    fn has_news(&self, key: &StateKey, drops: &BTreeSet<Drop>) -> bool {
        let looked_at = locked(&self.looked_at);
        drops
            .iter()
            .any(|drop| drop.key == key.as_str() && !looked_at.contains(drop))
    }

    /// Every record and every drop must open now: an error at start-up is seen, one at three in the morning costs a
    /// refresh token, and a drop that is passed over may be the one that says which code was sent.
    ///
    /// What an older key has sealed is sealed with the first one then, so that the older can be given up after a start.
    fn check(&self) -> Result<(), StoreError> {
        let mut outdated = Vec::new();
        let entries = fs::read_dir(&self.path).map_err(failed("list", &self.path))?;
        for entry in entries {
            let path = entry.map_err(failed("list", &self.path))?.path();
            if path
                .extension()
                .is_some_and(|suffix| suffix == record::SUFFIX)
            {
                let name = path.file_stem().and_then(|stem| stem.to_str());
                let name = name.unwrap_or_default();
                if let Some(text) = folder::read(&path)? {
                    let saved = self.decode(name, &text, &path)?;
                    if record::is_outdated(&self.keys, name, &text) {
                        outdated.push((StateKey(name.to_owned()), saved));
                    }
                }
            } else if path.extension().is_some_and(|suffix| suffix == "tmp") {
                // Left by a process that died while it wrote: never the newest record, since it was not renamed.
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        self.drops.sweep()?;
        for drop in self.drops.list()? {
            self.drops.read(&self.keys, &drop)?;
        }
        // Only now: until all was opened, nothing is touched.
        for (key, saved) in outdated {
            // It opens as it is: that is no reason not to start.
            if let Err(error) = self.write(&key, &saved) {
                tracing::warn!(
                    "{error}: it needs its old key in store.key until it is written again"
                );
            }
        }
        Ok(())
    }

    fn decode(&self, name: &str, text: &[u8], path: &Path) -> Result<Saved, StoreError> {
        record::decode(&self.keys, name, text).map_err(|reason| StoreError::Unopenable {
            path: path.to_owned(),
            reason: reason.to_owned(),
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
pub(super) mod killed;
#[cfg(test)]
mod tests;
