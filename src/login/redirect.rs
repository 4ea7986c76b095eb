//! The loopback redirect (RFC 8252 §7.3) and the HTTP server for it.

use std::convert::Infallible;
use std::future::ready;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, REFERRER_POLICY};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use super::response::has_state;
use super::{LoginError, variable};
use crate::config::Provider;
use crate::secret::Secret;

/// Time limit for one connection: an idle connection must not hold up the real redirect.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Redirect target of the authorization request.
pub(super) enum RedirectUri {
    Loopback(LoopbackAddress),
    /// Not on loopback: a person pastes the redirected address.
    Elsewhere(String),
}

/// A loopback address before its port is known.
pub(super) struct LoopbackAddress {
    provider: String,
    host: String,
    address: IpAddr,
    /// `None`: any port, which RFC 8252 §7.3 allows.
    port: Option<u16>,
    path: String,
}

/// HTTP server for one redirect.
pub(super) struct Loopback {
    pub(super) redirect_uri: String,
    listener: TcpListener,
    path: String,
}

impl RedirectUri {
    /// Returns the configured `redirect_uri`, by default `http://127.0.0.1:PORT/`.
    pub(super) async fn configured(provider: &Provider) -> Result<Self, LoginError> {
        let text = variable(provider, "redirect_uri").await?;
        let text = text.unwrap_or_else(|| "http://127.0.0.1/".into());
        let uri: Uri = text.expose().parse().map_err(|_| LoginError::RedirectUri {
            provider: provider.name.clone(),
            reason: "is not a URI".to_owned(),
        })?;
        let address = match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some("localhost" | "127.0.0.1")) => Ipv4Addr::LOCALHOST.into(),
            (Some("http"), Some("[::1]")) => Ipv6Addr::LOCALHOST.into(),
            _ => return Ok(Self::Elsewhere(text.expose().to_owned())),
        };
        Ok(Self::Loopback(LoopbackAddress {
            provider: provider.name.clone(),
            host: uri.host().unwrap_or_default().to_owned(),
            address,
            port: uri.port_u16().filter(|port| *port != 0),
            path: uri.path().to_owned(),
        }))
    }
}

impl LoopbackAddress {
    /// Listens on port `wanted`; 0 means the configured port, or any.
    pub(super) async fn listen(&self, wanted: u16) -> Result<Loopback, LoginError> {
        if let Some(port) = self.port
            && ![0, port].contains(&wanted)
        {
            return Err(LoginError::RedirectUri {
                provider: self.provider.clone(),
                reason: format!("names port {port}, which the vendor compares: remove --port"),
            });
        }
        let address = SocketAddr::new(self.address, self.port.unwrap_or(wanted));
        let failed = |error: std::io::Error| LoginError::Listen {
            address: address.to_string(),
            reason: error.to_string(),
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        Ok(Loopback {
            redirect_uri: self.uri(port),
            listener,
            path: self.path.clone(),
        })
    }

    pub(super) fn uri(&self, port: u16) -> String {
        let (host, path) = (&self.host, &self.path);
        match self.port.unwrap_or(port) {
            0 => format!("http://{host}{path}"),
            port => format!("http://{host}:{port}{path}"),
        }
    }
}

impl Loopback {
    /// Returns the query of the first redirect with this `state`. Cancel safe.
    pub(super) async fn answer(&self, state: &Secret) -> Secret {
        let (sender, mut answers) = mpsc::channel(1);
        let handler = Arc::new(RedirectHandler {
            path: self.path.clone(),
            state: state.clone(),
            sender,
        });
        let mut visits = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let visit = visit(stream, Arc::clone(&handler));
                        visits.spawn(timeout(CONNECTION_TIMEOUT, visit));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept the browser's connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(answer) = answers.recv() => {
                    // The response is being written; wait until it is sent.
                    let last = async { while visits.join_next().await.is_some() {} };
                    let _ = timeout(Duration::from_secs(1), last).await;
                    return answer;
                }
                Some(_ended) = visits.join_next() => {}
            }
        }
    }
}

/// Checks redirects and reports the first valid one.
struct RedirectHandler {
    path: String,
    state: Secret,
    sender: mpsc::Sender<Secret>,
}

async fn visit(stream: TcpStream, handler: Arc<RedirectHandler>) {
    let service = service_fn(move |request: Request<Incoming>| {
        ready(Ok::<_, Infallible>(handler.receive(&request)))
    });
    // A broken connection is not an error: the browser may retry.
    let _ = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl RedirectHandler {
    fn receive(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != self.path {
            return page(StatusCode::NOT_FOUND, "Not found.");
        }
        if request.method() != Method::GET {
            return page(StatusCode::METHOD_NOT_ALLOWED, "Use GET.");
        }
        let query = Secret::new(request.uri().query().unwrap_or_default());
        if !has_state(&query, &self.state) {
            warn!("rejected a redirect with another login's state");
            return page(StatusCode::BAD_REQUEST, "This belongs to another login.");
        }
        // A full channel already holds a redirect.
        let _ = self.sender.try_send(query);
        page(
            StatusCode::OK,
            "Close this page; the terminal shows the result.",
        )
    }
}

/// The URL of this page holds the code, so the page must not be cached and sends no referrer.
fn page(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    let html = format!(
        "<!doctype html><meta charset=utf-8><title>Cupbearer</title>\
         <body style=\"font:1rem sans-serif;margin:4rem\"><p>{words}"
    );
    let mut response = Response::new(Full::new(Bytes::from(html)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (CONNECTION, "close"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
