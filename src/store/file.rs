//! A folder with one file for each record.
//!
//! A write creates a new file, syncs it, renames it over the old one and syncs the folder: a crash
//! leaves the old record or the new one. One process at a time holds the lock; after a crash its
//! half-written `.tmp` file is ignored. Other processes leave [drops](super::drops), adopted in
//! three steps: write the record with their content and ids, remove the drops, forget the ids at
//! the next adoption. A crash between steps changes nothing: the next adoption ends at the same
//! record.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::drops::Drop;
use super::error::StoreError;
use super::folder::{self, StoreFolder, failed};
use super::interface::{Adopted, Store, StoreFuture};
use super::record;
use super::saved::{Saved, StateKey};
use super::seal::Keys;

const LOCK: &str = "lock";

/// Poll interval for drops: a login takes effect within 2 s. One poll lists one folder, nearly
/// always empty, for all providers.
const DROP_POLL: Duration = Duration::from_secs(1);

/// Store of `kind = "file"`. Dropping it releases the lock.
#[derive(Clone, Debug)]
pub struct FileStore {
    shared: Arc<FileShared>,
}

#[derive(Debug)]
struct FileShared {
    folder: StoreFolder,
    /// All drops, as of the last poll.
    present: watch::Sender<BTreeSet<Drop>>,
    /// Drops already handled: adopted or refused.
    handled: Mutex<BTreeSet<Drop>>,
    /// Starts the task that polls for drops of all providers and ends with the store.
    polled: Once,
    /// Holds the lock; never read.
    _lock: File,
}

impl FileStore {
    /// Creates the folder if needed, locks it and opens every record once. Blocks.
    pub fn open(path: PathBuf, keys: Keys) -> Result<Self, StoreError> {
        folder::make(&path)?;
        let lock = lock(&path)?;
        let store = Self {
            shared: Arc::new(FileShared {
                folder: StoreFolder { path, keys },
                present: watch::Sender::default(),
                handled: Mutex::default(),
                polled: Once::new(),
                _lock: lock,
            }),
        };
        store.shared.check()?;
        Ok(store)
    }
}

impl Store for FileStore {
    fn load<'a>(&'a self, key: &'a StateKey) -> StoreFuture<'a, Result<Option<Saved>, StoreError>> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        Box::pin(folder::blocking(move || shared.folder.load(&key)))
    }

    fn save<'a>(
        &'a self,
        key: &'a StateKey,
        saved: &'a Saved,
    ) -> StoreFuture<'a, Result<(), StoreError>> {
        let (shared, key, saved) = (Arc::clone(&self.shared), key.clone(), saved.clone());
        Box::pin(folder::blocking(move || shared.save(&key, &saved)))
    }

    fn wait_for_update<'a>(&'a self, key: &'a StateKey) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            (self.shared.polled).call_once(|| {
                tokio::spawn(poll(Arc::downgrade(&self.shared)));
            });
            let mut present = self.shared.present.subscribe();
            let waiting = |drops: &BTreeSet<Drop>| self.shared.has_news(key, drops);
            if present.wait_for(waiting).await.is_err() {
                // Unreachable: the borrowed store owns the sender.
                std::future::pending::<()>().await;
            }
        })
    }

    fn adopt<'a>(&'a self, key: &'a StateKey) -> StoreFuture<'a, Result<Adopted, StoreError>> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        Box::pin(folder::blocking(move || shared.adopt(&key)))
    }
}

async fn poll(shared: Weak<FileShared>) {
    loop {
        tokio::time::sleep(DROP_POLL).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match folder::blocking(move || shared.look()).await {
            Ok(()) => {}
            Err(StoreError::Unfinished(_)) => return,
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

impl FileShared {
    fn save(&self, key: &StateKey, saved: &Saved) -> Result<(), StoreError> {
        if saved.spent.is_empty() {
            return self.folder.save(key, saved);
        }
        let known = self.folder.load(key)?.unwrap_or_default().spent;
        self.folder.save(key, saved)?;
        let claimed = &saved.spent - &known;
        if claimed.is_empty() {
            return Ok(());
        }
        // As in `VisitorStore`: write the own mark first, then look for marks of other processes.
        // `adopt` reports drops that cannot be opened.
        let mut drops = self.folder.drops_for(key)?;
        drops.retain(|drop| !saved.adopted.contains(&drop.id));
        let mut left = (drops.iter()).filter_map(|drop| self.folder.read_drop(drop).ok()?);
        match left.any(|left| !left.spent.is_disjoint(&claimed)) {
            true => Err(StoreError::Claimed),
            false => Ok(()),
        }
    }

    fn adopt(&self, key: &StateKey) -> Result<Adopted, StoreError> {
        let drops = self.folder.drops_for(key)?;
        if drops.is_empty() {
            return Ok(Adopted::default());
        }
        let mut saved = self.folder.load(key)?.unwrap_or_default();
        let (mut taken, mut refused, mut news) = (Vec::new(), Vec::new(), false);
        for drop in &drops {
            if !saved.adopted.contains(&drop.id) {
                match self.folder.read_drop(drop) {
                    Ok(None) => continue,
                    Ok(Some(left)) => saved.merge(left),
                    Err(error) => {
                        refused.push(error);
                        continue;
                    }
                }
                saved.adopted.insert(drop.id.clone());
                news = true;
            }
            taken.push(drop.clone());
        }
        if news {
            // Ids of drops that are gone are no longer needed.
            let listed = |id: &String| drops.iter().any(|drop| drop.id == *id);
            saved.adopted.retain(listed);
            self.folder.save(key, &saved)?;
        }
        // Their ids are in the record: a drop that cannot be removed is not merged twice.
        refused.extend(self.folder.remove_drops(&taken).err());
        locked(&self.handled).extend(drops);
        Ok(Adopted {
            saved: news.then_some(saved),
            refused,
        })
    }

    fn look(&self) -> Result<(), StoreError> {
        let drops = self.folder.list_drops()?;
        locked(&self.handled).retain(|drop| drops.contains(drop));
        self.present.send_if_modified(|present| {
            let changed = *present != drops;
            *present = drops;
            changed
        });
        Ok(())
    }

    fn has_news(&self, key: &StateKey, drops: &BTreeSet<Drop>) -> bool {
        let handled = locked(&self.handled);
        let mut drops = drops.iter().filter(|drop| drop.key == key.as_str());
        drops.any(|drop| !handled.contains(drop))
    }

    /// Opens every record and drop at start-up, when an error is noticed; later, an unreadable
    /// record would cost a refresh token, and an unreadable drop may hold the mark of a spent code.
    ///
    /// Records sealed with an older key are sealed again with the first one, so that the older key
    /// can be removed after a start.
    fn check(&self) -> Result<(), StoreError> {
        let mut outdated = Vec::new();
        let folder = &self.folder;
        let entries = fs::read_dir(&folder.path).map_err(failed("list", &folder.path))?;
        for entry in entries {
            let path = entry.map_err(failed("list", &folder.path))?.path();
            let suffix = path.extension().and_then(OsStr::to_str);
            if suffix == Some(record::SUFFIX) {
                let name = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
                if let Some(text) = folder::read(&path)? {
                    let saved = folder.open(&path, name, &text)?;
                    if record::is_outdated(&folder.keys, name, &text) {
                        outdated.push((StateKey(name.to_owned()), saved));
                    }
                }
            } else if suffix == Some("tmp") {
                // A process died while it wrote. The rename is missing, so the record is newer.
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        folder.sweep_drops()?;
        for drop in folder.list_drops()? {
            folder.read_drop(&drop)?;
        }
        // Nothing is written before everything was opened.
        for (key, saved) in outdated {
            // The record can still be opened, so the start goes on.
            if let Err(error) = folder.save(&key, &saved) {
                tracing::warn!("{error}: keep its old key in store.key until the next write");
            }
        }
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the lock file after the lock ends: two processes could lock two files of that name if it
/// were removed.
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
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            // The id is only for the error text, which can do without it.
            let holder = std::io::read_to_string(&file).unwrap_or_default();
            StoreError::Locked {
                path: folder.to_owned(),
                holder: holder.trim().to_owned(),
            }
        }
        TryLockError::Error(error) => failed("lock", &path)(error),
    })?;
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed("write", &path))?;
    Ok(file)
}

#[cfg(test)]
mod killed;
#[cfg(test)]
mod tests;
