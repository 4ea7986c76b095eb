//! The socket as TLS reads it: directly for small responses, through a buffer for large ones.
//!
//! rustls reads 4 KiB at a time, and a record has up to 16 KiB and 22 bytes. A one-record buffer
//! halves the system calls of large bodies; larger buffers gain nothing (measured). For small
//! responses a buffer would only add a copy.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::records::Records;

const BUFFER: usize = 17 * 1024;

/// A read of this length makes the next read use the buffer: rustls offers this much room, so more
/// bytes may be waiting.
const LONG: usize = 4 * 1024;

#[derive(Debug)]
pub struct ReadAhead {
    tcp: TcpStream,
    /// The last read had at least [`LONG`] bytes.
    long: bool,
    /// Bytes read ahead, from `used` on. Allocated only while bytes are read ahead.
    buffer: Vec<u8>,
    used: usize,
    /// Record boundaries of the bytes returned so far.
    records: Records,
}

impl ReadAhead {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            long: false,
            buffer: Vec::new(),
            used: 0,
            records: Records::default(),
        }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Returns whether no bytes were read ahead.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Returns whether more bytes may be waiting than the last read returned.
    pub(super) fn is_long(&self) -> bool {
        self.long || !self.buffer.is_empty()
    }

    /// Returns whether the bytes returned so far end with a complete TLS record.
    pub(super) fn at_record_boundary(&self) -> bool {
        self.records.at_boundary()
    }

    fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            if !self.long {
                let before = buf.filled().len();
                ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
                self.long = buf.filled().len() - before >= LONG;
                return Poll::Ready(Ok(()));
            }
            self.buffer.reserve_exact(BUFFER);
            // `ReadBuf` keeps no state between polls.
            let read = ready!(pin!(self.tcp.read_buf(&mut self.buffer)).poll(cx))?;
            self.long = read >= LONG;
        }
        self.take(buf);
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.buffer[self.used..];
        let length = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..length]);
        self.used += length;
        if self.used < self.buffer.len() {
            return;
        }
        self.used = 0;
        if self.long {
            self.buffer.clear();
        } else {
            self.buffer = Vec::new();
        }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(this.poll_read_some(cx, buf))?;
        this.records.pass(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
