//! Strict parsers for URLs, hosts and ports: tokens are sent to these addresses.

use std::net::{IpAddr, Ipv6Addr};

use http::Uri;

use super::problems::{Complaint, complaint};
use super::units::Written;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub scheme: Scheme,
    /// Lower case; an IPv6 address has no brackets.
    pub host: String,
    pub port: u16,
    /// For `Host` and `:authority`: IPv6 in brackets, the port only if it is not the default.
    pub authority: String,
}

/// An `http://` or `https://` URL without userinfo and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) origin: Origin,
    /// Starts with `/`.
    pub(super) path: String,
    pub(super) query: Option<String>,
}

/// `host:port`; an IPv6 address has no brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) host: String,
    pub(super) port: u16,
}

/// A host with an optional port as in a `Host` header: lower case, IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostText(pub(super) String);

/// The value of an `Origin` header, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OriginText(pub(super) String);

/// A DNS name or IP address for SNI and certificate verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerName(pub(super) String);

/// An issuer identifier (RFC 8414 §2).
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
    /// RFC 8414 §3.1 prefixes the issuer's path, OpenID Connect Discovery 1.0 §4 appends to it.
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
}

impl Origin {
    fn new(scheme: Scheme, host: String, port: u16) -> Self {
        let stated = Some(port).filter(|port| *port != scheme.default_port());
        Self {
            scheme,
            authority: authority(&host, stated),
            host,
            port,
        }
    }

    /// `https://api.example.com:8443`
    pub(super) fn url(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        format!("{scheme}://{}", self.authority)
    }

    /// Returns whether the user must permit credentials here: plain HTTP off loopback.
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

fn authority(host: &str, port: Option<u16>) -> String {
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    match host.contains(':') {
        true => format!("[{host}]{port}"),
        false => format!("{host}{port}"),
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
        // `Uri` drops a fragment silently.
        if text.contains('#') {
            return Err(
                complaint("a URL with a fragment (`#…`) cannot be used here")
                    .hint("remove the fragment; write a `#` of the path as %23"),
            );
        }
        if !text.is_ascii() {
            return Err(complaint("a URL holds ASCII characters only")
                .hint("write the host in punycode and percent-encode the path"));
        }
        let uri: Uri = text.parse().map_err(|_| Self::expected())?;
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            _ => return Err(Self::expected().hint("start with https:// or http://")),
        };
        let authority = uri.authority().ok_or_else(Self::expected)?.as_str();
        if authority.contains('@') {
            return Err(
                complaint("a URL with a user name or password cannot be used here")
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
        match split_authority(text).map_err(|_| Self::expected())? {
            (host, Some(port)) => Ok(Self { host, port }),
            (_, None) => Err(Self::expected().hint("add the port")),
        }
    }
}

impl Written for HostText {
    const EXPECTED: &'static str = r#"a host such as "api.local" or "api.local:8080""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let (host, port) =
            split_authority(text).map_err(|wrong| Self::expected().hint(wrong.message))?;
        Ok(Self(authority(&host, port)))
    }
}

impl Written for OriginText {
    const EXPECTED: &'static str = r#"an origin such as "https://app.example.com""#;

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let (scheme, authority) = text.split_once("://").ok_or_else(Self::expected)?;
        // Any scheme: browser extensions have their own.
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if scheme.is_empty() || !scheme.chars().all(named) {
            return Err(Self::expected());
        }
        if authority.contains('/') {
            return Err(Self::expected().hint("an origin has no path and no trailing slash"));
        }
        let HostText(host) = HostText::from_text(authority).map_err(|_| Self::expected())?;
        Ok(Self(format!("{}://{host}", scheme.to_ascii_lowercase())))
    }
}

impl Written for ServerName {
    const EXPECTED: &'static str = "a DNS name or an IP address";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        match split_authority(text) {
            Ok((host, None)) => Ok(Self(host)),
            _ => Err(Self::expected().hint("without scheme and port")),
        }
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port` into a lower-case host without brackets, and
/// the port.
pub(super) fn split_authority(text: &str) -> Result<(String, Option<u16>), Complaint> {
    let wrong_ipv6 = |message| complaint(message).hint("[::1]:443");
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest
            .split_once(']')
            .ok_or_else(|| wrong_ipv6("`]` is missing after the IPv6 address"))?;
        let address: Ipv6Addr = address
            .parse()
            .map_err(|_| wrong_ipv6("the brackets hold no IPv6 address"))?;
        let port = match port.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if port.is_empty() => None,
            None => return Err(wrong_ipv6("only a port can follow an IPv6 address")),
        };
        return Ok((address.to_string(), port));
    }
    let (host, port) = match text.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            return Err(wrong_ipv6("an IPv6 address needs brackets"));
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

/// RFC 1123 §2.1, with underscores as in private DNS, and a trailing dot that stops search lists.
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
        return Ok(());
    }
    Err(
        complaint("the host is neither a DNS name nor an IP address")
            .hint("as in api.example.com, 192.0.2.1 or [2001:db8::1]"),
    )
}

#[cfg(test)]
mod tests;
