//! HTTP/2 connections of a pool: many streams on one connection, as many as the peer allows.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::{RequestBody, UpstreamBody};
use super::counted::{Counted, FirstBytes};
use super::pool::Shared;
use super::send::{SendError, SendFailure, stream_error};
use crate::http1::MAX_HEAD;

/// Per stream and per connection. Large enough for 10 MiB bodies at a few milliseconds of round trip.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Until the peer's SETTINGS arrive: more could be over its limit, and it would refuse them (RFC 9113 §5.1.2), which is an
/// error for whatever may not be sent twice.
const INITIAL_STREAMS: usize = 1;

/// A peer that is silent for so long while a stream is open is asked whether it is still there. gRPC servers close
/// connections that ask more often than every 5 minutes; short of that, TCP keep-alive and the response time-out watch the path.
const PING_AFTER: Duration = Duration::from_secs(320);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    in_flight: AtomicUsize,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, kept current by the driver.
    max_streams: AtomicUsize,
    /// No new streams: it is going away, or its path may be dead.
    retired: AtomicBool,
    /// A stream was taken since the last [`Self::age`].
    used: AtomicBool,
    /// How many times in a row [`Self::age`] found it unused.
    unused: AtomicU32,
    born: Instant,
    /// Of streams that are over: moving a registered timer on costs next to nothing, while a new one for every request has to be
    /// put into the timer wheel and taken out again.
    timers: Mutex<Vec<Timer>>,
}

type Timer = Pin<Box<Sleep>>;

/// The right to one stream. Dropping it makes room for the next.
pub(super) struct Slot {
    connection: Arc<Connection>,
    pool: Arc<Shared>,
    pub(super) reused: bool,
}

impl Connection {
    /// The second value comes when the peer's SETTINGS have, or when the connection has ended without.
    pub(super) async fn open(
        mut io: Counted,
        pool: &Arc<Shared>,
    ) -> hyper::Result<(Arc<Self>, oneshot::Receiver<()>)> {
        let first_bytes = io.watch();
        let (sender, driver) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(INITIAL_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(io)
            .await?;
        let connection = Arc::new(Self {
            sender,
            in_flight: AtomicUsize::new(0),
            max_streams: AtomicUsize::new(INITIAL_STREAMS),
            retired: AtomicBool::new(false),
            used: AtomicBool::new(true),
            unused: AtomicU32::new(0),
            born: Instant::now(),
            timers: Mutex::default(),
        });
        let (settled, settings) = oneshot::channel();
        let limit = StreamLimit {
            connection: Arc::downgrade(&connection),
            pool: Arc::downgrade(pool),
            first_bytes,
            settled: Some(settled),
        };
        tokio::spawn(drive(driver, limit));
        Ok((connection, settings))
    }

    /// Whether it takes no new streams any more.
    pub(super) fn is_closed(&self) -> bool {
        self.retired.load(Ordering::Relaxed) || self.sender.is_closed()
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Too old for new streams; the ones under way end in peace.
    pub(super) fn outlived(&self, now: Instant, life: Duration) -> bool {
        now.saturating_duration_since(self.born) >= life
    }

    /// How many calls in a row, this one included, have found it without a stream now and since the call before.
    ///
    /// Counting calls costs requests one store; noting the time would cost them a look at the clock.
    pub(super) fn age(&self) -> u32 {
        let used = self.used.swap(false, Ordering::Relaxed);
        if used || self.in_flight.load(Ordering::Relaxed) > 0 {
            self.unused.store(0, Ordering::Relaxed);
            return 0;
        }
        self.unused.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn timer(&self, deadline: Instant) -> Timer {
        let spare = self.timers().pop();
        match spare {
            Some(mut timer) => {
                timer.as_mut().reset(deadline);
                timer
            }
            None => Box::pin(sleep_until(deadline)),
        }
    }

    /// Uncontended: all streams are of one worker.
    fn timers(&self) -> MutexGuard<'_, Vec<Timer>> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stream, if the peer allows one more. Only called under the pool's lock.
    pub(super) fn reserve(self: &Arc<Self>, pool: &Arc<Shared>, reused: bool) -> Option<Slot> {
        let max = self.max_streams.load(Ordering::Relaxed);
        if self.in_flight.load(Ordering::Relaxed) >= max {
            return None;
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.used.store(true, Ordering::Relaxed);
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
        mut request: Request<RequestBody>,
        wait: Duration,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let progress = request.body_mut().progress();
        let reused = self.reused;
        let mut sender = self.connection.sender.clone();
        let mut sent = pin!(sender.try_send_request(request));
        let mut timer = self.connection.timer(Instant::now() + wait);
        loop {
            let answer = poll_fn(|cx| match sent.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
            });
            match answer.await {
                Some(Ok(response)) => {
                    self.connection.timers().push(timer);
                    return Ok(response.map(|body| UpstreamBody::http2(body, self)));
                }
                Some(Err(mut error)) => {
                    let unsent = error.take_message().is_some();
                    let error = error.into_error();
                    // Going away, or broken: its driver may not have noticed yet.
                    if stream_error(&error).is_none() {
                        self.connection.retire();
                    }
                    return Err(SendError {
                        failure: SendFailure::from(error),
                        reused,
                        unsent,
                    });
                }
                None => {
                    let now = Instant::now();
                    let later = progress
                        .as_ref()
                        .map(|progress| progress.deadline(now, wait));
                    match later.filter(|later| *later > now) {
                        Some(later) => timer.as_mut().reset(later),
                        None => break,
                    }
                }
            }
        }
        // If the path is dead, every request on this connection would wait as long.
        self.connection.retire();
        Err(SendError {
            failure: SendFailure::Timeout,
            reused,
            unsent: false,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool.stream_freed();
    }
}

type Driver = hyper::client::conn::http2::Connection<Counted, RequestBody, TokioExecutor>;

/// Keeps [`Connection::max_streams`] current.
struct StreamLimit {
    connection: Weak<Connection>,
    pool: Weak<Shared>,
    first_bytes: Arc<FirstBytes>,
    /// Told when SETTINGS have come.
    settled: Option<oneshot::Sender<()>>,
}

impl StreamLimit {
    fn set(&mut self, max: usize) {
        let Some(connection) = self.connection.upgrade() else {
            return;
        };
        let before = connection.max_streams.swap(max, Ordering::Relaxed);
        if max == before {
            return;
        }
        self.first_bytes.enough.store(true, Ordering::Relaxed);
        if let Some(pool) = self.pool.upgrade() {
            pool.stream_freed();
        }
        // Whoever waits for it dials for those for whom the limit is too low.
        if let Some(settled) = self.settled.take() {
            let _ = settled.send(());
        }
    }
}

/// Runs a connection to its end. hyper's driver is woken by requests only, and so by the first bytes, which hold the SETTINGS.
async fn drive(driver: Driver, mut limit: StreamLimit) {
    let first_bytes = Arc::clone(&limit.first_bytes);
    let mut driver = pin!(driver);
    let mut ended = pin!(poll_fn(|cx| {
        let state = driver.as_mut().poll(cx);
        if state.is_pending() {
            limit.set(driver.current_max_send_streams());
        }
        state
    }));
    let result = loop {
        tokio::select! {
            biased;
            result = ended.as_mut() => break result,
            () = first_bytes.came.notified() => {}
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "upstream connection ended");
    }
}
