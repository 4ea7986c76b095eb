//! Rewrite: where a response points at the upstream's own base, it is made to point at what the app asked
//! (`rewrite_redirects`). Pure.
//!
//! The app knows the upstream by our address: a `Location` that it followed as written would go past the proxy and get no
//! token, and a cookie for the upstream's domain would not be kept. What points elsewhere is none of ours and stays.

use http::header::{
    ALT_SVC, CONTENT_LOCATION, Entry, HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE,
};

use super::route::without_port;
use crate::config::{Origin, Scheme, Upstream};

/// The two sides of a request: what the upstream calls itself, and what the app calls it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    origin: &'a Origin,
    base_path: &'a str,
    authority: Option<&'a str>,
    prefix: &'a str,
}

/// Whether there is anything to look at: most responses have none of these fields.
pub(super) fn concerns(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| [LOCATION, SET_COOKIE, CONTENT_LOCATION, ALT_SVC].contains(name))
}

/// Rewrites a response's fields. A value that cannot be read is left as it is.
pub(super) fn response(headers: &mut HeaderMap, view: &View<'_>) {
    // RFC 7838: it would lead the app to the upstream by another way than ours.
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
    /// `authority` is the app's: of its absolute-form URI, or its `Host`. `prefix` is what the route took off its path:
    /// empty, or `/name`. The app's side is plain http.
    pub(super) fn new(upstream: &'a Upstream, authority: Option<&'a str>, prefix: &'a str) -> Self {
        Self {
            origin: &upstream.origin,
            base_path: &upstream.base_path,
            authority,
            prefix,
        }
    }

    /// RFC 9110 §10.2.2. `None`: leave it. A reference without scheme, authority and leading slash is one of those: it is
    /// relative to what the app asked.
    fn location(&self, value: &[u8]) -> Option<Vec<u8>> {
        // Browsers take a tab out before they read a URL: what it reads as here is not what it is there.
        if value.contains(&b'\t') {
            return None;
        }
        let (absolute, path) = match self.after_origin(value) {
            Some(path) => (true, path),
            None if value.starts_with(b"/") && !opens_authority(value) => (false, value),
            None => return None,
        };
        let end = position(path, b"?#").unwrap_or(path.len());
        let (path, rest) = path.split_at(end);
        let mut path = self.path(path)?;
        path.extend_from_slice(rest);
        if !absolute && !opens_authority(&path) {
            return Some(path);
        }
        match self.authority {
            Some(authority) => Some([b"http://", authority.as_bytes(), &path].concat()),
            // HTTP/1.0 without `Host`: a path alone says as much.
            None if !opens_authority(&path) => Some(path),
            None => None,
        }
    }

    /// What follows the upstream's own origin, in absolute form or as a network-path reference (RFC 3986 §4.2).
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
        let (authority, path) = rest.split_at(position(rest, b"/?#\\").unwrap_or(rest.len()));
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

    /// A path of the upstream as the app would ask for it; `None` if it is not below the base.
    fn path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let rest = below(path, self.base_path.as_bytes())?;
        if leaves(rest) {
            return None;
        }
        let mapped = [self.prefix.as_bytes(), rest].concat();
        Some(if mapped.is_empty() {
            b"/".to_vec()
        } else {
            mapped
        })
    }

    /// RFC 6265 §4.1. Written anew from what is kept of it; `None`: leave it.
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
                // RFC 6265 §5.3: the last one counts.
                path = Some(value);
                continue;
            }
            // `Partitioned` cookies without `Secure` are refused.
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

    /// Never wider than the prefix: another upstream, below another prefix, must not get this one's cookies.
    fn cookie_path(&self, path: Option<&[u8]>) -> Option<Vec<u8>> {
        // RFC 6265 §5.2.4: anything else means the default path, that of the request, which can be above the prefix too.
        let path = path.filter(|path| path.starts_with(b"/"));
        let whole_prefix = || (!self.prefix.is_empty()).then(|| self.prefix.as_bytes().to_vec());
        let Some(path) = path else {
            return whole_prefix();
        };
        let mapped = below(path, self.base_path.as_bytes())
            .map(|rest| [self.prefix.as_bytes(), rest].concat())
            .filter(|mapped| !mapped.is_empty());
        // Not below the base: above or beside it.
        mapped.or_else(whole_prefix).or_else(|| {
            let base_is_inside = below(path, self.base_path.as_bytes()).is_some()
                || below(self.base_path.as_bytes(), trim_slash(path)).is_some();
            Some(if base_is_inside { b"/" } else { path }.to_vec())
        })
    }
}

/// What follows `base` in `path`, on a segment boundary.
fn below<'p>(path: &'p [u8], base: &[u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(base)?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

fn trim_slash(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Whether dot segments (RFC 3986 §5.2.4) lead out of where the path begins. Clients resolve them before they ask, and
/// browsers take `\` for `/` and `%2e` for `.`.
fn leaves(path: &[u8]) -> bool {
    let mut depth = 0_usize;
    for segment in path
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .skip(usize::from(path.starts_with(b"/")))
    {
        match dots(segment) {
            Some(1) => {}
            Some(2) if depth == 0 => return true,
            Some(2) => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// How many dots a segment consists of; `None` if there is anything else in it.
fn dots(mut segment: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !segment.is_empty() {
        let rest = segment
            .strip_prefix(b".")
            .or_else(|| segment.strip_prefix(b"%2e"))
            .or_else(|| segment.strip_prefix(b"%2E"));
        segment = rest?;
        count += 1;
    }
    Some(count)
}

/// Whether a client would take what follows for an authority.
fn opens_authority(reference: &[u8]) -> bool {
    reference.starts_with(b"//") || reference.starts_with(b"/\\")
}

fn position(bytes: &[u8], any: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| any.contains(byte))
}

/// RFC 6265bis §4.1.3: without `Secure`, clients would refuse them.
fn is_bound_to_https(pair: &[u8]) -> bool {
    let name = pair.trim_ascii_start();
    [&b"__Host-"[..], b"__Secure-"].iter().any(|prefix| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    })
}

fn attribute(part: &[u8]) -> (&[u8], &[u8]) {
    let (name, value) = match position(part, b"=") {
        Some(at) => (&part[..at], &part[at + 1..]),
        None => (part, &b""[..]),
    };
    (name.trim_ascii(), value.trim_ascii())
}

#[cfg(test)]
mod tests;
