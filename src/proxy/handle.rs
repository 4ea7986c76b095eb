//! The whole path of a request through the steps of the proxy.

use http::{Method, Request, Response};

use super::access::Access;
use super::app_body::AppBody;
use super::error::ProxyError;
use super::headers::{self, Scan};
use super::response_body::{Measure, ResponseBody};
use super::route::Routed;
use super::snapshot::Snapshot;
use super::worker::{Client, Worker};
use super::{authorize, forward, guard, respond};

/// Answers one request. Never fails: every error becomes a response.
pub(super) async fn handle(
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
