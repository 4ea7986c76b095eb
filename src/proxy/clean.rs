//! Clean: a request's head loses what the upstream must not get, and gains what it always gets. The credential comes later.

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, EXPECT, VIA};
use http::request::Parts;
use http::{HeaderValue, Method, Request};

use super::error::ProxyError;
use super::headers::{self, Scan};
use super::target::Target;
use super::{Snapshot, authorize};
use crate::config::ExistingCredential;

/// `existing_credential = "reject"`. Looks at the request as it came: nothing is to hide behind `Connection`.
pub(super) fn refuse_credential<B>(
    request: &Request<B>,
    target: &Target,
) -> Result<(), ProxyError> {
    let refuse = target.config.existing_credential == ExistingCredential::Reject
        && authorize::has_credential(request.headers(), request.uri(), target);
    if refuse {
        return Err(ProxyError::RequestNotAllowed(
            "the request has a credential of its own",
        ));
    }
    Ok(())
}

/// Everything that the upstream must not get goes, and what it always gets comes in. Answers whether the app's own credential is
/// kept: what is left of it after the hop-by-hop fields are gone.
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
    // Where the token goes it replaces whatever is there; this is for dialects that put it elsewhere.
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
        // A body that has to be looked into must be readable.
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
