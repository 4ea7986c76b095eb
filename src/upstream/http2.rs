//! HTTP/2 connections of a pool, with as many streams per connection as the peer allows.
//!
//! [`h2`] does framing, HPACK, flow control and flood defence. One task ([`driver`]) runs each
//! connection. A request ([`exchange`]) polls its own upload while it waits for the response head
//! and while the response body is read.
//!
//! * *An unread response delays no other response:* the connection window is larger than all stream
//!   windows together.
//! * *A cut-off upload never looks complete:* END_STREAM follows only a body of the right length.
//!   Every other end of an upload is RST_STREAM.
//! * *A request counts as unsent* if no byte was written, or if the peer did not process the
//!   request: REFUSED_STREAM, or GOAWAY with a lower stream ID (RFC 9113 §8.7).
//!
//! Rejected alternatives: `hyper::client::conn::http2` polls uploads in a separate task, hides the
//! app's failures and the upload's progress, and takes RST_STREAM with NO_ERROR for the end of a
//! response body. It costs 7,300 instructions more per request (callgrind, the mix of
//! `cargo bench --bench cost -- --quick`). An own codec cost 9,900 fewer, but took 2,900 lines.

mod driver;
mod exchange;
mod head;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::driver::{Driver, Socket, Traffic};
use super::connect::Stream;
use super::counted::Open;
use crate::upstream::MAX_HEAD;

pub(super) use exchange::Exchange;

/// Streams before the peer's SETTINGS arrive. The peer could refuse more (RFC 9113 §5.1.2), which
/// would fail requests that must not be sent twice.
const INITIAL_STREAMS: usize = 1;

/// Limit of unread response bytes per stream. Large enough for 10 MiB bodies at a few milliseconds
/// of round trip.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// 1,024 full stream windows, as in Go.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Limit of upload bytes per stream that h2 buffers for the socket.
const SEND_BUFFER: usize = 64 * 1024;

/// The peer's frames may cross a reset on the wire. h2 ignores such frames while it remembers the
/// stream, and counts them as peer errors afterwards.
const RESETS_REMEMBERED: usize = 1024;
const RESET_MEMORY: Duration = Duration::from_secs(30);

pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    traffic: Arc<Traffic>,
    in_flight: AtomicUsize,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, kept current by the driver.
    max_streams: AtomicUsize,
    /// Takes no new streams, because the path may be dead.
    retired: AtomicBool,
    /// The peer did not answer a PING.
    silent: AtomicBool,
    /// A stream was taken since the last [`Self::age`].
    used: AtomicBool,
    /// Number of consecutive calls of [`Self::age`] that found no use.
    unused: AtomicU32,
    created: Instant,
    /// Its drop tells the driver that no request can follow.
    _released: oneshot::Sender<()>,
}

/// The owner of connections, to which their free streams return.
pub(super) trait Owner: Send + Sync + 'static {
    /// Called when a stream has ended, or when the peer allows more streams.
    fn stream_freed(self: &Arc<Self>);
}

/// Permit for one stream. Dropping the permit frees the stream for the next request.
pub(super) struct StreamPermit<P: Owner> {
    connection: Arc<Connection>,
    pool: Arc<P>,
    pub(super) reused: bool,
}

impl Connection {
    /// Sends the preface and starts the driver. The receiver resolves when the peer's SETTINGS have
    /// arrived, or when the connection has ended without SETTINGS.
    pub(super) async fn open<P: Owner>(
        io: Stream,
        open: Open,
        pool: &Arc<P>,
    ) -> Result<(Arc<Self>, oneshot::Receiver<()>), h2::Error> {
        let traffic = Arc::<Traffic>::default();
        let socket = Socket {
            io,
            traffic: Arc::clone(&traffic),
        };
        let (requests, h2) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(INITIAL_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD as u32)
            .max_concurrent_reset_streams(RESETS_REMEMBERED)
            .reset_stream_duration(RESET_MEMORY)
            .handshake(socket)
            .await?;
        let (_released, released) = oneshot::channel();
        let connection = Arc::new(Self {
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
        });
        let (driver, settings) = Driver::new(h2, &connection, pool, open);
        tokio::spawn(driver.run(released));
        Ok((connection, settings))
    }

    /// Returns whether the connection takes no new streams: retired, going away, closed, or out of
    /// stream IDs.
    pub(super) fn is_closed(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut ready = || self.requests.clone().poll_ready(&mut cx);
        self.retired.load(Ordering::Relaxed) || matches!(ready(), Poll::Ready(Err(_)))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns whether the connection is too old for new streams. Open streams continue.
    pub(super) fn outlived(&self, now: Instant, life: Duration) -> bool {
        now.saturating_duration_since(self.created) >= life
    }

    /// Returns the number of consecutive calls, this one included, with no open stream and no new
    /// stream since the call before.
    ///
    /// A flag costs a request one store; a timestamp would cost each request a clock read.
    pub(super) fn age(&self) -> u32 {
        let used = self.used.swap(false, Ordering::Relaxed);
        if used || self.in_flight() > 0 {
            self.unused.store(0, Ordering::Relaxed);
            return 0;
        }
        self.unused.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes a stream, if the peer allows one more. The caller holds the pool's lock.
    pub(super) fn reserve<P: Owner>(
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

    fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }
}

impl<P: Owner> Drop for StreamPermit<P> {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool.stream_freed();
    }
}

#[cfg(test)]
mod tests;
