//! A fake vendor in a separate thread, with HTTP/2 and HTTP/1.1. `/token` returns a token. Any
//! other path returns as many bytes as its last segment says, or 1 KiB.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use cupbearer::demo::authority::{Authority, Offer};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio_rustls::TlsAcceptor;

/// The largest response body.
const BODY: &[u8] = &[b'x'; 1024 * 1024];

const OFFER: Offer = Offer {
    http2: true,
    client_certificate: false,
};

/// Serves until the process ends.
pub(crate) struct Vendor {
    pub(crate) address: SocketAddr,
    count: Arc<Count>,
}

#[derive(Default)]
struct Count {
    open: AtomicUsize,
    most: AtomicUsize,
    issued: AtomicUsize,
}

impl Vendor {
    pub(crate) fn start(authority: &Authority) -> Self {
        let tls = authority.server(&["127.0.0.1", "api.test"], OFFER).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let count = Arc::<Count>::default();
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    let (tls, count) = (TlsAcceptor::from(Arc::clone(&tls)), Arc::clone(&counted));
                    tokio::spawn(serve(tcp, tls, count));
                }
            });
        });
        Self { address, count }
    }

    /// Returns the maximum number of concurrent connections.
    pub(crate) fn most(&self) -> usize {
        self.count.most.load(Ordering::Relaxed)
    }

    /// Restarts the maximum of [`Vendor::most`].
    pub(crate) fn forget(&self) {
        let open = self.count.open.load(Ordering::Relaxed);
        self.count.most.store(open, Ordering::Relaxed);
    }
}

async fn serve(tcp: TcpStream, tls: TlsAcceptor, count: Arc<Count>) {
    let open = count.open.fetch_add(1, Ordering::Relaxed) + 1;
    count.most.fetch_max(open, Ordering::Relaxed);
    tcp.set_nodelay(true).unwrap();
    if let Ok(stream) = tls.accept(tcp).await {
        let answers = service_fn(|request| {
            let answer = answer(&request, &count);
            async move { Ok::<_, Infallible>(answer) }
        });
        // Apps may close the connection at any time.
        let _ = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => {
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answers)
                    .await
            }
            _ => {
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answers)
                    .await
            }
        };
    }
    count.open.fetch_sub(1, Ordering::Relaxed);
}

fn answer(request: &Request<Incoming>, count: &Count) -> Response<Full<Bytes>> {
    if request.uri().path() != "/token" {
        let size = request.uri().path().rsplit('/').next();
        let size = size.and_then(|size| size.parse().ok()).unwrap_or(1024);
        return Response::new(Bytes::from_static(BODY).slice(..size).into());
    }
    let number = count.issued.fetch_add(1, Ordering::Relaxed);
    let token = format!(
        "{{\"access_token\": \"token-{number}-{}\", \"expires_in\": 7200}}",
        "0".repeat(200)
    );
    Response::builder()
        .header("content-type", "application/json")
        .body(Bytes::from(token).into())
        .unwrap()
}
