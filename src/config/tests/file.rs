//! Tests of the file as a whole: defaults, tables, the report of all problems, size.

use proptest::prelude::*;

use super::*;

#[test]
fn omitted_keys_have_defaults() {
    let config = good(PLAIN);
    let server = &config.server;
    assert_eq!(
        server.listen,
        [Listen::Tcp("127.0.0.1:8080".parse().unwrap())]
    );
    assert_eq!(server.admin, Some("127.0.0.1:9180".parse().unwrap()));
    assert_eq!((server.workers, server.max_connections), (1, 10_000));
    assert!(server.via && server.client_auth.is_none());
    assert_eq!(config.store.kind, StoreKind::Memory);
    let provider = &config.providers[0];
    assert_eq!(provider.life.min_interval, Duration::from_secs(5));
    assert!(provider.life.required && !provider.life.single_active);
    let endpoint = endpoint(&config, 0);
    assert_eq!(endpoint.plan.grant, "client_credentials");
    assert_eq!(endpoint.timeout, Duration::from_secs(10));
    assert_eq!(endpoint.path_and_query, "/token");
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.base_path, "/v1");
    assert_eq!(upstream.origin.authority, "api.example.com");
    assert_eq!(upstream.route, Route::CatchAll);
    assert_eq!(upstream.connect_timeout, Duration::from_secs(10));
    assert_eq!(upstream.response_timeout, Duration::from_secs(300));
    assert_eq!(upstream.idle_timeout, Duration::from_secs(90));
    assert_eq!(upstream.token_wait, Duration::from_secs(10));
    assert_eq!(upstream.replay_limit, 65536);
    assert_eq!(upstream.existing_credential, ExistingCredential::Replace);
    assert!(upstream.rewrite_redirects && upstream.allow.is_empty());
    assert_eq!(config.warnings, []);
}

#[test]
fn an_empty_file_is_valid() {
    let config = good("");
    assert_eq!(config.warnings.len(), 1);
    assert_eq!(config.warnings[0].path, "upstreams");
}

#[test]
fn one_run_reports_all_problems_sorted_by_path() {
    bad(
        r#"
        colour = "red"
        [server]
        listen = "8080"
        worker = 2
        [providers.p]
        token_url = "http://auth.example.com/token"
        client_id = ""
        client_secrt = "x"
        timeout = 5
        [upstreams.u]
        url = "https://api.example.com"
        provider = "q"
        timeouts = { connect = "soon", idle = 4 }
        [upstreams.v]
        "#,
        &[
            "colour: unknown key (known keys: server",
            "providers.p.client_id: is empty",
            "providers.p.client_secret: is missing: grant `client_credentials` of dialect `oauth2`",
            "providers.p.client_secrt: unknown key (did you mean `client_secret`?)",
            "providers.p.timeout: expected a duration such as \"30s\"",
            "providers.p.token_url: a plain http:// URL off loopback",
            "server.listen: expected an address",
            "server.worker: unknown key (did you mean `workers`?)",
            "upstreams.u.provider: no such provider (did you mean `p`?)",
            "upstreams.u.timeouts.connect: expected a duration such as",
            "upstreams.u.timeouts.idle: expected a duration such as",
            "upstreams.v.provider: is missing",
            "upstreams.v.route: upstreams `u` and `v` both have no `route`",
            "upstreams.v.url: is missing",
        ],
    );
}

#[test]
fn sections_must_be_tables() {
    bad(
        "server = 1\nproviders = 'x'\nupstreams = []\nstore = 'file'\ndialects = 3",
        &[
            "dialects: expected a table",
            "providers: expected a table",
            "server: expected a table",
            "store: expected a table",
            "upstreams: expected a table",
        ],
    );
    bad(
        "[upstreams]\nu = 1\n[providers]\np = 'x'",
        &[
            "providers.p: expected a table",
            "upstreams.u: expected a table",
        ],
    );
}

#[test]
fn names_hold_only_letters_digits_and_dashes() {
    bad(
        "[providers.'a b']\naccess_token = 't'\n\
         [upstreams.'']\nurl = 'https://h'\nprovider = 'a b'",
        &[
            "providers.\"a b\": a name is 1 to 64 letters",
            "upstreams.\"\": a name is 1 to 64 letters",
        ],
    );
}

#[test]
fn an_unused_provider_is_a_warning() {
    let config = good(&format!("{PLAIN}\n[providers.q]\naccess_token = 't'"));
    let paths: Vec<_> = config
        .warnings
        .iter()
        .map(|warning| warning.path.as_str())
        .collect();
    assert_eq!(paths, ["providers.q"]);
}

#[test]
fn ten_thousand_upstreams_load_in_linear_time() {
    let providers = (0..1000).map(|p| {
        format!(
            "[providers.p{p}]\ntoken_url = 'https://h/t'\n\
             client_id = 'id{p}'\nclient_secret = 's'\n"
        )
    });
    let upstreams = (0..10_000).map(|u| {
        format!(
            "[upstreams.u{u}]\nurl = 'https://h{u}'\nprovider = 'p{}'\n\
             route = {{ path_prefix = '/u{u}' }}\n",
            u % 1000
        )
    });
    let text: String = providers.chain(upstreams).collect();
    let started = std::time::Instant::now();
    assert_eq!(good(&text).upstreams.len(), 10_000);
    let took = started.elapsed();
    // Far above the time of a debug build, far below quadratic time.
    assert!(took < Duration::from_secs(30), "{took:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn any_toml_like_text_is_read_without_a_panic(
        lines in prop::collection::vec(
            "(\\[(server|store|providers\\.p|upstreams\\.u|dialects\\.d)\\]|\
             (url|provider|route|listen|token_url|client_id|vars|tls|key|allow|access_token|\
             grants|request) = \
             ('[/a:*]{0,6}'|[0-9]{1,3}|\\[\\]|\\{\\}|true|\\{ env = 'X' \\}))",
            0..20,
        )
    ) {
        let _ = load(&lines.join("\n"));
    }
}
