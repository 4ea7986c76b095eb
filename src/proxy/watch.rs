//! Time-outs of client connections, without a timer for each.
//!
//! A connection notes what it is doing in two atomics. Once in a while the worker looks at all of them and ends those
//! that have waited too long. Timers that are set and cleared for every request cost more than the rest of what a
//! request does with time; the price is that time-outs are up to one [`TICK`] late.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

/// How often connections are looked at.
const TICK: Duration = Duration::from_millis(250);

/// What a connection is doing. Written by the connection's own task, read by the worker's sweep.
#[derive(Default)]
pub(super) struct Watch {
    /// Requests being answered: at most one with HTTP/1.1.
    busy: AtomicU32,
    /// [`SILENT`], [`HEAD`] or [`USED`].
    phase: AtomicU8,
    /// In ticks: since when it is silent or idle, or since when the head is coming in.
    since: AtomicU32,
    /// Streams come and go on HTTP/2, and bytes do not mean that a head is coming.
    http2: AtomicBool,
    /// Ticks of the worker's clock.
    clock: Arc<AtomicU32>,
}

/// Nothing has come in yet.
const SILENT: u8 = 0;
/// Part of a request's head has come in.
const HEAD: u8 = 1;
/// It has had requests, or speaks HTTP/2.
const USED: u8 = 2;

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The head of a request took too long.
    HeadTimeout,
    /// Nothing was asked for too long; without a word of what it is for, after the time that a head may take.
    IdleTimeout,
    /// The process is shutting down: finish what is under way.
    Drain,
}

/// All client connections of a worker.
#[derive(Default)]
pub(super) struct Registry {
    clock: Arc<AtomicU32>,
    entries: Mutex<Entries>,
    emptied: Notify,
    filled: Notify,
}

#[derive(Default)]
struct Entries {
    next: u64,
    draining: bool,
    open: HashMap<u64, Entry>,
}

struct Entry {
    watch: Arc<Watch>,
    end: Option<oneshot::Sender<End>>,
}

/// A connection's place in the registry, left when it is dropped.
pub(super) struct Membership {
    registry: Arc<Registry>,
    id: u64,
    pub(super) watch: Arc<Watch>,
}

// === impl Watch ===

impl Watch {
    /// Bytes came in.
    pub(super) fn received(&self) {
        if self.busy.load(Ordering::Relaxed) == 0
            && self.phase.load(Ordering::Relaxed) != HEAD
            && !self.http2.load(Ordering::Relaxed)
        {
            self.since
                .store(self.clock.load(Ordering::Relaxed), Ordering::Relaxed);
            self.phase.store(HEAD, Ordering::Relaxed);
        }
    }

    pub(super) fn request_started(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.phase.store(USED, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self) {
        self.since
            .store(self.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
        self.phase.store(USED, Ordering::Relaxed);
    }

    fn overdue(&self, head: Duration, idle: Duration) -> Option<End> {
        if self.busy.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let ticks = self
            .clock
            .load(Ordering::Relaxed)
            .wrapping_sub(self.since.load(Ordering::Relaxed));
        let waited = TICK * ticks;
        match self.phase.load(Ordering::Relaxed) {
            HEAD => (waited > head).then_some(End::HeadTimeout),
            SILENT => (waited > head.min(idle)).then_some(End::IdleTimeout),
            _ => (waited > idle).then_some(End::IdleTimeout),
        }
    }
}

// === impl Registry ===

impl Registry {
    /// Enters a new connection. It is sent at most one [`End`].
    pub(super) fn enter(self: &Arc<Self>) -> (Membership, oneshot::Receiver<End>) {
        let (sender, end) = oneshot::channel();
        let watch = Arc::new(Watch {
            since: AtomicU32::new(self.clock.load(Ordering::Relaxed)),
            clock: Arc::clone(&self.clock),
            ..Watch::default()
        });
        let mut entries = self.lock();
        let id = entries.next;
        entries.next += 1;
        let mut entry = Entry {
            watch: Arc::clone(&watch),
            end: Some(sender),
        };
        if entries.draining {
            entry.send(End::Drain);
        }
        if entries.open.is_empty() {
            self.filled.notify_one();
        }
        entries.open.insert(id, entry);
        (
            Membership {
                registry: Arc::clone(self),
                id,
                watch,
            },
            end,
        )
    }

    /// Looks after the connections for as long as the worker runs. While there are none, it sleeps: an idle sidecar costs nothing.
    pub(super) async fn sweep(&self, limits: impl Fn() -> (Duration, Duration)) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.lock().open.is_empty() {
                self.filled.notified().await;
                ticks.reset();
            }
            ticks.tick().await;
            self.clock.fetch_add(1, Ordering::Relaxed);
            let (head, idle) = limits();
            for entry in self.lock().open.values_mut() {
                if let Some(end) = entry.watch.overdue(head, idle) {
                    entry.send(end);
                }
            }
        }
    }

    /// Asks every connection, also those still to come, to end after the request at hand.
    pub(super) fn drain(&self) {
        let mut entries = self.lock();
        entries.draining = true;
        for entry in entries.open.values_mut() {
            entry.send(End::Drain);
        }
    }

    /// Returns when no connection is left.
    pub(super) async fn emptied(&self) {
        loop {
            let notified = self.emptied.notified();
            if self.lock().open.is_empty() {
                return;
            }
            notified.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn send(&mut self, end: End) {
        if let Some(sender) = self.end.take() {
            // A connection that is ending by itself no longer listens.
            let _ = sender.send(end);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut entries = self.registry.lock();
        entries.open.remove(&self.id);
        if entries.open.is_empty() {
            self.registry.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_TIME: Duration = Duration::from_secs(1);
    const IDLE: Duration = Duration::from_secs(5);

    async fn sweeping() -> (Arc<Registry>, tokio::task::JoinHandle<()>) {
        let registry = Arc::new(Registry::default());
        let sweep = Arc::clone(&registry);
        let task = tokio::spawn(async move { sweep.sweep(|| (HEAD_TIME, IDLE)).await });
        (registry, task)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_ends_the_connection() {
        let (registry, _task) = sweeping().await;
        let (member, end) = registry.enter();
        tokio::time::sleep(HEAD_TIME - TICK).await;
        member.watch.received();
        let started = tokio::time::Instant::now();
        assert_eq!(end.await, Ok(End::HeadTimeout));
        let waited = started.elapsed();
        assert!(
            (HEAD_TIME..HEAD_TIME + 3 * TICK).contains(&waited),
            "{waited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_at_all_ends_as_soon() {
        let (registry, _task) = sweeping().await;
        let (_member, end) = registry.enter();
        let started = tokio::time::Instant::now();
        assert_eq!(end.await, Ok(End::IdleTimeout));
        assert!(started.elapsed() < IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_head_has_as_much_time_as_the_first() {
        let (registry, _task) = sweeping().await;
        let (member, mut end) = registry.enter();
        member.watch.received();
        member.watch.request_started();
        member.watch.request_ended();
        tokio::time::sleep(IDLE - 2 * TICK).await;
        assert!(end.try_recv().is_err());
        member.watch.received();
        // More bytes of the same head win no time.
        tokio::time::sleep(HEAD_TIME / 2).await;
        member.watch.received();
        let started = tokio::time::Instant::now();
        assert_eq!(end.await, Ok(End::HeadTimeout));
        assert!(started.elapsed() < HEAD_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn with_http2_bytes_are_not_a_head() {
        let (registry, _task) = sweeping().await;
        let (member, end) = registry.enter();
        member.watch.received();
        member.watch.speaks_http2();
        member.watch.received();
        let started = tokio::time::Instant::now();
        assert_eq!(end.await, Ok(End::IdleTimeout));
        assert!(started.elapsed() >= IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_is_left_alone_and_an_idle_one_is_not() {
        let (registry, _task) = sweeping().await;
        let (member, mut end) = registry.enter();
        member.watch.received();
        member.watch.request_started();
        tokio::time::sleep(IDLE * 10).await;
        assert!(end.try_recv().is_err());
        member.watch.request_ended();
        let started = tokio::time::Instant::now();
        assert_eq!(end.await, Ok(End::IdleTimeout));
        assert!(started.elapsed() >= IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn without_connections_nobody_looks_at_the_clock() {
        let (registry, _task) = sweeping().await;
        tokio::time::sleep(TICK * 9).await;
        assert_eq!(registry.clock.load(Ordering::Relaxed), 0);
        let (member, end) = registry.enter();
        drop((member, end));
        tokio::time::sleep(TICK * 9).await;
        assert_eq!(registry.clock.load(Ordering::Relaxed), 1);
        // As long as for a connection that came earlier.
        let (_member, end) = registry.enter();
        let started = tokio::time::Instant::now();
        assert_eq!(end.await, Ok(End::IdleTimeout));
        let waited = started.elapsed();
        assert!(
            (HEAD_TIME..HEAD_TIME + 3 * TICK).contains(&waited),
            "{waited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn draining_reaches_connections_that_come_late() {
        let registry = Arc::new(Registry::default());
        let (early, end) = registry.enter();
        registry.drain();
        assert_eq!(end.await, Ok(End::Drain));
        let (late, end) = registry.enter();
        assert_eq!(end.await, Ok(End::Drain));
        drop((early, late));
        registry.emptied().await;
    }
}
