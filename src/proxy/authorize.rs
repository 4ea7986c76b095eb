//! Authorize: checks the client and the request, and sets the token.

use std::borrow::Cow;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Uri};
use percent_encoding::percent_decode_str;

use super::error::ProxyError;
use super::route::Routed;
use super::snapshot::{ClientAuth, Snapshot};
use super::target::Target;
use super::worker::Client;
use crate::config::AllowRule;
use crate::dialect::{Frozen, Injection};

/// Checks `client_auth`: a shared secret in a field, which is removed, or the user ID of the peer
/// on a Unix socket.
pub(super) fn check_client<B>(
    request: &mut Request<B>,
    client: &Client,
    snapshot: &Snapshot,
) -> Result<(), ProxyError> {
    let proved = match &snapshot.settings.client_auth {
        None => true,
        Some(ClientAuth::PeerUid(uids)) => client.peer_uid.is_some_and(|uid| uids.contains(&uid)),
        Some(ClientAuth::Header { name, value }) => {
            request.headers_mut().remove(name).is_some_and(|given| {
                verify_slices_are_equal(given.as_bytes(), value.expose().as_bytes()).is_ok()
            })
        }
    };
    proved.then_some(()).ok_or(ProxyError::ClientNotAllowed)
}

/// Checks the upstream's `allow` list against the method and the path behind the route's prefix.
pub(super) fn check_allowed<B>(
    request: &Request<B>,
    routed: &Routed<'_>,
) -> Result<(), ProxyError> {
    let rules = &routed.target.config.allow;
    if rules.is_empty() {
        return Ok(());
    }
    let path = &request.uri().path()[routed.prefix..];
    if ambiguous(path) {
        let error =
            "the path contains %2F, %5C, \\ or //, which an `allow` list cannot check; change it";
        return Err(ProxyError::BadRequest(error));
    }
    let allowed = rules.iter().any(|rule| {
        let method = rule.method.as_ref();
        method.is_none_or(|method| method == request.method()) && rule.matches(path)
    });
    let error = "the upstream's `allow` list does not include the request";
    let error = ProxyError::RequestNotAllowed(error);
    allowed.then_some(()).ok_or(error)
}

/// Returns whether the app sent its own credential. An empty field, a scheme alone and an empty
/// query value do not count.
pub(super) fn has_credential(headers: &HeaderMap, uri: &Uri, target: &Target) -> bool {
    let names = target.credentials.headers.iter();
    let mut lines = names.flat_map(|name| headers.get_all(name));
    let given = |pair: &str| {
        let value = pair.split_once('=').map(|(_, value)| value);
        is_credential(pair, target) && value.is_some_and(|value| !value.is_empty())
    };
    let query = uri.query();
    lines.any(holds_credential) || query.is_some_and(|query| query.split('&').any(given))
}

fn holds_credential(value: &HeaderValue) -> bool {
    let value = value.as_bytes().trim_ascii();
    !value.is_empty()
        && !value.eq_ignore_ascii_case(b"bearer")
        && !value.eq_ignore_ascii_case(b"basic")
}

/// Returns the injection of one request: ready-made, or made now if it holds a time or a nonce.
pub(super) fn current(ready: &Injection) -> Cow<'_, Injection> {
    let Some(per_request) = &ready.per_request else {
        return Cow::Borrowed(ready);
    };
    let frozen = Frozen {
        now: SystemTime::now(),
        nonce: uuid::Uuid::new_v4().simple().to_string(),
        uuid: uuid::Uuid::new_v4().to_string(),
        token_url: String::new(),
    };
    // Filled in once after the fetch already, with the same variables.
    let made = per_request.make(&frozen);
    made.map_or(Cow::Borrowed(ready), Cow::Owned)
}

/// Sets the fields that hold the token. No other code writes a credential.
pub(super) fn stamp(headers: &mut HeaderMap, injection: &Injection) {
    for (name, value) in &injection.headers {
        headers.insert(name, value.clone());
    }
}

/// Returns the path and query for the upstream: with the base path instead of the route's prefix,
/// and the `injected` credentials instead of the app's, unless the app's are to `keep`.
pub(super) fn path_and_query(
    uri: &Uri,
    routed: &Routed<'_>,
    injected: &str,
    keep: bool,
) -> Result<PathAndQuery, ProxyError> {
    let target = routed.target;
    let base = &*target.config.base_path;
    let rest = &uri.path()[routed.prefix..];
    let untouched = base.is_empty()
        && routed.prefix == 0
        && injected.is_empty()
        && target.credentials.query.is_empty();
    if untouched && let Some(same) = uri.path_and_query() {
        return Ok(same.clone());
    }
    let mut text = String::with_capacity(base.len() + uri.path().len() + injected.len() + 64);
    text.push_str(base);
    // `*` of OPTIONS stays only if no base path precedes it.
    if rest == "*" && !base.is_empty() || text.is_empty() && rest.is_empty() {
        text.push('/');
    } else {
        text.push_str(rest);
    }
    let mut separator = '?';
    if let Some(query) = uri.query() {
        let stays = |pair: &&str| keep || !is_credential(pair, target);
        for pair in query.split('&').filter(stays) {
            text.push(separator);
            text.push_str(pair);
            separator = '&';
        }
    }
    if !injected.is_empty() {
        text.push(separator);
        text.push_str(injected);
    }
    PathAndQuery::try_from(text).map_err(|_| ProxyError::BadRequest("the path cannot be forwarded"))
}

/// Compares decoded keys, ignoring case. Some servers take `;` for a separator, too.
fn is_credential(pair: &str, target: &Target) -> bool {
    if target.credentials.query.is_empty() {
        return false;
    }
    pair.split(';').any(|part| {
        let key = part.split('=').next().unwrap_or_default().replace('+', " ");
        let key = percent_decode_str(&key).decode_utf8_lossy();
        let mut names = target.credentials.query.iter();
        names.any(|name| name.eq_ignore_ascii_case(&key))
    })
}

fn ambiguous(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    ["%2f", "%5c", "\\", "//"]
        .iter()
        .any(|text| lower.contains(text))
}

impl AllowRule {
    /// Compares decoded segments. A `*` matches one segment that is not empty, `**` all the rest.
    fn matches(&self, path: &str) -> bool {
        let mut path = path.strip_prefix('/').unwrap_or(path).split('/');
        for rule in &self.segments {
            if rule == "**" {
                return true;
            }
            let Some(segment) = path.next() else {
                return false;
            };
            let same = match rule.as_str() {
                "*" => !segment.is_empty(),
                literal => percent_decode_str(literal).eq(percent_decode_str(segment)),
            };
            if !same {
                return false;
            }
        }
        path.next().is_none()
    }
}

#[cfg(test)]
mod tests;
