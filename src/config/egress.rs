//! The way out: `proxy` of a provider or upstream, or `HTTPS_PROXY` and `NO_PROXY` of the environment.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::origin::{is_loopback, split_authority};
use super::problems::{Complaint, complaint};
use super::value::ValueToml;
use super::{EgressProxy, Environment, Origin, Scheme};
use crate::secret::Secret;

/// The way out to a host that is known only later: an issuer states it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Egress {
    /// `None`: the provider writes its `proxy`, which is for all hosts.
    by_environment: Option<Arc<EnvironmentProxy>>,
}

/// What the environment says of proxies, read once.
#[derive(Debug, PartialEq)]
pub(super) struct EnvironmentProxy {
    proxy: Option<Result<EgressProxy, Complaint>>,
    exempt: NoProxy,
}

impl EnvironmentProxy {
    pub(super) fn read(env: &dyn Environment) -> Self {
        // Lower case first, as curl does.
        let first = |names: [&str; 2]| {
            let mut values = names.into_iter().filter_map(|name| env.var(name));
            values.find(|value| !value.is_empty())
        };
        Self {
            proxy: first(["https_proxy", "HTTPS_PROXY"]).map(|url| {
                parse(&url).map_err(|wrong| {
                    complaint(format!("HTTPS_PROXY in the environment: {}", wrong.message))
                        .hint("change it, or set `proxy` here, to \"off\" for none")
                })
            }),
            exempt: NoProxy::parse(&first(["no_proxy", "NO_PROXY"]).unwrap_or_default()),
        }
    }

    /// The proxy for connections to this host, which is the one that is dialled.
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
    pub(super) fn by_environment(proxies: &Arc<EnvironmentProxy>) -> Self {
        Self {
            by_environment: Some(Arc::clone(proxies)),
        }
    }

    /// `written` is what another host of the same provider has.
    pub(super) fn to(
        &self,
        origin: &Origin,
        written: Option<&EgressProxy>,
    ) -> Result<Option<EgressProxy>, &'static str> {
        match &self.by_environment {
            None => Ok(written.cloned()),
            Some(proxies) => proxies
                .to(origin.scheme, &origin.host, origin.port)
                .map_err(|_| "is reached through HTTPS_PROXY of the environment, which is no URL that can be used"),
        }
    }
}

/// The `proxy` key: a URL, or "off" against the environment's.
pub(super) fn written(
    value: ValueToml,
    env: &dyn Environment,
) -> Result<Option<EgressProxy>, Complaint> {
    let url = value.resolve_fixed(env)?;
    if url.expose() == "off" {
        return Ok(None);
    }
    parse(url.expose()).map(Some)
}

const EXPECTED: &str =
    r#"expected a URL such as "http://proxy.example.com:3128", with user:password@ if need be"#;

fn parse(text: &str) -> Result<EgressProxy, Complaint> {
    let wrong = || complaint(EXPECTED);
    // Often written without a scheme in the environment.
    let url = if text.contains("://") {
        Zeroizing::new(text.to_owned())
    } else {
        Zeroizing::new(format!("http://{text}"))
    };
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

/// RFC 7617, from the percent-encoded userinfo of a URL.
fn basic(userinfo: &str) -> Secret {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let mut plain = Zeroizing::new(Vec::with_capacity(userinfo.len() + 1));
    plain.extend(percent_decode_str(user));
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(&*plain));
    Secret::new(format!("Basic {}", *encoded))
}

/// `NO_PROXY`: names cover their subdomains, addresses may be networks, `*` is everything.
#[derive(Debug, Default, PartialEq)]
struct NoProxy {
    everything: bool,
    names: Vec<(String, Option<u16>)>,
    networks: Vec<(IpAddr, u8)>,
}

impl NoProxy {
    /// Entries that cannot be read are passed over, as every other program does.
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
        let address: Option<IpAddr> = host.parse().ok();
        self.everything
            || address.is_some_and(|address| {
                let mut networks = self.networks.iter();
                networks.any(|(network, bits)| same_network(*network, address, *bits))
            })
            || self.names.iter().any(|(name, only)| {
                only.is_none_or(|only| only == port)
                    && host
                        .strip_suffix(name.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
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
    u8::try_from(differing.leading_zeros()).is_ok_and(|same| same >= bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(&'static [(&'static str, &'static str)]);

    impl Environment for Fixed {
        fn var(&self, name: &str) -> Option<String> {
            let found = self.0.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn proxy_urls() {
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
    fn the_environment_is_for_remote_https_only() {
        let env = Fixed(&[
            ("HTTPS_PROXY", "http://p:1"),
            (
                "NO_PROXY",
                "internal.example, .corp,10.0.0.0/8,fd00::/8,h:8443",
            ),
        ]);
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
    fn lower_case_wins_and_a_star_is_everything() {
        let env = Fixed(&[
            ("https_proxy", "http://lower:1"),
            ("HTTPS_PROXY", "http://upper:1"),
        ]);
        let proxy = EnvironmentProxy::read(&env).to(Scheme::Https, "h", 443);
        assert_eq!(proxy.unwrap().unwrap().host, "lower");
        let env = Fixed(&[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "*")]);
        let proxy = EnvironmentProxy::read(&env).to(Scheme::Https, "h", 443);
        assert_eq!(proxy, Ok(None));
    }

    #[test]
    fn a_bad_environment_is_an_error_only_where_it_counts() {
        let env = Fixed(&[("HTTPS_PROXY", "socks5://user:hunter2@p:1")]);
        let proxies = EnvironmentProxy::read(&env);
        let wrong = proxies.to(Scheme::Https, "h", 443).unwrap_err();
        assert!(!format!("{wrong:?}").contains("hunter2"), "{wrong:?}");
        assert_eq!(proxies.to(Scheme::Https, "127.0.0.1", 443), Ok(None));
    }
}
