//! Computed variables and assertions: their values, and their errors at configuration time.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

/// RFC 8037 §A.1.
const ED25519_JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"k1","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

fn x(dialects: &'static str) -> Provider {
    Provider {
        dialects,
        ..Provider::of("x")
    }
}

fn decoded(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Header and claims.
fn read_jwt(token: &str) -> (Value, Value) {
    let parts: Vec<_> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    (decoded(parts[0]), decoded(parts[1]))
}

#[test]
fn digests_of_getui_and_yonyou_match_their_documents() {
    let getui = x(r#"
        [x.vars]
        plain = "{client_id}{unix_ms}{client_secret}"
        [x.request]
        path = "/v2/{app}/auth"
        json = { appkey = "{client_id}", timestamp = "{unix_ms}", sign = "{plain|sha256}" }
        [x.response]
        token = "/data/token"
    "#);
    let variables = vars(&[
        ("client_id", text("appkey")),
        ("client_secret", text("master")),
        ("app", text("a/b?c")),
    ]);
    let request = getui
        .exchange()
        .request
        .render(&variables, &frozen())
        .unwrap();
    assert_eq!(
        request.path.as_ref().unwrap().as_str(),
        "/v2/a%2Fb%3Fc/auth"
    );
    // printf appkey1700000000789master | openssl sha256
    assert!(wire(&request).ends_with(
        r#"{"appkey":"appkey","timestamp":1700000000789,"sign":"7ba28b308397e665e19a6ad0db3a797200b21911a04a402b6008111b8b498b97"}"#
    ));
    let yonyou = x(r#"
        [x.vars]
        sorted = "appKey{client_id}timestamp{unix_ms}"
        signature = "{sorted|hmac_sha256:client_secret}"
        [x.request]
        method = "GET"
        query = { appKey = "{client_id}", timestamp = "{unix_ms}", signature = "{signature|base64}" }
        [x.response]
        token = "/data/access_token"
    "#);
    // … | openssl dgst -sha256 -hmac secret -binary | base64; the query encodes it.
    assert!(
        yonyou
            .request(&[
                ("client_id", text("key")),
                ("client_secret", text("secret"))
            ])
            .starts_with(
                "GET?appKey=key&timestamp=1700000000789&\
                 signature=ccGMPmERJsmzzs%2BFjPbLmwFSWzACf90euTawkaisYl0%3D\n"
            )
    );
}

#[test]
fn a_computed_variable_keeps_its_type_and_may_be_a_default() {
    let provider = x(r#"
        [x.vars]
        region = "north-4"
        limit = 5
        same = "{client_id}"
        maybe = "{scope?}"
        [x.request]
        json = { region = "{region}", limit = "{limit|int}", id = "{same}", scope = "{maybe?}" }
        [x.response]
        token = "/t"
    "#);
    let body = |variables: &[(&str, Var)]| {
        let request = provider.request(variables);
        request.split("\n\n").last().unwrap().to_owned()
    };
    assert_eq!(
        body(&[("client_id", Var::Integer(7))]),
        r#"{"region":"north-4","limit":5,"id":7}"#
    );
    assert_eq!(
        body(&[
            ("client_id", text("c")),
            ("region", text("south")),
            ("scope", text("s"))
        ]),
        r#"{"region":"south","limit":5,"id":"c","scope":"s"}"#
    );
    let plan = provider.exchange();
    assert_eq!(Vec::from_iter(plan.required_variables()), ["client_id"]);
    let known = plan.known_variables();
    for name in ["client_id", "scope", "region", "same"] {
        assert!(known.contains(name), "{name} in {known:?}");
    }
}

#[test]
fn values_derived_from_secrets_are_masked() {
    let provider = x(r#"
        [x.vars]
        plain = "{client_id}:{client_secret}"
        region = "north"
        [x.request]
        form = { a = "{plain}", r = "{region}" }
        [x.response]
        token = "/t"
    "#);
    let variables = vars(&[("client_id", text("c")), ("client_secret", text("s"))]);
    let derived = provider
        .exchange()
        .request
        .derived_secrets(&variables, &frozen());
    let derived: Vec<_> = derived.iter().map(Secret::expose).collect();
    assert_eq!(derived, ["c:s"]);
    let shown = provider
        .exchange()
        .request
        .redacted(&variables, &frozen())
        .unwrap();
    assert!(shown.ends_with("a=<plain>&r=<region>"), "{shown}");
}

#[test]
fn an_assertion_has_its_own_and_default_claims() {
    let provider = x(r#"
        [x.assertion]
        key = "{private_key}"
        claims = { iss = "{client_id}", aud = "{token_url}", n = 3, nbf = "{unix}", early = "{unix|add:-60}", list = ["{scope?}", true] }
        lifetime = "9m"
        [x.request]
        headers = { Authorization = "Bearer {assertion}" }
        [x.response]
        token = "/t"
    "#);
    let variables = [
        ("client_id", text("app")),
        ("private_key", text(ED25519_JWK)),
    ];
    let request = provider.request(&variables);
    let (_, token) = request.split_once("Bearer ").unwrap();
    let (header, claims) = read_jwt(token.trim_end());
    assert_eq!(header, json!({"alg": "EdDSA", "typ": "JWT", "kid": "k1"}));
    assert_eq!(
        claims,
        json!({
            "iss": "app", "aud": "https://auth.example/token", "n": 3, "nbf": 1_700_000_000,
            "early": 1_699_999_940, "list": [true],
            "iat": 1_700_000_000, "exp": 1_700_000_540, "jti": "0b0b",
        })
    );
    let shown = provider
        .exchange()
        .request
        .redacted(&vars(&variables), &frozen())
        .unwrap();
    assert!(
        shown.contains("authorization: Bearer <assertion>"),
        "{shown}"
    );
}

#[test]
fn claims_can_be_left_out_and_headers_added() {
    let provider = x(r#"
        [x.assertion]
        key = "{private_key}"
        header = { typ = "at+jwt", kid = "mine", "x5t#S256" = "{certificate?|der|sha256|base64url}" }
        claims = { jti = false, iat = false, exp = 12 }
        [x.request]
        body = "{assertion}"
        [x.response]
        token = "/t"
    "#);
    let request = provider.request(&[("private_key", text(ED25519_JWK))]);
    let (header, claims) = read_jwt(request.split("\n\n").last().unwrap());
    assert_eq!(
        header,
        json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "mine"})
    );
    assert_eq!(claims, json!({"exp": 12}));
}

#[test]
fn a_grant_and_a_client_may_have_an_assertion_each() {
    let provider = Provider {
        grant: Some("jwt_bearer"),
        auth_method: Some("client_secret_jwt"),
        overrides: "client_assertion = { lifetime = '1m' }\nassertion = { claims = { iss = 'sa' } }",
        ..Provider::of("oauth2")
    };
    let request = provider.request(&[
        ("client_id", text("c")),
        ("client_secret", text("hunter2")),
        ("private_key", text(ED25519_JWK)),
    ]);
    let body = request.split("\n\n").last().unwrap();
    let field = |name: &str| {
        let mut pairs = form_urlencoded::parse(body.as_bytes());
        pairs.find(|(key, _)| key == name).unwrap().1.into_owned()
    };
    let (header, claims) = read_jwt(&field("client_assertion"));
    assert_eq!(header, json!({"alg": "HS256", "typ": "JWT"}));
    assert_eq!(claims["exp"], 1_700_000_060);
    assert_eq!(claims["sub"], "c");
    let (header, claims) = read_jwt(&field("assertion"));
    assert_eq!(
        (&header["alg"], &claims["iss"]),
        (&json!("EdDSA"), &json!("sa"))
    );
}

#[test]
fn a_given_assertion_needs_no_key() {
    let plan = Provider {
        auth_method: Some("private_key_jwt"),
        ..Provider::of("oauth2")
    }
    .exchange();
    let missing =
        |given: &[&str]| Vec::from_iter(plan.missing_variables(&|name| given.contains(&name)));
    assert_eq!(missing(&[]), ["client_id", "private_key"]);
    assert_eq!(missing(&["client_assertion"]), Vec::<String>::new());
    let request = plan
        .request
        .render(
            &vars(&[("client_assertion", text("from-a-file"))]),
            &frozen(),
        )
        .unwrap();
    assert!(wire(&request).contains("client_assertion=from-a-file"));
}

#[test]
fn an_unusable_key_is_reported_before_the_first_fetch() {
    let plan = Provider {
        auth_method: Some("private_key_jwt"),
        ..Provider::of("oauth2")
    }
    .exchange();
    let unusable = |key: &str| plan.unusable_keys(&vars(&[("private_key", text(key))]));
    assert!(unusable(ED25519_JWK).is_empty());
    let problems = unusable("hunter2");
    assert!(
        problems["private_key"].starts_with("is neither a PEM"),
        "{problems:?}"
    );
    assert!(plan.unusable_keys(&Variables::new()).is_empty());
    // A fetch reports it, too, as a key file may change.
    let variables = vars(&[("client_id", text("c")), ("private_key", text("hunter2"))]);
    let problem = plan.request.render(&variables, &frozen()).err().unwrap();
    assert_eq!(problem.path, "client_assertion.key");
    assert!(
        problem
            .message
            .starts_with("`private_key` is neither a PEM"),
        "{problem:?}"
    );
}

#[test]
fn a_locally_built_token_expires_at_its_exp() {
    let provider = x(r#"
        [x.assertion]
        key = "{private_key}"
        claims = { iss = "{account|upper}.SHA256:{private_key|spki|sha256|base64}" }
        lifetime = "1h"
        [x.grants.key_pair]
        token = "{assertion}"
    "#);
    let plan = provider.exchange();
    assert_eq!(
        Vec::from_iter(plan.required_variables()),
        ["account", "private_key"]
    );
    let variables = vars(&[
        ("account", text("acme")),
        ("private_key", text(ED25519_JWK)),
    ]);
    let made = plan
        .local_token
        .unwrap()
        .make(&variables, &frozen())
        .unwrap();
    let (_, claims) = read_jwt(made.access_token.expose());
    // RFC 8410 §4: 12 bytes and the JWK's `x`, | openssl sha256 -binary | base64.
    assert_eq!(
        claims["iss"],
        "ACME.SHA256:BuP9j9opu2CrWVV95h7bCuzbIxE0vjDnW0Vfjht5L6k="
    );
    let until = UNIX_EPOCH + Duration::from_secs(1_700_003_600);
    assert_eq!(
        made.expiry,
        Expiry::At {
            at: until,
            date: None
        }
    );
}

#[test]
fn inject_may_use_computed_variables() {
    let plan = x(r#"
        [x.vars]
        pair = "{company}:{access_token}"
        [x.request]
        form = { a = "b" }
        [x.response]
        token = "/t"
        [x.inject]
        headers = { Authorization = "Basic {pair|base64}" }
    "#)
    .compile()
    .unwrap();
    let injection = plan
        .inject
        .build(&"tok".into(), &vars(&[("company", text("0"))]))
        .unwrap();
    // printf 0:tok | base64
    assert_eq!(injection.headers[0].1, "Basic MDp0b2s=");
    assert_eq!(
        Vec::from_iter(plan.inject.variables()),
        [("company", true), ("pair", false)]
    );
}

#[test]
fn path_values_cannot_add_segments() {
    let provider = x(r#"
        [x.request]
        path = "/tenants/{tenant}/token"
        [x.response]
        token = "/t"
    "#);
    for tenant in ["..", ".", ""] {
        let variables = vars(&[("tenant", text(tenant))]);
        let problem = provider
            .exchange()
            .request
            .render(&variables, &frozen())
            .err()
            .unwrap();
        assert_eq!(problem.path, "request.path", "{tenant}");
    }
}

#[test]
fn default_urls_may_use_fixed_variables() {
    let plan = x(r#"
        [x]
        token_url = "https://login.example/{tenant|or:common}/token"
        ttl = "2h"
        min_interval = "30s"
        [x.request]
        form = { a = "b" }
        [x.response]
        token = "/t"
    "#)
    .compile()
    .unwrap();
    let url = plan.defaults.token_url.unwrap();
    assert_eq!(
        url.fill(&Variables::new()).unwrap(),
        "https://login.example/common/token"
    );
    let tenant = vars(&[("tenant", text("a/../b"))]);
    assert_eq!(
        url.fill(&tenant).unwrap(),
        "https://login.example/a%2F..%2Fb/token"
    );
    assert_eq!(plan.defaults.ttl, Some(Duration::from_secs(7200)));
    assert_eq!(plan.defaults.min_interval, Some(Duration::from_secs(30)));
}

/// Each case with the problem's path and the beginning of its message.
#[test]
fn errors_of_dialects_name_their_path() {
    const REST: &str = "[x.request]\nform = { a = 'b' }\n[x.response]\ntoken = '/t'\n";
    let cases = [
        (
            "[x.vars]\na = '{b}'\nb = '{c}'\nc = '{a|md5}'",
            "vars.a",
            "the variables need each other in a circle: a → b → c → a",
        ),
        (
            "[x.vars]\na = '{a}'",
            "vars.a",
            "the variables need each other in a circle: a → a",
        ),
        (
            "[x.vars]\na = '{b|hmac_sha256:a}'",
            "vars.a",
            "the variables need each other in a circle: a → a",
        ),
        (
            "[x.assertion]\nkey = '{k}'\nclaims = { a = '{client_assertion}' }\n[x.client_assertion]\nkey = '{k}'\nclaims = { a = '{assertion}' }",
            "assertion",
            "the variables need each other in a circle: assertion → client_assertion → assertion",
        ),
        (
            "[x.vars]\na = '{b|md4}'",
            "vars.a",
            "unknown filter; did you mean `md5`?",
        ),
        (
            "[x.vars]\na = '{b'",
            "vars.a",
            "`{` at character 1 is never closed",
        ),
        ("[x.vars]\nunix = '1'", "vars.unix", "has a meaning already"),
        (
            "[x.vars]\naccess_token = '1'",
            "vars.access_token",
            "is the token itself",
        ),
        (
            "[x.vars]\nassertion = '1'",
            "vars.assertion",
            "is made by the table of that name",
        ),
        (
            "[x.vars]\n'a b' = '1'",
            "vars.a b",
            "a variable's name is made of",
        ),
        (
            "[x.vars]\na = '{provider.}'",
            "vars.a",
            "write {provider.NAME}",
        ),
        (
            "[x.assertion]\nkey = '{k'",
            "assertion.key",
            "`{` at character 1 is never closed",
        ),
        (
            "[x.assertion]\nkey = '{k}'\nheader = { alg = 'none' }",
            "assertion.header.alg",
            "is set by the table",
        ),
        (
            "[x.assertion]\nkey = '{k}'\nclaims = { a = ['{access_token}'] }",
            "assertion.claims.a.0",
            "`{access_token}` is known only in [inject] and [refresh]",
        ),
        (
            "[x.assertion]\nlifetime = '0s'",
            "assertion.lifetime",
            "expected a duration from",
        ),
        (
            "[x.assertion]\nlifetime = '2d'",
            "assertion.lifetime",
            "expected a duration from",
        ),
        ("[x]\nttl = 'soon'", "ttl", "expected a duration"),
        (
            "[x]\ntoken_url = 'https://x/{unix}'",
            "token_url",
            "can use only variables that are known from the start",
        ),
        (
            "[x]\ntoken_url = 'https://x/{a'",
            "token_url",
            "`{` at character 11 is never closed",
        ),
        (
            "[x.grants.g]\npath = 'a'",
            "grants.g.path",
            "must be a path",
        ),
        (
            "[x.grants.g]\npath = '//evil.example/'",
            "grants.g.path",
            "must be a path",
        ),
        (
            "[x.grants.g]\ntoken = '{access_token}'",
            "grants.g.token",
            "`{access_token}` is known only in [inject] and [refresh]",
        ),
        (
            "[x.grants.g]\nform = { a = '1' }\njson = { a = '1' }",
            "grants.g.json",
            "at most one of form, json and body",
        ),
        (
            "[x.vars]\na = '{access_token}'\n[x.grants.g]\nform = { a = '{a}' }",
            "vars.a",
            "`{access_token}` is known only in [inject] and [refresh]",
        ),
        (
            "[x.vars]\na = '{token_url}'\n[x.inject]\nheaders = { A = '{access_token}{a}' }",
            "vars.a",
            "`{token_url}` is known only in token requests",
        ),
        (
            "[x.inject]\nheaders = { A = '{access_token}{assertion}' }",
            "inject.headers.A",
            "`{assertion}` is known only in token requests",
        ),
        (
            "[x.inject]\nheaders = { A = '{access_token}{provider.p}' }",
            "inject.headers.A",
            "tokens of other providers are known only",
        ),
    ];
    for (dialect, path, message) in cases {
        let text: &'static str = match dialect.contains("[x]\n") {
            true => format!("{dialect}\n{REST}").leak(),
            false => format!("{REST}{dialect}").leak(),
        };
        let problems = x(text).problems();
        assert_eq!(problems.len(), 1, "{dialect}\n{problems:?}");
        assert_eq!(problems[0].0, path, "{dialect}\n{problems:?}");
        assert!(
            problems[0].1.starts_with(message),
            "{dialect}\n{problems:?}"
        );
    }
}

#[test]
fn every_filter_of_the_documents_exists() {
    for filters in [
        "md5|sha1|sha256|sha384|sha512",
        "hmac_md5:k|hmac_sha1:k|hmac_sha256:k|hmac_sha512:k",
        "hex|base64|base64url|unbase64|urlencode|raw",
        "upper|lower|int|add:1",
        "json:/a|der|spki",
    ] {
        let text = format!("{{a|{filters}}}");
        assert!(
            template::Template::parse(&text, template::Place::Exchange).is_ok(),
            "{text}"
        );
    }
}
