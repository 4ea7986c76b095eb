//! Connections of one upstream on one worker.
//!
//! HTTP/1.1 connections are used last in, first out, so that a burst's surplus ages out; HTTP/2 connections by free streams.
//! Until the upstream's HTTP version is known one dial serves everyone who waits: fifty first requests make one
//! connection to an HTTP/2 upstream, not fifty. A dial runs as a task of its own, so that a request which is given up
//! does not waste it, and whoever waits longest gets whatever comes first, a new connection or one given back. On a cold
//! start of HTTP/1.1 the number of dials at once doubles with each round for as long as answers do not free connections faster.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::body::RequestBody;
use super::connect::{Alpn, ConnectError, Connected, Connector};
use super::counted::Open;
use super::send::Checkout;
use super::{http1, http2};
use crate::metrics::UpstreamMetrics;

/// A connection gets no new requests after this long, so that a change of DNS is picked up.
const LIFE: Duration = Duration::from_secs(600);

/// Dials under way at once. Beyond it requests wait: a herd must not become a SYN flood.
const MAX_DIALS: usize = 64;

/// How long requests that wait behind the first one wait for the SETTINGS of a new HTTP/2 connection before another is dialled.
/// They come within a round trip of the handshake.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For DNS, TCP and TLS together.
    pub connect: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

pub(super) struct Shared {
    connector: Connector,
    limits: Limits,
    metrics: UpstreamMetrics,
    /// Uncontended: only the pool's own worker locks it, and never across an await.
    state: Mutex<State>,
}

/// In its box, in which it is handed on: connections come and go with every request.
type Idle = Box<Http1>;

pub(super) type Http1 = http1::Connection<RequestBody>;

#[derive(Default)]
struct State {
    version: Option<Version>,
    idle: Vec<Idle>,
    http2: Vec<Arc<http2::Connection>>,
    waiters: VecDeque<Waiter>,
    dials: usize,
    /// How many dials of HTTP/1.1 may be under way besides the first: one more with each that succeeds, which doubles them in
    /// each round, and half as many with each connection that comes back to a waiter before a dial brings one.
    more_dials: usize,
    sweeping: bool,
}

/// A request that waits for a connection.
struct Waiter {
    since: Instant,
    sender: oneshot::Sender<Delivery>,
}

type Delivery = Result<Checkout, ConnectError>;

/// A new connection, and what resolves when an HTTP/2 peer's SETTINGS have come.
type Opened = (Checkout, Option<oneshot::Receiver<()>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

// === impl Pool ===

impl Pool {
    pub fn new(connector: Connector, limits: Limits, metrics: UpstreamMetrics) -> Self {
        let state = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                connector,
                limits,
                metrics,
                state,
            }),
        }
    }

    /// Returns a connection or stream that is there.
    pub fn ready(&self) -> Option<Checkout> {
        self.shared.take(&mut self.shared.lock(), Instant::now())
    }

    /// A connection or stream for one request: one that is there, or the first that becomes free or is dialled.
    ///
    /// Cancel safe: a dial goes on for the next request.
    pub async fn checkout(&self) -> Result<Checkout, ConnectError> {
        let delivery = {
            let mut state = self.shared.lock();
            let since = Instant::now();
            if let Some(ready) = self.shared.take(&mut state, since) {
                return Ok(ready);
            }
            let (sender, delivery) = oneshot::channel();
            state.waiters.push_back(Waiter { since, sender });
            self.shared.dial_for_waiters(&mut state);
            delivery
        };
        match delivery.await {
            Ok(result) => result,
            // Every waiter is answered by a dial or a returned connection; only a dial task that panicked answers none.
            Err(_) => self.shared.dial().await,
        }
    }

    /// Instead of a connection that turned out to be dead: one that no request has used yet or, with HTTP/2, any that is not
    /// known to be dead. All streams of a connection die together, and are not to make a connection each.
    ///
    /// Cancel safe.
    pub async fn dial(&self) -> Result<Checkout, ConnectError> {
        if self.shared.lock().version == Some(Version::Http2) {
            return self.checkout().await;
        }
        self.shared.dial().await
    }

    /// An HTTP/1.1 connection for an upgrade (RFC 9110 §7.8): HTTP/2 has none, and it never comes back.
    pub async fn dial_http1(&self) -> Result<Checkout, ConnectError> {
        let connector = self.shared.connector.with_alpn(Alpn::Http1);
        let connected = Box::pin(self.shared.connect(&connector)).await?;
        let mut connection = self.shared.open_http1(connected);
        connection.for_upgrade = true;
        Ok(Checkout::http1(connection, Arc::clone(&self.shared)))
    }
}

// === impl Shared ===

impl Shared {
    /// Takes a connection back, for whoever waits or for later.
    pub(super) fn put(self: &Arc<Self>, connection: Box<Http1>) {
        if connection.for_upgrade || !connection.lasts() {
            return;
        }
        let waiter = {
            let mut state = self.lock();
            let Some(waiter) = state.next_waiter() else {
                state.idle.push(connection);
                return self.start_sweeping(&mut state);
            };
            state.more_dials /= 2;
            waiter
        };
        // Outside the lock: a checkout that is dropped comes back through `put`.
        drop(
            waiter
                .sender
                .send(Ok(Checkout::http1(connection, Arc::clone(self)))),
        );
    }

    /// A stream ended, or there are more of them: there may be room for waiters.
    pub(super) fn stream_freed(self: &Arc<Self>) {
        loop {
            let (waiter, ready) = {
                let mut state = self.lock();
                let Some(waiter) = state.next_waiter() else {
                    return;
                };
                match self.take(&mut state, Instant::now()) {
                    Some(ready) => (waiter.sender, ready),
                    None => return state.waiters.push_front(waiter),
                }
            };
            // Outside the lock: a checkout that is dropped comes back here.
            drop(waiter.send(Ok(ready)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is ready now. HTTP/2 first: it costs no connection.
    fn take(self: &Arc<Self>, state: &mut State, now: Instant) -> Option<Checkout> {
        if !state.http2.is_empty() {
            state
                .http2
                .retain(|connection| !connection.is_closed() && !connection.outlived(now, LIFE));
            let slot = state
                .http2
                .iter()
                .find_map(|connection| connection.reserve(self, true));
            if let Some(slot) = slot {
                return Some(Checkout::http2(slot, Arc::clone(self)));
            }
        }
        while let Some(mut connection) = state.idle.pop() {
            let idle = self.limits.idle;
            if connection.usable(now, idle) {
                return Some(Checkout::http1(connection, Arc::clone(self)));
            }
        }
        None
    }

    /// Starts as many dials as the waiters need.
    fn dial_for_waiters(self: &Arc<Self>, state: &mut State) {
        let at_once = match state.version {
            Some(Version::Http1) => (1 + state.more_dials).min(MAX_DIALS),
            None | Some(Version::Http2) => 1,
        };
        let wanted = state.waiters.len().min(at_once);
        while state.dials < wanted {
            state.dials += 1;
            let dialling = Dialling {
                pool: Arc::clone(self),
                ended: false,
            };
            tokio::spawn(dialling.run());
        }
    }

    /// In a box, as all that a request does only now and then: every byte of its future is copied for every request.
    async fn dial(self: &Arc<Self>) -> Delivery {
        Ok(Box::pin(self.connect_and_open()).await?.0)
    }

    async fn connect_and_open(self: &Arc<Self>) -> Result<Opened, ConnectError> {
        let connected = self.connect(&self.connector).await?;
        self.open(connected).await
    }

    async fn connect(&self, connector: &Connector) -> Result<Connected, ConnectError> {
        let result = connector.connect(self.limits.connect).await;
        match &result {
            Ok(_) => self.metrics.connected.inc(),
            Err(_) => self.metrics.connect_failed.inc(),
        }
        result
    }

    /// Starts HTTP on a fresh connection and notes its version. With HTTP/2 the second value comes when the peer has said how
    /// many streams it allows; until then there is one.
    async fn open(self: &Arc<Self>, connected: Connected) -> Result<Opened, ConnectError> {
        if !connected.http2 {
            let connection = self.open_http1(connected);
            let mut state = self.lock();
            state.version = Some(Version::Http1);
            state.more_dials = (state.more_dials + 1).min(MAX_DIALS);
            drop(state);
            return Ok((Checkout::http1(connection, Arc::clone(self)), None));
        }
        let open = Open::new(&self.metrics.connections);
        let opened = http2::Connection::open(connected.io, open, self).await;
        let (connection, settings) = opened.map_err(|error| ConnectError::Refused {
            peer: self.connector.peer(),
            source: Arc::new(io::Error::other(error)),
        })?;
        let slot = {
            let mut state = self.lock();
            state.version = Some(Version::Http2);
            state.http2.push(Arc::clone(&connection));
            self.start_sweeping(&mut state);
            connection.reserve(self, false)
        };
        // Nobody could take its first stream before it was in the pool.
        let slot = slot.expect("a fresh connection has room");
        Ok((Checkout::http2(slot, Arc::clone(self)), Some(settings)))
    }

    fn open_http1(&self, connected: Connected) -> Box<Http1> {
        Http1::new(connected.io, LIFE, Open::new(&self.metrics.connections))
    }

    /// Gives a dial's connection to whoever waits longest, or to the pool.
    fn hand_out(self: &Arc<Self>, checkout: Checkout) {
        let waiter = self.lock().next_waiter();
        match waiter {
            // A waiter that gives up drops the checkout, which goes to the next or to the pool.
            Some(waiter) => drop(waiter.sender.send(Ok(checkout))),
            None => drop(checkout),
        }
    }

    /// Where connections come one by one, each failed dial answers for one waiter, and for all who have waited as long as a
    /// connect may take; where one dial is for everyone, for everyone.
    fn fail_waiters(&self, error: &ConnectError) {
        let failed = {
            let mut state = self.lock();
            let one_by_one = match state.version {
                None => false,
                Some(Version::Http1) => true,
                Some(Version::Http2) => state.http2.iter().any(|open| !open.is_closed()),
            };
            if one_by_one {
                state.longest_waiting(self.limits.connect)
            } else {
                std::mem::take(&mut state.waiters).into()
            }
        };
        for waiter in failed {
            drop(waiter.sender.send(Err(error.clone())));
        }
    }

    /// One task ages the pool's connections while it has any.
    fn start_sweeping(self: &Arc<Self>, state: &mut State) {
        if state.sweeping {
            return;
        }
        state.sweeping = true;
        let every = (self.limits.idle / 2).clamp(Duration::from_secs(1), Duration::from_secs(15));
        tokio::spawn(sweep(Arc::downgrade(self), every));
    }
}

// === impl State ===

impl State {
    /// The longest waiting of those that still wait.
    fn next_waiter(&mut self) -> Option<Waiter> {
        while let Some(waiter) = self.waiters.pop_front() {
            if !waiter.sender.is_closed() {
                return Some(waiter);
            }
        }
        None
    }

    /// The one that has waited longest, and everyone who has waited at least `limit`.
    fn longest_waiting(&mut self, limit: Duration) -> Vec<Waiter> {
        let now = Instant::now();
        let mut longest = Vec::from_iter(self.next_waiter());
        while let Some(waiter) = self
            .waiters
            .pop_front_if(|waiter| now.saturating_duration_since(waiter.since) >= limit)
        {
            longest.push(waiter);
        }
        longest
    }

    /// Takes out the connections that are to be closed; called once in `every`.
    fn expire(&mut self, now: Instant, idle: Duration, every: Duration) -> Expired {
        let http1 = self
            .idle
            .extract_if(.., |connection| !connection.usable(now, idle))
            .collect();
        let http2 = self
            .http2
            .extract_if(.., |connection| {
                let unused = every * connection.age();
                connection.is_closed() || connection.outlived(now, LIFE) || unused >= idle
            })
            .collect();
        for connection in &mut self.idle {
            connection.shed();
        }
        if self.idle.is_empty() && self.http2.is_empty() {
            self.sweeping = false;
            self.more_dials = 0;
        }
        Expired {
            _http1: http1,
            _http2: http2,
        }
    }
}

/// Held for its drop, which closes what no request uses.
struct Expired {
    _http1: Vec<Idle>,
    _http2: Vec<Arc<http2::Connection>>,
}

async fn sweep(pool: Weak<Shared>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        let (expired, over) = {
            let mut state = pool.lock();
            let expired = state.expire(Instant::now(), pool.limits.idle, every);
            (expired, !state.sweeping)
        };
        // Connections are closed outside the lock.
        drop(expired);
        if over {
            return;
        }
    }
}

/// One dial under way, counted until it ends.
struct Dialling {
    pool: Arc<Shared>,
    /// Not by a panic, nor by the end of the runtime.
    ended: bool,
}

impl Dialling {
    async fn run(mut self) {
        let pool = &self.pool;
        match pool.connect_and_open().await {
            Ok((checkout, settings)) => {
                pool.hand_out(checkout);
                if let Some(settings) = settings {
                    // The streams themselves are handed out by the connection's driver.
                    drop(tokio::time::timeout(SETTINGS_WAIT, settings).await);
                }
            }
            Err(error) => pool.fail_waiters(&error),
        }
        self.ended = true;
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        let abandoned = {
            let mut state = self.pool.lock();
            state.dials -= 1;
            if self.ended {
                state.waiters.retain(|waiter| !waiter.sender.is_closed());
                return self.pool.dial_for_waiters(&mut state);
            }
            // Another dial would only panic again, or find the runtime gone; let the requests themselves try.
            std::mem::take(&mut state.waiters)
        };
        drop(abandoned);
    }
}

/// For the tests of the connections themselves.
#[cfg(test)]
mod inside {
    use super::{Arc, Idle, Pool, Shared, http2};

    impl Pool {
        pub(in crate::upstream) fn shared(&self) -> Arc<Shared> {
            Arc::clone(&self.shared)
        }
    }

    impl Shared {
        pub(in crate::upstream) fn with_idle<T>(
            &self,
            look: impl FnOnce(&mut Vec<Idle>) -> T,
        ) -> T {
            look(&mut self.lock().idle)
        }

        /// The only HTTP/2 connection.
        pub(in crate::upstream) fn with_http2<T>(
            &self,
            look: impl FnOnce(&http2::Connection) -> T,
        ) -> T {
            look(&self.lock().http2[0])
        }

        pub(in crate::upstream) fn http2_in_flight(&self) -> usize {
            self.lock().http2.iter().map(|open| open.in_flight()).sum()
        }
    }
}

#[cfg(test)]
mod tests;
