//! Authorize: may this client ask for this, and with which token.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Uri};
use percent_encoding::percent_decode_str;

use super::error::ProxyError;
use super::route::Routed;
use super::target::Target;
use super::worker::Client;
use super::{ClientAuth, Snapshot};
use crate::config::AllowRule;
use crate::dialect::Injection;

/// `client_auth`: a shared secret in a header, which goes no further, or the user at the other end of a Unix socket.
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
    if proved {
        Ok(())
    } else {
        Err(ProxyError::ClientNotAllowed)
    }
}

/// The upstream's `allow` list, by method and by what the route leaves of the path.
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
        return Err(ProxyError::BadRequest(
            "with an allow list, a path may not hold %2F, %5C, \\ or //",
        ));
    }
    let allowed = rules.iter().any(|rule| {
        rule.method
            .as_ref()
            .is_none_or(|method| method == request.method())
            && rule.matches(path)
    });
    if allowed {
        Ok(())
    } else {
        Err(ProxyError::RequestNotAllowed(
            "the upstream's `allow` list does not have it",
        ))
    }
}

/// Whether the app sent a credential of its own. An empty field counts as absent, and so do a scheme alone and an empty query value.
pub(super) fn has_credential(headers: &HeaderMap, uri: &Uri, target: &Target) -> bool {
    let mut lines = target
        .credentials
        .headers
        .iter()
        .flat_map(|name| headers.get_all(name));
    let given = |pair: &str| {
        is_credential(pair, target)
            && pair
                .split_once('=')
                .is_some_and(|(_, value)| !value.is_empty())
    };
    lines.any(holds_credential)
        || uri
            .query()
            .is_some_and(|query| query_pairs(query).any(given))
}

fn holds_credential(value: &HeaderValue) -> bool {
    let value = value.as_bytes().trim_ascii();
    !value.is_empty()
        && !value.eq_ignore_ascii_case(b"bearer")
        && !value.eq_ignore_ascii_case(b"basic")
}

/// Puts the token on a request's head. Nothing else writes a credential.
pub(super) fn stamp(headers: &mut HeaderMap, injection: &Injection) {
    for (name, value) in &injection.headers {
        headers.insert(name, value.clone());
    }
}

/// The path and query to ask the upstream for: the route's prefix replaced by the base path of the upstream's URL, the app's
/// credentials taken out of the query, the token's put in.
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
    // `*` of OPTIONS stays as it is only where nothing is put in front of it.
    if rest == "*" && !base.is_empty() || text.is_empty() && rest.is_empty() {
        text.push('/');
    } else {
        text.push_str(rest);
    }
    let mut separator = '?';
    if let Some(query) = uri.query() {
        for pair in query_pairs(query).filter(|pair| keep || !is_credential(pair, target)) {
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

/// Pairs as written: what is not a credential is passed on byte for byte.
fn query_pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split('&')
}

/// By its decoded key, whatever its case; also behind a `;`, which some servers take for a separator.
fn is_credential(pair: &str, target: &Target) -> bool {
    if target.credentials.query.is_empty() {
        return false;
    }
    pair.split(';').any(|part| {
        let key = part.split('=').next().unwrap_or_default().replace('+', " ");
        let key = percent_decode_str(&key).decode_utf8_lossy();
        target
            .credentials
            .query
            .iter()
            .any(|name| name.eq_ignore_ascii_case(&key))
    })
}

fn ambiguous(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    lower.contains("%2f") || lower.contains("%5c") || lower.contains('\\') || lower.contains("//")
}

impl AllowRule {
    /// Segment by segment, compared decoded, as the upstream sees them. A `*` is one segment, and an empty one is none.
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
