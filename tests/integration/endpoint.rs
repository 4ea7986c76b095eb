//! A server that answers each request with the bytes a function returns: a token endpoint with
//! unusual responses, or an API.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::client::{Head, Wire};
use crate::upstream::{self, Acceptor};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Counts the requests of all connections, from 1.
    pub(crate) number: usize,
    pub(crate) head: Head,
    pub(crate) body: String,
}

/// A server of HTTP/1.1. It serves until it is dropped.
pub(crate) struct Endpoint {
    acceptor: Acceptor,
    scheme: &'static str,
    requests: Arc<Requests>,
}

#[derive(Default)]
struct Requests {
    received: Mutex<Vec<Received>>,
    concurrent: AtomicUsize,
    max_concurrent: AtomicUsize,
}

impl Received {
    /// Returns the values of all `Authorization` fields, joined with ` | `.
    pub(crate) fn credential(&self) -> String {
        self.head.all("authorization").join(" | ")
    }
}

impl Endpoint {
    /// Listens on a free port of 127.0.0.1, without TLS.
    pub(crate) async fn start<A, F>(answer: A) -> Self
    where
        A: Fn(Received) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = String> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0", None, answer).await
    }

    pub(crate) async fn start_at<A, F>(address: &str, tls: Option<TlsAcceptor>, answer: A) -> Self
    where
        A: Fn(Received) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = String> + Send + 'static,
    {
        let requests = Arc::<Requests>::default();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let log = Arc::clone(&requests);
        let acceptor = Acceptor::start_at(address, move |tcp| {
            serve(tcp, tls.clone(), answer.clone(), Arc::clone(&log))
        });
        Self {
            acceptor: acceptor.await,
            scheme,
            requests,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.acceptor.address()
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address())
    }

    /// Returns every request so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.requests.received.lock().unwrap().clone()
    }

    /// Returns the number of requests so far.
    pub(crate) fn count(&self) -> usize {
        self.requests.received.lock().unwrap().len()
    }

    /// Returns the largest number of requests that were in flight at the same time.
    pub(crate) fn max_concurrent(&self) -> usize {
        self.requests.max_concurrent.load(Ordering::Relaxed)
    }
}

impl Requests {
    fn push(&self, head: Head, body: &[u8]) -> Received {
        let mut all = self.received.lock().unwrap();
        let received = Received {
            number: all.len() + 1,
            head,
            body: String::from_utf8_lossy(body).into_owned(),
        };
        all.push(received.clone());
        received
    }
}

async fn serve<A, F>(tcp: TcpStream, tls: Option<TlsAcceptor>, answer: A, requests: Arc<Requests>)
where
    A: Fn(Received) -> F,
    F: Future<Output = String>,
{
    let Ok(stream) = upstream::stream(tcp, tls.as_ref()).await else {
        return;
    };
    let mut connection = Wire::new(stream);
    // An error only says that the proxy closed the connection.
    while let Ok(head) = connection.try_head().await {
        let Ok(body) = connection.body(&head, false).await else {
            return;
        };
        let concurrent = requests.concurrent.fetch_add(1, Ordering::Relaxed) + 1;
        let max = &requests.max_concurrent;
        max.fetch_max(concurrent, Ordering::Relaxed);
        let text = answer(requests.push(head, &body)).await;
        requests.concurrent.fetch_sub(1, Ordering::Relaxed);
        if connection.try_send(text).await.is_err() {
            return;
        }
    }
}

/// Returns a response with a Content-Length. `fields` are whole lines.
pub(crate) fn response(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

pub(crate) fn json(status: &str, body: &str) -> String {
    response(status, "Content-Type: application/json\r\n", body)
}

/// Returns a token response (RFC 6749 §5.1). The first request gets the token `t1`, the second
/// `t2`.
pub(crate) async fn token_response(request: Received) -> String {
    json(
        "200 OK",
        &format!(
            r#"{{"access_token":"t{}","token_type":"Bearer","expires_in":3600}}"#,
            request.number
        ),
    )
}

/// Answers as an API that returns the credential of the request.
pub(crate) async fn echo(request: Received) -> String {
    response("200 OK", "", &request.credential())
}

/// Returns a configuration with one provider, `p`, and one catch-all upstream, `api`.
pub(crate) fn config(vendor: &Endpoint, api: &Endpoint, provider: &str, upstream: &str) -> String {
    crate::harness::server("")
        + &self::provider("p", &vendor.url(), provider)
        + &self::upstream(api, upstream)
}

/// Returns a provider whose token URL is `/token` at the origin `url`.
pub(crate) fn provider(name: &str, url: &str, more: &str) -> String {
    format!(
        "[providers.{name}]\ntoken_url = \"{url}/token\"\nclient_id = \"joelhy\"\n\
         client_secret = \"{SECRET}\"\n{more}\n"
    )
}

/// Returns the catch-all upstream `api`, which uses the provider `p`.
pub(crate) fn upstream(api: &Endpoint, more: &str) -> String {
    let url = api.url();
    format!("[upstreams.api]\nurl = \"{url}\"\nprovider = \"p\"\n{more}\n")
}

/// The client secret of [`provider`].
pub(crate) const SECRET: &str = "hunter2-of-the-peers";
