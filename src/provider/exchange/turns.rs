//! Turns: how many may ask one vendor's host for tokens at once.
//!
//! A thousand providers that start together, or whose tokens end together, must be no flood of handshakes to the one host that issues
//! them all, nor to the thread that makes them. By host, so that one that does not answer holds nobody else up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Enough for a thousand tokens within a second or two, and what a browser would do.
pub(super) const AT_ONCE: usize = 16;

/// The right to ask. The next one's when it is dropped.
#[derive(Default)]
pub struct Turn(#[allow(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

/// Cheap to clone; the clones share everything.
#[derive(Clone, Default)]
pub(in crate::provider) struct Turns {
    hosts: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

impl Turns {
    /// Waits for a turn, first come, first served. Cancel safe.
    pub(in crate::provider) async fn at(&self, host: &str) -> Turn {
        // Never closed.
        Turn(self.host(host).acquire_owned().await.ok())
    }

    fn host(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(host).and_then(Weak::upgrade) {
            return known;
        }
        hosts.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(Semaphore::new(AT_ONCE));
        hosts.insert(host.to_owned(), Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_for_each_host() {
        let turns = Turns::default();
        let soon = Duration::from_secs(1);
        let mut taken = Vec::new();
        for _ in 0..AT_ONCE {
            taken.push(timeout(soon, turns.at("a")).await.ok().unwrap());
        }
        assert!(timeout(soon, turns.at("a")).await.is_err());
        let other = timeout(soon, turns.at("b")).await.ok().unwrap();
        taken.pop();
        taken.push(timeout(soon, turns.at("a")).await.ok().unwrap());
        assert!(timeout(soon, turns.at("a")).await.is_err());
        // What nobody uses is forgotten.
        drop(other);
        drop(taken);
        drop(turns.at("c").await);
        drop(turns.at("d").await);
        assert_eq!(turns.hosts.lock().unwrap().len(), 1);
    }
}
