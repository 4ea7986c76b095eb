//! Who may ask: `Host` against DNS rebinding, `Origin` and `Sec-Fetch-Site` against other sites' scripts.

use http::header::{HOST, HeaderMap, ORIGIN};
use http::request::Parts;
use http::uri::Authority;

use crate::config::is_loopback;

/// The authority that the request is addressed to; `None` if there is none or it is ambiguous.
pub(super) fn authority(request: &Parts) -> Option<Authority> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next()?.as_bytes();
    if hosts.next().is_some() {
        return None;
    }
    // RFC 9112 §3.2.2: in absolute-form the request target counts, not the header.
    match request.uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => Authority::try_from(host).ok(),
    }
    .filter(|authority| !authority.as_str().contains('@'))
    // `Authority` takes anything for a port.
    .filter(|authority| {
        let port = authority.as_str()[authority.host().len()..].strip_prefix(':');
        port.is_none_or(|port| port.is_empty() || port.parse::<u16>().is_ok())
    })
}

/// Names that no foreign DNS can point at us, and those that the configuration adds. Any port: a forwarded port has
/// another number on the caller's side.
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

/// Whether a browser sent this on behalf of another site. A client that is no browser sends neither header.
pub(super) fn cross_site(headers: &HeaderMap, authority: &Authority) -> bool {
    let foreign_fetch = headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|site| site != "same-origin" && site != "none");
    let own_origin = format!("http://{authority}");
    let foreign_origin = headers.get_all(ORIGIN).iter().any(|origin| {
        !origin
            .as_bytes()
            .eq_ignore_ascii_case(own_origin.as_bytes())
    });
    foreign_fetch || foreign_origin
}
