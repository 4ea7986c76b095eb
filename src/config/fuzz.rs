//! Fuzz targets: the configuration file, and the proxy variables of the environment.

use super::egress::EnvironmentProxy;
use super::{Config, Scheme};

/// Input: a configuration file.
pub fn file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Config::from_toml(text, &[("SECRET", "hunter2")]) {
        Ok(config) => assert!(config.server.workers > 0 && !config.server.listen.is_empty()),
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            for problem in problems {
                assert!(!problem.message.is_empty());
                // A value of the environment is never quoted, unless the file holds it too.
                let quoted = problem.message.contains("hunter2");
                assert!(!quoted || text.contains("hunter2"), "{}", problem.path);
            }
        }
    }
}

/// Input lines: `HTTPS_PROXY`, `NO_PROXY`, a host.
pub fn egress_proxy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (proxy, exempt, host) = (line(), line(), line());
    let set = [("https_proxy", proxy), ("NO_PROXY", exempt)];
    let environment = EnvironmentProxy::read(&set);
    for host in [host, "localhost", "127.0.0.1", "::1", "api.example"] {
        let Ok(Some(found)) = environment.to(Scheme::Https, host, 443) else {
            continue;
        };
        assert!(!["localhost", "127.0.0.1", "::1"].contains(&host));
        assert!(!exempt.split([',', ' ']).any(|entry| entry == "*"));
        let odd = |c: char| c.is_ascii_control() || c == ' ' || c == '@' || c == '/';
        assert!(!found.host.is_empty() && !found.host.contains(odd));
        if let Some(authorization) = found.authorization {
            let encoded = authorization.expose().strip_prefix("Basic ");
            let visible = |encoded: &str| encoded.bytes().all(|byte| byte.is_ascii_graphic());
            assert!(encoded.is_some_and(visible));
        }
    }
    // A host that the list names exactly is exempt.
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    let named = exempt.split([',', ' ']).any(|entry| entry == host);
    let is_name = host.starts_with(|c: char| c.is_ascii_lowercase()) && host.chars().all(plain);
    if named && is_name && !host.ends_with('.') && !host.contains("..") {
        let found = environment.to(Scheme::Https, host, 443);
        assert!(matches!(found, Ok(None)), "{host} in {exempt}");
    }
}
