//! Guard: refuses requests before routing.
//!
//! `Host` and `Origin` are checked because a web page in a browser can reach a loopback port (DNS
//! rebinding, cross-site requests). Framing and paths are checked because the upstream must read
//! the forwarded request as the proxy does.

use std::net::Ipv6Addr;

use http::header::{HOST, ORIGIN, VIA};
use http::{HeaderMap, HeaderValue, Method, Request, Version};

use super::error::ProxyError;
use super::headers::{SEC_FETCH_SITE, Scan, members, only_chunked, without_parameters};
use super::hosts::Hosts;
use super::route::{authority, without_port};
use super::snapshot::Snapshot;
use super::worker::Client;
use crate::fields::{MAX_FIELDS, MAX_HEAD};

pub(super) fn check<B>(
    request: &Request<B>,
    scan: &Scan,
    client: &Client,
    snapshot: &Snapshot,
) -> Result<(), ProxyError> {
    if request.version() == Version::HTTP_2 {
        let target = request.uri().path_and_query();
        let left = MAX_HEAD.saturating_sub(target.map_or(0, |target| target.as_str().len()));
        http2_fields(request.headers(), left)?;
    }
    if request.method() == Method::CONNECT {
        return Err(ProxyError::ConnectUnsupported);
    }
    if request.method() == Method::TRACE {
        // RFC 9110 §9.3.8: the response would show the token to the app.
        return Err(ProxyError::RequestNotAllowed("TRACE would show the token"));
    }
    let uri = request.uri();
    if uri.scheme().is_none() && uri.authority().is_some() && request.version() != Version::HTTP_2 {
        // RFC 9112 §3.2.3.
        return Err(ProxyError::BadRequest("authority-form is for CONNECT only"));
    }
    if uri.path() == "*" && request.method() != Method::OPTIONS {
        // RFC 9112 §3.2.4.
        return Err(ProxyError::BadRequest("the target `*` is for OPTIONS only"));
    }
    framing(request, scan)?;
    host(request, scan, client, &snapshot.hosts)?;
    if scan.cross_site {
        origin(request, &snapshot.hosts)?;
    }
    if scan.via {
        loops(request, &snapshot.settings.pseudonym)?;
    }
    path(request.uri().path())
}

/// Checks HTTP/2 fields as the HTTP/1 parser does: at most [`MAX_FIELDS`], of at most `size` bytes,
/// without whitespace around values (RFC 9113 §8.2.1).
pub(super) fn http2_fields(fields: &HeaderMap, size: usize) -> Result<(), ProxyError> {
    let mut left = size;
    for (name, value) in fields {
        let value = value.as_bytes();
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value {
            let error = "a field value begins or ends with whitespace; remove the whitespace";
            return Err(ProxyError::BadRequest(error));
        }
        // The length as a line of HTTP/1.1.
        let line = name.as_str().len() + value.len() + ": \r\n".len();
        left = left.checked_sub(line).ok_or(ProxyError::HeadersTooLarge)?;
    }
    let fits = fields.len() <= MAX_FIELDS;
    fits.then_some(()).ok_or(ProxyError::HeadersTooLarge)
}

/// Refuses framing that hyper accepts. The proxy decodes `chunked` only (RFC 9112 §6.1), and no
/// known upstream accepts another coding.
fn framing<B>(request: &Request<B>, scan: &Scan) -> Result<(), ProxyError> {
    if scan.content_lengths > 1 {
        let error = "the request has more than one Content-Length; send one";
        return Err(ProxyError::BadRequest(error));
    }
    if scan.transfer_encoding && !only_chunked(request.headers()) {
        let error = "the Transfer-Encoding is not `chunked`; send `chunked` or a Content-Length";
        return Err(ProxyError::BadRequest(error));
    }
    Ok(())
}

const INVALID_HOST: ProxyError = ProxyError::BadRequest("the request has no valid Host");

fn host<B>(
    request: &Request<B>,
    scan: &Scan,
    client: &Client,
    hosts: &Hosts,
) -> Result<(), ProxyError> {
    // RFC 9112 §3.2: exactly one, except in HTTP/1.0; HTTP/2 has `:authority` instead.
    match (scan.hosts, request.version()) {
        (0, Version::HTTP_11) => return Err(ProxyError::BadRequest("the request has no Host")),
        (0 | 1, _) => {}
        _ => return Err(ProxyError::BadRequest("the request has more than one Host")),
    }
    let Some(authority) = authority(request) else {
        return match request.version() {
            Version::HTTP_10 => Ok(()),
            _ => Err(INVALID_HOST),
        };
    };
    if request.uri().authority().is_some()
        && let Some(field) = request.headers().get(HOST)
    {
        host_beside_authority(field, authority, request.version())?;
    }
    // Most connections name the same host in every request.
    if client.knows_host(authority.as_bytes(), hosts.edition) {
        return Ok(());
    }
    if !is_authority(authority) {
        return Err(INVALID_HOST);
    }
    if !hosts.accept(authority) {
        return Err(ProxyError::HostNotAllowed);
    }
    client.learn_host(authority.as_bytes(), hosts.edition);
    Ok(())
}

/// Checks a `Host` beside an authority: absolute-form overrides a valid `Host` (RFC 9112 §3.2.2),
/// and HTTP/2 allows no difference from `:authority` (RFC 9113 §8.3.1).
fn host_beside_authority(
    field: &HeaderValue,
    authority: &str,
    version: Version,
) -> Result<(), ProxyError> {
    if !field.to_str().is_ok_and(is_authority) {
        return Err(INVALID_HOST);
    }
    if version == Version::HTTP_2 && !field.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) {
        return Err(ProxyError::BadRequest("Host and :authority differ"));
    }
    Ok(())
}

/// Returns whether `text` is `host` or `host:port` (RFC 9110 §7.2), without a user.
pub(super) fn is_authority(text: &str) -> bool {
    let host = without_port(text);
    let port = text[host.len()..].strip_prefix(':').unwrap_or_default();
    let is_port = port.bytes().all(|digit| digit.is_ascii_digit())
        && (port.is_empty() || port.parse::<u16>().is_ok());
    // RFC 3986 §3.2.2.
    let is_host = match host.strip_prefix('[') {
        Some(address) => {
            let address = address.strip_suffix(']');
            address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
        }
        None => {
            let other = |byte| b"-._~!$&'()*+,;=".contains(&byte);
            let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || other(byte);
            !host.is_empty() && host.bytes().all(is_valid)
        }
    };
    is_port && is_host
}

fn origin<B>(request: &Request<B>, hosts: &Hosts) -> Result<(), ProxyError> {
    let headers = request.headers();
    let is_accepted = |origin: &HeaderValue| {
        let origin = origin.to_str();
        origin.is_ok_and(|origin| hosts.accept_origin(origin))
    };
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    // A request with an accepted `Origin` may be cross-site.
    let accepted = headers.get_all(ORIGIN).iter().all(is_accepted)
        && (headers.contains_key(ORIGIN) || !sites.any(|site| site == "cross-site"));
    accepted.then_some(()).ok_or(ProxyError::OriginNotAllowed)
}

/// Refuses a request whose `Via` has this proxy's pseudonym (RFC 9110 §7.6.3).
fn loops<B>(request: &Request<B>, pseudonym: &str) -> Result<(), ProxyError> {
    let is_own = |hop: &str| hop.split_whitespace().nth(1) == Some(pseudonym);
    let is_loop = members(request.headers(), &VIA).any(is_own);
    (!is_loop).then_some(()).ok_or(ProxyError::LoopDetected)
}

/// Refuses encoded and plain dot segments, which could lead outside of the upstream's base path.
pub(super) fn path(path: &str) -> Result<(), ProxyError> {
    let bytes = path.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'.' | b'%')) {
        return Ok(());
    }
    let mut segments = bytes.split(|byte| *byte == b'/');
    let has_dots = segments.any(|segment| is_dots(without_parameters(segment)));
    let error = ProxyError::BadRequest("the path contains a `.` or `..` segment; remove it");
    (!has_dots).then_some(()).ok_or(error)
}

fn is_dots(segment: &[u8]) -> bool {
    let mut rest = segment;
    let mut dots = 0;
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            // An encoded `;`: servers that decode first see a parameter behind it.
            [b'%', b'3', b'b' | b'B', ..] => break,
            _ => return false,
        };
        dots += 1;
    }
    dots == 1 || dots == 2
}

#[cfg(test)]
mod tests;
