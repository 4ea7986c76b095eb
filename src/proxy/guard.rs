//! Guard: what is refused before anything else is looked at.
//!
//! `Host` and `Origin` are checked because a web page in a browser on the same machine can reach a loopback port
//! (DNS rebinding, cross-site requests); framing and paths because what we forward must mean the same to the upstream.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Version};

use super::Snapshot;
use super::error::ProxyError;
use super::headers::{SEC_FETCH_SITE, Scan, only_chunked};
use super::route::{authority, lower, without_port};
use super::worker::Client;
use crate::config::is_loopback;
use crate::upstream::{MAX_FIELDS, MAX_HEAD};

/// The `Host` values that are answered.
pub struct Hosts {
    /// Lower case, with and without port.
    names: HashSet<Box<str>>,
    /// `Origin` values that may come from elsewhere.
    origins: HashSet<Box<str>>,
    /// Another one for other names: what a connection knows of the names holds only for these.
    edition: u64,
}

impl Hosts {
    /// `names`: authorities of listeners and upstreams, and `allow_hosts`; localhost and loopback addresses always pass.
    pub fn new(
        names: impl IntoIterator<Item = String>,
        origins: impl IntoIterator<Item = String>,
    ) -> Self {
        let names: HashSet<Box<str>> = names
            .into_iter()
            .map(|name| name.to_ascii_lowercase().into())
            .collect();
        let edition = |name: &str| BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
        Self {
            edition: names
                .iter()
                .map(|name| edition(name))
                .fold(0, u64::wrapping_add),
            names,
            origins: origins
                .into_iter()
                .map(|origin| origin.to_ascii_lowercase().into())
                .collect(),
        }
    }

    /// Whether an authority names this proxy.
    pub fn accept(&self, authority: &str) -> bool {
        let authority = lower(authority);
        let host = without_port(&authority);
        is_loopback(host)
            || host.ends_with(".localhost")
            || self.names.contains(&*authority)
            || self.names.contains(host)
    }

    /// Whether an `Origin` may send requests: one that is allowed, or one of an accepted host.
    fn accept_origin(&self, origin: &str) -> bool {
        let origin = lower(origin);
        if self.origins.contains(&*origin) {
            return true;
        }
        origin
            .split_once("://")
            .is_some_and(|(_, authority)| self.accept(authority))
    }
}

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
        // It would show the app the token that was put on (RFC 9110 §9.3.8).
        return Err(ProxyError::RequestNotAllowed("TRACE would show the token"));
    }
    let uri = request.uri();
    if uri.scheme().is_none() && uri.authority().is_some() && request.version() != Version::HTTP_2 {
        // RFC 9112 §3.2.3.
        return Err(ProxyError::BadRequest("a target of CONNECT only"));
    }
    if uri.path() == "*" && request.method() != Method::OPTIONS {
        // RFC 9112 §3.2.4.
        return Err(ProxyError::BadRequest("`*` is a target of OPTIONS only"));
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

/// What the parser of HTTP/1 has seen to, for fields that came by HTTP/2: there are not too many of them, in at most `size` bytes, and
/// none begins or ends with whitespace (RFC 9113 §8.2.1).
pub(super) fn http2_fields(fields: &HeaderMap, size: usize) -> Result<(), ProxyError> {
    let mut left = size;
    for (name, value) in fields {
        let value = value.as_bytes();
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value {
            return Err(ProxyError::BadRequest(
                "a field value that begins or ends with whitespace",
            ));
        }
        // As a line of HTTP/1.1.
        let line = name.as_str().len() + value.len() + ": \r\n".len();
        left = left.checked_sub(line).ok_or(ProxyError::HeadersTooLarge)?;
    }
    match fields.len() > MAX_FIELDS {
        true => Err(ProxyError::HeadersTooLarge),
        false => Ok(()),
    }
}

/// Refuses framing that hyper lets pass. RFC 9112 §6.1: only `chunked` can be decoded here; another
/// coding would have to be forwarded as it is, and no upstream is known to accept one.
fn framing<B>(request: &Request<B>, scan: &Scan) -> Result<(), ProxyError> {
    if scan.content_lengths > 1 {
        return Err(ProxyError::BadRequest("more than one Content-Length"));
    }
    if scan.transfer_encoding && !only_chunked(request.headers()) {
        return Err(ProxyError::BadRequest(
            "a Transfer-Encoding other than chunked",
        ));
    }
    Ok(())
}

fn host<B>(
    request: &Request<B>,
    scan: &Scan,
    client: &Client,
    hosts: &Hosts,
) -> Result<(), ProxyError> {
    // RFC 9112 §3.2: exactly one, except in HTTP/1.0; HTTP/2 has `:authority` instead.
    match (scan.hosts, request.version()) {
        (0, Version::HTTP_11) => return Err(ProxyError::BadRequest("no Host")),
        (0 | 1, _) => {}
        _ => return Err(ProxyError::BadRequest("more than one Host")),
    }
    let Some(authority) = authority(request) else {
        return match request.version() {
            Version::HTTP_10 => Ok(()),
            _ => Err(ProxyError::BadRequest("no valid Host")),
        };
    };
    if request.uri().authority().is_some()
        && let Some(field) = request.headers().get(HOST)
    {
        beside_authority(field, &authority, request.version())?;
    }
    // Most connections name the same host in every request.
    if client.knows_host(authority.as_bytes(), hosts.edition) {
        return Ok(());
    }
    if !is_authority(&authority) {
        return Err(ProxyError::BadRequest("no valid Host"));
    }
    if !hosts.accept(&authority) {
        return Err(ProxyError::HostNotAllowed);
    }
    client.learn_host(authority.as_bytes(), hosts.edition);
    Ok(())
}

/// With a target in absolute-form the field does not count, but must be valid all the same (RFC 9112 §3.2.2); one that says something
/// else than `:authority` is refused (RFC 9113 §8.3.1).
fn beside_authority(
    field: &HeaderValue,
    authority: &str,
    version: Version,
) -> Result<(), ProxyError> {
    if !field.to_str().is_ok_and(is_authority) {
        return Err(ProxyError::BadRequest("no valid Host"));
    }
    if version == Version::HTTP_2 && !field.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) {
        return Err(ProxyError::BadRequest("Host and :authority differ"));
    }
    Ok(())
}

/// `host` or `host:port` (RFC 9110 §7.2), without a user.
pub(super) fn is_authority(text: &str) -> bool {
    let host = without_port(text);
    let port = text[host.len()..].strip_prefix(':').unwrap_or_default();
    let is_port = port.bytes().all(|digit| digit.is_ascii_digit())
        && (port.is_empty() || port.parse::<u16>().is_ok());
    // RFC 3986 §3.2.2.
    let is_host = match host.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            let allowed =
                |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
            !host.is_empty() && host.bytes().all(allowed)
        }
    };
    is_port && is_host
}

fn origin<B>(request: &Request<B>, hosts: &Hosts) -> Result<(), ProxyError> {
    let headers = request.headers();
    let mut accepted = false;
    for origin in headers.get_all(ORIGIN) {
        accepted = origin
            .to_str()
            .is_ok_and(|origin| hosts.accept_origin(origin));
        if !accepted {
            return Err(ProxyError::OriginNotAllowed);
        }
    }
    // An accepted Origin explains why the browser calls the request cross-site.
    let cross_site = headers
        .get_all(SEC_FETCH_SITE)
        .iter()
        .any(|site| site == "cross-site");
    if cross_site && !accepted {
        Err(ProxyError::OriginNotAllowed)
    } else {
        Ok(())
    }
}

/// RFC 9110 §7.6.3: our own pseudonym in `Via` means that the request came back.
fn loops<B>(request: &Request<B>, pseudonym: &str) -> Result<(), ProxyError> {
    let seen = request
        .headers()
        .get_all(http::header::VIA)
        .iter()
        .any(|line| {
            line.to_str().is_ok_and(|line| {
                line.split(',')
                    .any(|hop| hop.split_whitespace().nth(1) == Some(pseudonym))
            })
        });
    if seen {
        Err(ProxyError::LoopDetected)
    } else {
        Ok(())
    }
}

/// No segment may decode to `.` or `..`: the upstream could resolve it to a path outside its base.
pub(super) fn path(path: &str) -> Result<(), ProxyError> {
    let bytes = path.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'.' | b'%')) {
        return Ok(());
    }
    let dots = bytes.split(|byte| *byte == b'/').any(|segment| {
        let name = segment
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        is_dots(name)
    });
    if dots {
        Err(ProxyError::BadRequest("a path segment is . or .."))
    } else {
        Ok(())
    }
}

fn is_dots(segment: &[u8]) -> bool {
    let mut rest = segment;
    let mut dots = 0;
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            // `.` and a `;` that is itself encoded: servers that decode first see a parameter.
            [b'%', b'3', b'b' | b'B', ..] => break,
            _ => return false,
        };
        dots += 1;
    }
    dots == 1 || dots == 2
}

#[cfg(test)]
mod tests;
