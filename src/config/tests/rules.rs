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
fn server_keys_are_read() {
    let config = good(&format!(
        "{PLAIN}\n[server]\nlisten = ['127.0.0.1:1', 'unix:/run/p.sock']\nadmin = 'off'\n\
         workers = 4\nmax_connections = 7\nheader_timeout = '1s'\nidle_timeout = '2s'\n\
         shutdown_delay = '0s'\nshutdown_grace = '3s'\nallow_hosts = ['Api.Local:80']\n\
         allow_origins = ['https://App.example']\nvia = false\n\
         client_auth = {{ header = 'X-Key', value = 'k' }}"
    ));
    let server = config.server;
    assert_eq!(server.listen.len(), 2);
    assert_eq!(server.admin, None);
    assert_eq!((server.workers, server.max_connections), (4, 7));
    assert_eq!(server.shutdown_delay, Duration::ZERO);
    assert_eq!(server.allow_hosts, ["api.local:80"]);
    assert_eq!(server.allow_origins, ["https://app.example"]);
    assert!(!server.via);
    assert!(matches!(server.client_auth, Some(ClientAuth::Header { name, .. }) if name == "x-key"));
}

#[test]
fn auto_workers_use_the_available_parallelism() {
    let config = good(&format!("{PLAIN}\n[server]\nworkers = 'auto'"));
    let usable = std::thread::available_parallelism().unwrap().get();
    assert_eq!(config.server.workers, usable);
}

#[test]
fn invalid_server_keys_are_refused() {
    for (lines, problem) in [
        (
            "listen = '0.0.0.0:8080'",
            "server.listen: any process that can connect",
        ),
        (
            "listen = ['127.0.0.1:1', '10.0.0.1:1']",
            "server.listen: any process that can connect",
        ),
        ("listen = []", "server.listen: is an empty list"),
        (
            "listen = ['127.0.0.1:1', '127.0.0.1:1']",
            "server.listen: is also the address of `server.listen`",
        ),
        ("listen = 8080", "server.listen: expected an address"),
        (
            "listen = ['127.0.0.1:1', 'x']",
            "server.listen[1]: expected an address",
        ),
        (
            "listen = '127.0.0.1:9180'",
            "server.listen: is also the address of `server.admin`",
        ),
        (
            "admin = '0.0.0.0:9180'",
            "server.admin: any process that can connect",
        ),
        (
            "admin = 'on'",
            "server.admin: expected an address such as \"127.0.0.1:9180\", or \"off\"",
        ),
        (
            "workers = 0",
            "server.workers: expected an integer, 1 or greater, or \"auto\"",
        ),
        (
            "workers = '1'",
            "server.workers: expected an integer, 1 or greater, or \"auto\"",
        ),
        (
            "max_connections = -1",
            "server.max_connections: expected an integer, 1",
        ),
        (
            "header_timeout = '0s'",
            "server.header_timeout: must be longer than 0",
        ),
        (
            "idle_timeout = 5",
            "server.idle_timeout: expected a duration",
        ),
        (
            "shutdown_grace = '5'",
            "server.shutdown_grace: expected a duration",
        ),
        (
            "allow_hosts = ['a/b']",
            "server.allow_hosts[0]: expected a host",
        ),
        ("allow_hosts = 'a'", "server.allow_hosts: expected a list"),
        (
            "allow_origins = ['a']",
            "server.allow_origins[0]: expected an origin",
        ),
        ("via = 'yes'", "server.via: expected true or false"),
        ("client_auth = {}", "server.client_auth: needs either"),
        (
            "client_auth = { header = 'X-K' }",
            "server.client_auth: needs either",
        ),
        (
            "client_auth = { header = 'X K', value = 'v' }",
            "server.client_auth.header: expected the name of a header",
        ),
        (
            "client_auth = { header = 'X-K', value = '' }",
            "server.client_auth.value: is empty",
        ),
        (
            "client_auth = { peer_uid = [] }",
            "server.client_auth.peer_uid: names no user",
        ),
        (
            "client_auth = { peer_uid = [-1] }",
            "server.client_auth.peer_uid[0]: expected an integer, 0",
        ),
        (
            "client_auth = { peer_uid = [1000] }",
            "server.listen: server.client_auth.peer_uid can only",
        ),
    ] {
        bad(&format!("{PLAIN}\n[server]\n{lines}"), &[problem]);
    }
}

#[test]
fn remote_listeners_need_permission_and_peer_uids_need_sockets() {
    good(&format!(
        "{PLAIN}\n[server]\nlisten = '0.0.0.0:8080'\nadmin = '[::]:9180'\nallow_remote = true"
    ));
    let config = good(&format!(
        "{PLAIN}\n[server]\nlisten = 'unix:/p'\nclient_auth = {{ peer_uid = [0, 1000] }}"
    ));
    assert_eq!(
        config.server.client_auth,
        Some(ClientAuth::PeerUid(vec![0, 1000]))
    );
    // `listen` may be empty if each upstream has a listener.
    let own = with_upstream("route = { listen = '127.0.0.1:9000' }\n[server]\nlisten = []");
    assert_eq!(good(&own).server.listen, []);
}

#[test]
fn store_keys_fit_the_kind_of_store() {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let config = good(&format!(
        "{PLAIN}\n[store]\nkind = 'file'\npath = '/var/lib/c'\n\
         key = ['{key}', {{ command = ['k'] }}]"
    ));
    assert_eq!(
        config.store.kind,
        StoreKind::File {
            path: "/var/lib/c".into()
        }
    );
    assert_eq!(config.store.keys.len(), 2);
    for (lines, problems) in [
        ("kind = 'file'", &["store.path: is missing"][..]),
        (
            "kind = 'disk'",
            &["store.kind: is not a known value (one of `memory`, `file`, `redis`)"],
        ),
        (
            "kind = 'redis'\nurl = 'redis://h'",
            &["store.kind: `redis` is not supported yet"],
        ),
        (
            "path = '/x'",
            &["store.path: has an effect only with kind = \"file\""],
        ),
        (
            "url = 'x'",
            &["store.url: has an effect only with kind = \"redis\""],
        ),
        (
            "kind = 'file'\npath = 5",
            &["store.path: expected the path"],
        ),
        ("key = []", &["store.key: is an empty list"]),
        ("key = 'short'", &["store.key: is not 32 bytes in base64"]),
        ("key = ''", &["store.key: is empty"]),
        (
            "key = ['short', { env = 'NO' }]",
            &[
                "store.key[0]: is not 32 bytes",
                "store.key[1]: names an environment variable",
            ],
        ),
    ] {
        bad(&format!("{PLAIN}\n[store]\n{lines}"), problems);
    }
}

#[test]
fn plain_http_token_urls_need_loopback_or_permission() {
    for (url, lines, origin, path) in [
        ("https://h/t?a=b", "", "https://h", "/t?a=b"),
        ("http://127.0.0.1:9/t", "", "http://127.0.0.1:9", "/t"),
        ("http://[::1]:9", "", "http://[::1]:9", "/"),
        ("http://localhost/t", "", "http://localhost", "/t"),
        ("http://h/t", "allow_http = true", "http://h", "/t"),
    ] {
        let text = with_provider(lines).replace("https://auth.example.com/token", url);
        let config = good(&text);
        assert_eq!(endpoint(&config, 0).token_url.url(), origin);
        assert_eq!(endpoint(&config, 0).path_and_query, path);
    }
    for (url, problem) in [
        (
            "http://h/t",
            "providers.p.token_url: a plain http:// URL off loopback",
        ),
        (
            "https://h/t#f",
            "providers.p.token_url: a URL with a fragment",
        ),
        (
            "https://u:hunter2@h/t",
            "providers.p.token_url: a URL with a user name or password",
        ),
        ("h/t", "providers.p.token_url: expected a URL"),
    ] {
        bad(
            &PLAIN.replace("https://auth.example.com/token", url),
            &[problem],
        );
    }
}

#[test]
fn tokens_are_either_fetched_or_given() {
    let given =
        "[providers.p]\naccess_token = 't0ken'\n[upstreams.u]\nurl = 'https://h'\nprovider = 'p'\n";
    let config = good(given);
    assert!(matches!(
        &config.providers[0].source,
        TokenSource::Static {
            access_token: Value::Literal(_)
        }
    ));
    for (line, problems) in [
        (
            "token_url = 'https://h'",
            &["providers.p.access_token: cannot be used together with `token_url`"][..],
        ),
        (
            "grant = 'password'",
            &["providers.p.grant: has no effect together with `access_token`"],
        ),
        (
            "ttl = '1h'\ntls = {}",
            &[
                "providers.p.tls: has no effect",
                "providers.p.ttl: has no effect",
            ],
        ),
        (
            "request = { method = 'GET' }",
            &["providers.p.request: a provider with `access_token`"],
        ),
        (
            "client_id = 'x'",
            &["providers.p.client_id: is not used by `inject` of dialect"],
        ),
        (
            "inject = { headers = { X = '{access_token}', Y = '{tenant}' } }",
            &["providers.p.vars.tenant: is missing: `inject`"],
        ),
    ] {
        bad(
            &given.replace("access_token =", &format!("{line}\naccess_token =")),
            problems,
        );
    }
    bad(
        &given.replace("'t0ken'", "5"),
        &["providers.p.access_token: expected text"],
    );
    bad(
        &given.replace("'t0ken'", "''"),
        &["providers.p.access_token: is empty"],
    );
    bad(
        "[providers.p]\nclient_id = 'x'",
        &[
            "providers.p.client_secret: is missing",
            "providers.p.token_url: is missing",
        ],
    );
}

#[test]
fn variables_must_be_known_and_used() {
    let config = good(&with_provider("scope = ''\naudience = 'a'"));
    assert_eq!(config.providers[0].variables.len(), 4);
    let typed = good(&PLAIN.replace("\"id\"", "4711"));
    assert_eq!(
        typed.providers[0].variables["client_id"],
        Value::Literal(Var::Integer(4711))
    );
    for (lines, problems) in [
        (
            "grant = 'password'",
            &[
                "providers.p.password: is missing: grant `password` of dialect `oauth2` needs it",
                "providers.p.username: is missing: grant `password` of dialect `oauth2` needs it",
            ][..],
        ),
        ("grant = 'pasword'", &["providers.p.grant: "]),
        ("auth_method = 'basic'", &["providers.p.auth_method: "]),
        (
            "username = 'x'",
            &["providers.p.username: is not used by grant `client_credentials` of dialect"],
        ),
        (
            "vars = { scop = 'x' }",
            &[
                "providers.p.vars.scop: is not used by grant `client_credentials` of dialect \
                 `oauth2` (did you mean `scope`?)",
            ],
        ),
        (
            "vars = { scope = 'x' }",
            &["providers.p.vars.scope: is a well-known variable (write it as `providers.p.scope`"],
        ),
        ("vars = { a = [] }", &["providers.p.vars.a: expected text"]),
        (
            "audience = { env = 'NO' }",
            &["providers.p.audience: names an environment variable"],
        ),
        (
            "dialect = 'oauth3'",
            &["providers.p.dialect: unknown dialect"],
        ),
    ] {
        bad(&with_provider(lines), problems);
    }
    good(&with_provider("refresh_token = 'kept for later'"));
}

#[test]
fn one_time_inputs_need_a_durable_store() {
    let sms = PLAIN.replace(
        "client_id = \"id\"",
        "client_id = 'id'\ndialect = 'identityserver'\ngrant = 'sms'\nvars = { phone = '1' }",
    );
    bad(
        &sms,
        &["store.kind: provider `p` uses grant `sms`, whose one-time input is lost without"],
    );
    // `login` asks for the one-time input.
    good(&format!("{sms}\n[store]\nkind = 'file'\npath = '/x'"));
    bad(
        &format!("{sms}\n[store]\nkind = 'file'"),
        &["store.path: is missing"],
    );
    let code = with_provider("grant = 'authorization_code'");
    good(&format!("{code}\n[store]\nkind = 'file'\npath = '/x'"));
    let refresh = with_provider("grant = 'refresh_token'");
    good(&format!("{refresh}\n[store]\nkind = 'file'\npath = '/x'"));
    bad(&refresh, &["providers.p.refresh_token: is missing"]);
}

#[test]
fn an_authorization_url_needs_a_grant_with_a_code() {
    let url = "authorization_url = 'https://auth.example.com/authorize?tenant=1'";
    let store = "[store]\nkind = 'file'\npath = '/x'";
    let lines = format!("grant = 'authorization_code'\nscope = 'a b'\n{url}");
    let config = good(&format!("{}\n{store}", with_provider(&lines)));
    assert_eq!(
        endpoint(&config, 0).authorization_url.as_deref(),
        Some("https://auth.example.com/authorize?tenant=1")
    );
    bad(
        &with_provider(url),
        &["providers.p.authorization_url: has no effect: grant `client_credentials` needs no"],
    );
    let plain = url.replace("https", "http");
    let lines = format!("grant = 'authorization_code'\n{plain}");
    bad(
        &format!("{}\n{store}", with_provider(&lines)),
        &["providers.p.authorization_url: a plain http:// URL off loopback"],
    );
}

#[test]
fn life_cycle_keys_override_the_dialect() {
    let config = good(&with_provider(
        "refresh_before = '5m'\nmin_interval = '1s'\nttl = '1h'\nsingle_active = true\n\
         required = false\ntimeout = '3s'",
    ));
    assert_eq!(
        config.providers[0].life,
        LifeCycle {
            refresh_before: Some(Duration::from_secs(300)),
            min_interval: Duration::from_secs(1),
            ttl: Some(Duration::from_secs(3600)),
            single_active: true,
            required: false,
        }
    );
    assert_eq!(endpoint(&config, 0).timeout, Duration::from_secs(3));
    let dialect = "[dialects.d]\nextends = 'oauth2'\nsingle_active = true\n";
    let inherited = good(&format!("{dialect}{}", with_provider("dialect = 'd'")));
    assert!(inherited.providers[0].life.single_active);
    let own = good(&format!(
        "{dialect}{}",
        with_provider("dialect = 'd'\nsingle_active = false")
    ));
    assert!(!own.providers[0].life.single_active);
    bad(
        &with_provider("ttl = '0s'"),
        &["providers.p.ttl: must be longer than 0"],
    );
}

#[test]
fn mistakes_in_overrides_and_dialects_are_reported_at_their_keys() {
    good(&with_provider(
        "request = { headers = { X-A = '{scope?}' } }\nresponse = { token = '/t' }",
    ));
    bad(
        &with_provider("request = { headrs = {} }"),
        &["providers.p.request.headrs: unknown key (did you mean `headers`?)"],
    );
    bad(
        &with_provider("response = { token = 'no selector' }"),
        &["providers.p.response.token"],
    );
    bad(
        &format!(
            "[dialects.d]\nextends = 'oauth2'\nrespnse = {{}}\nresponse = {{ token = 5 }}\n{}",
            with_provider("dialect = 'd'")
        ),
        &[
            "dialects.d.respnse: unknown key",
            "dialects.d.response.token: expected text in quotes",
        ],
    );
    let wrong = "[dialects.d]\nextends = 'oauth2'\nresponse = { token = 'no selector' }\n";
    bad(
        &format!("{wrong}{}", with_provider("dialect = 'd'")),
        &["dialects.d.response.token"],
    );
    // An unused dialect is checked, too.
    bad(&format!("{wrong}{PLAIN}"), &["dialects.d.response.token"]);
    bad(
        "[dialects.d]\nextends = 'oauth3'",
        &["dialects.d.extends: unknown dialect"],
    );
}

#[test]
fn one_mistake_in_a_table_hides_no_other() {
    bad(
        &with_provider(
            "[providers.p.inject]\nheadrs = {}\n\
             headers = { Authorization = 'Bearer {acces_token}' }",
        )
        .replace("client_secret = \"s3cret\"\n", "")
        .replace("client_id", "client_secret = 's'\nclient_id"),
        &[
            "providers.p.inject.headers.Authorization: nothing here carries `{access_token}`; \
             did you mean `access_token`?",
            "providers.p.inject.headrs: unknown key (did you mean `headers`?)",
        ],
    );
    let dialect = r#"
        [dialects.d]
        extends = "oauth3"
        defalt_grant = "a"
        [dialects.e]
        extends = "oauth2"
        colour = "red"
        [dialects.e.grants.a]
        form = { x = "{client_id|md4}" }
        json = {}
        one_time = ["sms"]
        [dialects.f]
        extends = "oauth2"
        [dialects.f.grants.a]
        form = { x = "{sms}" }
        one_time = ["smss"]
        "#;
    let expected = [
        "dialects.d.defalt_grant: unknown key (did you mean `default_grant`?)",
        "dialects.d.extends: unknown dialect; did you mean `oauth2`?",
        "dialects.e.colour: unknown key",
        "dialects.e.grants.a.form.x: unknown filter",
        "dialects.e.grants.a.json: at most one of form, json and body",
        "dialects.f.grants.a.one_time: names a variable that the grant does not use; \
         did you mean `sms`?",
    ];
    bad(&format!("{dialect}{PLAIN}"), &expected);
    for used in ["d", "e", "f"] {
        let provider = with_provider(&format!("dialect = '{used}'"));
        bad(&format!("{dialect}{provider}"), &expected);
    }
}

#[test]
fn unused_dialects_are_checked() {
    for (text, problems) in [
        (
            "[dialects.a]\nextends = 'b'\n[dialects.b]\nextends = 'a'",
            &[
                "dialects.a.extends: the dialects extend each other in a circle",
                "dialects.b.extends: the dialects extend each other in a circle",
            ][..],
        ),
        // Reported once, at the dialect that holds the key.
        (
            "[dialects.a]\nextends = 'b'\n\
             [dialects.b]\nextends = 'oauth2'\nresponse = { error = 'x' }",
            &["dialects.b.response.error: a selector is"],
        ),
        // A base dialect may omit what extending dialects supply.
        (
            "[dialects.a]\nextends = 'b'\nresponse = { token = '/t' }\n\
             [dialects.b.grants.a]\n[dialects.b.grants.b]",
            &[],
        ),
        (
            "[dialects.a.assertion]\nalg = 'RS257'",
            &["dialects.a.assertion.alg: is not a known value (did you mean `RS256`?)"],
        ),
    ] {
        let text = format!("{text}\n{PLAIN}");
        match problems {
            [] => drop(good(&text)),
            _ => bad(&text, problems),
        }
    }
}

#[test]
fn an_unreadable_key_causes_no_second_problem() {
    bad(
        &with_provider("grnt = 'password'\nusername = 'u'\npassword = 'p'"),
        &["providers.p.grnt: unknown key (did you mean `grant`?)"],
    );
    bad(
        &PLAIN.replace("\"s3cret\"", "{ evn = 'X' }"),
        &["providers.p.client_secret.evn: unknown key (did you mean `env`?)"],
    );
    bad(
        &with_provider("vars = { a = 'x' }\nrequest = { fom = { a = '{a}' } }"),
        &["providers.p.request.fom: unknown key (did you mean `form`?)"],
    );
    bad(
        &with_provider("vars = { a = 'x' }\ninject = { hedaers = { A = '{a}{access_token}' } }"),
        &["providers.p.inject.hedaers: unknown key (did you mean `headers`?)"],
    );
}

fn second_provider(lines: &str) -> String {
    let second = format!(
        "[providers.q]\ntoken_url = 'https://AUTH.example.com:443/token'\n\
         client_secret = 'other'\n{lines}\n[upstreams.u]"
    );
    let first = PLAIN.replace("[upstreams.u]", &second);
    format!(
        "{first}route = {{ path_prefix = '/u' }}\n[upstreams.v]\nurl = 'https://v'\nprovider = 'q'"
    )
}

#[test]
fn providers_of_one_identity_must_send_the_same_request() {
    let equal = |lines: &str| second_provider(lines).replace("'other'", "'s3cret'");
    let config = good(&equal("client_id = 'id'"));
    assert_eq!(endpoint(&config, 0).identity, endpoint(&config, 1).identity);
    assert_eq!(config.warnings, []);
    let config = good(&equal("client_id = 'id'\ntimeout = '3s'"));
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert_eq!(config.warnings[0].path, "providers.q");
    bad(
        &second_provider("client_id = 'id'"),
        &["providers.q: fetches the same token as `p`, but with another client_secret"],
    );
    for (key, line) in [
        ("tls", "tls = { server_name = 'x.internal' }"),
        ("proxy", "proxy = 'http://proxy:3128'"),
        ("allow_http", "allow_http = true"),
    ] {
        let problem =
            format!("providers.q: fetches the same token as `p`, but with another `{key}`");
        bad(&equal(&format!("client_id = 'id'\n{line}")), &[&problem]);
    }
    for different in [
        "client_id = 'id2'",
        "client_id = 'id'\nscope = 'x'",
        "client_id = 'id'\nresource = 'x'",
        "client_id = 'id'\naudience = 'x'",
        "client_id = 'id'\nvars = { tenant = 'b' }\nrequest = { headers = { X-T = '{tenant}' } }",
    ] {
        let config = good(&second_provider(different));
        assert_ne!(
            endpoint(&config, 0).identity,
            endpoint(&config, 1).identity,
            "{different}"
        );
    }
    bad(
        &second_provider("client_id = 'id'\nauth_method = 'client_secret_post'"),
        &["providers.q: fetches the same token as `p`, but with another"],
    );
    bad(
        &second_provider("client_id = 'id'\nresponse = { token = '/t' }"),
        &["providers.q: fetches the same token as `p`"],
    );
}

/// Returns the identities of two providers of one client.
fn identities(first: &str, second: &str) -> [String; 2] {
    let head = "token_url = 'https://h/t'\nclient_id = 'id'\n";
    let config = good(&format!(
        "[providers.p]\n{head}{first}\n[providers.q]\n{head}{second}\n\
         [store]\nkind = 'file'\npath = '/var/lib/x'"
    ));
    [0, 1].map(|number| endpoint(&config, number).identity.clone())
}

#[test]
fn two_accounts_of_one_client_share_no_token() {
    let secret = "client_secret = 's'\n";
    for grant in [
        "grant = 'refresh_token'\nrefresh_token = 'r'",
        "grant = 'authorization_code'\nredirect_uri = 'http://127.0.0.1/'",
        "grant = 'device_code'",
    ] {
        let [p, q] = identities(&format!("{secret}{grant}"), &format!("{secret}{grant}"));
        assert_ne!(p, q, "{grant}");
    }
    let wecom = |secret: &str| format!("dialect = 'wecom'\nclient_secret = '{secret}'");
    let [p, q] = identities(&wecom("hunter2-a"), &wecom("hunter2-b"));
    assert_ne!(p, q);
    assert!(!p.contains("hunter2"), "{p}");
    let [p, q] = identities(&wecom("a"), &wecom("a"));
    assert_eq!(p, q);
}

#[test]
fn the_requested_token_type_is_part_of_the_identity() {
    let exchange = |kind: &str| {
        format!(
            "client_secret = 's'\ngrant = 'token_exchange'\n\
             vars = {{ subject_token = 't', requested_token_type = '{kind}' }}"
        )
    };
    let [p, q] = identities(&exchange("urn:a"), &exchange("urn:b"));
    assert_ne!(p, q);
}

#[test]
fn identities_hold_no_secret_and_do_not_collide() {
    let text = "[providers.p]\ntoken_url = 'https://h/t?key=hunter2'\nclient_id = 'id'\n\
                client_secret = 'hunter2'\ndialect = 'identityserver'\ngrant = 'wechat'\n\
                vars = { open_id = 'o', pin = 'hunter2' }\n\
                request = { headers = { X = '{pin}' } }";
    let config = good(text);
    let identity = &endpoint(&config, 0).identity;
    assert!(!identity.contains("hunter2"), "{identity}");
    assert!(identity.contains("\"o\""), "{identity}");
    let changed = good(&text.replace("client_secret = 'hunter2'", "client_secret = 'x'"));
    assert_eq!(identity, &endpoint(&changed, 0).identity);
    let other = good(&text.replace("open_id = 'o'", "open_id = 'p'"));
    assert_ne!(identity, &endpoint(&other, 0).identity);
    // Parts that would collide if they were only concatenated.
    let id = |id: &str, scope: &str| {
        let config = good(&PLAIN.replace(
            "client_id = \"id\"",
            &format!("client_id = '{id}'\nscope = '{scope}'"),
        ));
        endpoint(&config, 0).identity.clone()
    };
    assert_ne!(id("a", "b,c"), id("a,b", "c"));
    assert_ne!(id("a\",\"b", "c"), id("a", "b\",\"c"));
}

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
            "upstreams.u.tls.ca_file: names a file that does not exist",
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
fn tls_needs_https() {
    let text = with_upstream("tls = { server_name = 'x' }");
    bad(
        &text.replace("https://api.example.com", "http://127.0.0.1"),
        &["upstreams.u.tls: has no effect on an http:// URL"],
    );
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
    for (lines, problem) in [
        (
            format!("ca_file = '{none}'"),
            "upstreams.u.tls.ca_file: holds no certificate",
        ),
        (
            format!("ca_file = '{}'", folder.path().display()),
            "upstreams.u.tls.ca_file: must name a regular file",
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
fn built_in_dialects_load_with_their_required_variables() {
    for (name, grant, vars) in [
        ("oauth2", "password", "username = 'u'\npassword = 'p'"),
        ("oauth2-post", "client_credentials", ""),
        ("cncn", "client_credentials", ""),
        ("identityserver", "wechat", "vars = { open_id = 'o' }"),
        (
            "passport",
            "password",
            "username = 'u'\npassword = 'p'\nscope = ''",
        ),
    ] {
        let config = good(&with_provider(&format!(
            "dialect = '{name}'\ngrant = '{grant}'\n{vars}"
        )));
        assert_eq!(endpoint(&config, 0).plan.grant, grant);
    }
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
