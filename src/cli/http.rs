//! A minimal HTTP client for the admin port and the demo: one GET per connection, without TLS.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::Authority;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Limit for one whole request.
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BODY: usize = 16 * 1024 * 1024;

/// The address of an `http://host:port` server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server(Authority);

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Why a GET failed; the first field is the server's URL.
#[derive(Debug, thiserror::Error)]
pub(super) enum GetError {
    #[error("{0} cannot be reached: {1}")]
    Connect(String, io::Error),
    #[error("{0} does not speak HTTP: {1}")]
    Protocol(String, hyper::Error),
    #[error("{0} sent an answer that cannot be read")]
    Body(String),
    #[error("{0} did not answer within {secs} s", secs = TIMEOUT.as_secs())]
    Timeout(String),
}

#[derive(Debug, thiserror::Error)]
#[error("not an http://HOST:PORT address")]
pub(super) struct NotAnAddress;

impl Server {
    /// Accepts `http://host:port/` and plain `host:port`.
    pub(super) fn parse(text: &str) -> Result<Self, NotAnAddress> {
        let text = match text.contains("://") {
            false => format!("http://{text}"),
            true => text.to_owned(),
        };
        let uri: Uri = text.parse().map_err(|_| NotAnAddress)?;
        if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") {
            return Err(NotAnAddress);
        }
        let authority = uri.into_parts().authority;
        let authority = authority.filter(|authority| !authority.as_str().contains('@'));
        authority.map(Self).ok_or(NotAnAddress)
    }

    /// Sends GET for `path` (with its query) and reads the whole response.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, GetError> {
        let exchanged = tokio::time::timeout(TIMEOUT, self.exchange(path)).await;
        exchanged.unwrap_or_else(|_| Err(GetError::Timeout(self.url())))
    }

    async fn exchange(&self, path: &str) -> Result<Answer, GetError> {
        let protocol = |source| GetError::Protocol(self.url(), source);
        let host = self.0.host().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, self.0.port_u16().unwrap_or(80)))
            .await
            .map_err(|source| GetError::Connect(self.url(), source))?;
        let (mut sender, driver) = hyper::client::conn::http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(protocol)?;
        let request = Request::get(path)
            .header(HOST, self.0.as_str())
            .body(Empty::<Bytes>::new())
            .expect("an authority is a header value, and the paths are ours");
        // The driver ends with the body. Dropping this future drops the driver.
        let answer = async {
            let response = sender.send_request(request).await.map_err(protocol)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await;
            let body = body.map_err(|_| GetError::Body(self.url()))?.to_bytes();
            let status = parts.status;
            Ok(Answer { status, body })
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = driver => answer.await,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn addresses_are_plain_http_without_a_path() {
        for good in [
            "http://127.0.0.1:9180",
            "127.0.0.1:9180",
            "http://[::1]:1/",
            "localhost",
        ] {
            assert!(Server::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "https://x:1",
            "http://x:1/status",
            "",
            "http://u:p@x:1",
            "unix:/x",
        ] {
            assert!(Server::parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn gets_status_and_body() {
        let (address, server) =
            testing::respond_once("HTTP/1.1 503 x\r\ncontent-length: 4\r\n\r\nbusy").await;
        let answer = Server::parse(&address.to_string())
            .unwrap()
            .get("/readyz?strict")
            .await
            .unwrap();
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (503, &b"busy"[..])
        );
        let head = server.await.unwrap();
        assert!(head.starts_with("GET /readyz?strict HTTP/1.1\r\n"));
        assert!(head.contains(&format!("host: {address}\r\n")));
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let address = testing::closed_port().await;
        let error = Server::parse(&address.to_string())
            .unwrap()
            .get("/")
            .await
            .err()
            .unwrap();
        assert!(
            error
                .to_string()
                .contains(&format!("http://{address} cannot be reached"))
        );
    }
}
