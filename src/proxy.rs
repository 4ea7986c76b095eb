//! DATA: accept → guard → route → authorize → forward → respond.
//!
//! Workers share nothing but the immutable [`Snapshot`], the token cells and the metric handles. A request is answered by
//! [`handle`], which is the whole path in one screen; each step is the file of its name.

pub mod accept;
mod access;
mod authorize;
mod clean;
pub mod door;
mod error;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guard;
mod headers;
mod http1;
mod http2;
mod reject;
mod respond;
mod rewrite;
pub mod route;
mod stream;
pub mod target;
mod upgrade;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use std::pin::Pin;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::upstream::Interim;
use crate::upstream::send::Cause;

use accept::{Client, Worker};
use access::Access;
use error::ProxyError;
pub use guard::Hosts;
use headers::Scan;
use respond::{Measure, ResponseBody};
use route::{Routed, Routes};

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

/// A request's body, by the version in which it comes in.
#[derive(Default)]
enum AppBody {
    #[default]
    Empty,
    Http1(http1::Incoming),
    Http2(http2::Incoming),
    /// Either, for the access log.
    Counted(Box<access::Counted>),
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
            Self::Counted(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Counted(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Counted(body) => body.size_hint(),
        }
    }
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

/// Answers one request. Never fails: what goes wrong is an answer, too.
///
/// The request is borrowed, and taken where it is sent, and the answer has its place: every byte that a future is given or gives is
/// copied from one to the next.
async fn handle(
    worker: &Worker,
    client: &Client,
    request: &mut Request<AppBody>,
    interim: Option<&dyn Interim>,
    place: &mut Option<Response<ResponseBody>>,
) {
    let snapshot = worker.proxy.snapshot.load_full();
    let scan = Scan::of(request.headers());
    let shape = respond::Shape::of(request, &scan);
    let now = Instant::now();
    let mut measure = Measure::start(client, now);
    if snapshot.settings.access_log {
        measure.access = Some(Access::start(request));
    }
    // No future around that of `forward`: it would be moved into this one.
    let answered = match admit(client, &snapshot, scan, request, &mut measure) {
        Ok(routed) => {
            forward::forward(worker, &snapshot, scan, request, routed, interim, now).await
        }
        Err(error) => Err(error),
    };
    *place = Some(match answered {
        Ok(response) => respond::forward(response, measure),
        Err(error) => respond::problem(&error, shape, measure, &worker.proxy.metrics),
    });
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
