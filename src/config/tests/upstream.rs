//! `[upstreams.NAME]`: keys, routes, TLS files and egress proxies.

use super::*;

#[test]
fn upstream_keys_are_read() {
    let config = good(&with_upstream(
        "route = { host = 'API.local' }\nallow = ['GET /v1/**']\nhttp = '2'\n\
         connect_to = '[::1]:8443'\ntls = { server_name = 'x.internal' }\n\
         timeouts = { connect = '1s' }\ntoken_wait = '0s'\nreplay_limit = 0\n\
         max_in_flight = 3\nexisting_credential = 'keep'\nrewrite_redirects = false\n\
         proxy = 'http://u:p@proxy:3128'\n\
         headers = { set = { X-A = 'b', X-N = 1 }, remove = ['Cookie'] }",
    ));
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.route, Route::Host("api.local".into()));
    assert_eq!(upstream.http, HttpVersion::Http2);
    assert_eq!(upstream.connect_to, Some(("::1".into(), 8443)));
    assert_eq!(upstream.tls.server_name.as_deref(), Some("x.internal"));
    assert_eq!(upstream.connect_timeout, Duration::from_secs(1));
    assert_eq!(upstream.response_timeout, Duration::from_secs(300));
    assert_eq!(
        (upstream.token_wait, upstream.replay_limit),
        (Duration::ZERO, 0)
    );
    assert_eq!(upstream.max_in_flight, Some(3));
    assert_eq!(upstream.existing_credential, ExistingCredential::Keep);
    assert_eq!(upstream.egress.as_ref().unwrap().host, "proxy");
    assert_eq!(upstream.set_headers.len(), 2);
    assert!(
        upstream
            .set_headers
            .iter()
            .all(|(_, value)| value.is_sensitive())
    );
    assert_eq!(upstream.remove_headers, [http::header::COOKIE]);
}

#[test]
fn invalid_upstream_keys_are_refused() {
    for (lines, problem) in [
        ("route = {}", "upstreams.u.route: needs exactly one of"),
        (
            "route = { host = 'a', path_prefix = '/a' }",
            "upstreams.u.route: needs exactly one of",
        ),
        (
            "route = { prefix = '/a' }",
            "upstreams.u.route.prefix: unknown key",
        ),
        (
            "route = { path_prefix = '/a/' }",
            "upstreams.u.route.path_prefix: a path prefix has no trailing slash",
        ),
        (
            "route = { path_prefix = '/' }",
            "upstreams.u.route.path_prefix: is every path",
        ),
        (
            "route = { host = 'a/b' }",
            "upstreams.u.route.host: expected a host",
        ),
        (
            "route = { listen = '0.0.0.0:9000' }",
            "upstreams.u.route.listen: any process that can connect",
        ),
        (
            "route = { listen = '127.0.0.1:8080' }",
            "upstreams.u.route.listen: is also the address of `server.listen`",
        ),
        (
            "route = { listen = '127.0.0.1:9180' }",
            "upstreams.u.route.listen: is also the address of `server.admin`",
        ),
        (
            "allow = ['GET /a', 'get /a']",
            "upstreams.u.allow[1]: expected a method and a path",
        ),
        ("http = '3'", "upstreams.u.http: expected one of"),
        ("http = 2", "upstreams.u.http: expected one of"),
        (
            "connect_to = 'host'",
            "upstreams.u.connect_to: expected a host and port",
        ),
        (
            "timeouts = { idel = '1s' }",
            "upstreams.u.timeouts.idel: unknown key (did you mean `idle`?)",
        ),
        (
            "replay_limit = '64 K'",
            "upstreams.u.replay_limit: expected a size",
        ),
        (
            "replay_limit = -1",
            "upstreams.u.replay_limit: a size cannot be negative",
        ),
        (
            "max_in_flight = 0",
            "upstreams.u.max_in_flight: expected an integer, 1",
        ),
        (
            "existing_credential = 'replce'",
            "upstreams.u.existing_credential: is not a known value (did you mean `replace`?)",
        ),
        (
            "headers = { set = { Host = 'h' } }",
            "upstreams.u.headers.set.Host: is a hop-by-hop or framing field",
        ),
        (
            "headers = { set = { 'X Y' = 'h' } }",
            "upstreams.u.headers.set.\"X Y\": expected the name of a header",
        ),
        (
            "headers = { set = { X = \"a\\nb\" } }",
            "upstreams.u.headers.set.X: holds a character",
        ),
        (
            "headers = { set = { X = { file = '/etc/hostname' } } }",
            "upstreams.u.headers.set.X: ",
        ),
        (
            "headers = { set = { X = '1', x = '2' } }",
            "upstreams.u.headers.set.x: is set twice",
        ),
        (
            "headers = { set = { authorization = 'h' } }",
            "upstreams.u.headers.set.authorization: is the header that carries the token",
        ),
        (
            "headers = { remove = ['Content-Length'] }",
            "upstreams.u.headers.remove[0]: is a hop-by-hop",
        ),
        (
            "headers = { remove = ['Authorization'] }",
            "upstreams.u.headers.remove[0]: is the header",
        ),
        (
            "proxy = 'socks5://p'",
            "upstreams.u.proxy: expected a URL such as",
        ),
        (
            "tls = { ca_file = '/no/such/file' }",
            "upstreams.u.tls.ca_file: file `/no/such/file` does not exist",
        ),
        (
            "tls = { server_name = 'a b' }",
            "upstreams.u.tls.server_name: expected a DNS name",
        ),
    ] {
        bad(&with_upstream(lines), &[problem]);
    }
    for (url, problem) in [
        (
            "http://api.example.com",
            "upstreams.u.url: a plain http:// URL off loopback",
        ),
        (
            "https://h/v1?x=1",
            "upstreams.u.url: the URL of an upstream has no query",
        ),
        ("https://h/#x", "upstreams.u.url: a URL with a fragment"),
        ("https://u@h/", "upstreams.u.url: a URL with a user name"),
        ("https://h/a/../b", "upstreams.u.url: the path holds a `.`"),
        ("https://h/%2e%2e", "upstreams.u.url: the path holds a `.`"),
    ] {
        bad(
            &PLAIN.replace("https://api.example.com/v1/", url),
            &[problem],
        );
    }
}

#[test]
fn equal_routes_are_refused() {
    let two = |a: &str, b: &str| {
        format!(
            "{}{b}",
            with_upstream(&format!(
                "{a}\n[upstreams.v]\nurl = 'https://v'\nprovider = 'p'\n"
            ))
        )
    };
    for (route, problem) in [
        (
            "",
            "upstreams.v.route: upstreams `u` and `v` both have no `route`",
        ),
        (
            "route = { path_prefix = '/a' }",
            "upstreams.v.route.path_prefix: upstreams `u` and `v` have the same path_prefix",
        ),
        (
            "route = { host = 'a' }",
            "upstreams.v.route.host: upstreams `u` and `v` have the same host",
        ),
        (
            "route = { listen = '127.0.0.1:1' }",
            "upstreams.v.route.listen: is also the address of `upstreams.u.route.listen`",
        ),
    ] {
        bad(&two(route, route), &[problem]);
        // Another mistake does not hide the tie.
        let more = two(route, route).replace("'https://v'", "'nonsense'");
        bad(&more, &[problem, "upstreams.v.url: "]);
    }
    good(&two(
        "route = { path_prefix = '/a' }",
        "route = { path_prefix = '/a/b' }",
    ));
    good(&two("route = { host = 'a' }", "route = { host = 'a:80' }"));
    good(&two(
        "route = { listen = '127.0.0.1:0' }",
        "route = { listen = '127.0.0.1:0' }",
    ));
    // An unreadable route is not a second catch-all.
    bad(
        &two("", "route = 5"),
        &["upstreams.v.route: expected a table"],
    );
}

#[test]
fn tls_needs_https() {
    let text = with_upstream("tls = { server_name = 'x' }");
    bad(
        &text.replace("https://api.example.com", "http://127.0.0.1"),
        &["upstreams.u.tls: has no effect on an http:// URL"],
    );
}

#[test]
fn tls_files_must_hold_the_right_pem() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ca = file("ca", "# comment\n-----BEGIN CERTIFICATE-----\r\nAA==\n");
    let key = file("key", "-----BEGIN EC PRIVATE KEY-----\nAA==\n");
    let none = file("none", "hello");
    let config = good(&with_upstream(&format!(
        "tls = {{ ca_file = '{ca}', client_cert_file = '{ca}', client_key_file = '{key}' }}"
    )));
    assert_eq!(
        config.upstreams[0].tls.client_cert,
        Some((ca.clone().into(), key.clone().into()))
    );
    let at = folder.path().display();
    for (lines, problem) in [
        (
            format!("ca_file = '{none}'"),
            "upstreams.u.tls.ca_file: holds no certificate",
        ),
        (
            format!("ca_file = '{at}'"),
            &format!("upstreams.u.tls.ca_file: file `{at}` is no regular file"),
        ),
        (
            format!("client_cert_file = '{ca}'"),
            "upstreams.u.tls.client_cert_file: needs `client_key_file`",
        ),
        (
            format!("client_key_file = '{key}'"),
            "upstreams.u.tls.client_key_file: needs `client_cert_file`",
        ),
        (
            format!("client_cert_file = '{ca}', client_key_file = '{ca}'"),
            "upstreams.u.tls.client_key_file: holds no private key",
        ),
    ] {
        bad(&with_upstream(&format!("tls = {{ {lines} }}")), &[problem]);
    }
}

#[test]
fn the_environment_proxy_depends_on_the_dialled_host() {
    let env = [
        ("HTTPS_PROXY", "http://proxy:3128"),
        ("NO_PROXY", "api.example.com"),
    ];
    let config = load_in(PLAIN, &env).unwrap();
    assert_eq!(endpoint(&config, 0).egress.as_ref().unwrap().host, "proxy");
    assert_eq!(config.upstreams[0].egress, None);
    let config = load_in(&with_provider("proxy = 'off'"), &env).unwrap();
    assert_eq!(endpoint(&config, 0).egress, None);
    // The dialled host counts, not the URL's.
    let env = [("HTTPS_PROXY", "http://proxy:3128")];
    let config = load_in(&with_upstream("connect_to = '127.0.0.1:1'"), &env).unwrap();
    assert_eq!(config.upstreams[0].egress, None);
    let env = [("HTTPS_PROXY", "socks5://hunter2@proxy")];
    let problems = load_in(PLAIN, &env).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("providers.p.proxy: HTTPS_PROXY in the environment"),
        "{problems:?}"
    );
    assert!(!format!("{problems:?}").contains("hunter2"));
}
