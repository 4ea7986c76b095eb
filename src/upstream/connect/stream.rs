//! A connection's byte stream, plain or TLS.
//!
//! A read of 0 bytes is the end: `close_notify`, or a TCP FIN at a record boundary. A FIN inside a
//! record is an error, like a TCP reset.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::read_ahead::ReadAhead;

#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    /// Boxed: a TLS session is a kilobyte, which every move of a plain stream would copy.
    Tls(Box<TlsStream<ReadAhead>>),
}

impl Stream {
    fn writer(self: Pin<&mut Self>) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp),
            Self::Tls(tls) => Pin::new(tls),
        }
    }
}

/// Returns whether neither TLS nor the socket has bytes to read. A read through TLS costs four
/// times as much to find out, and readers often poll before the response arrives.
fn has_nothing_to_read(tls: &TlsStream<ReadAhead>, cx: &mut Context<'_>) -> bool {
    let (socket, session) = tls.get_ref();
    session.wants_read() && socket.is_empty() && socket.tcp().poll_read_ready(cx).is_pending()
}

/// Reads once, or all available records after a long read.
fn poll_read_tls(
    tls: &mut TlsStream<ReadAhead>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let read = if tls.get_ref().0.is_long() {
        Pin::new(&mut *tls).poll_read(cx, buf)
    } else {
        poll_read_once(tls, cx, buf)
    };
    match ready!(read) {
        Err(error) if is_end(&error, tls) => Poll::Ready(Ok(())),
        read => Poll::Ready(read),
    }
}

/// Returns whether the peer closed TCP after a complete record without `close_notify`, as many old
/// servers do.
///
/// This end counts like the end of plain TCP: it completes only a message without length. Browsers,
/// Go and nginx do the same.
fn is_end(error: &io::Error, tls: &TlsStream<ReadAhead>) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof && tls.get_ref().0.at_record_boundary()
}

/// Reads from the socket until the first bytes arrive. After a short read the socket is empty, and
/// another look costs a tenth of the TLS work for a small response.
fn poll_read_once(
    tls: &mut TlsStream<ReadAhead>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let data = ready!(Pin::new(&mut *tls).poll_fill_buf(cx))?;
        let length = data.len().min(buf.remaining());
        buf.put_slice(&data[..length]);
        Pin::new(&mut *tls).consume(length);
        // Further records of the same read are in memory, so no read error can be lost.
        if length == 0 || buf.remaining() == 0 || tls.get_ref().1.wants_read() {
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) if has_nothing_to_read(tls, cx) => Poll::Pending,
            Self::Tls(tls) => poll_read_tls(tls, cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writer().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writer().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer().poll_shutdown(cx)
    }
}
