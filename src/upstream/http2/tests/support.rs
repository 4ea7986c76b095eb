//! A pool with one connection to a scripted peer.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::frames::{PREFACE, Seen, flag, frame, kind, parse, settings};
use super::*;
use crate::metrics::UpstreamMetrics;
use crate::testing::pooled_connection;
use crate::upstream::connect::Alpn;
use crate::upstream::{Checkout, Pool, Replay};

pub(super) const WAIT: Duration = Duration::from_secs(5);

pub(super) struct Line {
    pub(super) pool: Pool,
    metrics: UpstreamMetrics,
    server: Option<TcpStream>,
    read: Vec<u8>,
}

impl Line {
    /// Opens a connection and reads its SETTINGS exchange.
    pub(super) async fn open() -> Self {
        Self::with(100).await
    }

    /// Opens a connection whose peer allows `streams` streams.
    pub(super) async fn with(max_streams: u32) -> Self {
        let idle = Duration::from_secs(3600);
        let (pool, metrics, server) = pooled_connection(Alpn::Http2, idle).await;
        let mut line = Self {
            pool,
            metrics,
            server: Some(server),
            read: Vec::new(),
        };
        line.say(settings(max_streams)).await;
        line.say(frame(kind::SETTINGS, flag::ACK, 0, [])).await;
        let mut preface = [0; PREFACE.len()];
        line.server().read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, PREFACE);
        line.frames_until(|frame| frame.kind == kind::SETTINGS && frame.flags == flag::ACK)
            .await;
        settle().await;
        line
    }

    pub(super) fn checkout(&self) -> Checkout {
        self.pool.ready().unwrap()
    }

    /// Starts a request in a task.
    pub(super) fn send(&self, method: &str, body: RequestBody) -> Sending {
        let checkout = self.checkout();
        let head = asked(method);
        tokio::spawn(async move { checkout.send(&request_head(&head), body).await })
    }

    pub(super) fn get(&self) -> Sending {
        self.send("GET", RequestBody::Empty)
    }

    fn server(&mut self) -> &mut TcpStream {
        self.server.as_mut().unwrap()
    }

    pub(super) fn close(&mut self) {
        self.server = None;
    }

    pub(super) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.server().write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads once.
    pub(super) async fn frames(&mut self) -> Vec<Seen> {
        let mut bytes = vec![0; 256 * 1024];
        let length = tokio::time::timeout(WAIT, self.server().read(&mut bytes));
        let length = length.await.expect("nothing comes").unwrap();
        assert!(length > 0, "the connection was closed");
        self.read.extend_from_slice(&bytes[..length]);
        parse(&mut self.read)
    }

    pub(super) async fn frames_until(&mut self, last: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let mut frames = Vec::new();
        while !frames.iter().any(&last) {
            frames.extend(self.frames().await);
        }
        frames
    }

    /// Reads exactly one frame.
    pub(super) async fn frame(&mut self) -> Seen {
        let mut frames = self.frames().await;
        assert_eq!(frames.len(), 1, "{frames:?}");
        frames.remove(0)
    }

    /// Reads to the end of the connection.
    pub(super) async fn rest(&mut self) -> Vec<Seen> {
        let mut read = std::mem::take(&mut self.read);
        let end = tokio::time::timeout(WAIT, self.server().read_to_end(&mut read));
        end.await.expect("it is not closed").unwrap();
        parse(&mut read)
    }

    pub(super) async fn is_silent(&mut self) -> bool {
        settle().await;
        let mut byte = [0];
        let mut byte = tokio::io::ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        self.server().poll_peek(&mut cx, &mut byte).is_pending()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.pool.shared().http2_in_flight()
    }

    pub(super) fn open_connections(&self) -> i64 {
        self.metrics.connections.get()
    }
}

pub(super) type Sending = tokio::task::JoinHandle<Result<Response<UpstreamBody>, SendError>>;

/// The app's end of an upload.
pub(super) type App = mpsc::UnboundedSender<Result<Frame<Bytes>, io::Error>>;

struct FromApp {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, io::Error>>,
    declared: Option<u64>,
}

impl Body for FromApp {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.frames.poll_recv(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.declared
            .map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

pub(super) fn upload(declared: Option<u64>) -> (App, RequestBody) {
    let (app, frames) = mpsc::unbounded_channel();
    let forbidden = [HeaderName::from_static("x-api-key")];
    let replay = Replay::new(FromApp { frames, declared }, forbidden.into(), 0);
    (app, replay.body().unwrap())
}

pub(super) fn give(app: &App, data: impl Into<Bytes>) {
    app.send(Ok(Frame::data(data.into()))).unwrap();
}

pub(super) fn request_head(head: &Parts) -> RequestHead<'_> {
    RequestHead {
        parts: head,
        wait: WAIT,
    }
}

pub(super) fn asked(method: &str) -> Parts {
    let request = Request::builder()
        .method(method)
        .uri("http://api/x")
        .body(());
    request.unwrap().into_parts().0
}

pub(super) async fn text(response: Response<UpstreamBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.into()).unwrap()
}

/// Lets all other tasks run.
pub(super) async fn settle() {
    for _ in 0..300 {
        tokio::task::yield_now().await;
    }
}

pub(super) async fn until(true_now: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !true_now() {
        assert!(started.elapsed() < 2 * WAIT, "it never came true");
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
