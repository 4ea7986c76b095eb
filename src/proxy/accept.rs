//! Accept: a client connection, HTTP/1.x or HTTP/2 by its preface, on the worker that serves it to its end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::error::ProxyError;
use super::respond::{self, Measure, ResponseBody, Shape};
use super::stream::{ClientStream, Rewound};
use super::watch::{End, Membership, Registry, Watch};
use super::{AppBody, Proxy, handle, http1};
use crate::http1::MAX_HEAD;

/// How long to wait when the process or the machine has no file descriptor left for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long an idle HTTP/2 connection may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(5);

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
pub type Hand = (mpsc::UnboundedSender<(usize, Socket)>, Arc<AtomicUsize>);

/// Where a worker's connections come from.
pub enum Source {
    /// It accepts for itself.
    Listeners(Vec<Listener>),
    /// An acceptor hands them over.
    Handed(mpsc::UnboundedReceiver<(usize, Socket)>),
}

/// A listening socket, with its index among the process's listeners.
pub struct Listener {
    pub index: usize,
    pub socket: ListenSocket,
}

pub enum ListenSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// An accepted connection on its way to another thread.
pub enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// The other end of a client connection.
pub(super) struct Client {
    pub(super) listener: usize,
    /// Of a Unix socket's peer.
    pub(super) peer_uid: Option<u32>,
    pub(super) watch: Arc<Watch>,
    /// The first `Host` that was accepted on this connection.
    host: OnceLock<Box<[u8]>>,
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

    /// Serves until `draining` turns true, then finishes what is under way, up to `grace`.
    ///
    /// Runs on the worker's own current-thread runtime. Returns whether every connection ended in time.
    pub async fn run(
        self,
        source: Source,
        mut draining: watch::Receiver<bool>,
        grace: Duration,
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
            Source::Listeners(listeners) => {
                let accepting = accept_all(&worker, listeners)?;
                // An error means that the control thread is gone, which is the end, too.
                drop(draining.wait_for(|draining| *draining).await);
                drop(accepting);
            }
            Source::Handed(mut sockets) => {
                let mut ended = pin!(draining.wait_for(|draining| *draining));
                loop {
                    tokio::select! {
                        _ = &mut ended => break,
                        Some((index, socket)) = sockets.recv() => {
                            match socket.into_tokio() {
                                Ok(stream) => worker.start(stream, index),
                                Err(error) => tracing::warn!(%error, "cannot serve a connection"),
                            }
                            // From `hand_over`: now it has a place.
                            worker.connections.fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                }
            }
        }
        worker.registry.drain();
        let last_words = LAST_WORDS.min(grace / 2);
        let emptied = worker.registry.emptied();
        let mut emptied = pin!(emptied);
        let mut in_time = tokio::time::timeout(grace - last_words, emptied.as_mut())
            .await
            .is_ok();
        if !in_time {
            worker.closing.send_replace(true);
            in_time = tokio::time::timeout(last_words, emptied).await.is_ok();
        }
        sweep.abort();
        Ok(in_time)
    }

    /// Connections that this worker has now.
    fn start(self: &Arc<Self>, stream: ClientStream, listener: usize) {
        let worker = Arc::clone(self);
        let max = self.proxy.snapshot.load().settings.max_connections;
        match Place::take(self, max) {
            Some(place) => drop(tokio::spawn(serve(worker, stream, listener, place))),
            None => drop(tokio::spawn(turn_away(worker, stream))),
        }
    }
}

// === impl Client ===

impl Client {
    pub(super) fn knows_host(&self, host: &[u8]) -> bool {
        self.host.get().is_some_and(|known| **known == *host)
    }

    pub(super) fn learn_host(&self, host: &[u8]) {
        // Only the first one is kept: connections that change it are rare.
        self.host.get_or_init(|| host.into());
    }
}

/// Aborts the accept loops when dropped.
struct Accepting(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Accepting {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Accepts from every listener on the current runtime.
fn accept_all(worker: &Arc<Worker>, listeners: Vec<Listener>) -> io::Result<Accepting> {
    let mut tasks = Vec::with_capacity(listeners.len());
    for Listener { index, socket } in listeners {
        let worker = Arc::clone(worker);
        tasks.push(match socket {
            ListenSocket::Tcp(socket) => {
                let listener = TcpListener::from_std(socket)?;
                tokio::spawn(async move {
                    loop {
                        match listener.accept().await {
                            Ok((stream, _)) => worker.start(ClientStream::Tcp(stream), index),
                            Err(error) => accept_failed(&error).await,
                        }
                    }
                })
            }
            ListenSocket::Unix(socket) => {
                let listener = UnixListener::from_std(socket)?;
                tokio::spawn(async move {
                    loop {
                        match listener.accept().await {
                            Ok((stream, _)) => worker.start(ClientStream::Unix(stream), index),
                            Err(error) => accept_failed(&error).await,
                        }
                    }
                })
            }
        });
    }
    Ok(Accepting(tasks))
}

/// Accepts for several workers and gives each connection to the one that has the fewest: a few long-lived connections spread
/// evenly, which the kernel's hashing of `SO_REUSEPORT` does not do. Ends when `draining` turns true.
pub async fn accept_for(
    workers: Vec<Hand>,
    listeners: Vec<Listener>,
    mut draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let workers = Arc::new(workers);
    let mut tasks = Vec::new();
    for Listener { index, socket } in listeners {
        let workers = Arc::clone(&workers);
        let listener = match socket {
            ListenSocket::Tcp(socket) => AnyListener::Tcp(TcpListener::from_std(socket)?),
            ListenSocket::Unix(socket) => AnyListener::Unix(UnixListener::from_std(socket)?),
        };
        tasks.push(tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok(socket) => hand_over(&workers, index, socket),
                    Err(error) => accept_failed(&error).await,
                }
            }
        }));
    }
    let accepting = Accepting(tasks);
    drop(draining.wait_for(|draining| *draining).await);
    drop(accepting);
    Ok(())
}

enum AnyListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AnyListener {
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => Ok(Socket::Tcp(listener.accept().await?.0.into_std()?)),
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

fn hand_over(workers: &[Hand], index: usize, socket: Socket) {
    let fewest = workers
        .iter()
        .min_by_key(|(_, connections)| connections.load(Ordering::Relaxed));
    if let Some((worker, connections)) = fewest {
        // Counted here already: the worker may take it only after the next ones have been accepted.
        connections.fetch_add(1, Ordering::Relaxed);
        // A worker that is gone means that the process is ending.
        drop(worker.send((index, socket)));
    }
}

async fn accept_failed(error: &io::Error) {
    match error.kind() {
        // The client gave up before it was accepted.
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {}
        _ => {
            tracing::warn!(%error, "cannot accept connections");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Serves one connection to its end.
async fn serve(worker: Arc<Worker>, stream: ClientStream, listener: usize, place: Place) {
    let (member, mut end) = worker.registry.enter();
    let client = Client {
        listener,
        peer_uid: stream.peer_uid(),
        watch: Arc::clone(&member.watch),
        host: OnceLock::new(),
        _member: member,
        _place: place,
    };
    if let Some(io) = http1::serve(&worker, &client, stream, &mut end).await {
        // In a box: whoever speaks HTTP/1.1 does not pay for it.
        Box::pin(serve_http2(worker, Arc::new(client), io, end)).await;
    }
}

/// HTTP/2 with prior knowledge (RFC 9113 §3.3): the connection began with the preface.
async fn serve_http2(
    worker: Arc<Worker>,
    client: Arc<Client>,
    io: Rewound,
    mut end: oneshot::Receiver<End>,
) {
    client.watch.speaks_http2();
    let service = service_fn(|request: Request<Incoming>| {
        let (worker, client) = (Arc::clone(&worker), Arc::clone(&client));
        async move {
            let mut request = request.map(AppBody::Http2);
            Ok::<_, Infallible>(answer(&worker, &client, &mut request).await)
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(256)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => result,
        Ok(reason) = &mut end => {
            connection.as_mut().graceful_shutdown();
            if reason == End::Drain {
                connection.await
            } else {
                // A peer that is gone does not answer the last PING either.
                match tokio::time::timeout(FAREWELL, connection).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "client connection ended");
    }
}

/// One request. A panic ends it alone, as an answer.
pub(super) async fn answer(
    worker: &Worker,
    client: &Client,
    request: &mut Request<AppBody>,
) -> Response<ResponseBody> {
    let mut handled = pin!(handle(worker, client, request));
    let caught = poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| handled.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        },
    )
    .await;
    caught.unwrap_or_else(|| {
        let error = ProxyError::Internal("a panic while the request was handled");
        respond::problem(
            &error,
            Shape::default(),
            Measure::start(client),
            &worker.proxy.metrics,
        )
    })
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

impl Socket {
    fn into_tokio(self) -> io::Result<ClientStream> {
        Ok(match self {
            Self::Tcp(socket) => ClientStream::Tcp(TcpStream::from_std(socket)?),
            Self::Unix(socket) => ClientStream::Unix(UnixStream::from_std(socket)?),
        })
    }
}
