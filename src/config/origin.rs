//! URLs, hosts and ports: parsed strictly, because a token is sent to what is written here.

use std::net::{IpAddr, Ipv6Addr};

use http::Uri;

use super::problems::{Complaint, complaint};
use super::units::Written;
use super::{Origin, Scheme};

/// An `http://` or `https://` URL without userinfo and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) origin: Origin,
    /// Starts with `/`.
    pub(super) path: String,
    pub(super) query: Option<String>,
}

/// `host:port`; an IPv6 address without its brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) host: String,
    pub(super) port: u16,
}

/// A host with an optional port, in the form of a `Host` header: lower case, brackets around IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostText(pub(super) String);

/// The value of an `Origin` header, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OriginText(pub(super) String);

/// A name for SNI and the certificate's check: a DNS name or an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerName(pub(super) String);

/// An issuer identifier (RFC 8414 §2), and the same as a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IssuerText {
    pub(super) text: String,
    pub(super) url: Url,
}

impl Written for IssuerText {
    const EXPECTED: &'static str = r#"an issuer such as "https://id.example.com/realm""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let url = Url::from_text(text)?;
        if url.query.is_some() {
            return Err(complaint("an issuer has no query (RFC 8414 §2)").hint("remove it"));
        }
        Ok(Self {
            text: text.to_owned(),
            url,
        })
    }
}

impl IssuerText {
    /// RFC 8414 §3.1 puts it in front of the issuer's path, OpenID Connect Discovery 1.0 §4 behind it.
    pub(super) fn well_known(&self) -> [String; 2] {
        let path = self.url.path.trim_end_matches('/');
        [
            format!("/.well-known/oauth-authorization-server{path}"),
            format!("{path}/.well-known/openid-configuration"),
        ]
    }
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Origin {
    fn new(scheme: Scheme, host: String, port: u16) -> Self {
        let bracketed = bracketed(&host);
        let authority = if port == scheme.default_port() {
            bracketed
        } else {
            format!("{bracketed}:{port}")
        };
        Self {
            scheme,
            host,
            port,
            authority,
        }
    }

    /// `https://api.example.com:8443`
    pub(super) fn url(&self) -> String {
        format!("{}://{}", self.scheme.name(), self.authority)
    }

    /// Plain HTTP may carry credentials only where nobody can listen, or where the user says so.
    pub(super) fn needs_permission(&self) -> bool {
        self.scheme == Scheme::Http && !is_loopback(&self.host)
    }
}

/// Returns whether `host`, in lower case, is `localhost` or a loopback address.
///
/// An IPv6 address may have brackets, and an IPv4 address may be mapped to IPv6. Names below
/// `.localhost` do not count: a resolver may ask the network for them.
pub fn is_loopback(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    let address = bare.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

impl Url {
    pub(super) fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

impl Written for Url {
    const EXPECTED: &'static str = r#"a URL such as "https://api.example.com/v1""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let wrong = || complaint(format!("expected {}", Self::EXPECTED));
        // `Uri` drops a fragment without a word.
        if text.contains('#') {
            return Err(
                complaint("a URL with a fragment (`#…`) cannot be used here")
                    .hint("remove it; a `#` that is part of the path is written %23"),
            );
        }
        if !text.is_ascii() {
            return Err(complaint("a URL holds ASCII characters only")
                .hint("write the host in punycode and percent-encode the path"));
        }
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            _ => return Err(wrong().hint("it starts with https:// or http://")),
        };
        let authority = uri.authority().ok_or_else(wrong)?.as_str();
        if authority.contains('@') {
            return Err(
                complaint("a URL with a user name or password in it cannot be used here")
                    .hint("use client_id and client_secret, or username and password"),
            );
        }
        let (host, port) = split_authority(authority)?;
        let port = port.unwrap_or_else(|| scheme.default_port());
        Ok(Self {
            origin: Origin::new(scheme, host, port),
            path: match uri.path() {
                "" => "/".to_owned(),
                path => path.to_owned(),
            },
            query: uri.query().map(str::to_owned),
        })
    }
}

impl Written for HostPort {
    const EXPECTED: &'static str = r#"a host and port such as "10.0.0.7:443""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let wrong = || complaint(format!("expected {}", Self::EXPECTED));
        match split_authority(text).map_err(|_| wrong())? {
            (host, Some(port)) => Ok(Self { host, port }),
            (_, None) => Err(wrong().hint("the port is missing")),
        }
    }
}

impl Written for HostText {
    const EXPECTED: &'static str = r#"a host such as "api.local" or "api.local:8080""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let (host, port) = split_authority(text).map_err(|wrong| {
            complaint(format!("expected {}", Self::EXPECTED)).hint(wrong.message)
        })?;
        let host = bracketed(&host);
        Ok(Self(port.map_or_else(
            || host.clone(),
            |port| format!("{host}:{port}"),
        )))
    }
}

impl Written for OriginText {
    const EXPECTED: &'static str = r#"an origin such as "https://app.example.com""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let wrong = || complaint(format!("expected {}", Self::EXPECTED));
        let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
        // Not only http: browser extensions have origins of their own.
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if scheme.is_empty() || !scheme.chars().all(named) {
            return Err(wrong());
        }
        if authority.contains('/') {
            return Err(wrong().hint("an origin has no path and no trailing slash"));
        }
        let host = HostText::from_text(authority).map_err(|_| wrong())?;
        Ok(Self(format!(
            "{}://{}",
            scheme.to_ascii_lowercase(),
            host.0
        )))
    }
}

impl Written for ServerName {
    const EXPECTED: &'static str = "a DNS name or an IP address";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let wrong =
            || complaint(format!("expected {}", Self::EXPECTED)).hint("without scheme and port");
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        match split_authority(text).map_err(|_| wrong())? {
            (host, None) => Ok(Self(host)),
            (_, Some(_)) => Err(wrong().hint("without a port")),
        }
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port` → lower-case host without brackets, and the port.
pub(super) fn split_authority(text: &str) -> Result<(String, Option<u16>), Complaint> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest
            .split_once(']')
            .ok_or_else(|| complaint("`]` is missing after the IPv6 address").hint("[::1]:443"))?;
        let address: Ipv6Addr = address.parse().map_err(|_| {
            complaint("what stands between `[` and `]` is no IPv6 address").hint("[::1]:443")
        })?;
        let port = match port.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if port.is_empty() => None,
            None => {
                return Err(complaint("only a port can follow an IPv6 address").hint("[::1]:443"));
            }
        };
        return Ok((address.to_string(), port));
    }
    let (host, port) = match text.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            return Err(complaint("an IPv6 address stands in brackets").hint("[::1]:443"));
        }
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (text, None),
    };
    check_name(host)?;
    Ok((host.to_ascii_lowercase(), port))
}

fn parse_port(text: &str) -> Result<u16, Complaint> {
    // `u16::from_str` takes a leading `+`.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(complaint("a port is a number from 1 to 65535").hint("host:443")),
    }
}

/// RFC 1123 §2.1, and underscores, which exist in private DNS. A trailing dot is fine (it stops search lists).
fn check_name(host: &str) -> Result<(), Complaint> {
    let labels = host.strip_suffix('.').unwrap_or(host);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let good = labels.len() <= 253
        && labels.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(allowed)
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    if good {
        Ok(())
    } else {
        Err(
            complaint("the host is neither a DNS name nor an IP address")
                .hint("as in api.example.com, 192.0.2.1 or [2001:db8::1]"),
        )
    }
}

#[cfg(test)]
mod tests;
