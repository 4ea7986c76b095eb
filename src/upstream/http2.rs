//! HTTP/2 connections of a pool: many streams on one connection, as many as the peer allows.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::body::{Lease, RequestBody, UpstreamBody};
use super::connect::Stream;
use super::http1::MAX_HEAD;
use super::pool::{OpenConnection, Shared};
use super::send::{SendError, SendFailure};

/// Per stream and per connection. Large enough for 10 MiB bodies at a few milliseconds of round trip.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Until the peer's SETTINGS arrive; RFC 9113 §6.5.2 recommends that they allow no less than 100.
const INITIAL_STREAMS: usize = 100;

/// A silent peer is asked after this long, so that a dead path is noticed before a request needs it.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    in_flight: AtomicUsize,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, kept current by the driver.
    max_streams: Arc<AtomicUsize>,
    born: Instant,
}

/// The right to one stream. Dropping it makes room for the next.
pub(super) struct Slot {
    connection: Arc<Connection>,
    pool: Arc<Shared>,
    pub(super) reused: bool,
}

impl Connection {
    pub(super) async fn open(io: Stream, open: OpenConnection) -> hyper::Result<Arc<Self>> {
        let (sender, driver) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(INITIAL_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(io))
            .await?;
        let max_streams = Arc::new(AtomicUsize::new(INITIAL_STREAMS));
        let seen = Arc::clone(&max_streams);
        tokio::spawn(async move {
            let _open = open;
            let mut driver = pin!(driver);
            let ended = poll_fn(|cx| {
                let state = driver.as_mut().poll(cx);
                if state.is_pending() {
                    seen.store(driver.current_max_send_streams(), Ordering::Relaxed);
                }
                state
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Arc::new(Self {
            sender,
            in_flight: AtomicUsize::new(0),
            max_streams,
            born: Instant::now(),
        }))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Too old for new streams; the ones under way end in peace.
    pub(super) fn outlived(&self, now: Instant, life: Duration) -> bool {
        now.saturating_duration_since(self.born) >= life
    }

    pub(super) fn is_unused(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }

    /// Takes a stream, if the peer allows one more. Only called under the pool's lock.
    pub(super) fn reserve(self: &Arc<Self>, pool: &Arc<Shared>, reused: bool) -> Option<Slot> {
        let max = self.max_streams.load(Ordering::Relaxed);
        if self.in_flight.load(Ordering::Relaxed) >= max {
            return None;
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Slot {
            connection: Arc::clone(self),
            pool: Arc::clone(pool),
            reused,
        })
    }
}

impl Slot {
    /// Sends and waits up to `wait` for the head of the answer, counted from the end of the upload.
    ///
    /// Dropping the future resets the stream; the connection lives on.
    pub(super) async fn send(
        self,
        request: Request<RequestBody>,
        wait: Duration,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let progress = request.body().progress();
        let reused = self.reused;
        let mut sender = self.connection.sender.clone();
        let mut sent = pin!(sender.try_send_request(request));
        let mut deadline = Instant::now() + wait;
        loop {
            match tokio::time::timeout_at(deadline, sent.as_mut()).await {
                Ok(Ok(response)) => {
                    return Ok(response.map(|body| UpstreamBody::new(body, Lease::Http2(self))));
                }
                Ok(Err(mut error)) => {
                    let unsent = error.take_message().map(Box::new);
                    let failure = SendFailure::from(error.into_error());
                    return Err(SendError {
                        failure,
                        reused,
                        unsent,
                    });
                }
                Err(_) => match progress.as_ref().map(|progress| progress.last() + wait) {
                    Some(later) if later > deadline => deadline = later,
                    _ => {
                        return Err(SendError {
                            failure: SendFailure::Timeout,
                            reused,
                            unsent: None,
                        });
                    }
                },
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool.stream_freed();
    }
}
