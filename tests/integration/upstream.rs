//! Vendors' APIs: one that reads and writes bytes as the test says, and one that speaks HTTP properly.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cupbearer::demo::authority::{Authority, Offer};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::client::{Frames, Head, Wire};
use crate::harness::soon;

/// What a certificate is made for.
const NAMES: [&str; 2] = ["127.0.0.1", "localhost"];

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection of the proxy's, from the upstream's side.
pub(crate) type Connection = Wire<Box<dyn Stream>>;

/// An upstream that does nothing by itself: the test accepts, reads and writes.
pub(crate) struct Script {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Script {
    pub(crate) async fn tls(authority: &Authority) -> Self {
        let config = authority.server(&NAMES, Offer::default()).unwrap();
        Self {
            tls: Some(TlsAcceptor::from(config)),
            ..Self::plain().await
        }
    }

    pub(crate) async fn plain() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            tls: None,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> Connection {
        soon("a connection to the upstream", async {
            let (tcp, _) = self.listener.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            let stream: Box<dyn Stream> = match &self.tls {
                Some(tls) => Box::new(tls.accept(tcp).await.unwrap()),
                None => Box::new(tcp),
            };
            Wire::new(stream)
        })
        .await
    }

    /// The next connection, and the head of its first request.
    pub(crate) async fn request(&self) -> (Connection, Head) {
        let mut connection = self.accept().await;
        let head = connection.head().await;
        (connection, head)
    }
}

/// An upstream that answers every request by a function; HTTP/1.1, or HTTP/2 where its TLS offers that.
pub(crate) struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Server {
    pub(crate) async fn start<A, F>(authority: &Authority, offer: Offer, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Response<Frames>> + Send + 'static,
    {
        let tls = TlsAcceptor::from(authority.server(&NAMES, offer).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(tcp, tls.clone(), answer.clone()));
            }
        });
        Self {
            address,
            connections,
            task: task.abort_handle(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// How many there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) const HTTP1: Offer = Offer {
    http2: false,
    client_certificate: false,
};

pub(crate) const HTTP2: Offer = Offer {
    http2: true,
    client_certificate: false,
};

async fn serve<A, F>(tcp: tokio::net::TcpStream, tls: TlsAcceptor, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Frames>> + Send + 'static,
{
    tcp.set_nodelay(true).unwrap();
    let Ok(stream) = tls.accept(tcp).await else {
        return;
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let response = answer(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let io = TokioIo::new(stream);
    // A proxy that goes away is none of the upstream's business.
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await
    };
}
