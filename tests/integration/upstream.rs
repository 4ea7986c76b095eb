//! Fake upstreams: [`Script`] reads and writes bytes as the test says, [`Server`] speaks HTTP.
//!
//! [`Acceptor`] is the accept loop of every fake server that serves connections by itself.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cupbearer::demo::authority::{Authority, Offer};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::client::{Frames, Head, Wire};
use crate::harness::soon;

/// The subject names of the servers' certificates.
const NAMES: [&str; 2] = ["127.0.0.1", "localhost"];

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Accepts connections and serves each one in a task. Dropping it ends all of them.
pub(crate) struct Acceptor {
    address: SocketAddr,
    task: AbortHandle,
}

impl Acceptor {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn start<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0", serve).await
    }

    pub(crate) async fn start_at<S, F>(address: &str, serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                connections.spawn(serve(tcp));
            }
        });
        Self {
            address,
            task: task.abort_handle(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the byte stream of an accepted connection, after the handshake if there is TLS.
pub(crate) async fn stream(
    tcp: TcpStream,
    tls: Option<&TlsAcceptor>,
) -> io::Result<Box<dyn Stream>> {
    Ok(match tls {
        Some(tls) => Box::new(tls.accept(tcp).await?),
        None => Box::new(tcp),
    })
}

/// The upstream's side of a connection.
pub(crate) type Connection = Wire<Box<dyn Stream>>;

/// An upstream without behaviour of its own: the test accepts, reads and writes.
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

    /// Returns the next connection.
    pub(crate) async fn accept(&self) -> Connection {
        soon("a connection to the upstream", async {
            let (tcp, _) = self.listener.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            Wire::new(stream(tcp, self.tls.as_ref()).await.unwrap())
        })
        .await
    }

    /// Returns the next connection with the head of its first request.
    pub(crate) async fn request(&self) -> (Connection, Head) {
        let mut connection = self.accept().await;
        let head = connection.head().await;
        (connection, head)
    }
}

/// An upstream that answers every request with a function, over TLS.
///
/// It speaks HTTP/2 if ALPN selects `h2`, otherwise HTTP/1.1.
pub(crate) struct Server {
    acceptor: Acceptor,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) async fn start<A, F>(authority: &Authority, offer: Offer, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Response<Frames>> + Send + 'static,
    {
        let tls = TlsAcceptor::from(authority.server(&NAMES, offer).unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let acceptor = Acceptor::start(move |tcp| {
            count.fetch_add(1, Ordering::Relaxed);
            serve(tcp, tls.clone(), answer.clone())
        });
        Self {
            acceptor: acceptor.await,
            connections,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.acceptor.address())
    }

    /// Returns how many connections the server has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
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

async fn serve<A, F>(tcp: TcpStream, tls: TlsAcceptor, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Frames>> + Send + 'static,
{
    let Ok(stream) = tls.accept(tcp).await else {
        return;
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let response = answer(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let io = TokioIo::new(stream);
    // The error only says that the proxy closed the connection.
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
