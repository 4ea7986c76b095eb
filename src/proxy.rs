//! Data plane: accept → guard → route → authorize → forward → respond.
//!
//! Workers share only the immutable [`Snapshot`], the token cells and the metric handles.
//! [`handle`] is the whole path of a request; each step has a file of its name.

pub mod accept;
mod access;
mod app_body;
mod authorize;
mod clean;
mod client_io;
mod connection;
pub mod listener;
mod error;
mod error_code;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guard;
mod headers;
mod record;
mod reject;
mod respond;
mod response_body;
mod rewrite;
pub mod route;
pub mod target;
mod upgrade;
mod watch;
pub mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Method, Request, Response, Version};

use crate::config::BodyTimeout;
use crate::metrics::Metrics;
use crate::secret::Secret;

use access::Access;
use app_body::AppBody;
use error::ProxyError;
pub use error_code::{ErrorCode, error_codes};
pub use guard::Hosts;
use headers::Scan;
use response_body::{Measure, ResponseBody};
use route::{Routed, Routes};
use worker::{Client, Worker};

/// State that all workers share.
pub struct Proxy {
    /// A reload replaces the snapshot; a request keeps its first one.
    pub snapshot: ArcSwap<Snapshot>,
    pub metrics: Arc<Metrics>,
    /// Open client connections of the process.
    pub connections: AtomicUsize,
}

/// An immutable configuration, ready for requests.
pub struct Snapshot {
    pub routes: Routes,
    pub hosts: Hosts,
    pub settings: Settings,
}

/// The server's settings that connections and requests need.
pub struct Settings {
    pub client_auth: Option<ClientAuth>,
    /// Appended to `Via`, if that is on.
    pub via: Option<Via>,
    /// This process's name in `Via`, which detects loops.
    pub pseudonym: Box<str>,
    pub max_connections: usize,
    pub access_log: bool,
    pub header_timeout: Duration,
    pub body_timeout: BodyTimeout,
    pub idle_timeout: Duration,
    pub shutdown_grace: Duration,
}

/// `Via` (RFC 9110 §7.6.3) for each HTTP version of a request.
pub struct Via([HeaderValue; 3]);

/// How an app proves that it may use the proxy.
pub enum ClientAuth {
    Header { name: HeaderName, value: Secret },
    PeerUid(Vec<u32>),
}

impl Via {
    /// Returns `None` if the pseudonym is not a valid field value.
    pub fn new(pseudonym: &str) -> Option<Self> {
        let value = |version| HeaderValue::try_from(format!("{version} {pseudonym}")).ok();
        Some(Self([value("1.0")?, value("1.1")?, value("2")?]))
    }

    fn received_in(&self, version: Version) -> &HeaderValue {
        let [http10, http11, http2] = &self.0;
        match version {
            Version::HTTP_10 => http10,
            Version::HTTP_2 => http2,
            _ => http11,
        }
    }
}

/// Answers one request. Never fails: every error becomes a response.
async fn handle(
    worker: &Worker,
    client: &Client,
    mut request: Request<AppBody>,
) -> Response<ResponseBody> {
    let snapshot = worker.proxy.snapshot.load_full();
    let scan = Scan::of(request.headers());
    let is_grpc = respond::is_grpc(&request, &scan);
    let mut measure = Measure::start(&client.watch);
    if snapshot.settings.access_log {
        measure.access = Some(Access::start(&mut request));
    }
    let answered = match admit(client, &snapshot, scan, &mut request, &mut measure) {
        Ok(_) if scan.max_forwards && is_final_recipient(&request) => {
            return respond::final_recipient(measure);
        }
        Ok(routed) => forward::forward(worker, &snapshot, scan, request, routed).await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(response) => respond::forward(response, measure),
        Err(error) => respond::problem(&error, is_grpc, measure, &worker.proxy.metrics),
    }
}

/// Checks a request and returns its route.
fn admit<'a>(
    client: &Client,
    snapshot: &'a Snapshot,
    scan: Scan,
    request: &mut Request<AppBody>,
    measure: &mut Measure,
) -> Result<Routed<'a>, ProxyError> {
    guard::check(request, &scan, client, snapshot)?;
    let routed = snapshot.routes.find(request, client.listener.id)?;
    let target = routed.target;
    measure.routed(target);
    measure.permit = target.enter()?;
    authorize::check_client(request, client, snapshot)?;
    authorize::check_allowed(request, &routed)?;
    Ok(routed)
}

/// TRACE, the other method with `Max-Forwards`, is refused.
fn is_final_recipient<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && headers::max_forwards(request.headers()) == Some(0)
}
