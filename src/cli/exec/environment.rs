//! Environment variables for the command of `exec`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::cli::failure::Failure;
use crate::config::{Listen, Route, Upstream};

/// Returns `CUPBEARER_<UPSTREAM>_URL` for each upstream, and `http_proxy` if wanted.
pub(super) fn variables(
    upstreams: &[Arc<Upstream>],
    port: SocketAddr,
    http_proxy: bool,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut variables = BTreeMap::new();
    for upstream in upstreams {
        let name = variable(&upstream.name);
        let url = url(&upstream.route, port);
        if variables.insert(name.clone(), url).is_some() {
            return Err(Failure::Runtime(format!(
                "two upstreams have the same variable, {name}; rename one upstream"
            )));
        }
    }
    if http_proxy {
        // Programs differ in which one they read. Not https_proxy: a tunnel would hide the request.
        for name in ["http_proxy", "HTTP_PROXY"] {
            variables.insert(name.to_owned(), format!("http://{port}"));
        }
    }
    Ok(variables)
}

fn variable(upstream: &str) -> String {
    let word = upstream.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!("CUPBEARER_{}_URL", word.to_ascii_uppercase())
}

fn url(route: &Route, port: SocketAddr) -> String {
    match route {
        Route::PathPrefix(prefix) => format!("http://{port}{prefix}"),
        // Reachable through http_proxy, without which host routes have their own port.
        Route::Host(host) => format!("http://{host}"),
        Route::Listen(Listen::Tcp(own)) => format!("http://{own}"),
        Route::Listen(Listen::Unix(path)) => format!("unix:{}", path.display()),
        Route::CatchAll => format!("http://{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ProcessEnvironment};

    fn upstreams(table: &str) -> Vec<Arc<Upstream>> {
        let text = format!("[providers.p]\naccess_token = 't'\n{table}");
        Config::from_toml(&text, &ProcessEnvironment)
            .unwrap()
            .upstreams
    }

    fn upstream(name: &str, route: &str) -> String {
        format!(
            "[upstreams.{name}]\nurl = 'http://127.0.0.1:1'\nprovider = 'p'\n\
             route = {{ {route} }}\n"
        )
    }

    #[test]
    fn every_upstream_has_a_url() {
        let port = "127.0.0.1:4000".parse().unwrap();
        let table = upstream("my-api", "path_prefix = '/a'")
            + &upstream("host", "host = 'api.test'")
            + "[upstreams.rest]\nurl = 'http://127.0.0.1:1'\nprovider = 'p'\n";
        let found = variables(&upstreams(&table), port, true).unwrap();
        let expected = [
            ("CUPBEARER_HOST_URL", "http://api.test"),
            ("CUPBEARER_MY_API_URL", "http://127.0.0.1:4000/a"),
            ("CUPBEARER_REST_URL", "http://127.0.0.1:4000"),
            ("HTTP_PROXY", "http://127.0.0.1:4000"),
            ("http_proxy", "http://127.0.0.1:4000"),
        ];
        assert!(
            found
                .iter()
                .map(|(name, url)| (&**name, &**url))
                .eq(expected),
            "{found:?}"
        );
    }

    #[test]
    fn upstreams_with_the_same_variable_are_an_error() {
        let table = upstream("a-b", "path_prefix = '/1'") + &upstream("a_b", "path_prefix = '/2'");
        let port = "127.0.0.1:4000".parse().unwrap();
        let error = variables(&upstreams(&table), port, false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("CUPBEARER_A_B_URL"), "{error}");
    }
}
