//! Connections of one upstream on one worker.
//!
//! HTTP/1.1 connections are used last in, first out, so that a burst's surplus ages out; HTTP/2 connections by free streams.
//! Until the upstream's HTTP version is known one dial serves everyone who waits: fifty first requests make one
//! connection to an HTTP/2 upstream, not fifty. A dial runs as a task of its own, so that a request which is given up
//! does not waste it, and whoever waits longest gets whatever comes first, a new connection or one given back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connect::{Alpn, ConnectError, Connected, Connector};
use super::send::Checkout;
use super::{http1, http2};
use crate::metrics::UpstreamMetrics;

/// A connection gets no new requests after this long, so that a change of DNS is picked up.
const LIFE: Duration = Duration::from_secs(600);

/// Dials under way at once. Beyond it requests wait: a herd must not become a SYN flood.
const MAX_DIALS: usize = 64;

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

#[derive(Default)]
struct State {
    version: Option<Version>,
    idle: Vec<http1::Connection>,
    http2: Vec<Arc<http2::Connection>>,
    waiters: VecDeque<oneshot::Sender<Result<Checkout, ConnectError>>>,
    dials: usize,
    sweeping: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Counts a connection for as long as its driver holds this.
pub(super) struct OpenConnection(IntGauge);

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

    /// A connection or stream for one request: one that is there, or the first that becomes free or is dialled.
    ///
    /// Cancel safe: a dial goes on for the next request.
    pub async fn checkout(&self) -> Result<Checkout, ConnectError> {
        let delivery = {
            let mut state = self.shared.lock();
            if let Some(ready) = self.shared.take(&mut state) {
                return Ok(ready);
            }
            let (sender, delivery) = oneshot::channel();
            state.waiters.push_back(sender);
            self.shared.dial_for_waiters(&mut state);
            delivery
        };
        match delivery.await {
            Ok(result) => result,
            // Every waiter is answered by a dial or a returned connection; only a dial task that panicked answers none.
            Err(_) => self.dial().await,
        }
    }

    /// A connection that no request has used yet.
    pub async fn dial(&self) -> Result<Checkout, ConnectError> {
        let connected = self.shared.connect(&self.shared.connector).await?;
        self.shared.open(connected).await
    }

    /// An HTTP/1.1 connection for an upgrade (RFC 9110 §7.8): HTTP/2 has none, and it never comes back.
    pub async fn dial_http1(&self) -> Result<Checkout, ConnectError> {
        let connector = self.shared.connector.with_alpn(Alpn::Http1);
        let connected = self.shared.connect(&connector).await?;
        let mut connection = self.shared.open_http1(connected).await?;
        connection.for_upgrade = true;
        Ok(Checkout::http1(connection, Arc::clone(&self.shared)))
    }
}

// === impl Shared ===

impl Shared {
    /// Takes a connection back, for whoever waits or for later.
    pub(super) fn put(self: &Arc<Self>, connection: http1::Connection) {
        if connection.for_upgrade {
            return;
        }
        loop {
            let waiter = {
                let mut state = self.lock();
                match state.waiters.pop_front() {
                    Some(waiter) => waiter,
                    None => {
                        state.idle.push(connection);
                        return self.start_sweeping(&mut state);
                    }
                }
            };
            // Outside the lock: what a waiter that gave up drops comes back through `put`.
            if waiter.is_closed() {
                continue;
            }
            let checkout = Checkout::http1(connection, Arc::clone(self));
            return drop(waiter.send(Ok(checkout)));
        }
    }

    /// A stream ended: there may be room for a waiter.
    pub(super) fn stream_freed(self: &Arc<Self>) {
        loop {
            let (waiter, ready) = {
                let mut state = self.lock();
                if state.waiters.is_empty() {
                    return;
                }
                let Some(ready) = self.take(&mut state) else {
                    return;
                };
                let Some(waiter) = state.waiters.pop_front() else {
                    return;
                };
                (waiter, ready)
            };
            // A waiter that gave up drops the slot, which frees the stream and comes back here.
            drop(waiter.send(Ok(ready)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is ready now. HTTP/2 first: it costs no connection.
    fn take(self: &Arc<Self>, state: &mut State) -> Option<Checkout> {
        if state.idle.is_empty() && state.http2.is_empty() {
            return None;
        }
        let now = Instant::now();
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
        while let Some(connection) = state.idle.pop() {
            if connection.usable(now, self.limits.idle, LIFE) {
                return Some(Checkout::http1(connection, Arc::clone(self)));
            }
        }
        None
    }

    /// Starts as many dials as the waiters need.
    fn dial_for_waiters(self: &Arc<Self>, state: &mut State) {
        let wanted = match state.version {
            Some(Version::Http1) => state.waiters.len().min(MAX_DIALS),
            None | Some(Version::Http2) => state.waiters.len().min(1),
        };
        while state.dials < wanted {
            state.dials += 1;
            let guard = Dialling(Arc::clone(self));
            tokio::spawn(async move { guard.run().await });
        }
    }

    async fn connect(&self, connector: &Connector) -> Result<Connected, ConnectError> {
        let result = connector.connect(self.limits.connect).await;
        match &result {
            Ok(_) => self.metrics.connected.inc(),
            Err(_) => self.metrics.connect_failed.inc(),
        }
        result
    }

    /// Starts HTTP on a fresh connection and notes its version.
    async fn open(self: &Arc<Self>, connected: Connected) -> Result<Checkout, ConnectError> {
        if !connected.http2 {
            let connection = self.open_http1(connected).await?;
            self.lock().version = Some(Version::Http1);
            return Ok(Checkout::http1(connection, Arc::clone(self)));
        }
        let open = OpenConnection::count(&self.metrics.connections);
        let opened = http2::Connection::open(connected.io, open).await;
        let connection = opened.map_err(|error| self.lost(error))?;
        let slot = {
            let mut state = self.lock();
            state.version = Some(Version::Http2);
            state.http2.push(Arc::clone(&connection));
            self.start_sweeping(&mut state);
            connection.reserve(self, false)
        };
        // A fresh connection allows INITIAL_STREAMS until the peer's SETTINGS say otherwise.
        let slot = slot.expect("a fresh connection has room");
        Ok(Checkout::http2(slot, Arc::clone(self)))
    }

    async fn open_http1(&self, connected: Connected) -> Result<http1::Connection, ConnectError> {
        let open = OpenConnection::count(&self.metrics.connections);
        let opened = http1::Connection::open(connected.io, open).await;
        opened.map_err(|error| self.lost(error))
    }

    fn lost(&self, error: hyper::Error) -> ConnectError {
        let source = Arc::new(std::io::Error::other(error));
        ConnectError::Closed {
            peer: self.connector.peer(),
            source,
        }
    }

    /// Hands a dial's result out.
    fn dialled(self: &Arc<Self>, result: Result<Checkout, ConnectError>) {
        match result {
            Ok(checkout) => {
                let waiter = self.lock().waiters.pop_front();
                if let Some(waiter) = waiter {
                    // A waiter that gave up drops the checkout, which goes to the next or to the pool.
                    drop(waiter.send(Ok(checkout)));
                }
                self.stream_freed();
            }
            Err(error) => self.fail_waiters(&error),
        }
    }

    /// With HTTP/1.1 each dial answers for one waiter; before the version is known, and with HTTP/2, for all of them.
    fn fail_waiters(&self, error: &ConnectError) {
        let failed: Vec<_> = {
            let mut state = self.lock();
            let count = match state.version {
                Some(Version::Http1) => state.waiters.len().min(1),
                None | Some(Version::Http2) => state.waiters.len(),
            };
            state.waiters.drain(..count).collect()
        };
        for waiter in failed {
            drop(waiter.send(Err(error.clone())));
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

async fn sweep(pool: Weak<Shared>, every: Duration) {
    let mut unused_http2 = 0_u32;
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = Instant::now();
        let (dropped, closing) = {
            let mut state = pool.lock();
            let keep =
                |connection: &mut http1::Connection| connection.usable(now, pool.limits.idle, LIFE);
            let dropped: Vec<_> = state
                .idle
                .extract_if(.., |connection| !keep(connection))
                .collect();
            let all_unused = state.http2.iter().all(|connection| connection.is_unused());
            unused_http2 = if all_unused { unused_http2 + 1 } else { 0 };
            let idle_too_long = every * unused_http2 >= pool.limits.idle;
            let closing: Vec<_> = state
                .http2
                .extract_if(.., |connection| {
                    connection.is_closed() || connection.outlived(now, LIFE) || idle_too_long
                })
                .collect();
            state.sweeping = !(state.idle.is_empty() && state.http2.is_empty());
            if !state.sweeping {
                return;
            }
            (dropped, closing)
        };
        // Connections are closed outside the lock.
        drop((dropped, closing));
    }
}

/// One dial under way, counted until it ends, also by a panic.
struct Dialling(Arc<Shared>);

impl Dialling {
    async fn run(self) {
        let result = match self.0.connect(&self.0.connector).await {
            Ok(connected) => self.0.open(connected).await,
            Err(error) => Err(error),
        };
        self.0.dialled(result);
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.dials -= 1;
        self.0.dial_for_waiters(&mut state);
    }
}

// === impl OpenConnection ===

impl OpenConnection {
    fn count(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
