//! Connections and requests of apps.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Opens an HTTP/1.1 connection.
pub(crate) async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, driver) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    sender
}

/// Sends a request. Returns the status, and the time to the end of the response.
pub(crate) async fn ask(
    client: &mut SendRequest<Full<Bytes>>,
    request: http::request::Builder,
    body: Bytes,
) -> hyper::Result<(StatusCode, Duration)> {
    let request = request
        .header("host", "localhost")
        .body(Full::new(body))
        .unwrap();
    let started = Instant::now();
    client.ready().await?;
    let response = client.send_request(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok((status, started.elapsed()))
}
