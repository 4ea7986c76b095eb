//! A client's byte stream.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::unconstrained;

use crate::upstream::Stall;

pub(super) enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A [`ClientStream`] of which a part was read before: for HTTP/2, and for tunnels.
pub(super) struct Rewound {
    stream: ClientStream,
    /// What comes first.
    front: Bytes,
    /// How long the client may take nothing at all.
    stall: Stall,
}

// === impl ClientStream ===

impl ClientStream {
    pub(super) fn peer_uid(&self) -> Option<u32> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
        }
    }

    /// Whether there is something to read, or the end, as far as the kernel has said so.
    pub(super) fn is_readable(&self) -> bool {
        !self.readiness().is_empty()
    }

    /// Whether the client has closed its end, though there may be something left to read before that.
    pub(super) fn is_read_closed(&self) -> bool {
        self.readiness().is_read_closed()
    }

    /// Without waiting for any, and whatever the task's share of turns.
    fn readiness(&self) -> Ready {
        let mut nobody = Context::from_waker(Waker::noop());
        let polled = match self {
            Self::Tcp(stream) => {
                pin!(unconstrained(stream.ready(Interest::READABLE))).poll(&mut nobody)
            }
            Self::Unix(stream) => {
                pin!(unconstrained(stream.ready(Interest::READABLE))).poll(&mut nobody)
            }
        };
        match polled {
            Poll::Ready(Ok(ready)) => ready,
            // The runtime is gone, and the connection with it.
            Poll::Ready(Err(_)) => Ready::READ_CLOSED,
            Poll::Pending => Ready::EMPTY,
        }
    }

    /// Makes closing it a reset: for a client that would take an end for a good one.
    pub(super) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // Where it cannot be said, the end has to do.
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

// === impl Rewound ===

impl Rewound {
    pub(super) fn new(stream: ClientStream, front: Bytes, stall: Stall) -> Self {
        Self {
            stream,
            front,
            stall,
        }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.front.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let take = this.front.len().min(buf.remaining());
        buf.put_slice(&this.front[..take]);
        this.front.advance(take);
        if this.front.is_empty() {
            // The buffer that it is a part of may be a large one.
            this.front = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.stall.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.stall.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
