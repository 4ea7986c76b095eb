//! The task that runs an HTTP/2 connection.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::Builder;
use h2::{Ping, PingPong};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::connection::{Connection, INITIAL_STREAMS, Owner};
use super::socket::{Socket, Traffic};
use crate::fields::MAX_HEAD;
use crate::upstream::connect::Stream;
use crate::upstream::counted::Open;

/// Limit of unread response bytes per stream. Large enough for 10 MiB bodies at a few milliseconds
/// of round trip.
pub(super) const STREAM_WINDOW: u32 = 1024 * 1024;

/// 1,024 full stream windows, as in Go.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Limit of upload bytes per stream that h2 buffers for the socket.
const SEND_BUFFER: usize = 64 * 1024;

/// The peer's frames may cross a reset on the wire. h2 ignores such frames while it remembers the
/// stream, and counts them as peer errors afterwards.
const RESETS_REMEMBERED: usize = 1024;
const RESET_MEMORY: Duration = Duration::from_secs(30);

/// A peer that sends nothing for five ticks while a stream is open gets a PING. gRPC servers close
/// connections that send more than one PING in 5 minutes. Earlier failures are left to TCP
/// keep-alive and the response timeout.
const TICK: Duration = Duration::from_secs(64);
const QUIET_TICKS: u32 = 5;
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the driver continues to flush frames after the last request.
const LINGER: Duration = Duration::from_secs(1);

/// Sends the preface and starts the driver. The receiver resolves when the peer's SETTINGS have
/// arrived, or when the connection has ended without SETTINGS.
pub(in crate::upstream) async fn open<P: Owner>(
    io: Stream,
    open: Open,
    pool: &Arc<P>,
) -> Result<(Arc<Connection>, oneshot::Receiver<()>), h2::Error> {
    let traffic = Arc::<Traffic>::default();
    let socket = Socket {
        io,
        traffic: Arc::clone(&traffic),
    };
    let (requests, h2) = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(INITIAL_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        .reset_stream_duration(RESET_MEMORY)
        .handshake(socket)
        .await?;
    let (connection, released) = Connection::new(requests, Arc::clone(&traffic));
    let (settled, settings) = oneshot::channel();
    let driver = Driver {
        h2,
        connection: Arc::downgrade(&connection),
        pool: Arc::downgrade(pool),
        traffic,
        settled: Some(settled),
        _open: open,
    };
    tokio::spawn(driver.run(released));
    Ok((connection, settings))
}

struct Driver<P: Owner> {
    h2: h2::client::Connection<Socket, Bytes>,
    connection: Weak<Connection>,
    pool: Weak<P>,
    traffic: Arc<Traffic>,
    settled: Option<oneshot::Sender<()>>,
    _open: Open,
}

impl<P: Owner> Driver<P> {
    /// Runs the connection to its end. `released` resolves when no [`Connection`] handle is left.
    async fn run(mut self, released: oneshot::Receiver<()>) {
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
