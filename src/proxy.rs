//! DATA: accept → guard → route → authorize → forward → respond.
//!
//! Workers share nothing but the immutable [`Snapshot`], the token cells and the metric handles. A request is answered by
//! [`handle`], which is the whole path in one screen; each step is the file of its name.

pub mod accept;
mod access;
mod app_body;
mod authorize;
mod clean;
mod client_io;
mod connection;
pub mod door;
mod error;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guard;
mod headers;
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

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, Request, Response, Version};

use crate::metrics::Metrics;

use access::Access;
use app_body::AppBody;
use error::ProxyError;
pub use guard::Hosts;
use headers::Scan;
use response_body::{Measure, ResponseBody};
use route::{Routed, Routes};
use worker::{Client, Worker};

/// What all workers see.
pub struct Proxy {
    /// Replaced as a whole by a reload; a request keeps the one it started with.
    pub snapshot: ArcSwap<Snapshot>,
    pub metrics: Arc<Metrics>,
    /// Open client connections of the process.
    pub connections: AtomicUsize,
}

/// One configuration, ready for requests. Immutable.
pub struct Snapshot {
    pub routes: Routes,
    pub hosts: Hosts,
    pub settings: Settings,
}

/// The server's settings that requests look at.
pub struct Settings {
    pub client_auth: Option<ClientAuth>,
    /// What is appended to `Via`; the pseudonym is this process's own.
    pub via: Option<Via>,
    /// The pseudonym, looked for in the `Via` of requests.
    pub pseudonym: Box<str>,
    pub max_connections: usize,
    pub access_log: bool,
    pub header_timeout: std::time::Duration,
    pub body_timeout: crate::config::Patience,
    pub idle_timeout: std::time::Duration,
    pub shutdown_grace: std::time::Duration,
}

/// `Via` (RFC 9110 §7.6.3) for each version in which a request can come in.
pub struct Via([HeaderValue; 3]);

/// How an app proves that it may use the proxy; the secret already read.
pub enum ClientAuth {
    Header {
        name: http::HeaderName,
        value: crate::secret::Secret,
    },
    PeerUid(Vec<u32>),
}

impl Via {
    /// `None` where the pseudonym is no token.
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
    let shape = respond::Shape::of(&request, &scan);
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
        Err(error) => respond::problem(&error, shape, measure, &worker.proxy.metrics),
    }
}

/// Where a request goes, if it may.
fn admit<'a>(
    client: &Client,
    snapshot: &'a Snapshot,
    scan: Scan,
    request: &mut Request<AppBody>,
    measure: &mut Measure,
) -> Result<Routed<'a>, ProxyError> {
    guard::check(request, &scan, client, snapshot)?;
    let routed = snapshot.routes.find(request, client.door.id)?;
    let target = routed.target;
    measure.routed(target);
    measure.place = Some(target.enter()?);
    authorize::check_client(request, client, snapshot)?;
    authorize::check_allowed(request, &routed)?;
    Ok(routed)
}

/// Only OPTIONS counts its hops here: TRACE is refused.
fn is_final_recipient<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && headers::max_forwards(request.headers()) == Some(0)
}
