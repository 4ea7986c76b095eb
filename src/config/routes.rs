//! Where requests come in and which upstream they are for: listeners, routes, allow-lists.

use std::collections::HashMap;
use std::net::SocketAddr;

use http::Method;

use super::file::RouteToml;
use super::origin::HostText;
use super::problems::{Complaint, KeyPath, Problems, complaint};
use super::units::{Text, Written};
use super::{AllowRule, Listen, Route};

impl Written for Listen {
    const EXPECTED: &'static str =
        r#"an address such as "127.0.0.1:8080" or "unix:/run/cupbearer/proxy.sock""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            complaint(format!("expected {}", Self::EXPECTED)).hint("an IP address, not a name")
        })
    }
}

/// `sun_path` of unix(7), less its final NUL.
const LONGEST_SOCKET_PATH: usize = 107;

fn unix(path: &str) -> Result<Listen, Complaint> {
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(
            complaint("after `unix:` the absolute path of a socket is expected")
                .hint("as in \"unix:/run/cupbearer/proxy.sock\""),
        );
    }
    if path.len() > LONGEST_SOCKET_PATH {
        return Err(complaint("the path is too long for a socket")
            .hint(format!("at most {LONGEST_SOCKET_PATH} bytes")));
    }
    Ok(Listen::Unix(path.into()))
}

impl Listen {
    /// Whether others than this machine's processes can reach it.
    pub(super) fn is_remote(&self) -> bool {
        match self {
            Self::Tcp(address) => !address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => false,
        }
    }
}

/// A path prefix for requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPrefix(String);

impl Written for PathPrefix {
    const EXPECTED: &'static str = r#"a path such as "/cncn""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text == "/" {
            return Err(complaint("is every path")
                .hint("leave `route` out: an upstream without one gets whatever no other takes"));
        }
        let Some(path) = text.strip_prefix('/') else {
            return Err(
                complaint(format!("expected {}", Self::EXPECTED)).hint("it starts with `/`")
            );
        };
        if path.ends_with('/') {
            return Err(complaint("a path prefix has no trailing slash")
                .hint("it takes all that is below it without one"));
        }
        check_segments(path.split('/'))?;
        // Requests are matched byte by byte: what could be written in two ways would match in one of them only.
        if path.contains('%') {
            return Err(complaint("a path prefix holds no percent-encoding")
                .hint("choose another one: it is only between the app and here"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Written for AllowRule {
    const EXPECTED: &'static str = r#"a method and a path such as "GET /v1/**""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let wrong = || complaint(format!("expected {}", Self::EXPECTED));
        let (method, path) = text.split_once(' ').ok_or_else(wrong)?;
        let method = match method {
            "*" => None,
            // Methods are case-sensitive (RFC 9110 §9.1); `get` would never match.
            _ if method.chars().any(|c| c.is_ascii_lowercase()) => {
                return Err(wrong().hint("the method is written in capitals"));
            }
            _ => Some(Method::from_bytes(method.as_bytes()).map_err(|_| wrong())?),
        };
        let path = path.trim_start_matches(' ');
        let path = path.strip_prefix('/').ok_or_else(wrong)?;
        let segments: Vec<_> = path.split('/').map(str::to_owned).collect();
        let last = segments.len() - 1;
        // `/` and a trailing slash are an empty last segment.
        let named = if segments[last].is_empty() {
            &segments[..last]
        } else {
            &segments[..]
        };
        check_segments(named.iter().map(String::as_str))?;
        for (index, segment) in segments.iter().enumerate() {
            match segment.as_str() {
                "**" if index != last => {
                    return Err(complaint("`**` can only be the last segment of a path")
                        .hint("`*` stands for one segment anywhere"));
                }
                "*" | "**" => {}
                _ if segment.contains('*') => {
                    return Err(complaint(
                        "`*` stands for a whole segment, never for a part of one",
                    )
                    .hint("write `*` for the whole segment"));
                }
                _ => {}
            }
        }
        Ok(Self { method, segments })
    }
}

const NO_DOTS: &str = "write the path that it leads to";

/// RFC 3986 `pchar`s, and nothing that servers read in different ways.
fn check_segments<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<(), Complaint> {
    for segment in segments {
        if segment.is_empty() {
            return Err(complaint("the path holds an empty segment (`//`)").hint("write one slash"));
        }
        let name = segment.split(';').next().unwrap_or_default();
        let dots = decode(name)?;
        if dots == b"." || dots == b".." {
            return Err(complaint("the path holds a `.` or `..` segment").hint(NO_DOTS));
        }
        if dots.iter().any(|b| matches!(b, b'/' | b'\\')) {
            return Err(complaint("the path holds an encoded slash or backslash")
                .hint("servers read it in different ways: leave it out"));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&b);
        if !segment.bytes().all(allowed) {
            return Err(
                complaint("the path holds a character that no path can hold")
                    .hint("percent-encode it; a path here has no query"),
            );
        }
    }
    Ok(())
}

/// For the path of an upstream's URL, which may hold anything else.
pub(super) fn check_dots(path: &str) -> Result<(), Complaint> {
    for segment in path.split('/') {
        let name = decode(segment.split(';').next().unwrap_or_default())?;
        if name == b"." || name == b".." {
            return Err(complaint("the path holds a `.` or `..` segment").hint(NO_DOTS));
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

/// The one key of `route`; `None` for a catch-all.
pub(super) fn route(written: Option<RouteToml>) -> Result<Route, Complaint> {
    let Some(written) = written else {
        return Ok(Route::CatchAll);
    };
    match (written.path_prefix, written.host, written.listen) {
        (Some(Text(PathPrefix(prefix))), None, None) => Ok(Route::PathPrefix(prefix)),
        (None, Some(Text(HostText(host))), None) => Ok(Route::Host(host)),
        (None, None, Some(Text(listen))) => Ok(Route::Listen(listen)),
        _ => Err(
            complaint("needs exactly one of `path_prefix`, `host` and `listen`")
                .hint("an upstream without `route` gets whatever no other takes"),
        ),
    }
}

/// Finds routes that tie.
#[derive(Default)]
pub(super) struct Routes {
    /// The upstream that came first, by what it takes.
    taken: HashMap<(&'static str, String), String>,
}

impl Routes {
    /// `at` is the place of `upstream`'s route.
    pub(super) fn add(&mut self, upstream: &str, route: &Route, at: &KeyPath, out: &mut Problems) {
        let key = match route {
            Route::PathPrefix(prefix) => ("path_prefix", prefix.clone()),
            Route::Host(host) => ("host", host.clone()),
            Route::CatchAll => ("", String::new()),
            // Among the listeners.
            Route::Listen(_) => return,
        };
        let kind = key.0;
        let Some(first) = self.taken.insert(key, upstream.to_owned()) else {
            return;
        };
        out.add(
            &at.dotted(kind),
            match kind {
                "" => complaint(format!(
                    "upstreams `{first}` and `{upstream}` both have no `route`"
                ))
                .hint("only one can be the catch-all: route = { path_prefix = \"/name\" }"),
                _ => complaint(format!(
                    "upstreams `{first}` and `{upstream}` have the same {kind}"
                ))
                .hint("a request could go to either: change one of them"),
            },
        );
    }
}

/// Finds listeners that cannot both be bound.
#[derive(Default)]
pub(super) struct Listeners {
    /// By port, or path of a socket; with the key that asked for it.
    taken: HashMap<String, Vec<(Listen, KeyPath)>>,
}

impl Listeners {
    pub(super) fn add(&mut self, listen: &Listen, at: &KeyPath, out: &mut Problems) {
        let key = match listen {
            // Each gets a port of its own.
            Listen::Tcp(address) if address.port() == 0 => return,
            Listen::Tcp(address) => address.port().to_string(),
            Listen::Unix(path) => path.display().to_string(),
        };
        let others = self.taken.entry(key).or_default();
        if let Some((_, other)) = others.iter().find(|(other, _)| overlap(other, listen)) {
            let taken = complaint(format!("is the address of `{other}` too"));
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
