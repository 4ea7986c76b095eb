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
        return Err(complaint(
            "after `unix:` the absolute path of a socket is expected",
        ));
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
            return Err(complaint("a path prefix has no trailing slash"));
        }
        check_segments(path.split('/'))?;
        // Requests are matched byte by byte: what could be written in two ways would match in one of them only.
        if path.contains('%') {
            return Err(complaint("a path prefix holds no percent-encoding"));
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
                    return Err(complaint("`**` can only be the last segment of a path"));
                }
                "*" | "**" => {}
                _ if segment.contains('*') => {
                    return Err(complaint(
                        "`*` stands for a whole segment, never for a part of one",
                    ));
                }
                _ => {}
            }
        }
        Ok(Self { method, segments })
    }
}

/// RFC 3986 `pchar`s, and nothing that servers read in different ways.
fn check_segments<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<(), Complaint> {
    for segment in segments {
        if segment.is_empty() {
            return Err(complaint("the path holds an empty segment (`//`)"));
        }
        let name = segment.split(';').next().unwrap_or_default();
        let dots = decode(name)?;
        if dots == b"." || dots == b".." {
            return Err(complaint("the path holds a `.` or `..` segment"));
        }
        if dots.iter().any(|b| matches!(b, b'/' | b'\\')) {
            return Err(complaint("the path holds an encoded slash or backslash"));
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
            return Err(complaint("the path holds a `.` or `..` segment"));
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
            _ => return Err(complaint("`%` is not followed by two hexadecimal digits")),
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
                )),
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
            out.add(at, complaint(format!("is the address of `{other}` too")));
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn listeners() {
        for good in [
            "127.0.0.1:8080",
            "[::1]:0",
            "0.0.0.0:80",
            "unix:/run/p.sock",
        ] {
            assert!(Listen::from_text(good).is_ok(), "{good}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for bad in [
            "",
            "8080",
            ":8080",
            "localhost:8080",
            "unix:",
            "unix:p.sock",
            "unix:/a/",
            &long,
        ] {
            assert!(Listen::from_text(bad).is_err(), "{bad}");
        }
        for (text, remote) in [
            ("127.0.0.2:1", false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("unix:/p", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("10.0.0.1:1", true),
        ] {
            assert_eq!(
                Listen::from_text(text).unwrap().is_remote(),
                remote,
                "{text}"
            );
        }
    }

    #[test]
    fn overlapping_listeners() {
        for (a, b, clash) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
        ] {
            let mut listeners = Listeners::default();
            let mut problems = Problems::default();
            for (text, key) in [(a, "a"), (b, "b")] {
                let at = KeyPath::root().key(key);
                listeners.add(&Listen::from_text(text).unwrap(), &at, &mut problems);
            }
            assert_eq!(!problems.is_empty(), clash, "{a} {b}");
        }
    }

    #[test]
    fn prefixes() {
        for good in ["/a", "/a/b", "/a-b_c~d", "/.well-known", "/a;v=1", "/..."] {
            assert!(PathPrefix::from_text(good).is_ok(), "{good}");
        }
        for bad in [
            "", "/", "a", "/a/", "//a", "/a//b", "/.", "/a/..", "/a/..;x", "/%61", "/a?b", "/a#b",
            "/a b", "/a\\b", "/路",
        ] {
            assert!(PathPrefix::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn allow_rules() {
        let rule = AllowRule::from_text("GET /v1/*/x/**").unwrap();
        assert_eq!(rule.method, Some(Method::GET));
        assert_eq!(rule.segments, ["v1", "*", "x", "**"]);
        let rule = AllowRule::from_text("*  /").unwrap();
        assert_eq!((rule.method, rule.segments), (None, vec![String::new()]));
        assert_eq!(AllowRule::from_text("PUT /a/").unwrap().segments, ["a", ""]);
        assert!(AllowRule::from_text("PROPFIND /%E8%B7%AF").is_ok());
        for bad in [
            "",
            "GET",
            "/v1",
            "GET v1",
            "get /v1",
            "G@T /",
            "GET /a//b",
            "GET /../a",
            "GET /%2e%2E/a",
            "GET /a%2Fb",
            "GET /a%5cb",
            "GET /a%zz",
            "GET /a%2",
            "GET /**/a",
            "GET /a*",
            "GET /a?b",
            "GET /a b",
        ] {
            assert!(AllowRule::from_text(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = Listen::from_text(&text);
            let _ = PathPrefix::from_text(&format!("/{text}"));
            let _ = AllowRule::from_text(&format!("GET /{text}"));
        }

        #[test]
        fn a_good_prefix_has_only_good_segments(text in "[/a.;%2e]{0,9}") {
            if let Ok(PathPrefix(prefix)) = PathPrefix::from_text(&text) {
                for segment in prefix[1..].split('/') {
                    let name = segment.split(';').next().unwrap();
                    prop_assert!(!segment.is_empty() && name != "." && name != "..");
                }
            }
        }
    }
}
