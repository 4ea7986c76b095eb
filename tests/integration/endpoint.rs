//! A server whose every answer is bytes that the test makes of the request: a token endpoint that speaks like no other, or an API.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::client::{Head, Wire};
use crate::upstream::Stream;

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// From 1, over all connections.
    pub(crate) number: usize,
    pub(crate) head: Head,
    pub(crate) body: String,
}

/// Serves until it is dropped.
pub(crate) struct Endpoint {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Asked {
    /// What stands in `Authorization`; all of them, if there are several.
    pub(crate) fn credential(&self) -> String {
        self.head.all("authorization").join(" | ")
    }
}

impl Endpoint {
    /// Plain HTTP/1.1 on loopback.
    pub(crate) async fn start<A, F>(answer: A) -> Self
    where
        A: Fn(Asked) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = String> + Send + 'static,
    {
        Self::at("127.0.0.1:0", None, answer).await
    }

    pub(crate) async fn at<A, F>(address: &str, tls: Option<TlsAcceptor>, answer: A) -> Self
    where
        A: Fn(Asked) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = String> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let accepting = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                open.spawn(serve(
                    tcp,
                    tls.clone(),
                    answer.clone(),
                    Arc::clone(&accepting),
                ));
            }
        });
        Self {
            address,
            scheme,
            shared,
            task: task.abort_handle(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.asked.lock().unwrap().len()
    }

    /// How many requests it has had at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.most_at_once.load(Ordering::Relaxed)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<A, F>(tcp: TcpStream, tls: Option<TlsAcceptor>, answer: A, shared: Arc<Shared>)
where
    A: Fn(Asked) -> F,
    F: Future<Output = String>,
{
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(tcp),
        Some(tls) => match tls.accept(tcp).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    let mut connection = Wire::new(stream);
    // A proxy that goes away is none of its business.
    while let Ok(head) = connection.try_head().await {
        let Ok(body) = connection.body(&head, false).await else {
            return;
        };
        let at_once = shared.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        shared.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        let asked = {
            let mut all = shared.asked.lock().unwrap();
            let asked = Asked {
                number: all.len() + 1,
                head,
                body: String::from_utf8_lossy(&body).into_owned(),
            };
            all.push(asked.clone());
            asked
        };
        let text = answer(asked).await;
        shared.at_once.fetch_sub(1, Ordering::Relaxed);
        if connection.try_send(text).await.is_err() {
            return;
        }
    }
}

/// A whole answer.
pub(crate) fn answer(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

pub(crate) fn json(status: &str, body: &str) -> String {
    answer(status, "Content-Type: application/json\r\n", body)
}

/// What a server answers that keeps to RFC 6749 §5.1: the token `t1`, `t2`, … for the first request, the second, …
pub(crate) async fn standard(asked: Asked) -> String {
    json(
        "200 OK",
        &format!(
            r#"{{"access_token":"t{}","token_type":"Bearer","expires_in":3600}}"#,
            asked.number
        ),
    )
}

/// An API that says which credential it was shown.
pub(crate) async fn echo(asked: Asked) -> String {
    answer("200 OK", "", &asked.credential())
}

/// One provider, `p`, and one upstream, `api`, which takes all paths.
pub(crate) fn config(vendor: &Endpoint, api: &Endpoint, provider: &str, upstream: &str) -> String {
    crate::harness::server("")
        + &self::provider("p", &vendor.url(), provider)
        + &self::upstream(api, upstream)
}

/// A provider with credentials of its own, at this origin.
pub(crate) fn provider(name: &str, url: &str, more: &str) -> String {
    format!(
        "[providers.{name}]\ntoken_url = \"{url}/token\"\nclient_id = \"joelhy\"\n\
         client_secret = \"{SECRET}\"\n{more}\n"
    )
}

pub(crate) fn upstream(api: &Endpoint, more: &str) -> String {
    let url = api.url();
    format!("[upstreams.api]\nurl = \"{url}\"\nprovider = \"p\"\n{more}\n")
}

pub(crate) const SECRET: &str = "hunter2-of-the-peers";
