//! HTTP/2 connections of a pool: many streams on one connection, as many as the peer allows.
//!
//! [`h2`] does framing, HPACK, flow control and the defence against floods. One task ([`driver`])
//! runs each connection. A request ([`exchange`]) polls its own upload while it waits for the
//! response head and while the response body is read.
//!
//! * *A response that is not read holds up no other response:* the connection window is larger
//!   than all stream windows together.
//! * *An upload that breaks off never looks complete:* END_STREAM is sent only after the end of the
//!   body, and only if its length is right. Every other end of an upload is RST_STREAM.
//! * *A request counts as unsent* if none of it was written, or if the peer says that it did not
//!   process it: REFUSED_STREAM, or GOAWAY with a lower stream ID (RFC 9113 §8.7).
//!
//! The rejected alternative is `hyper::client::conn::http2`. It polls an upload in a task of its
//! own, which hides the app's failure and the upload's progress from the request. It also takes
//! RST_STREAM with NO_ERROR for the end of a response body. A request costs 7,300 instructions more
//! with it (callgrind, the mix of `cargo bench --bench cost -- --quick`). A codec of our own cost
//! 9,900 fewer, at the price of 2,900 lines.

mod driver;
mod exchange;
mod head;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::Response;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::driver::{Driver, Socket, Traffic};
use super::body::{RequestBody, UpstreamBody};
use super::connect::Stream;
use super::counted::Open;
use super::error::SendError;
use super::pool::PoolShared;
use super::send::Ask;
use crate::upstream::MAX_HEAD;

pub(super) use exchange::Exchange;

/// Until the peer's SETTINGS arrive: more could be over its limit, and it would refuse them
/// (RFC 9113 §5.1.2), which is an error for a request that may not be sent twice.
const INITIAL_STREAMS: usize = 1;

/// Bytes of a response that may lie in memory unread. Large enough for 10 MiB bodies at a few
/// milliseconds of round trip.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// As large as Go's: 1,024 full stream windows.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Bytes of an upload that wait in h2 for the socket.
const SEND_BUFFER: usize = 64 * 1024;

/// Frames of the peer for a stream that was reset may still be under way. h2 ignores them while it
/// remembers the stream, and counts them as errors of the peer afterwards.
const RESETS_REMEMBERED: usize = 1024;
const RESET_MEMORY: Duration = Duration::from_secs(30);

pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    traffic: Arc<Traffic>,
    in_flight: AtomicUsize,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, kept current by the driver.
    max_streams: AtomicUsize,
    /// No new streams: the path may be dead.
    retired: AtomicBool,
    /// The peer did not answer a PING.
    silent: AtomicBool,
    /// A stream was taken since the last [`Self::age`].
    used: AtomicBool,
    /// How many times in a row [`Self::age`] found it unused.
    unused: AtomicU32,
    born: Instant,
    /// Dropped with the connection, which tells the driver that no request can come.
    _released: oneshot::Sender<()>,
}

/// The right to one stream. Dropping it makes room for the next.
pub(super) struct StreamPermit {
    connection: Arc<Connection>,
    pool: Arc<PoolShared>,
    pub(super) reused: bool,
}

impl Connection {
    /// Sends the preface and starts the driver. The second value resolves when the peer's SETTINGS
    /// have come, or when the connection has ended without.
    pub(super) async fn open(
        io: Stream,
        open: Open,
        pool: &Arc<PoolShared>,
    ) -> Result<(Arc<Self>, oneshot::Receiver<()>), h2::Error> {
        let traffic = Arc::<Traffic>::default();
        let socket = Socket::new(io, Arc::clone(&traffic));
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
            born: Instant::now(),
            _released,
        });
        let (driver, settings) = Driver::new(h2, &connection, pool, open);
        tokio::spawn(driver.run(released));
        Ok((connection, settings))
    }

    /// Whether it takes no new streams: retired, going away, closed, or out of stream IDs.
    pub(super) fn is_closed(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.retired.load(Ordering::Relaxed)
            || matches!(
                self.requests.clone().poll_ready(&mut cx),
                Poll::Ready(Err(_))
            )
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Too old for new streams; the ones under way go on.
    pub(super) fn outlived(&self, now: Instant, life: Duration) -> bool {
        now.saturating_duration_since(self.born) >= life
    }

    /// Returns how many calls in a row, this one included, have found no stream now and none
    /// since the call before.
    ///
    /// Counting calls costs a request one store; noting the time would cost it a look at the clock.
    pub(super) fn age(&self) -> u32 {
        let used = self.used.swap(false, Ordering::Relaxed);
        if used || self.in_flight() > 0 {
            self.unused.store(0, Ordering::Relaxed);
            return 0;
        }
        self.unused.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes a stream, if the peer allows one more. Only called under the pool's lock.
    pub(super) fn reserve(
        self: &Arc<Self>,
        pool: &Arc<PoolShared>,
        reused: bool,
    ) -> Option<StreamPermit> {
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

impl StreamPermit {
    /// Sends and waits up to `ask.wait` for the head of the response, counted from the last
    /// progress of the upload.
    ///
    /// Dropping the future resets the stream; the connection lives on.
    pub(super) async fn send(
        self,
        ask: &Ask<'_>,
        body: RequestBody,
    ) -> Result<Response<UpstreamBody>, SendError> {
        exchange::send(self, ask, body).await
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool.stream_freed();
    }
}

#[cfg(test)]
mod tests;
