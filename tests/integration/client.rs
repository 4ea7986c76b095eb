//! Fake apps: [`Client`] writes and reads HTTP/1.1 as bytes, [`Http2Client`] speaks HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::harness::soon;

/// A connection with a buffer for bytes that were read too early. Both sides of tests use it.
pub(crate) struct Wire<S> {
    pub(crate) stream: S,
    buffer: Vec<u8>,
}

/// The app's side of a connection to the proxy.
pub(crate) type Client = Wire<TcpStream>;

/// The head of an HTTP/1.1 message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) first: String,
    /// The names are in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// The head as sent, including the empty line.
    pub(crate) raw: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await;
        let stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }

    /// Sends `GET path` with `Host: localhost` and returns the response. Keeps the connection open.
    pub(crate) async fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        self.response().await
    }
}

impl Wire<UnixStream> {
    pub(crate) async fn connect_unix(path: &Path) -> Self {
        Self::new(UnixStream::connect(path).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends bytes to a peer that may have closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        soon("room to write", async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Sends bytes, without a time limit. Returns whether that succeeded.
    pub(crate) async fn send_succeeds(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Closes the sending direction; TLS sends `close_notify`.
    pub(crate) async fn finish(&mut self) {
        soon("the shutdown", self.stream.shutdown()).await.unwrap();
    }

    pub(crate) async fn request(&mut self, request: &str) -> Response {
        self.send(request).await;
        self.response().await
    }

    pub(crate) async fn try_head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let raw = self.buffer.drain(..end + 4).collect();
                return Ok(Head::parse(String::from_utf8(raw).unwrap()));
            }
            if self.fill("a head").await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub(crate) async fn head(&mut self) -> Head {
        match self.try_head().await {
            Ok(head) => head,
            Err(error) => panic!("no head: {error}; {:?}", self.unread()),
        }
    }

    /// Reads a whole response, interim or final. The request must not be HEAD.
    pub(crate) async fn response(&mut self) -> Response {
        self.try_response().await.unwrap()
    }

    /// Reads the final response; skips interim responses.
    pub(crate) async fn final_response(&mut self) -> Response {
        loop {
            let response = self.response().await;
            if !response.status.is_informational() {
                return response;
            }
        }
    }

    pub(crate) async fn try_response(&mut self) -> io::Result<Response> {
        let head = self.try_head().await?;
        let status = head.status();
        let body = if status.is_informational() || status == 204 || status == 304 {
            Vec::new()
        } else {
            self.body(&head, true).await?
        };
        Ok(Response { status, head, body })
    }

    /// Reads the body that belongs to `head`. Without framing, `until_close` makes the body end
    /// with the connection; otherwise it is empty. An incomplete body is an error.
    pub(crate) async fn body(&mut self, head: &Head, until_close: bool) -> io::Result<Vec<u8>> {
        if head.get("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk().await? {
                body.extend(chunk);
            }
            return Ok(body);
        }
        match head.get("content-length") {
            Some(length) => self.exactly(length.parse().unwrap()).await,
            None if until_close => self.read_to_end().await,
            None => Ok(Vec::new()),
        }
    }

    /// Reads the next chunk. `None` is the last chunk, whose trailers are read as well.
    pub(crate) async fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line().await?;
        let size = usize::from_str_radix(line.trim(), 16)
            .unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
        if size == 0 {
            while self.line().await? != "\r\n" {}
            return Ok(None);
        }
        let data = self.exactly(size).await?;
        assert_eq!(self.line().await?, "\r\n");
        Ok(Some(data))
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill("a body").await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Reads until the peer closes its sending direction.
    pub(crate) async fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.fill("the end of the connection").await? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Asserts that the peer closes or resets the connection and sends nothing before.
    pub(crate) async fn closed(&mut self) {
        match self.fill("the end of the connection").await {
            Ok(0) | Err(_) => assert_eq!(self.unread(), ""),
            Ok(_) => panic!(
                "bytes instead of the end of the connection: {:?}",
                self.unread()
            ),
        }
    }

    fn unread(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8(line).unwrap());
            }
            if self.fill("a line").await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn fill(&mut self, what: &str) -> io::Result<usize> {
        self.buffer.reserve(64 * 1024);
        soon(what, self.stream.read_buf(&mut self.buffer)).await
    }
}

impl Head {
    fn parse(raw: String) -> Self {
        let mut lines = raw.trim_end().split("\r\n");
        let first = lines.next().unwrap().to_owned();
        let fields = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        Self { first, fields, raw }
    }

    /// Returns the only value of a field. Panics if the field occurs more than once.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{} fields are called {name}", all.len());
        all.first().copied()
    }

    /// Returns all values of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.fields.iter().filter(|(field, _)| field == name);
        fields.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn status(&self) -> StatusCode {
        let code = self.first.split(' ').nth(1).unwrap();
        code.parse().unwrap()
    }
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// Returns the code of one of Cupbearer's own errors, or an empty text for other responses.
    pub(crate) fn code(&self) -> String {
        if self.head.get("content-type") != Some("application/problem+json") {
            return String::new();
        }
        let problem = self.json();
        let kind = problem["type"].as_str().unwrap();
        kind.strip_prefix("urn:cupbearer:error:")
            .unwrap()
            .to_owned()
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// A body whose frames come from a [`FrameSender`]. It ends when the sender is dropped.
pub(crate) struct Frames(mpsc::UnboundedReceiver<io::Result<Frame<Bytes>>>);

pub(crate) type FrameSender = mpsc::UnboundedSender<io::Result<Frame<Bytes>>>;

pub(crate) fn frames() -> (FrameSender, Frames) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Frames(receiver))
}

/// Returns a complete body: one frame, or none if `bytes` is empty.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Frames {
    let (sender, body) = frames();
    let bytes = bytes.into();
    if !bytes.is_empty() {
        sender.send(Ok(Frame::data(bytes))).unwrap();
    }
    body
}

impl Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

/// An app that speaks HTTP/2 with prior knowledge (RFC 9113 §3.3).
pub(crate) struct Http2Client {
    sender: http2::SendRequest<Frames>,
    address: SocketAddr,
}

impl Http2Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(driver);
        Self { sender, address }
    }

    /// Returns a request whose authority is the proxy's address.
    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Frames>,
    ) -> hyper::Result<http::Response<Incoming>> {
        soon("an HTTP/2 response", self.sender.send_request(request)).await
    }
}
