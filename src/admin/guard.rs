//! Request checks: `Host` against DNS rebinding, `Origin` and `Sec-Fetch-Site` against scripts of
//! other sites.

use http::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use http::request::Parts;
use http::uri::Authority;

use crate::config::is_loopback;

/// Returns the authority that the request is addressed to, unless it is missing or ambiguous.
pub(super) fn authority(request: &Parts) -> Option<Authority> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next()?.as_bytes();
    if hosts.next().is_some() {
        return None;
    }
    // RFC 9112 §3.2.2: in absolute-form the request target counts, not the header.
    let authority = match request.uri.authority() {
        Some(authority) => authority.clone(),
        None => Authority::try_from(host).ok()?,
    };
    let text = authority.as_str();
    // `Authority` accepts any text as a port.
    let port = text[authority.host().len()..].strip_prefix(':');
    let valid = port.is_none_or(|port| port.is_empty() || port.parse::<u16>().is_ok());
    (valid && !text.contains('@')).then_some(authority)
}

/// Accepts loopback names, which no foreign DNS controls, and the names in `server.allow_hosts`.
/// Any port, because a forwarded port has another number on the client's side.
pub(super) fn host_allowed(
    authority: &Authority,
    allow_hosts: impl FnOnce() -> Vec<String>,
) -> bool {
    let host = authority.host().to_ascii_lowercase();
    if is_loopback(&host) {
        return true;
    }
    let whole = authority.as_str().to_ascii_lowercase();
    allow_hosts()
        .iter()
        .any(|allowed| *allowed == host || *allowed == whole)
}

/// Returns whether a browser sent the request for another site. Other clients send neither header.
pub(super) fn cross_site(headers: &HeaderMap, authority: &Authority) -> bool {
    let foreign_fetch = headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|site| site != "same-origin" && site != "none");
    let own_origin = format!("http://{authority}");
    let mut origins = headers.get_all(ORIGIN).iter().map(HeaderValue::as_bytes);
    foreign_fetch || origins.any(|origin| !origin.eq_ignore_ascii_case(own_origin.as_bytes()))
}
