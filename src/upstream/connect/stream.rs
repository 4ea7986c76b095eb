//! A connection's bytes, plain or TLS.
//!
//! A read of 0 bytes is the end, by `close_notify` or by a TCP end at a record boundary. An end in
//! the middle of a record is an error, as a TCP reset is.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::read_ahead::ReadAhead;

/// An open connection.
pub enum Stream {
    Plain(TcpStream),
    /// Boxed: a TLS session is a kilobyte that would otherwise be moved about with every plain one.
    Tls(Box<TlsStream<ReadAhead>>),
}

impl Stream {
    /// The TCP connection underneath.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0.tcp(),
        }
    }
}

/// Whether there is nothing to read at any level. TLS finds that out in its own way, at four times the cost, and readers often
/// ask before there is an answer.
fn is_dry(tls: &TlsStream<ReadAhead>, cx: &mut Context<'_>) -> bool {
    let (socket, session) = tls.get_ref();
    session.wants_read() && socket.is_empty() && socket.tcp().poll_read_ready(cx).is_pending()
}

/// Reads once, or record after record for as long as there are any.
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

/// Returns whether `error` says only that the peer closed the connection after a complete record
/// and without `close_notify`, as many old servers do.
///
/// Such an end is taken as a plain one: like the end of a TCP connection without TLS, it completes
/// a message without length and cuts off every other one. Browsers, Go and nginx do the same.
fn is_end(error: &io::Error, tls: &TlsStream<ReadAhead>) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof && tls.get_ref().0.at_record_boundary()
}

/// Reads from the socket at most until there is something: after a short read there is nothing more in it, and to look again costs
/// a tenth of what the TLS of a small answer does.
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
        // Further records that came with the first are in memory: there is no error to be lost.
        if length == 0 || buf.remaining() == 0 || tls.get_ref().1.wants_read() {
            return Poll::Ready(Ok(()));
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Plain(_) => "Plain",
            Self::Tls(_) => "Tls",
        };
        f.debug_tuple(name)
            .field(&self.tcp().peer_addr().ok())
            .finish()
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
            Self::Tls(tls) if is_dry(tls, cx) => Poll::Pending,
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
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
