//! A client's byte stream: it tells its watch when bytes come in, and turns hyper's bare refusals into ours.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::accept::{Client, Worker};
use super::error::ProxyError;
use super::respond;
use super::watch::Watch;
use crate::metrics::Metrics;
use crate::upstream::Stall;

pub(super) enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A [`ClientStream`] under hyper's server.
pub(super) struct Watched {
    stream: ClientStream,
    /// Read before, by HTTP/1; to be read again, by HTTP/2.
    rewound: Bytes,
    watch: Arc<Watch>,
    metrics: Arc<Metrics>,
    /// The client does not take what is written to it as fast as it comes.
    held_up: bool,
    /// How long it may take nothing at all.
    stall: Stall,
    /// What is being written in place of hyper's answer.
    refusal: Bytes,
    /// A tunnel outlives the HTTP connection: it keeps its place, and shutdown waiting, until the stream is dropped.
    _client: Option<Arc<Client>>,
}

// === impl ClientStream ===

impl ClientStream {
    pub(super) fn peer_uid(&self) -> Option<u32> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
        }
    }
}

// === impl Watched ===

impl Watched {
    pub(super) fn new(stream: ClientStream, client: Option<Arc<Client>>, worker: &Worker) -> Self {
        let watch = client
            .as_ref()
            .map_or_else(Arc::default, |client| Arc::clone(&client.watch));
        let limit = worker.proxy.snapshot.load().settings.body_timeout.known;
        Self {
            stream,
            rewound: Bytes::new(),
            watch,
            metrics: Arc::clone(&worker.proxy.metrics),
            held_up: false,
            stall: Stall::after(Some(limit)),
            refusal: Bytes::new(),
            _client: client,
        }
    }

    /// Puts bytes back in front of those to come.
    pub(super) fn rewind(&mut self, bytes: Bytes) {
        self.rewound = bytes;
    }

    /// Whether a response may be in the middle of going out.
    pub(super) fn is_held_up(&self) -> bool {
        self.held_up
    }

    /// hyper answers a head that it cannot parse by itself, with a bare status line. Nobody could tell whose answer that is
    /// (DESIGN.md §5), so that ours goes out in its place. No answer that went through `respond` begins with these two fields:
    /// hyper puts `connection: close` behind the others.
    fn replaces(&self, written: &[u8]) -> Option<ProxyError> {
        if !written.starts_with(b"HTTP/1.1 4") || !self.watch.between_requests() {
            return None;
        }
        let fields = written
            .iter()
            .position(|byte| *byte == b'\n')
            .map(|end| &written[end + 1..])?;
        if !fields.starts_with(b"connection: close\r\ncontent-length: 0\r\n")
            || !fields.ends_with(b"\r\n\r\n")
        {
            return None;
        }
        match &written[9..12] {
            b"431" | b"414" => Some(ProxyError::HeadersTooLarge),
            b"400" => Some(ProxyError::BadRequest("the request is not valid HTTP/1.1")),
            _ => None,
        }
    }

    /// Fails once the client has taken nothing for too long.
    fn noted(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        self.held_up = !matches!(written, Poll::Ready(Ok(length)) if length == wanted);
        if written.is_ready() {
            self.stall.moved();
            return written;
        }
        let stalled = ready!(self.stall.poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stalled)))
    }

    /// Writes what is left of our refusal, and then claims that hyper's was written.
    fn poll_refuse(&mut self, cx: &mut Context<'_>, claimed: usize) -> Poll<io::Result<usize>> {
        while !self.refusal.is_empty() {
            let written = ready!(self.stream.poll_write(cx, &self.refusal))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.refusal.advance(written);
        }
        Poll::Ready(Ok(claimed))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.rewound.is_empty() {
            let take = this.rewound.len().min(buf.remaining());
            buf.put_slice(&this.rewound.split_to(take));
            return Poll::Ready(Ok(()));
        }
        let read = match &mut this.stream {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            ClientStream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if read.is_ready() {
            this.watch.received();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.refusal.is_empty() {
            return this.poll_refuse(cx, buf.len());
        }
        if let Some(error) = this.replaces(buf) {
            this.refusal = respond::raw_problem(&error, &this.metrics).into();
            return this.poll_refuse(cx, buf.len());
        }
        let written = this.stream.poll_write(cx, buf);
        this.noted(cx, written, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // A refusal of hyper's is one slice.
        if let [only] = bufs {
            return Pin::new(this).poll_write(cx, only);
        }
        let written = match &mut this.stream {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        let wanted: usize = bufs.iter().map(|buf| buf.len()).sum();
        this.noted(cx, written, wanted)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            ClientStream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl ClientStream {
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
}
