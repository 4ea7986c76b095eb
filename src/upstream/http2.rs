//! HTTP/2 connections of a pool: many streams on one connection, as many as the peer allows.
//!
//! A codec of our own, over [`crate::http2`]. A connection's state ([`session`]) knows nothing of sockets; one task ([`driver`]) reads
//! and writes it, so that the frames of many requests leave in one write and one TLS record. A request ([`exchange`]) writes its head
//! straight into the connection's output, from where it is borrowed, and polls its own upload while it waits for the response, and then
//! while that is read. Dropping it resets its stream.
//!
//! * *Streams that stand still hold up nobody.* The connection's window is given back as DATA come in, a stream's as they are read:
//!   what may lie in memory is a window for each stream. Content to be sent waits in its stream, one frame of the app's, and goes out
//!   by turns.
//! * *Whoever breaks a rule of a stream loses the stream*, of the connection the connection, and is told why. What costs the peer
//!   nothing and brings us nothing is counted (`session/calm.rs`), and what nobody reads of our answers is bounded.
//! * *Nothing is remembered of what was sent*: heads are literals, of which none is Huffman-coded (`http2/hpack/encode.rs`).
//! * *Interim heads* (1xx) come out of [`Exchange`]'s `poll_head`, one by one before the final one.
//!
//! The rejected alternative is hyper's client, with h2 below it: 76 900 user instructions for a 1 KiB GET, where it now takes 36 300
//! and HTTP/1.1 33 700. Of hyper's 12 000 coded the token anew for every request; the rest were channels, wake-ups, and copies of heads.

mod driver;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod head;
mod session;
#[cfg(any(test, fuzzing))]
mod testing;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Response;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use self::driver::Driver;
use self::session::Session;
use super::body::{RequestBody, UpstreamBody};
use super::connect::Stream;
use super::counted::Open;
use super::pool::Shared;
use super::send::{Ask, SendError};

pub(super) use exchange::Exchange;

/// Until the peer's SETTINGS arrive: more could be over its limit, and it would refuse them (RFC 9113 §5.1.2), which is an
/// error for whatever may not be sent twice.
const INITIAL_STREAMS: usize = 1;

pub(super) struct Connection {
    core: Arc<Core>,
    in_flight: AtomicUsize,
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

/// What a connection's driver and its requests share.
struct Core {
    session: Mutex<Session>,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, kept current by the driver.
    max_streams: AtomicUsize,
    /// No new streams: it is going away, or its path may be dead.
    retired: AtomicBool,
}

/// The right to one stream. Dropping it makes room for the next.
pub(super) struct Slot {
    connection: Arc<Connection>,
    pool: Arc<Shared>,
    pub(super) reused: bool,
}

impl Connection {
    /// The second value comes when the peer's SETTINGS have, or when the connection has ended without.
    pub(super) fn open(
        io: Stream,
        open: Open,
        pool: &Arc<Shared>,
    ) -> (Arc<Self>, oneshot::Receiver<()>) {
        let core = Arc::new(Core {
            session: Mutex::new(Session::new()),
            max_streams: AtomicUsize::new(INITIAL_STREAMS),
            retired: AtomicBool::new(false),
        });
        let (driver, settings) = Driver::new(io, open, Arc::clone(&core), Arc::downgrade(pool));
        tokio::spawn(driver.run());
        let connection = Arc::new(Self {
            core,
            in_flight: AtomicUsize::new(0),
            used: AtomicBool::new(true),
            unused: AtomicU32::new(0),
            born: Instant::now(),
            timers: Mutex::default(),
        });
        (connection, settings)
    }

    /// Whether it takes no new streams any more.
    pub(super) fn is_closed(&self) -> bool {
        self.core.retired.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Too old for new streams; the ones under way end in peace.
    pub(super) fn outlived(&self, now: Instant, life: Duration) -> bool {
        now.saturating_duration_since(self.born) >= life
    }

    /// How many calls in a row, this one included, have found it without a stream now and since the call before. Then it gives
    /// memory back that it can do without.
    ///
    /// Counting calls costs requests one store; noting the time would cost them a look at the clock.
    pub(super) fn age(&self) -> u32 {
        let used = self.used.swap(false, Ordering::Relaxed);
        if used || self.in_flight.load(Ordering::Relaxed) > 0 {
            self.unused.store(0, Ordering::Relaxed);
            return 0;
        }
        self.core.lock().shed();
        *self.timers() = Vec::new();
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
        let max = self.core.max_streams.load(Ordering::Relaxed);
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

impl Drop for Connection {
    /// Neither the pool nor a stream has it any more: its driver says goodbye.
    fn drop(&mut self) {
        let mut session = self.core.lock();
        session.released = true;
        session.wake_driver();
    }
}

impl Core {
    /// Uncontended: the driver and all requests are of one worker, and no poll lasts across an await.
    fn lock(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    fn limit_streams(&self, max: usize) {
        self.max_streams.store(max, Ordering::Relaxed);
    }
}

impl Slot {
    /// Sends and waits up to `ask.wait` for the head of the answer, counted from the end of the upload.
    ///
    /// Dropping the future resets the stream; the connection lives on.
    pub(super) async fn send(
        self,
        ask: &Ask<'_>,
        body: RequestBody,
    ) -> Result<Response<UpstreamBody>, SendError> {
        Exchange::send(self, ask, body).await
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool.stream_freed();
    }
}

#[cfg(test)]
mod tests;
