//! State that a worker's connections and requests share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::listener::ListenerState;
use super::snapshot::Proxy;
use super::watch::{Membership, Registry, Watch};

/// One thread of the data plane: its connections and its share of every upstream's pool.
pub struct Worker {
    pub(super) index: usize,
    pub(super) proxy: Arc<Proxy>,
    pub(super) registry: Arc<Registry>,
    /// Client connections of this worker.
    pub(super) connections: Arc<AtomicUsize>,
    /// True shortly before the end of `shutdown_grace`.
    pub(super) closing: watch::Sender<bool>,
}

/// A client connection, as its requests see it.
pub(super) struct Client {
    pub(super) listener: Arc<ListenerState>,
    /// User ID of the peer on a Unix socket.
    pub(super) peer_uid: Option<u32>,
    pub(super) watch: Arc<Watch>,
    /// The connection ends with the next response.
    leaving: AtomicBool,
    /// The first accepted `Host`, and the edition of the names that accepted it.
    host: OnceLock<(u64, Box<[u8]>)>,
    /// Delays shutdown.
    _member: Membership,
    _permit: ConnectionPermit,
}

/// One of the process's `max_connections`, counted for its worker, too.
pub(super) struct ConnectionPermit(Arc<Worker>);

impl Worker {
    pub fn new(index: usize, proxy: Arc<Proxy>) -> Self {
        Self {
            index,
            proxy,
            registry: Arc::default(),
            connections: Arc::default(),
            closing: watch::Sender::new(false),
        }
    }

    /// Returns the count of this worker's client connections, for the acceptor.
    pub fn connections(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.connections)
    }
}

impl Client {
    pub(super) fn new(
        listener: Arc<ListenerState>,
        peer_uid: Option<u32>,
        member: Membership,
        permit: ConnectionPermit,
    ) -> Self {
        Self {
            listener,
            peer_uid,
            watch: Arc::clone(&member.watch),
            leaving: AtomicBool::new(false),
            host: OnceLock::new(),
            _member: member,
            _permit: permit,
        }
    }

    /// Returns whether the connection must end with the next response. A closed listener leaves its
    /// idle connections open: the app could lose a request to a close.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed) || self.listener.is_closed()
    }

    pub(super) fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    pub(super) fn knows_host(&self, host: &[u8], edition: u64) -> bool {
        let known = self.host.get();
        known.is_some_and(|(of, known)| *of == edition && **known == *host)
    }

    pub(super) fn learn_host(&self, host: &[u8], edition: u64) {
        // Only the first host is kept: few connections use several.
        self.host.get_or_init(|| (edition, host.into()));
    }
}

impl ConnectionPermit {
    /// Returns `None` if `max` connections are open.
    pub(super) fn take(worker: &Arc<Worker>, max: usize) -> Option<Self> {
        worker.connections.fetch_add(1, Relaxed);
        let before = worker.proxy.connections.fetch_add(1, Relaxed);
        let permit = Self(Arc::clone(worker));
        (before < max).then_some(permit)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
        self.0.proxy.connections.fetch_sub(1, Relaxed);
    }
}
