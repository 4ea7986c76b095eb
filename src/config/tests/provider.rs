//! `[providers.NAME]`.

use super::*;
use crate::dialect::Var;

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
        &given.replace("'t0ken'", "'Bearer t0ken'"),
        &["providers.p.access_token: the token begins with an authentication scheme"],
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
            &["providers.p.audience: environment variable `NO` is not set"],
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
