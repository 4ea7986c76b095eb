//! The token exchange: one bounded token request.
//!
//! Two steps, because only a dial may be repeated freely: before [`TokenConnection::send`] the
//! vendor has seen nothing, so no one-time input is spent and no single-active token dies.
//!
//! No redirects, at most [`MAX_ANSWER`] of response body, the provider's `timeout` over everything.
//! Errors and log lines hold no secret: no header, no body, no query of the URL.

mod error;
mod turns;

use std::error::Error;
use std::iter::successors;
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
use tokio::task::spawn_blocking;
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

/// Limit of a response body. The largest known token response has 20 KiB.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// Limit of a response head, as on every connection.
const MAX_HEAD: usize = 64 * 1024;

/// Variables that are not masked in a vendor's error text: a user needs to read these.
const PUBLIC: [&str; 6] = [
    "client_id",
    "username",
    "scope",
    "audience",
    "resource",
    "redirect_uri",
];

pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How the refresher reaches a vendor: over HTTP, or a fake in tests.
pub trait Fetch: Send + Sync {
    /// Waits for one of the host's permits, to be held until the exchange ends. Cancel safe.
    fn turn<'a>(&'a self, _endpoint: &'a Endpoint) -> Pending<'a, Turn> {
        Box::pin(std::future::ready(Turn::default()))
    }

    /// Opens a connection; sends only handshakes. Cancel safe.
    fn dial<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        deadline: Instant,
    ) -> Pending<'a, Result<Box<dyn TokenConnection>, FetchError>>;
}

/// A connection before its one request.
pub trait TokenConnection: Send {
    /// Sends the token request and reads the response. The vendor may act on the request even if
    /// this fails. Not cancel safe: dropping the future loses a token that may have been issued.
    fn send<'a>(
        self: Box<Self>,
        call: TokenCall<'a>,
        deadline: Instant,
    ) -> Pending<'a, Result<Fetched, FetchError>>;

    /// Sends any other request and returns the raw response. Cancel safe if the request is
    /// idempotent.
    fn ask<'a>(
        self: Box<Self>,
        endpoint: &'a Endpoint,
        request: TokenRequest,
        deadline: Instant,
    ) -> Pending<'a, Result<RawResponse, FetchError>>;
}

/// A raw response. The body may hold secrets.
pub struct RawResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Zeroizing<Vec<u8>>,
}

/// A token request before its templates are filled in.
#[derive(Clone, Copy, Debug)]
pub struct TokenCall<'a> {
    pub endpoint: &'a Endpoint,
    pub request: &'a RequestPlan,
    pub variables: &'a Variables,
}

/// An issued token.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub issued: Issued,
    /// Just before the request was sent: the start of the token's life.
    pub sent: Now,
}

/// Token requests over HTTP/1.1.
///
/// Not HTTP/2: no gain for one request every few minutes, and old token endpoints handle it worse.
#[derive(Clone)]
pub struct HttpFetch {
    profiles: TlsProfiles,
    clock: Clock,
    turns: Turns,
}

impl HttpFetch {
    pub fn new(profiles: TlsProfiles, clock: Clock) -> Self {
        Self {
            profiles,
            clock,
            turns: Turns::default(),
        }
    }

    /// Reads the endpoint's CA and client certificate, so that a bad file is a start-up error.
    /// Blocks on the file system.
    pub fn check(&self, endpoint: &Endpoint) -> Result<(), TlsConfigError> {
        Connector::new(destination(endpoint), &self.profiles).map(drop)
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
    ) -> Pending<'a, Result<Box<dyn TokenConnection>, FetchError>> {
        Box::pin(async move {
            let destination = destination(endpoint);
            let profiles = self.profiles.clone();
            // Reads the TLS files at each fetch: client certificates are renewed at run time.
            let made = spawn_blocking(move || Connector::new(destination, &profiles));
            let connector = made.await.map_err(|_| FetchError::Broken {
                host: host(endpoint),
                reason: "this process is shutting down".to_owned(),
            })??;
            let left = deadline.saturating_duration_since(Instant::now());
            let connected = connector.connect(left).await?;
            let handshake = http1::Builder::new()
                // Some old servers compare field names byte by byte or send malformed heads.
                // Lenient parsing is safe here: each exchange has its own connection.
                .title_case_headers(true)
                .allow_obsolete_multiline_headers_in_responses(true)
                .allow_spaces_after_header_name_in_responses(true)
                .ignore_invalid_headers_in_responses(true)
                .max_headers(256)
                .max_buf_size(MAX_HEAD)
                .handshake(TokioIo::new(connected.io));
            let (sender, connection) = handshake.await.map_err(broken(endpoint))?;
            // Ends once the sender and the body are dropped. The request returns the same error.
            tokio::spawn(connection);
            let clock = self.clock.clone();
            Ok(Box::new(HttpTokenConnection { sender, clock }) as Box<dyn TokenConnection>)
        })
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

struct HttpTokenConnection {
    sender: http1::SendRequest<Full<Bytes>>,
    clock: Clock,
}

impl TokenConnection for HttpTokenConnection {
    fn send<'a>(
        mut self: Box<Self>,
        call: TokenCall<'a>,
        deadline: Instant,
    ) -> Pending<'a, Result<Fetched, FetchError>> {
        Box::pin(async move {
            let endpoint = call.endpoint;
            let sent = self.clock.now();
            let frozen = frozen(sent, endpoint.address());
            let asked = prepare(endpoint, call.request, call.variables, &frozen)?;
            let answer = self.round_trip(endpoint, asked.request, deadline).await?;
            let secrets: Vec<&Secret> = asked.secrets.iter().collect();
            let read = (endpoint.plan.response).read(answer.answer(self.clock.now()), &secrets);
            log(endpoint, answer.status, &read);
            let issued = read.map_err(|refusal| FetchError::Refused {
                host: host(endpoint),
                refusal,
            })?;
            Ok(Fetched { issued, sent })
        })
    }

    fn ask<'a>(
        mut self: Box<Self>,
        endpoint: &'a Endpoint,
        request: TokenRequest,
        deadline: Instant,
    ) -> Pending<'a, Result<RawResponse, FetchError>> {
        Box::pin(async move { self.round_trip(endpoint, request, deadline).await })
    }
}

impl HttpTokenConnection {
    async fn round_trip(
        &mut self,
        endpoint: &Endpoint,
        request: TokenRequest,
        deadline: Instant,
    ) -> Result<RawResponse, FetchError> {
        let request = http_request(endpoint, request)?;
        let work = async {
            let answer = self.sender.send_request(request).await;
            read_body(endpoint, answer.map_err(broken(endpoint))?).await
        };
        let limit = endpoint.timeout;
        let late = |_| FetchError::Timeout {
            host: host(endpoint),
            limit,
        };
        timeout_at(deadline, work).await.map_err(late)?
    }
}

/// A token request ready to be sent.
pub struct Prepared {
    pub request: TokenRequest,
    /// Secrets of the request, masked where the vendor's response echoes one.
    pub secrets: Vec<Secret>,
}

/// Fills in the templates of a token request. Pure.
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
    secrets.extend(url_secrets(endpoint));
    Ok(Prepared { request, secrets })
}

impl RawResponse {
    /// The response as a dialect's input.
    pub fn answer(&self, now: Now) -> Answer<'_> {
        Answer {
            status: self.status,
            headers: &self.headers,
            body: &self.body,
            now: now.wall,
        }
    }
}

/// The values that are the same in every template of one request.
pub fn frozen(now: Now, token_url: String) -> Frozen {
    Frozen {
        now: now.wall,
        nonce: uuid::Uuid::new_v4().simple().to_string(),
        uuid: uuid::Uuid::new_v4().to_string(),
        token_url,
    }
}

/// The secrets that a vendor may echo: all variables but the public ones, and credentials as sent.
fn secrets(variables: &Variables, headers: &HeaderMap) -> Vec<Secret> {
    let secret = |(name, var): (&String, &Var)| match var {
        Var::Text(secret) if !PUBLIC.contains(&name.as_str()) => Some(secret.clone()),
        Var::Text(_) | Var::Integer(_) | Var::Boolean(_) => None,
    };
    let mut secrets: Vec<Secret> = variables.iter().filter_map(secret).collect();
    for value in headers.values().filter(|value| value.is_sensitive()) {
        if let Ok(text) = value.to_str() {
            let credential = text.split_once(' ').map_or(text, |(_scheme, rest)| rest);
            secrets.push(Secret::new(credential));
        }
    }
    secrets
}

/// Values in the token URL's query, which may be API keys. Shorter values, such as versions, are
/// not masked.
fn url_secrets(endpoint: &Endpoint) -> impl Iterator<Item = Secret> {
    const SHORTEST: usize = 8;
    let (_, query) = endpoint.path_and_query.split_once('?').unwrap_or_default();
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
    // Without this field the server may choose any coding (RFC 9110 §12.5.3), and only gzip and
    // deflate are decoded.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.extend(request.headers);
    for name in [TRANSFER_ENCODING, CONNECTION] {
        headers.remove(name);
    }
    // Sent even if 0: some servers answer 411 to a POST without it.
    if !request.body.is_empty() || !matches!(request.method, Method::GET | Method::HEAD) {
        headers.insert(CONTENT_LENGTH, request.body.len().into());
    }
    // hyper drops the body after sending, which zeroizes it.
    let mut sent = Request::new(Full::new(Bytes::from_owner(request.body)));
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

async fn read_body(
    endpoint: &Endpoint,
    answer: Response<Incoming>,
) -> Result<RawResponse, FetchError> {
    let (head, mut body) = answer.into_parts();
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken(endpoint))?;
        // Empty for trailers.
        let data = frame.into_data().unwrap_or_default();
        if bytes.len() + data.len() > MAX_ANSWER {
            let host = host(endpoint);
            return Err(FetchError::TooLarge { host });
        }
        bytes.extend_from_slice(&data);
    }
    Ok(RawResponse {
        status: head.status,
        headers: head.headers,
        body: bytes,
    })
}

fn host(endpoint: &Endpoint) -> String {
    endpoint.token_url.authority.clone()
}

/// Maps hyper's errors, with all causes: the outermost text alone is "connection error".
fn broken(endpoint: &Endpoint) -> impl Fn(hyper::Error) -> FetchError {
    move |error| {
        let causes = successors(Some(&error as &dyn Error), |&error| error.source());
        let causes: Vec<_> = causes.map(ToString::to_string).collect();
        FetchError::Broken {
            host: host(endpoint),
            reason: causes.join(": "),
        }
    }
}

fn log(endpoint: &Endpoint, status: StatusCode, read: &Result<Issued, Refusal>) {
    let host = &endpoint.token_url.authority;
    let path = endpoint.path_and_query.split('?').next();
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
