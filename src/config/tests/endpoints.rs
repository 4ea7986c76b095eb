//! Token sources other than a URL and a secret: signing keys, other providers, issuers, devices.

use super::*;

const UPSTREAM: &str = "[upstreams.u]\nurl = 'https://api.example.com'\nprovider = 'p'\n";

fn with(lines: &str) -> String {
    format!("[providers.p]\n{lines}\n{UPSTREAM}")
}

const URL: &str = "token_url = 'https://id.example.com/token'\nclient_id = 'c'\n";

/// RFC 8037 §A.1.
const JWK: &str = r#"{"kty":"OKP","crv":"Ed25519",
"d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

#[test]
fn signing_keys_are_checked_at_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let text = with(&format!(
        "{URL}auth_method = 'private_key_jwt'\nvars = {{ private_key = {{ file = {path:?} }} }}"
    ));
    std::fs::write(&path, JWK).unwrap();
    good(&text);
    std::fs::write(&path, "hunter2").unwrap();
    bad(
        &text,
        &["providers.p.vars.private_key: is neither a PEM private key"],
    );
    std::fs::write(&path, JWK).unwrap();
    let other = text.replace(
        "[upstreams",
        "client_assertion = { alg = 'RS256' }\n[upstreams",
    );
    bad(
        &other,
        &["providers.p.vars.private_key: is an Ed25519 key, which cannot sign with RS256"],
    );
    bad(
        &with(&format!("{URL}auth_method = 'private_key_jwt'")),
        &["providers.p.vars.private_key: is missing"],
    );
    // A ready assertion, such as a projected token, needs no key.
    good(&with(&format!(
        "{URL}auth_method = 'private_key_jwt'\n\
         vars = {{ client_assertion = {{ file = {path:?} }} }}"
    )));
}

#[test]
fn a_provider_may_use_the_token_of_another() {
    let text = |inner_id: &str| {
        with(&format!(
            "{URL}grant = 'token_exchange'\nclient_secret = 's'\n\
             vars = {{ subject_token = {{ provider = 'a' }} }}\n\
             [providers.a]\ntoken_url = 'https://a.example.com'\n\
             client_id = '{inner_id}'\nclient_secret = 's'"
        ))
    };
    let config = good(&text("one"));
    // Use by another provider counts as use.
    assert_eq!(config.warnings, []);
    assert_eq!(config.providers[1].chained_providers(), ["a"]);
    let identity = |text: &str| endpoint(&good(text), 1).identity.clone();
    assert_ne!(identity(&text("one")), identity(&text("two")));
    assert_eq!(
        identity(&text("one")),
        identity(&text("one").replace("'s'\n[up", "'t'\n[up"))
    );
}

#[test]
fn exchanged_subject_and_actor_make_another_identity() {
    let exchange = |subject: &str, actor: &str| {
        format!(
            "{URL}grant = 'token_exchange'\nclient_secret = 's'\n\
             vars.subject_token = {{ provider = '{subject}' }}\n\
             vars.actor_token = {{ provider = '{actor}' }}\n"
        )
    };
    let inner = |name: &str| {
        format!(
            "[providers.{name}]\ntoken_url = 'https://{name}.example.com'\n\
             client_id = 'i'\nclient_secret = 's'\n"
        )
    };
    let text = |second: &str| {
        let (x, y) = (inner("x"), inner("y"));
        with(&format!(
            "{}{x}{y}[providers.o]\n{second}",
            exchange("x", "y")
        ))
    };
    let config = good(&text(&exchange("y", "x")));
    assert_ne!(endpoint(&config, 0).identity, endpoint(&config, 1).identity);
    let config = good(&text(&exchange("x", "y")));
    assert_eq!(endpoint(&config, 0).identity, endpoint(&config, 1).identity);
}

#[test]
fn identities_of_long_chains_stay_short() {
    let text: String = (0..12)
        .map(|number| {
            let head = format!("[providers.p{number:02}]\n{URL}client_secret = 's'\n");
            match number {
                0 => head,
                _ => format!(
                    "{head}request = {{ headers = {{ X = '{{provider.p{:02}}}' }} }}\n",
                    number - 1
                ),
            }
        })
        .collect();
    let config = good(&text);
    let longest = endpoint(&config, 11).identity.len();
    assert!(longest < 1000, "{longest}");
}

#[test]
fn impossible_chains_are_refused() {
    let chained = |name: &str, of: &str| {
        format!(
            "[providers.{name}]\n{URL}client_secret = 's'\n\
             request = {{ headers = {{ X = '{{provider.{of}}}' }} }}\n"
        )
    };
    let all = |providers: &[(&str, &str)]| {
        let providers: String = providers
            .iter()
            .map(|(name, of)| chained(name, of))
            .collect();
        format!("{providers}{UPSTREAM}").replace("provider = 'p'", "provider = 'a'")
    };
    bad(
        &all(&[("a", "bb"), ("b", "c"), ("c", "a")]),
        &["providers.a: uses the token of a provider that does not exist (did you mean `b`?)"],
    );
    bad(
        &all(&[("a", "b"), ("b", "c"), ("c", "a")]),
        &["providers.a: each of these tokens needs the next one: a → b → c → a"],
    );
    bad(
        &all(&[("a", "a")]),
        &["providers.a: each of these tokens needs the next one: a → a"],
    );
    bad(
        &with(&format!(
            "{URL}client_secret = 's'\nvars = {{ t = {{ provider = 'p2' }} }}\n\
             inject = {{ headers = {{ A = '{{access_token}}{{t}}' }} }}\n\
             [providers.p2]\naccess_token = 'x'"
        )),
        &["providers.p.vars.t: the token of another provider is only for token requests"],
    );
    bad(
        "[providers.p]\naccess_token = { provider = 'q' }\n[providers.q]\naccess_token = 'x'",
        &["providers.p.access_token: cannot be the token of another provider"],
    );
    bad(
        &with(&format!(
            "{URL}client_secret = 's'\nvars = {{ unix = 'x' }}"
        )),
        &["providers.p.vars.unix: is a reserved name"],
    );
}

#[test]
fn different_subjects_of_an_exchange_have_different_identities() {
    let identity = |subject: &str| {
        let text = with(&format!(
            "{URL}grant = 'token_exchange'\nauth_method = 'none'\n\
             vars = {{ subject_token = {subject} }}"
        ));
        endpoint(&good(&text), 0).identity.clone()
    };
    assert_ne!(identity("'hunter2-one'"), identity("'hunter2-two'"));
    assert!(!identity("'hunter2-one'").contains("hunter2"));
}

#[test]
fn an_issuer_replaces_the_token_url() {
    let id = "client_id = 'c'\nclient_secret = 's'\n";
    let config = good(&with(&format!(
        "issuer = 'https://id.example.com/realm/'\n{id}"
    )));
    let found = endpoint(&config, 0);
    let issuer = found.issuer.as_ref().unwrap();
    assert_eq!(issuer.text, "https://id.example.com/realm/");
    assert_eq!(
        issuer.well_known,
        [
            "/.well-known/oauth-authorization-server/realm",
            "/realm/.well-known/openid-configuration"
        ]
    );
    let choices: Vec<_> = issuer
        .choices
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        choices,
        [
            "client_secret_basic",
            "client_secret_post",
            "client_secret_jwt",
            "none"
        ]
    );
    // An explicit auth_method leaves no choice.
    let stated = good(&with(&format!(
        "issuer = 'https://id.example.com'\nauth_method = 'client_secret_post'\n{id}"
    )));
    assert!(
        endpoint(&stated, 0)
            .issuer
            .as_ref()
            .unwrap()
            .choices
            .is_empty()
    );
    // A key makes the secret optional.
    let key = toml::Value::from(JWK);
    good(&with(&format!(
        "issuer = 'https://id.example.com'\nclient_id = 'c'\nvars = {{ private_key = {key} }}"
    )));
    for (lines, problem) in [
        (
            "issuer = 'https://a.example'\ntoken_url = 'https://a.example'\n",
            "providers.p.issuer: cannot be used together with `token_url`",
        ),
        (
            "issuer = 'http://a.example'\n",
            "providers.p.issuer: a plain http:// URL off loopback",
        ),
        (
            "issuer = 'https://a.example?x=1'\n",
            "providers.p.issuer: an issuer has no query",
        ),
        (
            "issuer = 'a.example'\n",
            "providers.p.issuer: expected a URL",
        ),
    ] {
        bad(&with(&format!("{lines}{id}")), &[problem]);
    }
}

#[test]
fn a_discovered_token_url_obeys_the_rules_of_a_configured_one() {
    let config = good(&with(&format!("{URL}client_secret = 's'")));
    let endpoint = endpoint(&config, 0);
    let at = endpoint.at("https://other.example/t?x=1").unwrap();
    assert_eq!(at.address(), "https://other.example/t");
    assert_eq!(at.path_and_query, "/t?x=1");
    assert!(endpoint.at("http://other.example/t").is_err());
    assert!(endpoint.at("http://127.0.0.1:1/t").is_ok());
    assert!(endpoint.at("other.example").is_err());
}

#[test]
fn tls_client_auth_needs_a_certificate() {
    bad(
        &with(&format!("{URL}auth_method = 'tls_client_auth'")),
        &["providers.p.tls.client_cert_file: is missing: auth_method `tls_client_auth` needs it"],
    );
}

#[test]
fn a_device_grant_needs_a_durable_store_and_alone_has_a_device_url() {
    let device = "grant = 'device_code'\nauth_method = 'none'\n\
                  device_authorization_url = 'https://id.example.com/d'\n";
    bad(
        &with(&format!("{URL}{device}")),
        &["store.kind: provider `p` uses grant `device_code`"],
    );
    let store = "[store]\nkind = 'file'\npath = '/tmp/x'\n";
    good(&format!("{store}{}", with(&format!("{URL}{device}"))));
    bad(
        &with(&format!(
            "{URL}client_secret = 's'\ndevice_authorization_url = 'https://id.example.com/d'"
        )),
        &["providers.p.device_authorization_url: has no effect: grant `client_credentials`"],
    );
}

#[test]
fn a_self_made_token_has_no_endpoint_settings() {
    let dialect = "[dialects.d.assertion]\nkey = '{private_key}'\n\
                   [dialects.d.grants.key_pair]\ntoken = '{assertion}'\n";
    let key = toml::Value::from(JWK);
    let config = good(&format!(
        "{dialect}{}",
        with(&format!("dialect = 'd'\nvars = {{ private_key = {key} }}"))
    ));
    assert!(matches!(
        config.providers[0].source,
        TokenSource::SelfSigned(_)
    ));
    bad(
        &format!(
            "{dialect}{}",
            with(&format!(
                "dialect = 'd'\ntoken_url = 'https://a.example'\nvars = {{ private_key = {key} }}"
            ))
        ),
        &["providers.p.token_url: has no effect: grant `key_pair` makes its token"],
    );
    // This grant never fetches the other provider's token.
    let dialect = dialect.replace("{assertion}", "{assertion}.{provider.q}");
    bad(
        &format!(
            "{dialect}[providers.q]\naccess_token = 't'\n{}",
            with(&format!("dialect = 'd'\nvars = {{ private_key = {key} }}"))
        ),
        &["providers.p: uses the token of another provider, but grant `key_pair`"],
    );
}

#[test]
fn dialect_urls_are_filled_with_fixed_variables_only() {
    let dialect = "[dialects.d]\nextends = 'oauth2'\nttl = '2h'\n\
                   token_url = 'https://{region}.example.com/{tenant}/token'\n";
    let text = |vars: &str| {
        let provider = with(&format!(
            "dialect = 'd'\nclient_id = 'c'\nclient_secret = 's'\nvars = {vars}"
        ));
        format!("{dialect}{provider}")
    };
    let config = good(&text("{ region = 'eu', tenant = 'a b' }"));
    assert_eq!(
        endpoint(&config, 0).address(),
        "https://eu.example.com/a%20b/token"
    );
    assert_eq!(
        config.providers[0].life.ttl,
        Some(Duration::from_secs(7200))
    );
    bad(
        &text("{ region = 'eu' }"),
        &["providers.p.vars.tenant: is missing: the token_url of the dialect needs it"],
    );
    bad(
        &text("{ region = 'a b', tenant = 't' }"),
        &["providers.p.token_url: the dialect and its variables give an invalid URL"],
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tenant");
    std::fs::write(&path, "t").unwrap();
    bad(
        &text(&format!(
            "{{ region = 'eu', tenant = {{ file = {path:?} }} }}"
        )),
        &["providers.p.vars.tenant: can only be text or `{ env = \"NAME\" }`"],
    );
}
