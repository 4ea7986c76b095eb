//! Accept: a client connection, HTTP/1.x or HTTP/2 by its preface, on the worker that serves it to its end.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::door::{Change, Door, Doors, Listener, Socket};
use super::error::ProxyError;
use super::respond::{self, Measure, ResponseBody, Shape};
use super::stream::ClientStream;
use super::watch::{Membership, Registry, Watch};
use super::{AppBody, Proxy, handle, http1, http2};
use crate::upstream::Interim;

/// For connections that came in right before the end to say what they want.
const ARRIVALS: Duration = Duration::from_millis(20);

/// Before the end of `shutdown_grace`, for telling requests that still wait for a token that none will come.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// One thread of the data plane: its connections and its share of every upstream's pool.
pub struct Worker {
    pub(super) index: usize,
    pub(super) proxy: Arc<Proxy>,
    registry: Arc<Registry>,
    /// For reading from the connections that have something to say.
    pub(super) buffers: Arc<http1::Buffers>,
    /// Client connections of this worker.
    connections: Arc<AtomicUsize>,
    /// Turns true shortly before the end of `shutdown_grace`.
    pub(super) closing: watch::Sender<bool>,
}

/// How an acceptor reaches a worker: where it sends connections, and how many of them the worker has.
pub type Hand = (mpsc::UnboundedSender<Handed>, Arc<AtomicUsize>);

/// A connection, and where it came in.
pub type Handed = (Arc<Door>, Socket);

/// Where a worker's connections come from.
pub enum Source {
    /// It accepts for itself.
    Listeners(Vec<Listener>, mpsc::UnboundedReceiver<Change>),
    /// An acceptor hands them over.
    Handed(mpsc::UnboundedReceiver<Handed>),
}

/// The other end of a client connection.
pub(super) struct Client {
    pub(super) door: Arc<Door>,
    /// Of a Unix socket's peer.
    pub(super) peer_uid: Option<u32>,
    pub(super) watch: Arc<Watch>,
    /// The first `Host` that was accepted on this connection, and by which edition of the names.
    host: OnceLock<(u64, Box<[u8]>)>,
    /// Keeps shutdown waiting.
    _member: Membership,
    _place: Place,
}

// === impl Worker ===

impl Worker {
    pub fn new(index: usize, proxy: Arc<Proxy>) -> Self {
        Self {
            index,
            proxy,
            registry: Arc::default(),
            buffers: Arc::default(),
            connections: Arc::default(),
            closing: watch::Sender::new(false),
        }
    }

    /// How many client connections it has, for whoever deals them out.
    pub fn connections(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.connections)
    }

    /// Serves until `draining` turns true, then finishes what is under way, up to `shutdown_grace`.
    ///
    /// Runs on the worker's own current-thread runtime. Returns whether every connection ended in time.
    pub async fn run(
        self,
        source: Source,
        mut draining: watch::Receiver<bool>,
    ) -> io::Result<bool> {
        let worker = Arc::new(self);
        let sweeper = Arc::clone(&worker);
        let sweep = tokio::spawn(async move {
            let limits = || {
                let settings = &sweeper.proxy.snapshot.load().settings;
                (settings.header_timeout, settings.idle_timeout)
            };
            sweeper.registry.sweep(limits).await;
        });
        match source {
            Source::Listeners(listeners, mut changes) => {
                let own = Arc::clone(&worker);
                let mut doors = Doors::open(listeners, move |stream, door: &Arc<Door>| {
                    own.start(stream, Arc::clone(door));
                })?;
                tokio::select! {
                    // An error means that the control thread is gone, which is the end, too.
                    _ = draining.wait_for(|draining| *draining) => {}
                    () = doors.follow(&mut changes) => {}
                }
                doors.close_all().await;
            }
            Source::Handed(mut sockets) => {
                let mut ended = pin!(draining.wait_for(|draining| *draining));
                loop {
                    tokio::select! {
                        _ = &mut ended => break,
                        Some((door, socket)) = sockets.recv() => {
                            match socket.into_tokio() {
                                Ok(stream) => worker.start(stream, door),
                                Err(error) => tracing::warn!(%error, "cannot serve a connection"),
                            }
                            // From `hand_over`: now it has a place.
                            worker.connections.fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                }
                // The acceptor takes in those who wait, and ends.
                while let Ok(Some((door, socket))) = timeout(ARRIVALS, sockets.recv()).await {
                    if let Ok(stream) = socket.into_tokio() {
                        worker.start(stream, door);
                    }
                    worker.connections.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        // What they have sent is looked at before idle connections are closed.
        sleep(ARRIVALS).await;
        worker.registry.drain();
        let grace = worker.proxy.snapshot.load().settings.shutdown_grace;
        let last_words = LAST_WORDS.min(grace / 2);
        let emptied = worker.registry.emptied();
        let mut emptied = pin!(emptied);
        let mut in_time = timeout(grace - last_words, emptied.as_mut()).await.is_ok();
        if !in_time {
            worker.closing.send_replace(true);
            in_time = timeout(last_words, emptied).await.is_ok();
        }
        sweep.abort();
        Ok(in_time)
    }

    /// Connections that this worker has now.
    fn start(self: &Arc<Self>, stream: ClientStream, door: Arc<Door>) {
        let worker = Arc::clone(self);
        let max = self.proxy.snapshot.load().settings.max_connections;
        match Place::take(self, max) {
            Some(place) => drop(tokio::spawn(serve(worker, stream, door, place))),
            None => drop(tokio::spawn(turn_away(worker, stream))),
        }
    }
}

// === impl Client ===

impl Client {
    pub(super) fn knows_host(&self, host: &[u8], edition: u64) -> bool {
        let known = self.host.get();
        known.is_some_and(|(of, known)| *of == edition && **known == *host)
    }

    pub(super) fn learn_host(&self, host: &[u8], edition: u64) {
        // Only the first one is kept: connections that change it are rare.
        self.host.get_or_init(|| (edition, host.into()));
    }
}

/// Accepts for several workers and gives each connection to the one that has the fewest: a few long-lived connections spread
/// evenly, which the kernel's hashing of `SO_REUSEPORT` does not do. Ends when `draining` turns true.
pub async fn accept_for(
    workers: Vec<Hand>,
    listeners: Vec<Listener>,
    mut changes: mpsc::UnboundedReceiver<Change>,
    mut draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let workers: Arc<[Hand]> = workers.into();
    let mut doors = Doors::open(
        listeners,
        move |stream, door: &Arc<Door>| match Socket::from_tokio(stream) {
            Ok(socket) => hand_over(&workers, Arc::clone(door), socket),
            Err(error) => tracing::warn!(%error, "cannot serve a connection"),
        },
    )?;
    tokio::select! {
        _ = draining.wait_for(|draining| *draining) => {}
        () = doors.follow(&mut changes) => {}
    }
    doors.close_all().await;
    Ok(())
}

fn hand_over(workers: &[Hand], door: Arc<Door>, socket: Socket) {
    let fewest = workers
        .iter()
        .min_by_key(|(_, connections)| connections.load(Ordering::Relaxed));
    if let Some((worker, connections)) = fewest {
        // Counted here already: the worker may take it only after the next ones have been accepted.
        connections.fetch_add(1, Ordering::Relaxed);
        // A worker that is gone means that the process is ending.
        drop(worker.send((door, socket)));
    }
}

/// Serves one connection to its end.
async fn serve(worker: Arc<Worker>, stream: ClientStream, door: Arc<Door>, place: Place) {
    let (member, mut end) = worker.registry.enter();
    let client = Client {
        door,
        peer_uid: stream.peer_uid(),
        watch: Arc::clone(&member.watch),
        host: OnceLock::new(),
        _member: member,
        _place: place,
    };
    if let Some(io) = http1::serve(&worker, &client, stream, &mut end).await {
        // In a box: whoever speaks HTTP/1.1 does not pay for it.
        Box::pin(http2::serve(worker, Arc::new(client), io, end)).await;
    }
}

/// Puts the answer to one request in its place. A panic ends the request alone, as an answer. 1xx heads go to `interim`, if there is
/// one, before it is ready.
pub(super) async fn answer(
    worker: &Worker,
    client: &Client,
    request: &mut Request<AppBody>,
    interim: Option<&dyn Interim>,
    place: &mut Option<Response<ResponseBody>>,
) {
    let panicked = {
        let mut handled = pin!(handle(worker, client, request, interim, place));
        poll_fn(
            |cx| match catch_unwind(AssertUnwindSafe(|| handled.as_mut().poll(cx))) {
                Ok(poll) => poll.map(|()| false),
                Err(_) => Poll::Ready(true),
            },
        )
        .await
    };
    if panicked {
        let error = ProxyError::Internal("a panic while the request was handled");
        *place = Some(respond::problem(
            &error,
            Shape::default(),
            Measure::start(client, Instant::now()),
            &worker.proxy.metrics,
        ));
    }
}

/// Over `max_connections`: said at once instead of letting the client wait.
async fn turn_away(worker: Arc<Worker>, stream: ClientStream) {
    http1::refuse(&worker, stream, &ProxyError::Overloaded).await;
}

/// A place among the process's `max_connections`, and among its worker's connections.
struct Place(Arc<Worker>);

impl Place {
    fn take(worker: &Arc<Worker>, max: usize) -> Option<Self> {
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let before = worker.proxy.connections.fetch_add(1, Ordering::Relaxed);
        let place = Self(Arc::clone(worker));
        (before < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.proxy.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
