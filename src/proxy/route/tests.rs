use std::sync::Arc;

use proptest::prelude::*;

use super::super::target::{Target, TargetParts};
use super::*;
use crate::clock::Clock;
use crate::config::{self, Origin, Scheme, Upstream};
use crate::dialect::RejectRules;
use crate::metrics::Metrics;
use crate::token::cell;

/// Returns the upstream `name` at `https://api.example`, with query keys that hold credentials.
pub(in crate::proxy) fn target(
    name: &str,
    route: Route,
    base_path: &str,
    inject_query: &[&str],
) -> Arc<Target> {
    let config = Upstream {
        name: name.to_owned(),
        origin: Origin {
            scheme: Scheme::Https,
            host: "api.example".to_owned(),
            port: 443,
            authority: "api.example".to_owned(),
        },
        base_path: base_path.to_owned(),
        provider: String::new(),
        route,
        allow: Vec::new(),
        http: config::HttpVersion::Auto,
        connect_to: None,
        tls: config::Tls::default(),
        egress: None,
        connect_timeout: std::time::Duration::from_secs(5),
        response_timeout: std::time::Duration::from_secs(60),
        body_timeout: config::BodyTimeout {
            announced: std::time::Duration::from_secs(60),
            streaming: None,
        },
        idle_timeout: std::time::Duration::from_secs(60),
        token_wait: std::time::Duration::from_secs(10),
        replay_limit: 0,
        max_in_flight: None,
        existing_credential: config::ExistingCredential::Replace,
        rewrite_redirects: true,
        set_headers: Vec::new(),
        remove_headers: Vec::new(),
    };
    Arc::new(Target::new(TargetParts {
        config: Arc::new(config),
        metrics: Metrics::new().upstream(name),
        token: cell::cell(Clock::System).1,
        pools: Vec::new(),
        inject_headers: Vec::new(),
        inject_query: inject_query.iter().map(ToString::to_string).collect(),
        reject: RejectRules::default(),
    }))
}

#[test]
fn nth_boundary_ends_behind_so_many_segments() {
    assert_eq!(nth_boundary("/a/b/c", 1), 2);
    assert_eq!(nth_boundary("/a/b/c", 2), 4);
    assert_eq!(nth_boundary("/a/b/c", 3), 6);
    assert_eq!(nth_boundary("/", 2), 1);
    assert_eq!(nth_boundary("*", 2), 1);
}

#[test]
fn without_port_keeps_brackets() {
    assert_eq!(without_port("a:80"), "a");
    assert_eq!(without_port("[::1]:80"), "[::1]");
    assert_eq!(without_port("[::1]"), "[::1]");
    assert_eq!(without_port("a"), "a");
}

fn found(routes: &Routes, request: &Request<()>, listener: usize) -> Option<String> {
    let routed = routes.find(request, listener).ok()?;
    Some(routed.target.config.name.clone())
}

#[test]
fn a_port_beats_a_host_beats_a_prefix_beats_the_catch_all() {
    let mut routes = Routes::new(vec!["127.0.0.1:8080".to_owned()]);
    let listen = config::Listen::Tcp("127.0.0.1:8081".parse().unwrap());
    let port = target("port", Route::Listen(listen), "", &[]);
    routes.at_listener(1, Some(Arc::clone(&port)));
    routes.add(port);
    // The listener of a removed upstream.
    routes.at_listener(2, None);
    let host = Route::Host("h.example".to_owned());
    routes.add(target("host", host, "", &[]));
    let prefix = Route::PathPrefix("/p".to_owned());
    routes.add(target("prefix", prefix, "", &[]));
    routes.add(target("rest", Route::CatchAll, "", &[]));
    let request = |uri: &str, host: &str| Request::get(uri).header(HOST, host).body(()).unwrap();
    for (uri, host, listener, name) in [
        ("/p/x", "h.example", 1, Some("port")),
        ("/p/x", "h.example", 2, None),
        ("/p/x", "H.example:99", 0, Some("host")),
        ("/p/x", "localhost", 0, Some("prefix")),
        ("/x", "localhost", 0, Some("rest")),
        ("/px", "localhost", 0, Some("rest")),
        // Absolute-form: by host only, never the catch-all. For a listener it is origin-form.
        ("http://h.example/p/x", "localhost", 0, Some("host")),
        ("http://other.example/p/x", "localhost", 0, None),
        ("http://other.example/x", "127.0.0.1:8080", 0, None),
        ("http://127.0.0.1:8080/p/x", "localhost", 0, Some("prefix")),
        ("http://127.0.0.1:8080/x", "localhost", 0, Some("rest")),
    ] {
        let got = found(&routes, &request(uri, host), listener);
        assert_eq!(got.as_deref(), name, "{uri} {host} {listener}");
    }
}

proptest! {
    #[test]
    fn the_longest_prefix_on_a_segment_boundary_wins(
        prefixes in prop::collection::hash_set("(/(a|b|aa|%61)){1,4}", 0..6),
        path in "(/(a|b|aa|%61)?){1,6}",
    ) {
        let mut routes = Routes::new(Vec::new());
        for prefix in &prefixes {
            routes.add(target(prefix, Route::PathPrefix(prefix.clone()), "", &[]));
        }
        let naive = prefixes
            .iter()
            .filter(|prefix| path == **prefix || path.starts_with(&format!("{prefix}/")))
            .max_by_key(|prefix| prefix.len());
        let request = Request::get(path.as_str()).body(()).unwrap();
        let routed = routes.find(&request, 0).ok();
        prop_assert_eq!(routed.map(|routed| &routed.target.config.name), naive);
        prop_assert_eq!(routed.map(|routed| routed.prefix), naive.map(String::len));
    }
}
