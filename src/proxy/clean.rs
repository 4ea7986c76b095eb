//! Clean: removes fields that the upstream must not get, and adds those that it always gets.
//! [`authorize`] adds the token later.
//!
//! Removes hop-by-hop fields and, unless the app's credential is kept, `Authorization`. Adds `Via`
//! unless `via = false`, but no `X-Forwarded-*`.

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, EXPECT, VIA};
use http::request::Parts;
use http::{HeaderValue, Method, Request};

use super::authorize;
use super::error::ProxyError;
use super::headers::{self, Scan};
use super::snapshot::Snapshot;
use super::target::Target;
use crate::config::ExistingCredential;

/// Checks `existing_credential = "reject"`, before `Connection` can remove a field.
pub(super) fn refuse_credential<B>(
    request: &Request<B>,
    target: &Target,
) -> Result<(), ProxyError> {
    let refuse = target.config.existing_credential == ExistingCredential::Reject
        && authorize::has_credential(request.headers(), request.uri(), target);
    let error = ProxyError::RequestNotAllowed("the request has its own credential; remove it");
    (!refuse).then_some(()).ok_or(error)
}

/// Removes and adds fields. Returns whether the app's own credential stays, which counts only if it
/// is not a hop-by-hop field.
pub(super) fn clean(head: &mut Parts, scan: &Scan, snapshot: &Snapshot, target: &Target) -> bool {
    let version = head.version;
    let headers = &mut head.headers;
    if scan.hop_by_hop {
        headers::strip_hop_by_hop(headers);
    }
    if scan.max_forwards && head.method == Method::OPTIONS {
        headers::count_forward(headers);
    }
    if scan.expect {
        headers.remove(EXPECT);
    }
    let keep = target.config.existing_credential == ExistingCredential::Keep
        && authorize::has_credential(headers, &head.uri, target);
    // For dialects that put the token elsewhere.
    if scan.authorization && !keep {
        headers.remove(AUTHORIZATION);
    }
    for name in &target.credentials.look_alikes {
        headers.remove(name);
    }
    if let Some(via) = &snapshot.settings.via {
        headers.append(VIA, via.received_in(version).clone());
    }
    if target.reject.reads_bodies() {
        // `reject` cannot read compressed bodies.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    for name in &target.config.remove_headers {
        headers.remove(name);
    }
    for (name, value) in &target.config.set_headers {
        headers.insert(name, value.clone());
    }
    keep
}
