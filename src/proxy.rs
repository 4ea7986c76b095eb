//! Data plane: accept → guard → route → authorize → forward → respond.
//!
//! Workers share only the immutable [`Snapshot`], the token cells and the metric handles.
//! `handle` is the whole path of a request; each step has a file of its name.

pub mod accept;
mod access;
mod app_body;
mod authorize;
mod clean;
mod client_io;
mod connection;
mod error;
mod error_code;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guard;
mod headers;
mod hosts;
pub mod listener;
mod record;
mod reject;
mod respond;
mod response_body;
mod rewrite;
pub mod route;
mod snapshot;
pub mod target;
mod upgrade;
mod watch;
pub mod worker;

use http::{Method, Request, Response};

use access::Access;
use app_body::AppBody;
use error::ProxyError;
pub use error_code::{ErrorCode, error_codes};
use headers::Scan;
pub use hosts::Hosts;
use response_body::{Measure, ResponseBody};
use route::Routed;
pub use snapshot::{ClientAuth, Proxy, Settings, Snapshot, Via};
use worker::{Client, Worker};

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
