//! Fake servers and clients of unit tests, on 127.0.0.1.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_rustls::TlsAcceptor;

use crate::config::{Origin, Scheme, Tls};
use crate::demo::authority::{Authority, Offer};
use crate::metrics::{Metrics, UpstreamMetrics};
use crate::upstream::connect::{Alpn, Connector, Destination};
use crate::upstream::tls::TlsProfiles;
use crate::upstream::{Limits, Pool};

/// Accepts connections on a free port and serves each one in a task.
///
/// Aborting the returned task closes the listener; open connections stay open.
pub(crate) async fn accept_each<S, F>(serve: S) -> (SocketAddr, AbortHandle)
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output: Send> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            tokio::spawn(serve(tcp));
        }
    });
    (address, task.abort_handle())
}

/// Answers one request without a body on one connection. The task returns the request head.
pub(crate) async fn respond_once(response: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let head = read_head(&mut tcp).await.unwrap();
        tcp.write_all(response.as_bytes()).await.unwrap();
        head
    });
    (address, task)
}

/// Reads a message head, including its empty line, and no byte more.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// Returns an address that refuses connections.
pub(crate) async fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

pub(crate) fn origin(scheme: Scheme, host: &str, port: u16) -> Origin {
    Origin {
        scheme,
        host: host.to_owned(),
        port,
        authority: format!("{host}:{port}"),
    }
}

/// Returns the destination `localhost`, dialled at `address`.
pub(crate) fn destination(scheme: Scheme, address: SocketAddr, alpn: Alpn) -> Destination {
    Destination {
        origin: origin(scheme, "localhost", address.port()),
        connect_to: Some((address.ip().to_string(), address.port())),
        tls: Tls::default(),
        egress: None,
        alpn,
    }
}

/// Returns a pool with one idle connection, without TLS, and the server's side of it.
pub(crate) async fn pooled_connection(
    alpn: Alpn,
    idle: Duration,
) -> (Pool, UpstreamMetrics, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let destination = destination(Scheme::Http, listener.local_addr().unwrap(), alpn);
    let connector = Connector::new(destination, &TlsProfiles::new()).unwrap();
    let metrics = Metrics::new().upstream("test");
    let limits = Limits {
        connect: Duration::from_secs(5),
        idle,
    };
    let pool = Pool::new(connector, limits, metrics.clone());
    drop(pool.checkout().await.unwrap());
    let (server, _) = listener.accept().await.unwrap();
    server.set_nodelay(true).unwrap();
    (pool, metrics, server)
}

/// A certificate authority whose certificate is in a temporary file.
pub(crate) struct TestCa {
    authority: Authority,
    folder: TempDir,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let authority = Authority::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        Self { authority, folder }
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Returns the settings of a client that trusts this authority.
    pub(crate) fn client(&self) -> Tls {
        Tls {
            ca_file: Some(self.ca_file()),
            ..Tls::default()
        }
    }

    /// Returns the acceptor of a server that has a certificate for `localhost`.
    pub(crate) fn server(&self, offer: Offer) -> TlsAcceptor {
        TlsAcceptor::from(self.authority.server(&["localhost"], offer).unwrap())
    }
}

/// A complete HTTP/1.1 response.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The names are in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    /// Sends a request with `Connection: close` and reads to the end of the connection.
    ///
    /// `head` is the request line with header lines, without a line break at the end.
    pub(crate) async fn to(address: SocketAddr, head: &str) -> Self {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let request = format!("{head}\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Self {
            status: status.parse().unwrap(),
            headers: headers.collect(),
            body: body.to_owned(),
        }
    }

    /// Returns the first value of a header, or an empty text.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map_or("", |(_, value)| value)
    }

    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap()
    }
}
