//! Listeners, routes and allow-lists.

use std::collections::HashMap;
use std::net::SocketAddr;

use http::Method;

use super::model::{AllowRule, Listen, Route};
use super::problems::{Complaint, KeyPath, Problems, complaint};
use super::units::Written;

impl Written for Listen {
    const EXPECTED: &'static str =
        r#"an address such as "127.0.0.1:8080" or "unix:/run/cupbearer/proxy.sock""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        let wrong = |_| Self::expected().hint("write `IP:port`; host names are not resolved");
        text.parse().map(Self::Tcp).map_err(wrong)
    }
}

/// `sun_path` of unix(7) without the final NUL.
const LONGEST_SOCKET_PATH: usize = 107;

fn unix(path: &str) -> Result<Listen, Complaint> {
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(complaint("`unix:` needs the absolute path of a socket")
            .hint("as in \"unix:/run/cupbearer/proxy.sock\""));
    }
    if path.len() > LONGEST_SOCKET_PATH {
        return Err(complaint("the path is too long for a socket")
            .hint(format!("at most {LONGEST_SOCKET_PATH} bytes")));
    }
    Ok(Listen::Unix(path.into()))
}

impl Listen {
    /// Returns whether other machines can connect.
    pub(super) fn is_remote(&self) -> bool {
        match self {
            Self::Tcp(address) => !address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => false,
        }
    }
}

/// A path prefix for requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPrefix(pub(super) String);

impl Written for PathPrefix {
    const EXPECTED: &'static str = r#"a path such as "/cncn""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text == "/" {
            return Err(complaint("is every path")
                .hint("omit `route`: an upstream without one gets all remaining requests"));
        }
        let Some(path) = text.strip_prefix('/') else {
            return Err(Self::expected().hint("start with `/`"));
        };
        if path.ends_with('/') {
            return Err(complaint("a path prefix has no trailing slash")
                .hint("a prefix covers all paths below without one"));
        }
        check_segments(path.split('/'))?;
        // Requests are matched bytewise, so an encoded prefix would miss its other spellings.
        if path.contains('%') {
            return Err(complaint("a path prefix holds no percent-encoding")
                .hint("choose another prefix: only the app and the proxy see it"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Written for AllowRule {
    const EXPECTED: &'static str = r#"a method and a path such as "GET /v1/**""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let (method, path) = text.split_once(' ').ok_or_else(Self::expected)?;
        let method = match method {
            "*" => None,
            // Methods are case-sensitive (RFC 9110 §9.1); `get` would never match.
            _ if method.chars().any(|c| c.is_ascii_lowercase()) => {
                return Err(Self::expected().hint("write the method in capitals"));
            }
            _ => Some(Method::from_bytes(method.as_bytes()).map_err(|_| Self::expected())?),
        };
        let path = path.trim_start_matches(' ');
        let path = path.strip_prefix('/').ok_or_else(Self::expected)?;
        let segments: Vec<_> = path.split('/').map(str::to_owned).collect();
        let last = segments.len() - 1;
        // `/` and a trailing slash are an empty last segment.
        let named = last + usize::from(!segments[last].is_empty());
        check_segments(segments[..named].iter().map(String::as_str))?;
        if segments[..last].iter().any(|segment| segment == "**") {
            return Err(complaint("`**` can only be the last segment of a path")
                .hint("`*` stands for one segment anywhere"));
        }
        let partial = |it: &String| it.contains('*') && !matches!(it.as_str(), "*" | "**");
        if segments.iter().any(partial) {
            return Err(complaint("`*` stands for a whole segment, not for a part")
                .hint("write `*` for the whole segment"));
        }
        Ok(Self { method, segments })
    }
}

fn dot_segment() -> Complaint {
    complaint("the path holds a `.` or `..` segment").hint("write the resolved path")
}

/// Accepts RFC 3986 `pchar`s, without forms that servers interpret differently.
fn check_segments<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<(), Complaint> {
    for segment in segments {
        if segment.is_empty() {
            return Err(complaint("the path holds an empty segment (`//`)").hint("write one slash"));
        }
        let name = segment.split(';').next().unwrap_or_default();
        let dots = decode(name)?;
        if matches!(&*dots, b"." | b"..") {
            return Err(dot_segment());
        }
        if dots.iter().any(|b| matches!(b, b'/' | b'\\')) {
            return Err(complaint("the path holds an encoded slash or backslash")
                .hint("remove it: servers interpret it differently"));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&b);
        if !segment.bytes().all(allowed) {
            return Err(complaint("the path holds a character that is not allowed")
                .hint("percent-encode it; a path here has no query"));
        }
    }
    Ok(())
}

/// Checks the path of an upstream's URL, whose only forbidden segments are `.` and `..`.
pub(super) fn check_dots(path: &str) -> Result<(), Complaint> {
    for segment in path.split('/') {
        let name = decode(segment.split(';').next().unwrap_or_default())?;
        if matches!(&*name, b"." | b"..") {
            return Err(dot_segment());
        }
    }
    Ok(())
}

fn decode(segment: &str) -> Result<Vec<u8>, Complaint> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => decoded.push((high * 16 + low) as u8),
            _ => {
                return Err(complaint("`%` is not followed by two hexadecimal digits")
                    .hint("write %25 for a `%`"));
            }
        }
    }
    Ok(decoded)
}

/// Finds equal routes.
#[derive(Default)]
pub(super) struct Routes {
    /// First upstream of each route.
    taken: HashMap<(&'static str, String), String>,
}

impl Routes {
    /// Adds the route that `upstream` has at `at`.
    pub(super) fn add(&mut self, upstream: &str, route: &Route, at: &KeyPath, out: &mut Problems) {
        let key = match route {
            Route::PathPrefix(prefix) => ("path_prefix", prefix.clone()),
            Route::Host(host) => ("host", host.clone()),
            Route::CatchAll => ("", String::new()),
            // `Listeners` checks these.
            Route::Listen(_) => return,
        };
        let kind = key.0;
        let Some(first) = self.taken.insert(key, upstream.to_owned()) else {
            return;
        };
        let both = format!("upstreams `{first}` and `{upstream}`");
        let same = match kind {
            "" => complaint(format!("{both} both have no `route`"))
                .hint("only one can be the catch-all: route = { path_prefix = \"/name\" }"),
            _ => complaint(format!("{both} have the same {kind}"))
                .hint("a request could go to either: change one of them"),
        };
        out.add(&at.dotted(kind), same);
    }
}

/// Finds listeners that cannot both be bound.
#[derive(Default)]
pub(super) struct Listeners {
    /// Listeners and their keys, by port or socket path.
    taken: HashMap<String, Vec<(Listen, KeyPath)>>,
}

impl Listeners {
    pub(super) fn add(&mut self, listen: &Listen, at: &KeyPath, out: &mut Problems) {
        let key = match listen {
            // The kernel assigns a free port.
            Listen::Tcp(address) if address.port() == 0 => return,
            Listen::Tcp(address) => address.port().to_string(),
            Listen::Unix(path) => path.display().to_string(),
        };
        let others = self.taken.entry(key).or_default();
        if let Some((_, other)) = others.iter().find(|(other, _)| overlap(other, listen)) {
            let taken = complaint(format!("is also the address of `{other}`"));
            out.add(at, taken.hint("choose another port or socket"));
            return;
        }
        others.push((listen.clone(), at.clone()));
    }
}

fn overlap(a: &Listen, b: &Listen) -> bool {
    let wildcard = |one: &SocketAddr, other: &SocketAddr| {
        one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4())
    };
    match (a, b) {
        (Listen::Tcp(a), Listen::Tcp(b)) => {
            a.port() == b.port() && (a.ip() == b.ip() || wildcard(a, b) || wildcard(b, a))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
