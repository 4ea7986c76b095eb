//! A connection as the pool and its requests see it, and permits for its streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::socket::Traffic;

/// Streams before the peer's SETTINGS arrive. The peer could refuse more (RFC 9113 §5.1.2), which
/// would fail requests that must not be sent twice.
pub(super) const INITIAL_STREAMS: usize = 1;

pub(in crate::upstream) struct Connection {
    pub(super) requests: SendRequest<Bytes>,
    pub(super) traffic: Arc<Traffic>,
    in_flight: AtomicUsize,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, kept current by the driver.
    pub(super) max_streams: AtomicUsize,
    /// Takes no new streams, because the path may be dead.
    retired: AtomicBool,
    /// The peer did not answer a PING.
    pub(super) silent: AtomicBool,
    /// A stream was taken since the last [`Self::age`].
    used: AtomicBool,
    /// Number of consecutive calls of [`Self::age`] that found no use.
    unused: AtomicU32,
    created: Instant,
    /// Its drop tells the driver that no request can follow.
    _released: oneshot::Sender<()>,
}

/// The owner of connections, to which their free streams return.
pub(in crate::upstream) trait Owner: Send + Sync + 'static {
    /// Called when a stream has ended, or when the peer allows more streams.
    fn stream_freed(self: &Arc<Self>);
}

/// Permit for one stream. Dropping the permit frees the stream for the next request.
pub(in crate::upstream) struct StreamPermit<P: Owner> {
    pub(super) connection: Arc<Connection>,
    pool: Arc<P>,
    pub(in crate::upstream) reused: bool,
}

impl Connection {
    /// The receiver resolves when no handle is left, so that no request can follow.
    pub(super) fn new(
        requests: SendRequest<Bytes>,
        traffic: Arc<Traffic>,
    ) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (_released, released) = oneshot::channel();
        let connection = Self {
            requests,
            traffic,
            in_flight: AtomicUsize::new(0),
            max_streams: AtomicUsize::new(INITIAL_STREAMS),
            retired: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            used: AtomicBool::new(true),
            unused: AtomicU32::new(0),
            created: Instant::now(),
            _released,
        };
        (Arc::new(connection), released)
    }

    /// Returns whether the connection takes no new streams: retired, going away, closed, or out of
    /// stream IDs.
    pub(in crate::upstream) fn is_closed(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut ready = || self.requests.clone().poll_ready(&mut cx);
        self.retired.load(Ordering::Relaxed) || matches!(ready(), Poll::Ready(Err(_)))
    }

    pub(in crate::upstream) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns whether the connection is too old for new streams. Open streams continue.
    pub(in crate::upstream) fn outlived(&self, now: Instant, life: Duration) -> bool {
        now.saturating_duration_since(self.created) >= life
    }

    /// Returns the number of consecutive calls, this one included, with no open stream and no new
    /// stream since the call before.
    ///
    /// A flag costs a request one store; a timestamp would cost each request a clock read.
    pub(in crate::upstream) fn age(&self) -> u32 {
        let used = self.used.swap(false, Ordering::Relaxed);
        if used || self.in_flight() > 0 {
            self.unused.store(0, Ordering::Relaxed);
            return 0;
        }
        self.unused.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes a stream, if the peer allows one more. The caller holds the pool's lock.
    pub(in crate::upstream) fn reserve<P: Owner>(
        self: &Arc<Self>,
        pool: &Arc<P>,
        reused: bool,
    ) -> Option<StreamPermit<P>> {
        if self.in_flight() >= self.max_streams.load(Ordering::Relaxed) {
            return None;
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.used.store(true, Ordering::Relaxed);
        Some(StreamPermit {
            connection: Arc::clone(self),
            pool: Arc::clone(pool),
            reused,
        })
    }

    /// Stops new streams on a path that may be dead.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }
}

impl<P: Owner> Drop for StreamPermit<P> {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool.stream_freed();
    }
}
