//! Limits the concurrent token exchanges per vendor host.
//!
//! Without a limit, a thousand providers that start or expire together would flood their issuer's
//! host, and this thread, with handshakes. Per host, so that an unresponsive host blocks no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Enough for a thousand tokens within one or two seconds.
pub(super) const AT_ONCE: usize = 16;

/// A permit for one exchange, returned when dropped.
#[derive(Default)]
pub struct Turn(#[allow(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

/// The permits of all hosts. Cheap to clone; clones share the permits.
#[derive(Clone, Default)]
pub(in crate::provider) struct Turns {
    hosts: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

impl Turns {
    /// Waits for a permit of `host`, in FIFO order. Cancel safe.
    pub(in crate::provider) async fn at(&self, host: &str) -> Turn {
        // `ok`: the semaphore is never closed.
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
    async fn the_limit_applies_per_host_and_unused_hosts_are_removed() {
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
        drop(other);
        drop(taken);
        drop(turns.at("c").await);
        drop(turns.at("d").await);
        assert_eq!(turns.hosts.lock().unwrap().len(), 1);
    }
}
