//! Time-outs of client connections, without a timer for each.
//!
//! A connection notes its state in a few atomics. Every [`TICK`] the worker checks all connections
//! and ends those that have waited too long. A timer per request would cost more than all other
//! uses of the clock. Time-outs are up to one [`TICK`] late.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

const TICK: Duration = Duration::from_millis(250);

/// The state of a connection, written by its own tasks and read by the worker's sweep.
#[derive(Default)]
pub(super) struct Watch {
    /// Open requests: at most one with HTTP/1.1.
    busy: AtomicU32,
    /// [`SILENT`], [`HEAD`] or [`USED`].
    phase: AtomicU8,
    /// Tick at which the connection became silent or idle, or the head began.
    since: AtomicU32,
    /// On HTTP/2, bytes do not begin a head.
    http2: AtomicBool,
    /// The connection has switched to another protocol.
    tunnel: AtomicBool,
    requests: AtomicU32,
    /// Length of the newest request's body, or [`UNKNOWN`].
    body: AtomicU64,
    /// [`UNREAD`], [`READ`] or [`BROKEN`]: the newest request's body.
    body_state: AtomicU8,
    /// How long a write may wait for the app, in milliseconds. 0 for no limit.
    write_limit: AtomicU64,
    /// The last write was pending.
    writes_wait: AtomicBool,
    /// The newest response ends with the connection.
    ends_by_close: AtomicBool,
    /// Open response bodies of an HTTP/2 connection.
    bodies: Mutex<Vec<Weak<BodyProgress>>>,
    /// Ticks of the worker's clock.
    clock: Arc<AtomicU32>,
}

/// The body was not read to its end yet.
const UNREAD: u8 = 0;
/// The body was read to its end.
const READ: u8 = 1;
/// The body is not valid, and its end unknown.
const BROKEN: u8 = 2;

/// The request states no length.
const UNKNOWN: u64 = u64::MAX;

/// No byte was received yet.
const SILENT: u8 = 0;
/// Part of a request's head was received.
const HEAD: u8 = 1;
/// The connection has had requests, or speaks HTTP/2.
const USED: u8 = 2;

/// The newest message of an HTTP/1.1 connection.
pub(super) struct Message {
    /// 1 for the first message.
    pub(super) number: u32,
    /// The body was read to its end, and the response is complete.
    pub(super) ended: bool,
    /// Length of the body, if that was stated.
    pub(super) body: Option<u64>,
}

/// When an HTTP/2 app last took a part of a response's body.
///
/// hyper requests the next frame once the app's flow-control window had room for the start of the
/// last frame, and waits for that window without limit.
pub(super) struct BodyProgress {
    /// Tick at which the last frame was handed out. 0 while the next one is requested.
    waits_since: AtomicU32,
    /// How long a frame may wait for the window, in ticks.
    limit: u32,
    clock: Arc<AtomicU32>,
}

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    HeadTimeout,
    /// There was no request for too long. A new connection has as long as a head.
    IdleTimeout,
    /// The app does not read a response.
    Stalled,
    /// The process is shutting down: finish the open requests.
    Drain,
}

/// The client connections of a worker.
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

/// A connection's entry in the registry, removed on drop.
pub(super) struct Membership {
    registry: Arc<Registry>,
    id: u64,
    pub(super) watch: Arc<Watch>,
}

impl Watch {
    /// Notes that bytes were received.
    pub(super) fn received(&self) {
        if self.busy.load(Relaxed) == 0
            && self.phase.load(Relaxed) != HEAD
            && !self.http2.load(Relaxed)
        {
            self.since.store(self.clock.load(Relaxed), Relaxed);
            self.phase.store(HEAD, Relaxed);
        }
    }

    /// Notes that a message has begun, and the length of its body if that is stated. Returns the
    /// message's number.
    pub(super) fn message_started(&self, length: Option<u64>) -> u32 {
        let number = self.requests.load(Relaxed).wrapping_add(1);
        self.requests.store(number, Relaxed);
        self.body.store(length.unwrap_or(UNKNOWN), Relaxed);
        let state = if length == Some(0) { READ } else { UNREAD };
        self.body_state.store(state, Relaxed);
        number
    }

    /// Notes that the body of `message` was read to its end. No effect once the next message has
    /// started, which hyper may parse before the body's reader runs.
    pub(super) fn body_ended(&self, message: u32) {
        self.set_body_state(message, READ);
    }

    /// Notes that the body of `message` is not valid. No effect once the next message has started.
    pub(super) fn body_broke(&self, message: u32) {
        self.set_body_state(message, BROKEN);
    }

    fn set_body_state(&self, message: u32, state: u8) {
        if self.requests.load(Relaxed) == message {
            self.body_state.store(state, Relaxed);
        }
    }

    pub(super) fn body_is_read(&self) -> bool {
        self.body_state.load(Relaxed) == READ
    }

    /// Returns whether the rest of the body may exceed `limit` or may never come: the app `waits`
    /// for `100 Continue`.
    pub(super) fn has_long_rest(&self, waits: bool, limit: u64) -> bool {
        let length = self.body.load(Relaxed);
        match self.body_state.load(Relaxed) {
            READ => false,
            UNREAD => waits || length != UNKNOWN && length > limit,
            _ => true,
        }
    }

    pub(super) fn request_started(&self) {
        self.busy.fetch_add(1, Relaxed);
        self.phase.store(USED, Relaxed);
    }

    pub(super) fn request_ended(&self) {
        self.since.store(self.clock.load(Relaxed), Relaxed);
        self.busy.fetch_sub(1, Relaxed);
    }

    pub(super) fn speaks_http2(&self) {
        self.http2.store(true, Relaxed);
        self.phase.store(USED, Relaxed);
    }

    pub(super) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Relaxed);
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Relaxed)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    /// Returns whether only a part of a request's head was received.
    pub(super) fn is_in_head(&self) -> bool {
        !self.is_busy() && self.phase.load(Relaxed) == HEAD
    }

    /// Returns whether an app waits for a response that it can only give up by closing its end.
    pub(super) fn awaits_response(&self) -> bool {
        self.is_busy() && !self.http2.load(Relaxed) && !self.is_tunnel()
    }

    pub(super) fn message(&self) -> Message {
        let length = self.body.load(Relaxed);
        Message {
            number: self.requests.load(Relaxed),
            ended: !self.is_busy() && self.body_is_read(),
            body: (length != UNKNOWN).then_some(length),
        }
    }

    pub(super) fn writes_wait(&self, wait: bool) {
        self.writes_wait.store(wait, Relaxed);
    }

    /// Returns whether a part of a response waits for the app to read it.
    pub(super) fn is_blocked(&self) -> bool {
        self.writes_wait.load(Relaxed)
    }

    /// Notes that the close of the connection frames the response, as for HTTP/1.0.
    pub(super) fn ends_by_close(&self) {
        self.ends_by_close.store(true, Relaxed);
    }

    pub(super) fn response_ends_by_close(&self) -> bool {
        self.ends_by_close.load(Relaxed)
    }

    /// Sets how long a write may wait for the app. `None` for no limit.
    pub(super) fn limit_writes(&self, limit: Option<Duration>) {
        let limit = limit.map_or(0, |limit| limit.as_millis().max(1));
        let limit = u64::try_from(limit).unwrap_or(0);
        self.write_limit.store(limit, Relaxed);
    }

    pub(super) fn write_limit(&self) -> Option<Duration> {
        match self.write_limit.load(Relaxed) {
            0 => None,
            limit => Some(Duration::from_millis(limit)),
        }
    }

    /// Registers a response's body, each frame of which the app must take within `limit`.
    pub(super) fn track_body(&self, limit: Duration) -> Arc<BodyProgress> {
        let ticks = limit.as_millis().div_ceil(TICK.as_millis());
        let progress = Arc::new(BodyProgress {
            waits_since: AtomicU32::new(0),
            limit: u32::try_from(ticks).unwrap_or(u32::MAX),
            clock: Arc::clone(&self.clock),
        });
        let mut bodies = self.bodies();
        bodies.retain(|body| body.strong_count() > 0);
        bodies.push(Arc::downgrade(&progress));
        progress
    }

    /// Locks without contention: a worker is one thread.
    fn bodies(&self) -> MutexGuard<'_, Vec<Weak<BodyProgress>>> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn overdue(&self, head: Duration, idle: Duration) -> Option<End> {
        if self.is_busy() {
            let stalled =
                |body: &Weak<BodyProgress>| body.upgrade().is_some_and(|body| body.is_overdue());
            return self.bodies().iter().any(stalled).then_some(End::Stalled);
        }
        let since = self.since.load(Relaxed);
        let waited = TICK * self.clock.load(Relaxed).wrapping_sub(since);
        match self.phase.load(Relaxed) {
            HEAD => (waited > head).then_some(End::HeadTimeout),
            SILENT => (waited > head.min(idle)).then_some(End::IdleTimeout),
            _ => (waited > idle).then_some(End::IdleTimeout),
        }
    }
}

impl BodyProgress {
    /// Starts the time that the app has to take a frame.
    pub(super) fn frame_handed_out(&self) {
        let now = self.clock.load(Relaxed).max(1);
        self.waits_since.store(now, Relaxed);
    }

    /// Notes that the app took the last frame.
    pub(super) fn frame_requested(&self) {
        self.waits_since.store(0, Relaxed);
    }

    fn is_overdue(&self) -> bool {
        let since = self.waits_since.load(Relaxed);
        let now = self.clock.load(Relaxed);
        since > 0 && now.wrapping_sub(since) > self.limit
    }
}

impl Registry {
    /// Enters a new connection. The receiver gets at most one [`End`].
    pub(super) fn enter(self: &Arc<Self>) -> (Membership, oneshot::Receiver<End>) {
        let (sender, end) = oneshot::channel();
        let watch = Arc::new(Watch {
            since: AtomicU32::new(self.clock.load(Relaxed)),
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
        let registry = Arc::clone(self);
        let member = Membership {
            registry,
            id,
            watch,
        };
        (member, end)
    }

    /// Ends overdue connections, while the worker runs. Without connections, no timer runs: an idle
    /// sidecar costs nothing.
    pub(super) async fn sweep(&self, limits: impl Fn() -> (Duration, Duration)) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.lock().open.is_empty() {
                self.filled.notified().await;
                ticks.reset();
            }
            ticks.tick().await;
            self.clock.fetch_add(1, Relaxed);
            let (head, idle) = limits();
            for entry in self.lock().open.values_mut() {
                if let Some(end) = entry.watch.overdue(head, idle) {
                    entry.send(end);
                }
            }
        }
    }

    /// Asks all connections, future ones too, to end after their open requests.
    pub(super) fn drain(&self) {
        let mut entries = self.lock();
        entries.draining = true;
        for entry in entries.open.values_mut() {
            entry.send(End::Drain);
        }
    }

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
            // A connection that is ending has dropped its receiver.
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
