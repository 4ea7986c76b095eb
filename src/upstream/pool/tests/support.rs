//! A real server over loopback that counts connections, and helpers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_rustls::TlsAcceptor;

use super::super::*;
use crate::config::Scheme;
use crate::metrics::{Metrics, UpstreamMetrics};
use crate::testing::{accept_each, destination, read_head};
use crate::upstream::connect::{Destination, Resolver};
use crate::upstream::tls::TlsProfiles;
use crate::upstream::{Replay, RequestBody, RequestHead, SendError, UpstreamBody};

pub(super) const LIMITS: Limits = Limits {
    connect: Duration::from_secs(10),
    idle: Duration::from_secs(60),
};

/// Long enough for a loaded machine, on a clock that is not paused.
const PATIENCE: Duration = Duration::from_secs(10);

/// Responds by path:
///
/// - `/hold`: waits for [`Server::release`] before the head;
/// - `/stream`: a head and `a`, then waits for [`Server::release`] before the end;
/// - `/swallow`: reads the whole body; responds with its length, and its trailers as headers;
/// - `/leave`: responds and closes the connection without `Connection: close`;
/// - everything else: `hello`.
///
/// `x-connection` counts connections, from 1.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) counts: Arc<Counts>,
    accepting: AbortHandle,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) opened: AtomicUsize,
    pub(super) closed: AtomicUsize,
    /// Number of request heads received.
    pub(super) requests: AtomicUsize,
    /// Body bytes that `/swallow` has read.
    pub(super) swallowed: AtomicUsize,
    gate: Gate,
    going_away: Notify,
}

struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

#[derive(Clone, Copy)]
pub(super) enum Speaks {
    Http1,
    /// With a limit of concurrent streams.
    Http2(u32),
}

impl Server {
    pub(super) async fn start(speaks: Speaks) -> Self {
        Self::start_with(speaks, None).await
    }

    /// `tls` also picks the version, by ALPN.
    pub(super) async fn start_with(speaks: Speaks, tls: Option<TlsAcceptor>) -> Self {
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let serve = move |tcp| {
            let (counts, tls) = (Arc::clone(&shared), tls.clone());
            let number = counts.opened.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                match tls {
                    None => serve(tcp, speaks, number, &counts).await,
                    Some(tls) => {
                        let tls = tls.accept(tcp).await.unwrap();
                        serve(tls, speaks, number, &counts).await;
                    }
                }
                counts.closed.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (address, accepting) = accept_each(serve).await;
        Self {
            address,
            counts,
            accepting,
        }
    }

    pub(super) fn opened(&self) -> usize {
        self.counts.opened.load(Ordering::Relaxed)
    }

    pub(super) fn closed(&self) -> usize {
        self.counts.closed.load(Ordering::Relaxed)
    }

    pub(super) fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Lets `count` waiting requests continue.
    pub(super) fn release(&self, count: usize) {
        self.counts.gate.0.add_permits(count);
    }

    /// Sends GOAWAY on every open connection.
    pub(super) fn go_away(&self) {
        self.counts.going_away.notify_waiters();
    }

    /// Refuses new connections; open connections continue.
    pub(super) async fn stop_accepting(&self) {
        self.accepting.abort();
        until(|| self.accepting.is_finished()).await;
    }
}

async fn serve(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    speaks: Speaks,
    number: usize,
    counts: &Arc<Counts>,
) {
    let service = |request| answer(request, number, Arc::clone(counts));
    let io = TokioIo::new(io);
    match speaks {
        Speaks::Http1 => {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service_fn(service));
            tokio::select! {
                result = connection => drop(result),
                () = counts.going_away.notified() => {}
            }
        }
        Speaks::Http2(streams) => {
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(streams)
                .serve_connection(io, service_fn(service));
            let mut connection = std::pin::pin!(connection);
            loop {
                tokio::select! {
                    result = connection.as_mut() => break drop(result),
                    () = counts.going_away.notified() => connection.as_mut().graceful_shutdown(),
                }
            }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    number: usize,
    counts: Arc<Counts>,
) -> Result<Response<Frames>, Infallible> {
    counts.requests.fetch_add(1, Ordering::Relaxed);
    let (sender, frames) = mpsc::channel(8);
    let mut response = Response::new(Frames(frames));
    response.headers_mut().insert("x-connection", number.into());
    match request.uri().path() {
        "/hold" => {
            counts.gate.0.acquire().await.unwrap().forget();
            sender.send(Bytes::from("held")).await.unwrap();
        }
        "/stream" => {
            sender.send(Bytes::from("a")).await.unwrap();
            tokio::spawn(async move {
                counts.gate.0.acquire().await.unwrap().forget();
                let _ = sender.send(Bytes::from("b")).await;
            });
        }
        "/swallow" => swallow(request, &mut response, &counts).await,
        "/leave" => counts.going_away.notify_waiters(),
        _ => sender.send(Bytes::from("hello")).await.unwrap(),
    }
    Ok(response)
}

async fn swallow(request: Request<Incoming>, response: &mut Response<Frames>, counts: &Counts) {
    let mut body = request.into_body();
    let mut length = 0_u32;
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            length += data.len() as u32;
            counts.swallowed.fetch_add(data.len(), Ordering::Relaxed);
        }
        if let Ok(trailers) = frame.into_trailers() {
            response.headers_mut().extend(trailers);
        }
    }
    response.headers_mut().insert("x-length", length.into());
}

pub(super) struct Frames(mpsc::Receiver<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A server that reads one head on each connection, sends `answer`, and keeps the connection until
/// the test ends.
pub(super) async fn raw_server(answer: &'static str) -> SocketAddr {
    let serve = move |mut tcp: TcpStream| async move {
        read_head(&mut tcp).await.unwrap();
        tcp.write_all(answer.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    };
    accept_each(serve).await.0
}

pub(super) struct Fixture {
    pub(super) pool: Pool,
    pub(super) metrics: UpstreamMetrics,
}

impl Fixture {
    pub(super) fn new(address: SocketAddr, alpn: Alpn) -> Self {
        Self::with(destination(Scheme::Http, address, alpn), LIMITS)
    }

    pub(super) fn with(destination: Destination, limits: Limits) -> Self {
        Self::with_resolver(Resolver::System, destination, limits)
    }

    pub(super) fn with_resolver(
        resolver: Resolver,
        destination: Destination,
        limits: Limits,
    ) -> Self {
        let connector = Connector::new(destination, &TlsProfiles::new()).unwrap();
        let connector = connector.with_resolver(resolver);
        let metrics = Metrics::new().upstream("test");
        Self {
            pool: Pool::new(connector, limits, metrics.clone()),
            metrics,
        }
    }

    pub(super) fn open(&self) -> i64 {
        self.metrics.connections.get()
    }

    pub(super) fn dials(&self) -> u64 {
        self.metrics.connected.get()
    }

    pub(super) fn failed_dials(&self) -> u64 {
        self.metrics.connect_failed.get()
    }

    /// Sends, with the data plane's one retry of an unwritten request.
    pub(super) async fn send(&self, path: &str) -> Result<Response<UpstreamBody>, SendError> {
        let checkout = self.pool.checkout().await.unwrap();
        let request = get(&checkout, path);
        match send(checkout, request, PATIENCE).await {
            Err(SendError { unsent: true, .. }) => {
                let checkout = self.pool.dial().await.unwrap();
                let request = get(&checkout, path);
                send(checkout, request, PATIENCE).await
            }
            result => result,
        }
    }

    /// Makes a whole exchange; returns the number of the connection.
    pub(super) async fn ask(&self, path: &str) -> usize {
        let response = self.send(path).await.map_err(|e| e.failure).unwrap();
        finish(response).await
    }

    pub(super) fn spawn(&self, path: &'static str) -> JoinHandle<usize> {
        let this = self.clone();
        tokio::spawn(async move { this.ask(path).await })
    }
}

impl Clone for Fixture {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

pub(super) fn get(checkout: &Checkout, path: &str) -> Request<RequestBody> {
    with_body(checkout, path, RequestBody::Empty)
}

pub(super) fn with_body(
    checkout: &Checkout,
    path: &str,
    body: RequestBody,
) -> Request<RequestBody> {
    let uri = if checkout.is_http2() {
        format!("http://localhost{path}")
    } else {
        path.to_owned()
    };
    Request::post(uri).body(body).unwrap()
}

/// Reads a response to its end; returns the number of its connection.
pub(super) async fn finish(response: Response<UpstreamBody>) -> usize {
    let number = connection(response.headers());
    response.into_body().collect().await.unwrap();
    number
}

pub(super) fn connection(headers: &HeaderMap) -> usize {
    headers["x-connection"].to_str().unwrap().parse().unwrap()
}

pub(super) async fn send(
    checkout: Checkout,
    request: Request<RequestBody>,
    wait: Duration,
) -> Result<Response<UpstreamBody>, SendError> {
    let (head, body) = request.into_parts();
    let request_head = RequestHead { parts: &head, wait };
    checkout.send(&request_head, body).await
}

/// Returns an app's chunked upload: bytes written to the first value, chunk sizes included, arrive
/// in the second.
pub(super) async fn upload(forbidden: &[HeaderName]) -> (DuplexStream, RequestBody) {
    let (mut app, proxy) = tokio::io::duplex(16 * 1024);
    let (sender, body) = oneshot::channel();
    let sender = Mutex::new(Some(sender));
    let service = service_fn(move |request: Request<Incoming>| {
        let sender = sender.lock().unwrap().take().unwrap();
        drop(sender.send(request.into_body()));
        std::future::pending::<Result<Response<Frames>, Infallible>>()
    });
    tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(proxy), service),
    );
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    app.write_all(head.as_bytes()).await.unwrap();
    let replay = Replay::new(body.await.unwrap(), forbidden.into(), 0);
    (app, replay.body().unwrap())
}

/// Lets other tasks run until `true_now` returns true.
pub(super) async fn until(true_now: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !true_now() {
        assert!(started.elapsed() < PATIENCE, "it never came true");
        tokio::task::yield_now().await;
    }
}

/// Lets other tasks run for a while, to check that an event does *not* happen.
pub(super) async fn settle() {
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
}

/// Advances tokio's clock.
pub(super) async fn pass(time: Duration) {
    tokio::time::pause();
    // Timers are rounded up to a millisecond.
    tokio::time::advance(time + Duration::from_millis(2)).await;
    settle().await;
    tokio::time::resume();
}
