//! Connections of one upstream on one worker.
//!
//! Idle HTTP/1.1 connections are used last in, first out, so that a burst's surplus ages out.
//! While the upstream's HTTP version is unknown, one dial serves all waiters: fifty first requests
//! make one connection to an HTTP/2 upstream, not fifty. Each dial is a task, so a cancelled
//! request does not waste the dial. The oldest waiter gets the first connection that is dialled or
//! returned. On a cold start of HTTP/1.1 the number of concurrent dials doubles with each round,
//! as long as responses do not free connections faster.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connect::{Alpn, ConnectError, Connected, Connector};
use super::counted::Open;
use super::request::RequestBody;
use super::{http1, http2};
use crate::metrics::UpstreamMetrics;

/// Age at which a connection takes no new requests, so that DNS changes take effect.
const LIFE: Duration = Duration::from_secs(600);

/// Limit of concurrent dials, so that a burst of requests does not become a SYN flood.
const MAX_DIALS: usize = 64;

/// How long a dial waits for the SETTINGS of a new HTTP/2 connection before the next dial starts.
/// SETTINGS normally arrive within a round trip of the handshake.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);

/// Connections of one upstream on one worker. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<PoolShared>,
}

/// A connection or stream for one request. Dropping an unused checkout returns it to the pool.
pub struct Checkout {
    pub(super) inner: Option<Inner>,
    pub(super) pool: Arc<PoolShared>,
}

pub(super) enum Inner {
    Http1(Box<Http1>),
    Http2(http2::StreamPermit<PoolShared>),
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For DNS, TCP and TLS together.
    pub connect: Duration,
    /// How long an idle connection is kept.
    pub idle: Duration,
}

pub(super) struct PoolShared {
    connector: Connector,
    limits: Limits,
    metrics: UpstreamMetrics,
    /// Uncontended: only the pool's own worker locks it, and never across an await.
    state: Mutex<PoolState>,
}

/// Boxed, because every request moves a connection out of the pool and back.
type Idle = Box<Http1>;

pub(super) type Http1 = http1::Connection<RequestBody>;

#[derive(Default)]
struct PoolState {
    version: Option<Version>,
    idle: Vec<Idle>,
    http2: Vec<Arc<http2::Connection>>,
    waiters: VecDeque<Waiter>,
    dials: usize,
    /// Limit of concurrent HTTP/1.1 dials, the first one not counted. Each successful dial adds 1,
    /// which doubles the limit per round; each connection returned to a waiter halves the limit.
    more_dials: usize,
    sweeping: bool,
}

struct Waiter {
    since: Instant,
    sender: oneshot::Sender<Delivery>,
}

type Delivery = Result<Checkout, ConnectError>;

/// A new connection; the receiver resolves when an HTTP/2 peer's SETTINGS have arrived.
type Opened = (Checkout, Option<oneshot::Receiver<()>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

impl Pool {
    pub fn new(connector: Connector, limits: Limits, metrics: UpstreamMetrics) -> Self {
        let shared = PoolShared {
            connector,
            limits,
            metrics,
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Returns a free connection or stream, if there is one.
    pub fn ready(&self) -> Option<Checkout> {
        self.shared.take(&mut self.shared.lock(), Instant::now())
    }

    /// Returns a free connection or stream, or waits for the first that is returned or dialled.
    ///
    /// Cancel safe: a started dial continues for the next request.
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
            // Only a dial task that panicked drops the senders of its waiters.
            Err(_) => self.shared.dial().await,
        }
    }

    /// Returns a replacement for a dead connection: an unused HTTP/1.1 connection, or with HTTP/2 a
    /// stream of any open connection. All streams of a connection die together, and must not dial
    /// one connection each.
    ///
    /// Cancel safe.
    pub async fn dial(&self) -> Result<Checkout, ConnectError> {
        if self.shared.lock().version == Some(Version::Http2) {
            return self.checkout().await;
        }
        self.shared.dial().await
    }

    /// Dials an HTTP/1.1 connection for an upgrade (RFC 9110 §7.8), which HTTP/2 does not have.
    /// The connection never returns to the pool.
    pub async fn dial_http1(&self) -> Result<Checkout, ConnectError> {
        let connector = self.shared.connector.with_alpn(Alpn::Http1);
        let connected = Box::pin(self.shared.connect(&connector)).await?;
        let mut connection = self.shared.open_http1(connected);
        connection.for_upgrade = true;
        Ok(self.shared.checkout(Inner::Http1(connection)))
    }
}

impl PoolShared {
    /// Takes a connection back: for the oldest waiter, or as idle.
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
        // Outside the lock: dropping a checkout calls `put`.
        let checkout = self.checkout(Inner::Http1(connection));
        drop(waiter.sender.send(Ok(checkout)));
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checkout(self: &Arc<Self>, inner: Inner) -> Checkout {
        Checkout {
            inner: Some(inner),
            pool: Arc::clone(self),
        }
    }

    /// Takes a free stream or an idle connection. HTTP/2 first: a stream needs no connection.
    fn take(self: &Arc<Self>, state: &mut PoolState, now: Instant) -> Option<Checkout> {
        if !state.http2.is_empty() {
            state
                .http2
                .retain(|connection| !connection.is_closed() && !connection.outlived(now, LIFE));
            let mut connections = state.http2.iter();
            if let Some(permit) = connections.find_map(|open| open.reserve(self, true)) {
                return Some(self.checkout(Inner::Http2(permit)));
            }
        }
        while let Some(mut connection) = state.idle.pop() {
            if connection.usable(now, self.limits.idle) {
                return Some(self.checkout(Inner::Http1(connection)));
            }
        }
        None
    }

    fn dial_for_waiters(self: &Arc<Self>, state: &mut PoolState) {
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

    /// Boxed, because every byte of a request's future is copied for every request.
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

    /// Starts HTTP on a new connection and records the HTTP version. Until the peer's SETTINGS
    /// arrive, an HTTP/2 connection has one stream.
    async fn open(self: &Arc<Self>, connected: Connected) -> Result<Opened, ConnectError> {
        if !connected.http2 {
            let connection = self.open_http1(connected);
            let mut state = self.lock();
            state.version = Some(Version::Http1);
            state.more_dials = (state.more_dials + 1).min(MAX_DIALS);
            drop(state);
            return Ok((self.checkout(Inner::Http1(connection)), None));
        }
        let open = Open::new(&self.metrics.connections);
        let opened = http2::open(connected.io, open, self).await;
        let (connection, settings) = opened.map_err(|error| {
            ConnectError::refused(self.connector.peer(), io::Error::other(error))
        })?;
        let permit = {
            let mut state = self.lock();
            state.version = Some(Version::Http2);
            state.http2.push(Arc::clone(&connection));
            self.start_sweeping(&mut state);
            connection.reserve(self, false)
        };
        // The lock was held since the connection entered the pool.
        let permit = permit.expect("a fresh connection has room");
        Ok((self.checkout(Inner::Http2(permit)), Some(settings)))
    }

    fn open_http1(&self, connected: Connected) -> Box<Http1> {
        Http1::new(connected.io, LIFE, Open::new(&self.metrics.connections))
    }

    /// Gives a dialled connection to the oldest waiter; without one, drops it into the pool.
    fn hand_out(&self, checkout: Checkout) {
        let waiter = self.lock().next_waiter();
        if let Some(waiter) = waiter {
            // A cancelled waiter drops the checkout, which goes to the next waiter or to the pool.
            drop(waiter.sender.send(Ok(checkout)));
        }
    }

    /// Passes a failed dial's error on. With one dial for all waiters, every waiter fails; with
    /// dials one by one, the oldest waiter and all that have waited as long as a connect may take.
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

    /// Starts the pool's only sweep task, which runs while the pool has connections.
    fn start_sweeping(self: &Arc<Self>, state: &mut PoolState) {
        if !std::mem::replace(&mut state.sweeping, true) {
            let (least, most) = (Duration::from_secs(1), Duration::from_secs(15));
            let every = (self.limits.idle / 2).clamp(least, most);
            tokio::spawn(sweep(Arc::downgrade(self), every));
        }
    }
}

impl http2::Owner for PoolShared {
    /// Gives freed streams to waiters: a stream has ended, or the peer allows more streams.
    fn stream_freed(self: &Arc<Self>) {
        loop {
            let (waiter, ready) = {
                let mut state = self.lock();
                let Some(waiter) = state.next_waiter() else {
                    return;
                };
                match self.take(&mut state, Instant::now()) {
                    Some(ready) => (waiter, ready),
                    None => return state.waiters.push_front(waiter),
                }
            };
            // Outside the lock: dropping a checkout calls `stream_freed`.
            drop(waiter.sender.send(Ok(ready)));
        }
    }
}

impl PoolState {
    /// Takes out the oldest waiter that is not cancelled.
    fn next_waiter(&mut self) -> Option<Waiter> {
        std::iter::from_fn(|| self.waiters.pop_front()).find(|waiter| !waiter.sender.is_closed())
    }

    /// Takes out the oldest waiter, and every waiter that has waited at least `limit`.
    fn longest_waiting(&mut self, limit: Duration) -> Vec<Waiter> {
        let now = Instant::now();
        let mut longest = Vec::from_iter(self.next_waiter());
        let overdue = |waiter: &mut Waiter| now.saturating_duration_since(waiter.since) >= limit;
        longest.extend(std::iter::from_fn(|| self.waiters.pop_front_if(overdue)));
        longest
    }

    /// Takes out the connections to close; called once per `every`.
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
            connection.shrink();
        }
        if self.idle.is_empty() && self.http2.is_empty() {
            self.sweeping = false;
            self.more_dials = 0;
        }
        (http1, http2)
    }
}

/// Dropping closes the connections.
type Expired = (Vec<Idle>, Vec<Arc<http2::Connection>>);

async fn sweep(pool: Weak<PoolShared>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        // `_expired` closes its connections outside the lock.
        let (_expired, over) = {
            let mut state = pool.lock();
            let expired = state.expire(Instant::now(), pool.limits.idle, every);
            (expired, !state.sweeping)
        };
        if over {
            return;
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(Inner::Http1(connection)) = self.inner.take() {
            self.pool.put(connection);
        }
    }
}

/// A running dial, counted in the pool's `dials` until dropped.
struct Dialling {
    pool: Arc<PoolShared>,
    /// False if the dial panicked or the runtime stopped.
    ended: bool,
}

impl Dialling {
    async fn run(mut self) {
        let pool = &self.pool;
        match pool.connect_and_open().await {
            Ok((checkout, settings)) => {
                pool.hand_out(checkout);
                if let Some(settings) = settings {
                    // The connection's driver hands out the other streams.
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
            // Another dial would panic again or find no runtime: the waiters dial themselves.
            std::mem::take(&mut state.waiters)
        };
        drop(abandoned);
    }
}

/// Access for the tests of [`http1`] and [`http2`].
#[cfg(test)]
mod inside {
    use super::{Arc, Checkout, Idle, Inner, Pool, PoolShared, http2};

    impl Checkout {
        /// Returns whether the connection has carried requests before.
        pub(in crate::upstream) fn is_reused(&self) -> bool {
            match &self.inner {
                Some(Inner::Http1(connection)) => connection.reused,
                Some(Inner::Http2(permit)) => permit.reused,
                None => false,
            }
        }
    }

    impl Pool {
        pub(in crate::upstream) fn shared(&self) -> Arc<PoolShared> {
            Arc::clone(&self.shared)
        }
    }

    impl PoolShared {
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
