//! The task that runs an HTTP/2 connection.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{Connection, Owner};
use crate::upstream::connect::Stream;
use crate::upstream::counted::Open;

/// A peer that sends nothing for five ticks while a stream is open gets a PING. gRPC servers close
/// connections that send more than one PING in 5 minutes. Earlier failures are left to TCP
/// keep-alive and the response timeout.
const TICK: Duration = Duration::from_secs(64);
const QUIET_TICKS: u32 = 5;
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the driver continues to flush frames after the last request.
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct Driver<P: Owner> {
    h2: h2::client::Connection<Socket, Bytes>,
    connection: Weak<Connection>,
    pool: Weak<P>,
    traffic: Arc<Traffic>,
    settled: Option<oneshot::Sender<()>>,
    _open: Open,
}

impl<P: Owner> Driver<P> {
    /// The receiver resolves when the peer's SETTINGS have arrived.
    pub(super) fn new(
        h2: h2::client::Connection<Socket, Bytes>,
        connection: &Arc<Connection>,
        pool: &Arc<P>,
        open: Open,
    ) -> (Self, oneshot::Receiver<()>) {
        let (settled, settings) = oneshot::channel();
        let driver = Self {
            h2,
            connection: Arc::downgrade(connection),
            pool: Arc::downgrade(pool),
            traffic: Arc::clone(&connection.traffic),
            settled: Some(settled),
            _open: open,
        };
        (driver, settings)
    }

    /// Runs the connection to its end. `released` resolves when no [`Connection`] handle is left.
    pub(super) async fn run(mut self, released: oneshot::Receiver<()>) {
        let pings = self.h2.ping_pong().expect("taken only here");
        let silence = silence(pings, self.connection.clone(), Arc::clone(&self.traffic));
        let end = tokio::select! {
            biased;
            end = poll_fn(|cx| self.poll(cx)) => end,
            () = silence => {
                tracing::debug!("upstream connection ended: no answer to PING");
                if let Some(connection) = self.connection.upgrade() {
                    connection.silent.store(true, Ordering::Relaxed);
                }
                // Dropping h2 fails the streams.
                return;
            }
            _ = released => {
                let goodbye = poll_fn(|cx| self.poll(cx));
                timeout(LINGER, goodbye).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = end {
            tracing::debug!(%error, "upstream connection ended");
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let end = Pin::new(&mut self.h2).poll(cx);
        self.update_limit();
        end
    }

    /// Copies the peer's current stream limit to the pool's handle.
    fn update_limit(&mut self) {
        if let Some(connection) = self.connection.upgrade() {
            let max = self.h2.max_concurrent_send_streams();
            let before = connection.max_streams.swap(max, Ordering::Relaxed);
            if max > before
                && let Some(pool) = self.pool.upgrade()
            {
                pool.stream_freed();
            }
        }
        // The first frame is SETTINGS (RFC 9113 §3.4).
        if self.traffic.read() > 0
            && let Some(settled) = self.settled.take()
        {
            // The waiting dial may have been dropped.
            let _ = settled.send(());
        }
    }
}

/// Resolves when the peer has been quiet while a stream was open, and has not answered a PING.
async fn silence(mut pings: PingPong, connection: Weak<Connection>, traffic: Arc<Traffic>) {
    let mut quiet = 0;
    loop {
        let heard = traffic.read();
        sleep(TICK).await;
        let waits = connection.upgrade().is_some_and(|it| it.in_flight() > 0);
        if !waits || traffic.read() != heard {
            quiet = 0;
            continue;
        }
        quiet += 1;
        if quiet < QUIET_TICKS {
            continue;
        }
        quiet = 0;
        let pong = timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await;
        if pong.is_err() && traffic.read() == heard {
            return;
        }
    }
}

/// Bytes that a connection has read and written.
#[derive(Default)]
pub(super) struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn count_written(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(length)) = written {
            self.written.fetch_add(*length as u64, Ordering::Relaxed);
        }
    }
}

/// A stream that counts its bytes.
pub(super) struct Socket {
    pub(super) io: Stream,
    pub(super) traffic: Arc<Traffic>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let length = (buf.filled().len() - before) as u64;
        self.traffic.read.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.traffic.count_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.traffic.count_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
