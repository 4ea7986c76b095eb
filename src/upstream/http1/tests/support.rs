//! A connection with a scripted server.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::super::*;
use super::*;
use crate::metrics::UpstreamMetrics;
use crate::testing::pooled_connection;
use crate::upstream::connect::Alpn;
use crate::upstream::pool::{Http1, PoolShared};
use crate::upstream::{Pool, Replay, RequestBody, RequestHead, UpstreamBody};

pub(super) const WAIT: Duration = Duration::from_secs(5);

pub(super) struct Line {
    pool: Pool,
    metrics: UpstreamMetrics,
    server: Option<TcpStream>,
}

impl Line {
    /// A pool that holds one connection.
    pub(super) async fn open() -> Self {
        let idle = Duration::from_secs(60);
        let (pool, metrics, server) = pooled_connection(Alpn::Http1, idle).await;
        Self {
            pool,
            metrics,
            server: Some(server),
        }
    }

    /// Sends a request on the pool's connection.
    pub(super) fn send(
        &self,
        (head, body): (Parts, Option<RequestBody>),
    ) -> impl Future<Output = Result<Response<UpstreamBody>, SendError>> + Send + use<> {
        let mut checkout = Box::pin({
            let pool = self.pool.clone();
            async move { pool.checkout().await }
        });
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(checkout)) = checkout.as_mut().poll(&mut cx) else {
            panic!("the connection is in the pool");
        };
        let mut sending =
            Box::pin(async move { checkout.send(&request_head(&head), body.unwrap()).await });
        let first = sending.as_mut().poll(&mut cx);
        async move {
            match first {
                Poll::Ready(result) => result,
                Poll::Pending => sending.await,
            }
        }
    }

    pub(super) async fn exchange(&mut self, answer: &str) {
        let sent = self.send(get("/"));
        self.read_head().await;
        self.write(answer).await;
        text(sent.await.unwrap()).await;
    }

    pub(super) fn shared(&self) -> Arc<PoolShared> {
        self.pool.shared()
    }

    pub(super) fn idle(&self) -> usize {
        self.shared().with_idle(|idle| idle.len())
    }

    pub(super) fn idle_connection(&self) -> Box<Http1> {
        self.shared().with_idle(|idle| idle.remove(0))
    }

    pub(super) fn open_connections(&self) -> i64 {
        self.metrics.connections.get()
    }

    fn server(&mut self) -> &mut TcpStream {
        self.server.as_mut().unwrap()
    }

    pub(super) fn take_server(&mut self) -> TcpStream {
        self.server.take().unwrap()
    }

    /// Closes the server's end.
    pub(super) fn close(&mut self) {
        self.server = None;
    }

    pub(super) async fn write(&mut self, text: &str) {
        self.server().write_all(text.as_bytes()).await.unwrap();
    }

    pub(super) async fn read_head(&mut self) -> String {
        self.read_until("\r\n\r\n").await
    }

    pub(super) async fn read_until(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            text += &self.read_some().await;
        }
        text
    }

    /// Reads once.
    pub(super) async fn read_some(&mut self) -> String {
        let mut bytes = vec![0; 16 * 1024];
        let length = tokio::time::timeout(WAIT, self.server().read(&mut bytes));
        let length = length.await.unwrap().unwrap();
        assert!(length > 0, "the connection was closed");
        bytes.truncate(length);
        String::from_utf8(bytes).unwrap()
    }
}

pub(super) fn get(path: &str) -> (Parts, Option<RequestBody>) {
    request("GET", path, &[], RequestBody::Empty)
}

pub(super) fn request(
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: RequestBody,
) -> (Parts, Option<RequestBody>) {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "api");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    (request.body(()).unwrap().into_parts().0, Some(body))
}

pub(super) async fn text(response: Response<UpstreamBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.into()).unwrap()
}

/// Returns an app's upload with this framing field: bytes written to the first value arrive in the
/// second.
pub(super) async fn upload(framing: &str, forbidden: &[HeaderName]) -> (DuplexStream, RequestBody) {
    let (mut app, proxy) = tokio::io::duplex(16 * 1024);
    let (sender, body) = oneshot::channel();
    let sender = Mutex::new(Some(sender));
    let service = service_fn(move |request: Request<Incoming>| {
        let sender = sender.lock().unwrap().take().unwrap();
        drop(sender.send(request.into_body()));
        std::future::pending::<Result<Response<String>, Infallible>>()
    });
    tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(proxy), service),
    );
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n");
    app.write_all(head.as_bytes()).await.unwrap();
    let replay = Replay::new(body.await.unwrap(), forbidden.into(), 0);
    (app, replay.body().unwrap())
}

/// Lets all other tasks run.
pub(super) async fn settle() {
    for _ in 0..300 {
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

pub(super) fn request_head(head: &Parts) -> RequestHead<'_> {
    RequestHead {
        parts: head,
        wait: WAIT,
    }
}
