//! Egress proxies: `proxy` of a provider or upstream, or `HTTPS_PROXY` and `NO_PROXY`.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::environment::Environment;
use super::origin::{Origin, Scheme, is_loopback, split_authority};
use super::problems::{Complaint, complaint};
use super::value::ValueToml;
use crate::secret::Secret;

/// An HTTP proxy that opens tunnels with `CONNECT`.
#[derive(Clone, Debug, PartialEq)]
pub struct EgressProxy {
    pub host: String,
    pub port: u16,
    /// `Proxy-Authorization`, if the proxy's URL held credentials.
    pub authorization: Option<Secret>,
}

/// Chooses the proxy for a host that an issuer states later: by the environment, or `None` if the
/// provider's own `proxy` covers all hosts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Egress(pub(super) Option<Arc<EnvironmentProxy>>);

/// The environment's proxy settings, read once.
#[derive(Debug, PartialEq)]
pub(super) struct EnvironmentProxy {
    proxy: Option<Result<EgressProxy, Complaint>>,
    exempt: NoProxy,
}

impl EnvironmentProxy {
    pub(super) fn read(env: &dyn Environment) -> Self {
        // Lower case first, as in curl.
        let first = |names: [&str; 2]| {
            let mut values = names.into_iter().filter_map(|name| env.var(name));
            values.find(|value| !value.is_empty())
        };
        Self {
            proxy: first(["https_proxy", "HTTPS_PROXY"]).map(|url| {
                parse(&url).map_err(|wrong| {
                    complaint(format!("HTTPS_PROXY in the environment: {}", wrong.message))
                        .hint("change the variable, or set `proxy` here, \"off\" for none")
                })
            }),
            exempt: NoProxy::parse(&first(["no_proxy", "NO_PROXY"]).unwrap_or_default()),
        }
    }

    /// Returns the proxy for connections to the dialled host.
    pub(super) fn to(
        &self,
        scheme: Scheme,
        host: &str,
        port: u16,
    ) -> Result<Option<EgressProxy>, Complaint> {
        if scheme == Scheme::Http || is_loopback(host) || self.exempt.covers(host, port) {
            return Ok(None);
        }
        self.proxy.clone().transpose()
    }
}

impl Egress {
    /// `written` is the proxy of the provider's first host.
    pub(super) fn to(
        &self,
        origin: &Origin,
        written: Option<&EgressProxy>,
    ) -> Result<Option<EgressProxy>, &'static str> {
        let Some(proxies) = &self.0 else {
            return Ok(written.cloned());
        };
        let proxy = proxies.to(origin.scheme, &origin.host, origin.port);
        proxy.map_err(|_| "needs the proxy of HTTPS_PROXY, which is not a usable URL")
    }
}

/// Parses the `proxy` key: a URL, or "off" to ignore the environment.
pub(super) fn written(
    value: ValueToml,
    env: &dyn Environment,
) -> Result<Option<EgressProxy>, Complaint> {
    let url = value.resolve_fixed(env)?;
    match url.expose() {
        "off" => Ok(None),
        url => parse(url).map(Some),
    }
}

fn parse(text: &str) -> Result<EgressProxy, Complaint> {
    let wrong = || {
        complaint(
            "expected a URL such as \"http://proxy.example.com:3128\", optionally with \
             user:password@",
        )
    };
    // Environments often hold the URL without a scheme.
    let scheme = if text.contains("://") { "" } else { "http://" };
    let url = Zeroizing::new(format!("{scheme}{text}"));
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong().hint("only http:// proxies are supported"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('#') {
        return Err(wrong().hint("without a path"));
    }
    let authority = uri.authority().ok_or_else(wrong)?.as_str();
    let (credentials, address) = match authority.rsplit_once('@') {
        Some((credentials, address)) => (Some(credentials), address),
        None => (None, authority),
    };
    let (host, port) = split_authority(address).map_err(|_| wrong())?;
    Ok(EgressProxy {
        host,
        port: port.unwrap_or(80),
        authorization: credentials.map(basic),
    })
}

/// Encodes a URL's percent-encoded userinfo as in RFC 7617.
fn basic(userinfo: &str) -> Secret {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let mut plain = Zeroizing::new(Vec::with_capacity(userinfo.len() + 1));
    plain.extend(percent_decode_str(user));
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(&*plain));
    Secret::new(format!("Basic {}", *encoded))
}

/// `NO_PROXY`: a name covers its subdomains, an address may be a network, `*` covers all hosts.
#[derive(Debug, Default, PartialEq)]
struct NoProxy {
    everything: bool,
    names: Vec<(String, Option<u16>)>,
    networks: Vec<(IpAddr, u8)>,
}

impl NoProxy {
    /// Skips unreadable entries, as other programs do.
    fn parse(text: &str) -> Self {
        let mut list = Self::default();
        for entry in text.split([',', ' ']).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                list.everything = true;
            } else if let Some(network) = parse_network(entry) {
                list.networks.push(network);
            } else {
                let name = entry.strip_prefix('*').unwrap_or(entry);
                let name = name.strip_prefix('.').unwrap_or(name);
                list.names.extend(split_authority(name).ok());
            }
        }
        list
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        let in_network = |address: IpAddr| {
            let mut networks = self.networks.iter();
            networks.any(|(network, bits)| same_network(*network, address, *bits))
        };
        let in_domain = |(name, only): &(String, Option<u16>)| {
            let rest = host.strip_suffix(name.as_str());
            only.is_none_or(|only| only == port)
                && rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.everything || host.parse().is_ok_and(in_network) || self.names.iter().any(in_domain)
    }
}

fn parse_network(entry: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = entry.split_once('/').unwrap_or((entry, ""));
    let address: IpAddr = address.parse().ok()?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        "" => all,
        bits => bits.parse().ok().filter(|bits| *bits <= all)?,
    };
    Some((address, bits))
}

fn same_network(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let differing = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    differing.leading_zeros() >= u32::from(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_proxy_urls_are_accepted() {
        let proxy = parse("http://us%40er:p%3Aw@proxy.example.com:3128/").unwrap();
        assert_eq!(
            (proxy.host.as_str(), proxy.port),
            ("proxy.example.com", 3128)
        );
        let expected = format!("Basic {}", BASE64_STANDARD.encode("us@er:p:w"));
        assert_eq!(proxy.authorization.unwrap().expose(), expected);
        let proxy = parse("[::1]:8080").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("::1", 8080));
        assert_eq!(parse("http://p").unwrap().port, 80);
        for bad in [
            "",
            "https://p:1",
            "socks5://p:1",
            "http://p/x",
            "http://p?x",
            "http://",
            "a b",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_environment_proxy_serves_remote_https_only() {
        let env = [
            ("HTTPS_PROXY", "http://p:1"),
            (
                "NO_PROXY",
                "internal.example, .corp,10.0.0.0/8,fd00::/8,h:8443",
            ),
        ];
        let proxies = EnvironmentProxy::read(&env);
        for (scheme, host, port, proxied) in [
            (Scheme::Https, "api.example.com", 443, true),
            (Scheme::Http, "api.example.com", 80, false),
            (Scheme::Https, "127.0.0.1", 443, false),
            (Scheme::Https, "localhost", 443, false),
            (Scheme::Https, "internal.example", 443, false),
            (Scheme::Https, "a.internal.example", 443, false),
            (Scheme::Https, "notinternal.example", 443, true),
            (Scheme::Https, "a.corp", 443, false),
            (Scheme::Https, "10.2.3.4", 443, false),
            (Scheme::Https, "11.2.3.4", 443, true),
            (Scheme::Https, "fd00::1", 443, false),
            (Scheme::Https, "h", 8443, false),
            (Scheme::Https, "h", 443, true),
        ] {
            let proxy = proxies.to(scheme, host, port).unwrap();
            assert_eq!(proxy.is_some(), proxied, "{host}:{port}");
        }
    }

    #[test]
    fn lower_case_wins_and_a_star_exempts_every_host() {
        let env = [
            ("https_proxy", "http://lower:1"),
            ("HTTPS_PROXY", "http://upper:1"),
        ];
        let proxy = EnvironmentProxy::read(&env).to(Scheme::Https, "h", 443);
        assert_eq!(proxy.unwrap().unwrap().host, "lower");
        let env = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "*")];
        let proxy = EnvironmentProxy::read(&env).to(Scheme::Https, "h", 443);
        assert_eq!(proxy, Ok(None));
    }

    #[test]
    fn an_invalid_environment_proxy_fails_only_connections_that_need_it() {
        let env = [("HTTPS_PROXY", "socks5://user:hunter2@p:1")];
        let proxies = EnvironmentProxy::read(&env);
        let wrong = proxies.to(Scheme::Https, "h", 443).unwrap_err();
        assert!(!format!("{wrong:?}").contains("hunter2"), "{wrong:?}");
        assert_eq!(proxies.to(Scheme::Https, "127.0.0.1", 443), Ok(None));
    }
}
