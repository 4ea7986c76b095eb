//! An app's socket.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::unconstrained;

/// An accepted connection.
pub(in crate::proxy) enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ClientStream {
    pub(in crate::proxy) fn peer_uid(&self) -> Option<u32> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
        }
    }

    /// Whether there is something to read, or the end, as far as the kernel has said so.
    pub(in crate::proxy) fn is_readable(&self) -> bool {
        !self.readiness().is_empty()
    }

    /// Whether the client has closed its end, though there may be something left to read before that.
    pub(in crate::proxy) fn is_read_closed(&self) -> bool {
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
    pub(in crate::proxy) fn reset_on_close(&self) {
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
