//! Upgrades (RFC 9110 §7.8), such as WebSocket: forwards the handshake with the token, then bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::UPGRADE;
use http::request::Parts;
use http::{HeaderValue, Version};
use http_body::Body;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::headers::{Scan, connection_upgrade};
use super::response_body::Measure;
use super::worker::Client;
use crate::upstream::Tunnel;

/// How long one side may be silent after the other side has closed. A full close looks like a
/// half-close until a write fails, and a peer may wait for our close forever.
const SILENCE: Duration = Duration::from_secs(30);

/// Returns the protocol to ask the upstream for.
///
/// Offers of `h2c` (RFC 9113 §3.1) and `TLS` (RFC 2817) are for this hop only; Apache's HttpClient
/// offers `TLS` with every request. An offer with a body is dropped, too: a server that declines
/// the offer must find an ordinary request.
pub(super) fn wanted(parts: &Parts, body: &impl Body, scan: &Scan) -> Option<HeaderValue> {
    if !scan.upgrade || parts.version != Version::HTTP_11 || !connection_upgrade(&parts.headers) {
        return None;
    }
    let protocol = parts.headers.get(UPGRADE)?;
    (body.is_end_stream() && !is_for_this_hop(protocol)).then(|| protocol.clone())
}

/// Copies bytes until the upgraded connection ends. The request stays in flight until then.
pub(super) async fn run(
    app: OnUpgrade,
    (mut upstream, _measure): (Tunnel, Measure),
    client: Arc<Client>,
) {
    if let Ok(app) = app.await
        && let Err(error) = join(TokioIo::new(app), &mut upstream).await
    {
        tracing::debug!(%error, "upgraded connection ended");
    }
    // Holds the connection's permit until here.
    drop(client);
}

/// Joins both sides of an upgraded connection. The tunnel ends when both sides have closed, when
/// one side has closed and the other stays silent, or with the worker.
async fn join<A, U>(app: A, upstream: &mut U) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let traffic = Arc::new(Traffic::default());
    let mut app = Watched {
        io: app,
        traffic: Arc::clone(&traffic),
    };
    tokio::select! {
        copied = copy_bidirectional(&mut app, upstream) => copied.map(drop),
        () = traffic.silence() => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "one side closed and the other is silent",
        )),
    }
}

/// Traffic of the app's side, which both directions pass.
#[derive(Default)]
struct Traffic {
    half_closed: AtomicBool,
    closing: Notify,
    /// Transfers since the half-close.
    since: AtomicU64,
}

impl Traffic {
    fn moved(&self) {
        if self.half_closed.load(Relaxed) {
            self.since.fetch_add(1, Relaxed);
        }
    }

    fn closed(&self) {
        self.half_closed.store(true, Relaxed);
        self.closing.notify_one();
    }

    /// Resolves when one side has closed and the other was silent for [`SILENCE`], or up to a tenth
    /// longer.
    async fn silence(&self) {
        self.closing.notified().await;
        let (mut seen, mut last) = (self.since.load(Relaxed), Instant::now());
        while last.elapsed() < SILENCE {
            sleep_until(Instant::now() + SILENCE / 10).await;
            let now = self.since.load(Relaxed);
            if now != seen {
                (seen, last) = (now, Instant::now());
            }
        }
    }
}

/// The app's side of the tunnel.
struct Watched<S> {
    io: S,
    traffic: Arc<Traffic>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            self.traffic.closed();
        } else {
            self.traffic.moved();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.traffic.moved();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The upstream has closed, and `copy_bidirectional` passes that on.
        self.traffic.closed();
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn is_for_this_hop(protocols: &HeaderValue) -> bool {
    let is_hop = |protocol: &str| {
        let name = protocol.trim().split('/').next().unwrap_or_default();
        name.eq_ignore_ascii_case("h2c") || name.eq_ignore_ascii_case("tls")
    };
    let protocols = protocols.to_str();
    protocols.map_or(true, |protocols| protocols.split(',').any(is_hop))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::*;

    #[test]
    fn offers_for_this_hop_are_recognized() {
        for ours in [
            "h2c",
            "TLS/1.2",
            "tls",
            "h2c, websocket",
            "websocket, TLS/1.0",
        ] {
            assert!(is_for_this_hop(&HeaderValue::from_static(ours)), "{ours}");
        }
        for theirs in ["websocket", "TLSX", "spdy/3.1"] {
            assert!(
                !is_for_this_hop(&HeaderValue::from_static(theirs)),
                "{theirs}"
            );
        }
    }

    /// The app, the upstream, and the tunnel between them.
    fn tunnel() -> (DuplexStream, DuplexStream, JoinHandle<io::Result<()>>) {
        let (app, near_app) = duplex(1024);
        let (upstream, mut near_upstream) = duplex(1024);
        let tunnel = tokio::spawn(async move { join(near_app, &mut near_upstream).await });
        (app, upstream, tunnel)
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_tunnel_ends_when_the_open_side_is_silent() {
        for upstream_first in [false, true] {
            let (app, upstream, tunnel) = tunnel();
            let started = Instant::now();
            let (mut closing, mut silent) = if upstream_first {
                (upstream, app)
            } else {
                (app, upstream)
            };
            closing.write_all(b"bye").await.unwrap();
            closing.shutdown().await.unwrap();
            let mut heard = Vec::new();
            silent.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"bye");
            let error = tunnel.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let took = started.elapsed();
            assert!(took >= SILENCE && took <= SILENCE * 11 / 10, "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_tunnel_lasts_while_the_open_side_sends() {
        let (mut app, mut upstream, tunnel) = tunnel();
        app.shutdown().await.unwrap();
        assert_eq!(upstream.read(&mut [0]).await.unwrap(), 0);
        for _ in 0..10 {
            sleep(SILENCE * 9 / 10).await;
            upstream.write_all(b"x").await.unwrap();
            app.read_exact(&mut [0]).await.unwrap();
        }
        drop(upstream);
        tunnel.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_tunnel_may_be_silent() {
        let (mut app, mut upstream, tunnel) = tunnel();
        sleep(SILENCE * 100).await;
        app.write_all(b"x").await.unwrap();
        upstream.read_exact(&mut [0]).await.unwrap();
        assert!(!tunnel.is_finished());
    }
}
