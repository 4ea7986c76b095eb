//! DATA: accept → guard → route → authorize → forward → respond.
//!
//! Workers share nothing but the immutable [`Snapshot`], the token cells and the metric handles. A request is answered by
//! [`handle`], which is the whole path in one screen; each step is the file of its name.

pub mod accept;
mod authorize;
mod error;
mod forward;
mod guard;
mod headers;
mod respond;
#[expect(dead_code, reason = "called once forwarding keeps what the app asked")]
mod rewrite;
pub mod route;
pub mod target;
mod upgrade;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use crate::metrics::Metrics;

use accept::{Client, Worker};
use error::ProxyError;
pub use guard::Hosts;
use headers::Scan;
use respond::{Measure, ResponseBody};
use route::Routes;

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
    /// `1.1 cupbearer-…`: what is appended to `Via`; the pseudonym is this process's own.
    pub via: Option<HeaderValue>,
    /// The pseudonym, looked for in the `Via` of requests.
    pub pseudonym: Box<str>,
    pub max_connections: usize,
    pub header_timeout: std::time::Duration,
    pub idle_timeout: std::time::Duration,
}

/// How an app proves that it may use the proxy; the secret already read.
pub enum ClientAuth {
    Header {
        name: http::HeaderName,
        value: crate::secret::Secret,
    },
    PeerUid(Vec<u32>),
}

/// Answers one request. Never fails: what goes wrong is an answer, too.
async fn handle(
    worker: &Worker,
    client: &Client,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let snapshot = worker.proxy.snapshot.load_full();
    let scan = Scan::of(request.headers());
    let shape = respond::Shape::of(&request, &scan);
    let mut measure = Measure::start(client);
    match answer(worker, client, &snapshot, scan, request, &mut measure).await {
        Ok(response) => respond::forward(response, measure),
        Err(error) => respond::problem(&error, shape, measure, &worker.proxy.metrics),
    }
}

async fn answer(
    worker: &Worker,
    client: &Client,
    snapshot: &Snapshot,
    scan: Scan,
    mut request: Request<Incoming>,
    measure: &mut Measure,
) -> Result<Response<forward::ForwardedBody>, ProxyError> {
    guard::check(&request, &scan, client, snapshot)?;
    let routed = snapshot.routes.find(&request, client.listener)?;
    let target = routed.target;
    measure.routed(target);
    let _slot = target.enter()?;
    authorize::check_client(&mut request, client, snapshot)?;
    authorize::check_allowed(&request, &routed)?;
    forward::forward(worker, snapshot, scan, request, routed).await
}
