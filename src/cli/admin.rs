//! Finds the admin port of the running proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Args;

use super::config_file::ConfigArgs;
use super::failure::Failure;
use super::http::Server;

/// Default of `server.admin`.
const DEFAULT: &str = "127.0.0.1:9180";

#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// The proxy's admin port [default: server.admin, else http://127.0.0.1:9180]
    #[arg(long, value_name = "URL", env = "CUPBEARER_ADMIN")]
    admin: Option<String>,

    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

impl AdminArgs {
    pub(super) fn server(&self) -> Result<Server, Failure> {
        let text = match &self.admin {
            Some(url) => url.clone(),
            None => match self.config.read()? {
                Some((_path, text)) => configured(&text)?,
                None => DEFAULT.to_owned(),
            },
        };
        Server::parse(&text).map_err(|error| Failure::Usage(format!("--admin: {error}")))
    }
}

/// Reads only `server.admin`: a probe may lack the credentials that a valid configuration needs.
fn configured(text: &str) -> Result<String, Failure> {
    let table: toml::Table = text.parse().map_err(|_| {
        Failure::NoConfig("the configuration is not TOML; see `cupbearer check`".to_owned())
    })?;
    let admin = table
        .get("server")
        .and_then(|server| server.get("admin"))
        .and_then(toml::Value::as_str)
        .unwrap_or(DEFAULT);
    if admin == "off" {
        return Err(Failure::Usage(
            "no admin port: the configuration has server.admin = \"off\"".to_owned(),
        ));
    }
    let Ok(address) = admin.parse::<SocketAddr>() else {
        return Ok(admin.to_owned());
    };
    if address.port() == 0 {
        return Err(Failure::Usage(
            "server.admin has port 0, which means any free port; name it with --admin".to_owned(),
        ));
    }
    Ok(reachable(address).to_string())
}

/// Replaces the unspecified address by loopback.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_address_comes_from_the_file_even_if_the_rest_is_not_valid() {
        let text = "[server]\nadmin = \"127.0.0.1:7\"\n[providers.x]\nnonsense = 1\n";
        assert_eq!(configured(text).unwrap(), "127.0.0.1:7");
        assert_eq!(configured("").unwrap(), DEFAULT);
        assert_eq!(
            configured("server.admin = \"0.0.0.0:7\"").unwrap(),
            "127.0.0.1:7"
        );
        assert_eq!(configured("server.admin = \"[::]:7\"").unwrap(), "[::1]:7");
    }

    #[test]
    fn an_unknown_admin_port_is_wrong_usage() {
        assert!(matches!(
            configured("server.admin = \"off\""),
            Err(Failure::Usage(_))
        ));
        assert!(matches!(
            configured("server.admin = \"127.0.0.1:0\""),
            Err(Failure::Usage(_))
        ));
        assert!(matches!(
            configured("server = ["),
            Err(Failure::NoConfig(_))
        ));
    }
}
