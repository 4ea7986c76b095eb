//! A very small HTTP client: one plain GET on a connection of its own, for the admin port and for the demo.

use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Of one whole request.
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BODY: usize = 16 * 1024 * 1024;

/// An `http://host:port` that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    authority: http::uri::Authority,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum GetError {
    #[error("{server} cannot be reached: {source}")]
    Connect {
        server: String,
        source: std::io::Error,
    },
    #[error("{server} does not speak HTTP: {source}")]
    Protocol {
        server: String,
        source: hyper::Error,
    },
    #[error("{server} sent an answer that cannot be read")]
    Body { server: String },
    #[error("{server} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout { server: String },
}

#[derive(Debug, thiserror::Error)]
#[error("not an http://HOST:PORT address")]
pub(super) struct NotAnAddress;

impl Server {
    /// Takes `http://host:port/` and plain `host:port`.
    pub(super) fn parse(text: &str) -> Result<Self, NotAnAddress> {
        let text = match text.split_once("://") {
            None => format!("http://{text}"),
            Some(_) => text.to_owned(),
        };
        let uri: Uri = text.parse().map_err(|_| NotAnAddress)?;
        if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") {
            return Err(NotAnAddress);
        }
        let authority = uri.into_parts().authority.ok_or(NotAnAddress)?;
        if authority.as_str().contains('@') {
            return Err(NotAnAddress);
        }
        Ok(Self { authority })
    }

    /// GETs a path (with query).
    pub(super) async fn get(&self, path: &str) -> Result<Answer, GetError> {
        tokio::time::timeout(TIMEOUT, self.exchange(path))
            .await
            .unwrap_or_else(|_| {
                Err(GetError::Timeout {
                    server: self.name(),
                })
            })
    }

    /// [`Server::get`] for verbs that do nothing else meanwhile.
    pub(super) fn get_blocking(&self, path: &str) -> Result<Answer, GetError> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| self.unreachable(source))?
            .block_on(self.get(path))
    }

    async fn exchange(&self, path: &str) -> Result<Answer, GetError> {
        let host = self.authority.host().trim_matches(['[', ']']);
        let port = self.authority.port_u16().unwrap_or(80);
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|source| self.unreachable(source))?;
        let (mut sender, driver) = hyper::client::conn::http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.protocol(source))?;
        let request = Request::get(path)
            .header(HOST, self.authority.as_str())
            .body(Empty::<Bytes>::new())
            .expect("an authority is a header value, and the paths are ours");
        // The driver ends with the body; if this future is dropped before, so is the driver.
        let answer = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|source| self.protocol(source))?;
            let (parts, body) = response.into_parts();
            let body =
                Limited::new(body, MAX_BODY)
                    .collect()
                    .await
                    .map_err(|_| GetError::Body {
                        server: self.name(),
                    })?;
            Ok(Answer {
                status: parts.status,
                body: body.to_bytes(),
            })
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = driver => answer.await,
        }
    }

    fn unreachable(&self, source: std::io::Error) -> GetError {
        GetError::Connect {
            server: self.name(),
            source,
        }
    }

    fn protocol(&self, source: hyper::Error) -> GetError {
        GetError::Protocol {
            server: self.name(),
            source,
        }
    }

    fn name(&self) -> String {
        format!("http://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1024];
            let n = stream.read(&mut head).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 503 x\r\ncontent-length: 4\r\n\r\nbusy")
                .await
                .unwrap();
            String::from_utf8(head[..n].to_vec()).unwrap()
        });
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
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
