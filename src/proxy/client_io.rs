//! The I/O adapter between an app's socket and hyper.
//!
//! * Percent-encodes the bytes of a request target that [`http::Uri`] refuses ([`request_line`]),
//!   only between two messages, so that bodies and fields stay. [`Watch`] says when a message has
//!   ended: the adapter parses no framing.
//! * Detects that the app has closed its end also while hyper does not read, such as while a
//!   request with a body waits for a token.
//! * Fails a write that the app does not take in time.

mod request_line;
mod socket;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};

use self::request_line::RequestLine;
use super::watch::Watch;
use crate::upstream::Stall;

#[cfg(any(test, fuzzing))]
pub(super) use self::request_line::fuzz;
pub(super) use self::socket::ClientStream;

/// The first bytes of an HTTP/2 connection (RFC 9113 §3.4). hyper recognizes a preface only within
/// one read.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often the adapter checks for a closed app while hyper does not read.
const LOOK: Duration = Duration::from_millis(250);

/// How long, and for how many bytes, the rest of an upload is read after the last response. A close
/// with unread bytes resets the connection, and the app could lose the response (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// An app's connection as hyper sees it.
pub(super) struct ClientIo {
    stream: ClientStream,
    watch: Arc<Watch>,
    line: RequestLine,
    /// The last message whose end `line` knows.
    last_ended: u32,
    /// The connection's first bytes, while these may become [`PREFACE`]. `None` afterwards.
    opening: Option<Vec<u8>>,
    /// Bytes for hyper before the next read from the socket.
    front: Bytes,
    /// The last read is pending, so that the app's close wakes the task.
    reading: bool,
    look: Option<Pin<Box<Sleep>>>,
    stall: Stall,
    /// [`Self::close`] was called: the connection is not reset.
    closed: bool,
}

impl ClientIo {
    pub(super) fn new(stream: ClientStream, watch: Arc<Watch>) -> Self {
        Self {
            stream,
            watch,
            line: RequestLine::new(),
            last_ended: 0,
            opening: Some(Vec::new()),
            front: Bytes::new(),
            reading: false,
            look: None,
            stall: Stall::default(),
            closed: false,
        }
    }

    /// Puts `read` back, for HTTP/2.
    pub(super) fn rewound(mut self, read: Bytes) -> Self {
        self.watch.speaks_http2();
        self.front = read;
        self
    }

    /// Sends `last` and closes the connection.
    pub(super) async fn refuse(mut self, last: &[u8]) {
        // An app that does not read loses the response.
        if let Ok(Ok(())) = timeout(LINGER, self.stream.write_all(last)).await {
            self.close().await;
        }
    }

    /// Closes the connection so that an app that still sends can read its response.
    pub(super) async fn close(mut self) {
        self.closed = true;
        let drain = async {
            // May fail: hyper may have shut the socket down already.
            let _ = self.stream.shutdown().await;
            // Without unread bytes, a close does not reset.
            if self.watch.body_is_read() && !self.stream.is_readable() {
                return Ok(());
            }
            let mut buffer = Vec::with_capacity(8 * 1024);
            let mut left = LINGER_BYTES;
            while left > 0 {
                buffer.clear();
                match self.stream.read_buf(&mut buffer).await? {
                    0 => break,
                    length => left = left.saturating_sub(length),
                }
            }
            io::Result::Ok(())
        };
        let _ = timeout(LINGER, drain).await;
    }

    /// Closes the connection within a response.
    pub(super) async fn abort(self) {
        // Otherwise the close would frame the response; the drop resets the connection.
        if !self.watch.response_ends_by_close() {
            self.close().await;
        }
    }

    /// Resolves when the app has closed its end. Checks every [`LOOK`] while hyper does not read.
    ///
    /// A half-closed app counts as gone: TCP shows no difference, and apps that go away are common.
    /// nginx, Envoy and hyper do the same; RFC 9112 §9.6 allows either.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.reading || !self.watch.awaits_response() {
            return Poll::Pending;
        }
        loop {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            ready!(look.as_mut().poll(cx));
            if self.stream.is_read_closed() {
                return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
            }
            look.as_mut().reset(Instant::now() + LOOK);
        }
    }

    /// Tells `line` whether the newest message has ended.
    fn note_boundary(&mut self) {
        let message = self.watch.message();
        if message.number == self.last_ended {
            return;
        }
        if message.ended {
            self.last_ended = message.number;
            self.line.message_ended(message.body);
        } else {
            self.line.message_runs();
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            if read.is_empty() {
                self.front = match self.opening.take() {
                    Some(opening) if !opening.is_empty() => opening.into(),
                    _ => self.line.end(),
                };
                return Poll::Ready(Ok(()));
            }
            self.watch.received();
            let Some(instead) = self.pass(read) else {
                return Poll::Ready(Ok(()));
            };
            buf.set_filled(before);
            self.front = instead;
            // Empty while the rest of the line is missing.
            if !self.front.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Returns the bytes for hyper in place of `read`: see [`RequestLine::pass`].
    fn pass(&mut self, read: &[u8]) -> Option<Bytes> {
        if let Some(opening) = &mut self.opening {
            opening.extend_from_slice(read);
            if opening.len() < PREFACE.len() && PREFACE.starts_with(opening) {
                return Some(Bytes::new());
            }
        }
        match self.opening.take() {
            Some(opening) if opening.len() > read.len() => {
                let encoded = self.line.pass(&opening);
                Some(encoded.unwrap_or_else(|| opening.into()))
            }
            _ => self.line.pass(read),
        }
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.front.len().min(buf.remaining());
        buf.put_slice(&self.front[..length]);
        self.front.advance(length);
        if self.front.is_empty() {
            // An empty slice would keep its buffer alive.
            self.front = Bytes::new();
        }
    }

    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.watch.writes_wait(written.is_pending());
        if written.is_pending() {
            self.stall.limit_to(self.watch.write_limit());
        }
        self.stall.written(cx, written)
    }
}

impl Drop for ClientIo {
    /// Resets the connection if its close would complete an incomplete response.
    fn drop(&mut self) {
        if !self.closed && self.watch.response_ends_by_close() {
            self.stream.reset_on_close();
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.front.is_empty() {
            this.note_boundary();
            let filled = this.poll_fill(cx, buf);
            this.reading = filled.is_pending();
            ready!(filled)?;
        }
        this.hand_out(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes at every poll of its connection, and calls no other method while a request
    /// waits and its body is unread.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(gone) = this.poll_gone(cx) {
            return Poll::Ready(Err(gone));
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
