//! Rewrite: makes response fields that point at the upstream point at the proxy
//! (`rewrite_redirects`).
//!
//! A `Location` with the upstream's own address would lead the app past the proxy, without a token,
//! and the app would refuse a cookie for the upstream's domain. Other references stay.

use http::header::{
    ALT_SVC, CONTENT_LOCATION, Entry, HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE,
};

use super::route::without_port;
use crate::config::{Origin, Scheme, Upstream};

/// The upstream's own address, and the app's address for the upstream.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    origin: &'a Origin,
    base_path: &'a str,
    authority: Option<&'a str>,
    prefix: &'a str,
}

/// Returns whether a response has a field to rewrite. Most have none.
pub(super) fn concerns(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| [LOCATION, SET_COOKIE, CONTENT_LOCATION, ALT_SVC].contains(name))
}

/// Rewrites a response's fields. Unreadable values stay.
pub(super) fn response(headers: &mut HeaderMap, view: &View<'_>) {
    // RFC 7838: an alternative service would lead the app past the proxy.
    headers.remove(ALT_SVC);
    rewrite(headers, LOCATION, |value| view.location(value));
    rewrite(headers, CONTENT_LOCATION, |value| view.location(value));
    rewrite(headers, SET_COOKIE, |value| view.cookie(value));
}

fn rewrite(headers: &mut HeaderMap, name: HeaderName, change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let Entry::Occupied(mut values) = headers.entry(name) else {
        return;
    };
    for value in values.iter_mut() {
        let changed = change(value.as_bytes());
        if let Some(mut new) = changed.and_then(|bytes| HeaderValue::try_from(bytes).ok()) {
            new.set_sensitive(value.is_sensitive());
            *value = new;
        }
    }
}

impl<'a> View<'a> {
    /// `authority` is that of the app's absolute-form URI, or its `Host`. `prefix` is the part that
    /// the route removed from the app's path: empty, or `/name`. The app's scheme is plain http.
    pub(super) fn new(upstream: &'a Upstream, authority: Option<&'a str>, prefix: &'a str) -> Self {
        Self {
            origin: &upstream.origin,
            base_path: &upstream.base_path,
            authority,
            prefix,
        }
    }

    /// Rewrites a reference (RFC 9110 §10.2.2). `None` leaves the value, such as one without scheme,
    /// authority and leading slash, which is relative to the app's own target.
    fn location(&self, value: &[u8]) -> Option<Vec<u8>> {
        // Browsers remove tabs before they parse a URL: the path would change.
        if value.contains(&b'\t') {
            return None;
        }
        let (absolute, path) = match self.after_origin(value) {
            Some(path) => (true, path),
            None if value.starts_with(b"/") && !opens_authority(value) => (false, value),
            None => return None,
        };
        let (path, rest) = split_before(path, b"?#");
        let mut path = self.path(path)?;
        path.extend_from_slice(rest);
        if !absolute && !opens_authority(&path) {
            return Some(path);
        }
        match self.authority {
            Some(authority) => Some([b"http://", authority.as_bytes(), &path].concat()),
            // HTTP/1.0 without `Host`: the path alone is enough.
            None if !opens_authority(&path) => Some(path),
            None => None,
        }
    }

    /// Returns what follows the upstream's origin, in absolute form or in a network-path reference
    /// (RFC 3986 §4.2).
    fn after_origin<'v>(&self, value: &'v [u8]) -> Option<&'v [u8]> {
        let (scheme, default_port) = match self.origin.scheme {
            Scheme::Http => (&b"http:"[..], 80),
            Scheme::Https => (&b"https:"[..], 443),
        };
        let reference = match value.split_at_checked(scheme.len()) {
            Some((start, rest)) if start.eq_ignore_ascii_case(scheme) => rest,
            _ => value,
        };
        let rest = reference.strip_prefix(b"//")?;
        let (authority, path) = split_before(rest, b"/?#\\");
        let authority = std::str::from_utf8(authority).ok()?;
        let host = without_port(authority);
        let port = match authority[host.len()..].strip_prefix(':') {
            None | Some("") => default_port,
            Some(port) => port.parse().ok()?,
        };
        let own = host.eq_ignore_ascii_case(without_port(&self.origin.authority))
            && port == self.origin.port;
        (own && !path.starts_with(b"\\")).then_some(path)
    }

    /// Returns the app's form of an upstream's path. `None` if the path is not below the base.
    fn path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let rest = below(path, self.base_path.as_bytes())?;
        if leaves(rest) {
            return None;
        }
        let mapped = [self.prefix.as_bytes(), rest].concat();
        let is_empty = mapped.is_empty();
        Some(if is_empty { b"/".to_vec() } else { mapped })
    }

    /// Rewrites a `Set-Cookie` (RFC 6265 §4.1). `None` leaves the cookie.
    fn cookie(&self, value: &[u8]) -> Option<Vec<u8>> {
        let mut parts = value.split(|byte| *byte == b';');
        let pair = parts.next().unwrap_or_default();
        if is_bound_to_https(pair) {
            return None;
        }
        let mut kept = pair.to_vec();
        let mut path = None;
        for part in parts {
            let (name, value) = attribute(part);
            let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
            if is(b"path") {
                // RFC 6265 §5.3: the last `Path` counts.
                path = Some(value);
                continue;
            }
            // Browsers refuse `Partitioned` cookies without `Secure`.
            let drop = is(b"domain")
                || is(b"secure")
                || is(b"partitioned")
                || (is(b"samesite") && value.eq_ignore_ascii_case(b"none"));
            if !drop {
                kept.push(b';');
                kept.extend_from_slice(part);
            }
        }
        if let Some(path) = self.cookie_path(path) {
            kept.extend_from_slice(b"; Path=");
            kept.extend_from_slice(&path);
        }
        (kept != value).then_some(kept)
    }

    /// Returns a cookie's `Path`, which never exceeds the prefix: an upstream below another prefix
    /// must not get the cookie.
    fn cookie_path(&self, path: Option<&[u8]>) -> Option<Vec<u8>> {
        // RFC 6265 §5.2.4: other values mean the request's path, which may be above the prefix.
        let path = path.filter(|path| path.starts_with(b"/"));
        let whole_prefix = || (!self.prefix.is_empty()).then(|| self.prefix.as_bytes().to_vec());
        let Some(path) = path else {
            return whole_prefix();
        };
        let base = self.base_path.as_bytes();
        let rest = below(path, base);
        let mapped = rest.map(|rest| [self.prefix.as_bytes(), rest].concat());
        let mapped = mapped.filter(|mapped| !mapped.is_empty());
        mapped.or_else(whole_prefix).or_else(|| {
            let parent = path.strip_suffix(b"/").unwrap_or(path);
            let covers_base = rest.is_some() || below(base, parent).is_some();
            Some(if covers_base { b"/" } else { path }.to_vec())
        })
    }
}

/// Returns what follows `base` in `path`, on a segment boundary.
fn below<'p>(path: &'p [u8], base: &[u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(base)?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

/// Returns whether dot segments (RFC 3986 §5.2.4) lead above the start of the path. Clients resolve
/// dot segments, and browsers take `\` for `/` and `%2e` for `.`.
fn leaves(path: &[u8]) -> bool {
    let mut depth = 0_usize;
    let path = path.strip_prefix(b"/").unwrap_or(path);
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        match dots(segment) {
            Some(1) => {}
            Some(2) if depth == 0 => return true,
            Some(2) => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// Returns the number of dots in a segment of dots only.
fn dots(mut segment: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !segment.is_empty() {
        segment = match segment {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
        count += 1;
    }
    Some(count)
}

/// Returns whether a client would read the reference as `//authority`.
fn opens_authority(reference: &[u8]) -> bool {
    reference.starts_with(b"//") || reference.starts_with(b"/\\")
}

/// Splits before the first of the `ends`.
fn split_before<'b>(bytes: &'b [u8], ends: &[u8]) -> (&'b [u8], &'b [u8]) {
    let end = bytes.iter().position(|byte| ends.contains(byte));
    bytes.split_at(end.unwrap_or(bytes.len()))
}

/// Returns whether clients refuse the cookie without `Secure` (RFC 6265bis §4.1.3).
fn is_bound_to_https(pair: &[u8]) -> bool {
    let name = pair.trim_ascii_start();
    [&b"__Host-"[..], b"__Secure-"].iter().any(|prefix| {
        let start = name.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    })
}

fn attribute(part: &[u8]) -> (&[u8], &[u8]) {
    let (name, value) = split_before(part, b"=");
    let value = value.strip_prefix(b"=").unwrap_or_default();
    (name.trim_ascii(), value.trim_ascii())
}

#[cfg(test)]
mod tests;
