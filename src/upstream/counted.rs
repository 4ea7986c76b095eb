//! The stream under an HTTP connection, counted for as long as it is open.
//!
//! The count hangs on the stream and not on hyper's driver: an upgraded connection outlives its driver, and so do the streams
//! of an HTTP/2 connection that got a GOAWAY.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use tokio::sync::Notify;

use super::connect::Stream;

/// An open connection's place in the gauge.
pub(super) struct Open(IntGauge);

/// An open connection in the form that hyper wants.
pub(super) struct Counted {
    io: TokioIo<Stream>,
    first_bytes: Option<Arc<FirstBytes>>,
    _open: Open,
}

/// Tells that the peer said something, until somebody has heard enough.
#[derive(Default)]
pub(super) struct FirstBytes {
    pub(super) came: Notify,
    pub(super) enough: AtomicBool,
}

impl Open {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Counted {
    pub(super) fn new(io: Stream, open: Open) -> Self {
        Self {
            io: TokioIo::new(io),
            first_bytes: None,
            _open: open,
        }
    }

    pub(super) fn watch(&mut self) -> Arc<FirstBytes> {
        Arc::clone(self.first_bytes.insert(Arc::default()))
    }
}

impl Read for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if let Some(first) = &this.first_bytes
            && read.is_ready()
        {
            first.came.notify_one();
            if first.enough.load(Ordering::Relaxed) {
                this.first_bytes = None;
            }
        }
        read
    }
}

impl Write for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
