//! CONTROL, exchange: one bounded token request.
//!
//! Two steps, because a dial may be repeated freely and what follows may not: until [`Line::send`] is called the vendor
//! has seen nothing, so a one-time input is not spent and a single-active token not killed.
//!
//! No redirects, at most [`MAX_ANSWER`] of answer, the provider's `timeout` over everything; nothing secret in an error
//! or a log line: neither headers nor bodies nor the URL's query are ever written.

mod error;
mod turns;

use std::pin::Pin;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::clock::{Clock, Now};
use crate::config::Endpoint;
use crate::dialect::{
    Answer, Frozen, Issued, Problem, Refusal, RequestPlan, TokenRequest, Var, Variables,
};
use crate::secret::Secret;
use crate::upstream::connect::{Alpn, Connector, Destination};
use crate::upstream::tls::{TlsConfigError, TlsProfiles};

pub use error::FetchError;
pub use turns::Turn;
pub(super) use turns::Turns;

/// The largest token answer known is 20 KiB.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// As on every leg (DESIGN.md §7).
const MAX_HEAD: usize = 64 * 1024;

/// Variables that are no secrets: masking them in a vendor's words would hide what the user needs to read.
const PUBLIC: [&str; 6] = [
    "client_id",
    "username",
    "scope",
    "audience",
    "resource",
    "redirect_uri",
];

/// A future in a box.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How the refresher reaches a vendor: over HTTP, or as a test says.
pub trait Fetch: Send + Sync {
    /// Waits until this endpoint's host is not asked by too many already. What it answers is held until the exchange is over.
    /// Cancel safe.
    fn turn<'a>(&'a self, _endpoint: &'a Endpoint) -> Pending<'a, Turn> {
        Box::pin(std::future::ready(Turn::default()))
    }

    /// Opens a connection. Sends nothing but handshakes. Cancel safe.
    fn dial<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        deadline: Instant,
    ) -> Pending<'a, Result<Box<dyn Line>, FetchError>>;
}

/// A connection on which nothing was sent yet.
pub trait Line: Send {
    /// Sends the request and reads the answer. From here on the vendor may have acted on it, whatever comes back.
    ///
    /// Not cancel safe: dropping the future abandons a token that may have been issued.
    fn send<'a>(
        self: Box<Self>,
        call: Call<'a>,
        deadline: Instant,
    ) -> Pending<'a, Result<Fetched, FetchError>>;

    /// Sends a request of another kind than for a token, and reads the answer as it is. As cancel safe as the request is
    /// repeatable.
    fn ask<'a>(
        self: Box<Self>,
        endpoint: &'a Endpoint,
        request: TokenRequest,
        deadline: Instant,
    ) -> Pending<'a, Result<Answered, FetchError>>;
}

/// An answer as it came. Its body may hold secrets.
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Zeroizing<Vec<u8>>,
}

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub endpoint: &'a Endpoint,
    pub request: &'a RequestPlan,
    pub variables: &'a Variables,
}

/// A vendor's yes, and the moment from which its life counts: just before the request was sent.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub issued: Issued,
    pub sent: Now,
}

/// Token requests over HTTP/1.1.
///
/// Not HTTP/2: one request every few minutes gains nothing from it, and old token endpoints have more trouble with it.
#[derive(Clone)]
pub struct HttpFetch {
    profiles: TlsProfiles,
    clock: Clock,
    turns: Turns,
}

// === impl HttpFetch ===

impl HttpFetch {
    pub fn new(profiles: TlsProfiles, clock: Clock) -> Self {
        Self {
            profiles,
            clock,
            turns: Turns::default(),
        }
    }

    /// Reads the endpoint's CA and client certificate, so that a bad one is a start-up error.
    /// Blocks on the file system.
    pub fn check(&self, endpoint: &Endpoint) -> Result<(), TlsConfigError> {
        Connector::new(destination(endpoint), &self.profiles).map(drop)
    }

    /// The files are read again at each fetch: client certificates are renewed while we run.
    async fn connector(&self, endpoint: &Endpoint) -> Result<Connector, FetchError> {
        let destination = destination(endpoint);
        let profiles = self.profiles.clone();
        let made =
            tokio::task::spawn_blocking(move || Connector::new(destination, &profiles)).await;
        match made {
            Ok(connector) => Ok(connector?),
            Err(_) => Err(broken(endpoint, "this process is shutting down")),
        }
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Box<dyn Line>, FetchError> {
        let connector = self.connector(endpoint).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let connected = connector.connect(left).await?;
        let handshake = http1::Builder::new()
            // Old servers exist that compare names by their bytes, and that write heads of their own kind. One exchange
            // has a connection for itself, so that a misread head can harm no other.
            .title_case_headers(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .max_headers(256)
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(connected.io));
        let (sender, connection) = handshake
            .await
            .map_err(|error| broken(endpoint, &causes(&error)))?;
        // Ends by itself once the sender and the body are dropped; its error is also the request's.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Box::new(HttpLine {
            sender,
            clock: self.clock.clone(),
        }))
    }
}

impl Fetch for HttpFetch {
    fn turn<'a>(&'a self, endpoint: &'a Endpoint) -> Pending<'a, Turn> {
        Box::pin(self.turns.at(&endpoint.token_url.authority))
    }

    fn dial<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        deadline: Instant,
    ) -> Pending<'a, Result<Box<dyn Line>, FetchError>> {
        Box::pin(self.open(endpoint, deadline))
    }
}

fn destination(endpoint: &Endpoint) -> Destination {
    Destination {
        origin: endpoint.token_url.clone(),
        connect_to: None,
        tls: endpoint.tls.clone(),
        egress: endpoint.egress.clone(),
        alpn: Alpn::Http1,
    }
}

struct HttpLine {
    sender: http1::SendRequest<Full<Bytes>>,
    clock: Clock,
}

impl Line for HttpLine {
    fn send<'a>(
        self: Box<Self>,
        call: Call<'a>,
        deadline: Instant,
    ) -> Pending<'a, Result<Fetched, FetchError>> {
        Box::pin(self.exchange(call, deadline))
    }

    fn ask<'a>(
        mut self: Box<Self>,
        endpoint: &'a Endpoint,
        request: TokenRequest,
        deadline: Instant,
    ) -> Pending<'a, Result<Answered, FetchError>> {
        Box::pin(async move { self.round_trip(endpoint, request, deadline).await })
    }
}

impl HttpLine {
    async fn exchange(
        mut self: Box<Self>,
        call: Call<'_>,
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        let endpoint = call.endpoint;
        let sent = self.clock.now();
        let frozen = frozen(sent, endpoint.address());
        let asked = prepare(endpoint, call.request, call.variables, &frozen)?;
        let answer = self.round_trip(endpoint, asked.request, deadline).await?;
        let secrets: Vec<&Secret> = asked.secrets.iter().collect();
        let read = (endpoint.plan.response).read(answer.answer(self.clock.now()), &secrets);
        log(endpoint, answer.status, &read);
        match read {
            Ok(issued) => Ok(Fetched { issued, sent }),
            Err(refusal) => Err(FetchError::Refused {
                host: endpoint.token_url.authority.clone(),
                refusal,
            }),
        }
    }
}

impl HttpLine {
    async fn round_trip(
        &mut self,
        endpoint: &Endpoint,
        request: TokenRequest,
        deadline: Instant,
    ) -> Result<Answered, FetchError> {
        let request = http_request(endpoint, request)?;
        let work = async {
            let answer = self
                .sender
                .send_request(request)
                .await
                .map_err(|error| broken(endpoint, &causes(&error)))?;
            read_body(endpoint, answer).await
        };
        timeout_at(deadline, work)
            .await
            .map_err(|_| FetchError::Timeout {
                host: endpoint.token_url.authority.clone(),
                limit: endpoint.timeout,
            })?
    }
}

/// A request that is ready to be sent.
pub struct Prepared {
    pub request: TokenRequest,
    /// What the vendor might echo of it.
    pub secrets: Vec<Secret>,
}

/// Fills a request in. Pure.
pub fn prepare(
    endpoint: &Endpoint,
    plan: &RequestPlan,
    variables: &Variables,
    frozen: &Frozen,
) -> Result<Prepared, FetchError> {
    let request = plan
        .render(variables, frozen)
        .map_err(FetchError::Request)?;
    let mut secrets = secrets(variables, &request.headers);
    secrets.extend(plan.derived_secrets(variables, frozen));
    secrets.extend(in_url(endpoint));
    Ok(Prepared { request, secrets })
}

impl Answered {
    /// For the dialect to read.
    pub fn answer(&self, now: Now) -> Answer<'_> {
        Answer {
            status: self.status,
            headers: &self.headers,
            body: &self.body,
            now: now.wall,
        }
    }
}

/// What stays the same all over one request.
pub fn frozen(now: Now, token_url: String) -> Frozen {
    Frozen {
        now: now.wall,
        nonce: uuid::Uuid::new_v4().simple().to_string(),
        uuid: uuid::Uuid::new_v4().to_string(),
        token_url,
    }
}

/// What a vendor might echo: every variable that is not public by its nature, and the credentials as sent.
fn secrets(variables: &Variables, headers: &HeaderMap) -> Vec<Secret> {
    let mut secrets: Vec<Secret> = variables
        .iter()
        .filter(|(name, _)| !PUBLIC.contains(&name.as_str()))
        .filter_map(|(_, var)| match var {
            Var::Text(secret) => Some(secret.clone()),
            Var::Integer(_) | Var::Boolean(_) => None,
        })
        .collect();
    for value in headers.values().filter(|value| value.is_sensitive()) {
        if let Ok(text) = value.to_str() {
            let credential = text.split_once(' ').map_or(text, |(_scheme, rest)| rest);
            secrets.push(Secret::new(credential));
        }
    }
    secrets
}

/// A key in the token URL's query is a credential, too. What is shorter is a version or the like, which helps to read.
fn in_url(endpoint: &Endpoint) -> impl Iterator<Item = Secret> {
    const SHORTEST: usize = 8;
    let query = endpoint.path_and_query.split_once('?');
    let query = query.map_or("", |(_path, query)| query);
    form_urlencoded::parse(query.as_bytes())
        .filter(|(_, value)| value.len() >= SHORTEST)
        .map(|(_, value)| Secret::new(value))
}

fn http_request(
    endpoint: &Endpoint,
    request: TokenRequest,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let unusable = |what: &str| {
        FetchError::Request(Problem {
            path: "token_url".to_owned(),
            message: format!("{what} cannot be sent in an HTTP request"),
        })
    };
    let path = request.path.as_deref().unwrap_or(&endpoint.path_and_query);
    let uri = target(path, request.query.as_deref().map(String::as_str))
        .ok_or_else(|| unusable("its path and query"))?;
    let host = HeaderValue::from_str(&endpoint.token_url.authority)
        .map_err(|_| unusable("its host name"))?;
    let mut headers = HeaderMap::with_capacity(request.headers.len() + 4);
    headers.insert(HOST, host);
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("cupbearer/", env!("CARGO_PKG_VERSION"))),
    );
    // Answers are small and no decoder is at hand; RFC 9110 §12.5.3 lets a server choose any coding unless it is told.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.extend(request.headers);
    for name in [TRANSFER_ENCODING, CONNECTION] {
        headers.remove(name);
    }
    // Stated even where it is 0: there are servers that answer 411 to a POST without it.
    if !request.body.is_empty() || !matches!(request.method, Method::GET | Method::HEAD) {
        headers.insert(CONTENT_LENGTH, request.body.len().into());
    }
    let mut sent = Request::new(Full::new(Bytes::from_owner(Wiped(request.body))));
    *sent.method_mut() = request.method;
    *sent.uri_mut() = uri;
    *sent.headers_mut() = headers;
    Ok(sent)
}

/// `None` if the two do not make a request target.
fn target(path_and_query: &str, query: Option<&str>) -> Option<Uri> {
    let mut target = Zeroizing::new(path_and_query.to_owned());
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        let separator = if target.contains('?') { '&' } else { '?' };
        target.push(separator);
        target.push_str(query);
    }
    target.parse().ok()
}

/// A body that is wiped once hyper has sent it.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

async fn read_body(
    endpoint: &Endpoint,
    answer: Response<Incoming>,
) -> Result<Answered, FetchError> {
    let (head, mut body) = answer.into_parts();
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(endpoint, &causes(&error)))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_ANSWER {
            return Err(FetchError::TooLarge {
                host: endpoint.token_url.authority.clone(),
            });
        }
        bytes.extend_from_slice(data);
    }
    Ok(Answered {
        status: head.status,
        headers: head.headers,
        body: bytes,
    })
}

fn broken(endpoint: &Endpoint, reason: &str) -> FetchError {
    FetchError::Broken {
        host: endpoint.token_url.authority.clone(),
        reason: reason.to_owned(),
    }
}

/// An error and what is behind it: hyper's own words alone are "connection error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn log(endpoint: &Endpoint, status: StatusCode, read: &Result<Issued, Refusal>) {
    let host = &endpoint.token_url.authority;
    let path = endpoint
        .path_and_query
        .split('?')
        .next()
        .unwrap_or_default();
    let status = status.as_u16();
    match read {
        Ok(issued) => {
            debug!(host, path, status, "token endpoint answered");
            for warning in &issued.warnings {
                warn!(host, path, "token endpoint: {warning}");
            }
        }
        Err(refusal) => debug!(
            host,
            path,
            status,
            code = refusal.code,
            description = refusal.description,
            detail = refusal.detail,
            "token endpoint refused"
        ),
    }
}

#[cfg(test)]
mod tests;
