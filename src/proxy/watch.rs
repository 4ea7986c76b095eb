//! Time-outs of client connections, without a timer for each.
//!
//! A connection notes what it is doing in a few atomics. Every [`TICK`] the worker looks at all
//! connections and ends those that have waited too long. A timer for every request would cost more
//! than everything else that a request does with time. The price: time-outs are up to one [`TICK`]
//! late.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

/// How often connections are looked at.
const TICK: Duration = Duration::from_millis(250);

/// What a connection is doing. Written by the connection's own tasks, read by the worker's sweep.
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
    /// What follows on the connection is another protocol.
    tunnel: AtomicBool,
    /// Requests so far.
    requests: AtomicU32,
    /// Length of the newest request's body, or [`UNKNOWN`].
    body: AtomicU64,
    /// [`UNREAD`], [`READ`] or [`BROKEN`]: the newest request's body.
    body_state: AtomicU8,
    /// In milliseconds: how long the app may take nothing of what is written to it. 0 for ever.
    write_limit: AtomicU64,
    /// The last write found no room.
    writes_wait: AtomicBool,
    /// The end of the newest response is that of the connection.
    ends_by_close: AtomicBool,
    /// Response bodies on their way to an app that speaks HTTP/2.
    bodies: Mutex<Vec<Weak<Taken>>>,
    /// Ticks of the worker's clock.
    clock: Arc<AtomicU32>,
}

/// Not read to its end yet.
const UNREAD: u8 = 0;
/// Read to its end.
const READ: u8 = 1;
/// Not valid, so that its end is unknown.
const BROKEN: u8 = 2;

/// A length that was not stated.
const UNKNOWN: u64 = u64::MAX;

/// Nothing has come in yet.
const SILENT: u8 = 0;
/// Part of a request's head has come in.
const HEAD: u8 = 1;
/// It has had requests, or speaks HTTP/2.
const USED: u8 = 2;

/// The newest message of an HTTP/1.1 connection.
pub(super) struct Message {
    /// Counts messages.
    pub(super) number: u32,
    /// Its body was read to its end, and its response is complete.
    pub(super) ended: bool,
    /// The length of its body, if that was stated.
    pub(super) body: Option<u64>,
}

/// When an app that speaks HTTP/2 last took a part of a response's body.
///
/// hyper asks for the next frame once the app's flow-control window had room for the beginning of
/// the one before, and waits for that without end.
pub(super) struct Taken {
    /// In ticks; 0 while the next frame is asked for.
    waits_since: AtomicU32,
    /// How long the app may take nothing, in ticks.
    limit: u32,
    clock: Arc<AtomicU32>,
}

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The head of a request took too long.
    HeadTimeout,
    /// There was no request for too long; without a byte of one, for as long as a head may take.
    IdleTimeout,
    /// The app takes nothing of a response.
    Stalled,
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

    /// Notes that a request has begun, and the length of its body if that is known. Returns the number
    /// of its message.
    pub(super) fn message_started(&self, length: Option<u64>) -> u32 {
        let number = self.requests.load(Ordering::Relaxed).wrapping_add(1);
        self.requests.store(number, Ordering::Relaxed);
        self.body
            .store(length.unwrap_or(UNKNOWN), Ordering::Relaxed);
        let state = if length == Some(0) { READ } else { UNREAD };
        self.body_state.store(state, Ordering::Relaxed);
        number
    }

    /// The body of `message` was read to its end. Without effect once another message has started:
    /// hyper may parse that one before the reader of this body runs.
    pub(super) fn body_ended(&self, message: u32) {
        self.set_body_state(message, READ);
    }

    /// The body of `message` is not valid. Without effect once another message has started.
    pub(super) fn body_broke(&self, message: u32) {
        self.set_body_state(message, BROKEN);
    }

    fn set_body_state(&self, message: u32, state: u8) {
        if self.requests.load(Ordering::Relaxed) == message {
            self.body_state.store(state, Ordering::Relaxed);
        }
    }

    pub(super) fn body_is_read(&self) -> bool {
        self.body_state.load(Ordering::Relaxed) == READ
    }

    /// Whether the rest of the request's body may be longer than `limit`, or may never come because
    /// the app `waits` for `100 Continue`.
    pub(super) fn has_long_rest(&self, waits: bool, limit: u64) -> bool {
        let length = self.body.load(Ordering::Relaxed);
        match self.body_state.load(Ordering::Relaxed) {
            READ => false,
            UNREAD => waits || length != UNKNOWN && length > limit,
            _ => true,
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

    pub(super) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Whether a part of a request's head has come in, and no more.
    pub(super) fn is_in_head(&self) -> bool {
        !self.is_busy() && self.phase.load(Ordering::Relaxed) == HEAD
    }

    /// Whether an app waits for its response that would have no other reason to close its end.
    pub(super) fn awaits_response(&self) -> bool {
        self.is_busy() && !self.http2.load(Ordering::Relaxed) && !self.is_tunnel()
    }

    pub(super) fn message(&self) -> Message {
        let length = self.body.load(Ordering::Relaxed);
        Message {
            number: self.requests.load(Ordering::Relaxed),
            ended: !self.is_busy() && self.body_is_read(),
            body: (length != UNKNOWN).then_some(length),
        }
    }

    pub(super) fn writes_wait(&self, wait: bool) {
        self.writes_wait.store(wait, Ordering::Relaxed);
    }

    /// Whether a part of a response waits for an app that does not take it.
    pub(super) fn is_blocked(&self) -> bool {
        self.writes_wait.load(Ordering::Relaxed)
    }

    /// The response to an HTTP/1.0 app is framed by the end of the connection.
    pub(super) fn ends_by_close(&self) {
        self.ends_by_close.store(true, Ordering::Relaxed);
    }

    pub(super) fn response_ends_by_close(&self) -> bool {
        self.ends_by_close.load(Ordering::Relaxed)
    }

    /// From now on, how long the app may take nothing of what is written to it.
    pub(super) fn limit_writes(&self, limit: Option<Duration>) {
        let limit = limit.map_or(0, |limit| limit.as_millis().max(1));
        self.write_limit
            .store(u64::try_from(limit).unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn write_limit(&self) -> Option<Duration> {
        match self.write_limit.load(Ordering::Relaxed) {
            0 => None,
            limit => Some(Duration::from_millis(limit)),
        }
    }

    /// Registers a response's body of which the app must take a part every `limit`.
    pub(super) fn body_on_its_way(&self, limit: Duration) -> Arc<Taken> {
        let ticks = limit.as_millis().div_ceil(TICK.as_millis());
        let taken = Arc::new(Taken {
            waits_since: AtomicU32::new(0),
            limit: u32::try_from(ticks).unwrap_or(u32::MAX),
            clock: Arc::clone(&self.clock),
        });
        let mut bodies = self.bodies();
        bodies.retain(|body| body.strong_count() > 0);
        bodies.push(Arc::downgrade(&taken));
        taken
    }

    /// Uncontended: a worker is one thread.
    fn bodies(&self) -> MutexGuard<'_, Vec<Weak<Taken>>> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn overdue(&self, head: Duration, idle: Duration) -> Option<End> {
        if self.is_busy() {
            let stalled = |body: &Weak<Taken>| body.upgrade().is_some_and(|body| body.is_overdue());
            return self.bodies().iter().any(stalled).then_some(End::Stalled);
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

// === impl Taken ===

impl Taken {
    /// The app is given a frame; from now on it has to take that.
    pub(super) fn gave(&self) {
        let now = self.clock.load(Ordering::Relaxed).max(1);
        self.waits_since.store(now, Ordering::Relaxed);
    }

    /// The app took everything that it was given.
    pub(super) fn took(&self) {
        self.waits_since.store(0, Ordering::Relaxed);
    }

    fn is_overdue(&self) -> bool {
        let since = self.waits_since.load(Ordering::Relaxed);
        let now = self.clock.load(Ordering::Relaxed);
        since > 0 && now.wrapping_sub(since) > self.limit
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
mod tests;
