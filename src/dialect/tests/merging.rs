//! The merge rule, and the errors of wrong dialects.

use proptest::prelude::*;

use super::*;

const RESPONSE: &str = "x.response.token = '/t'\n";

/// A user dialect `x` with a token selector.
fn x(dialects: &'static str) -> Provider {
    let dialects: String = format!("{RESPONSE}{dialects}");
    Provider {
        dialects: dialects.leak(),
        ..Provider::of("x")
    }
}

#[test]
fn a_user_dialect_has_defaults() {
    let plan = x("").compile().unwrap();
    let request = plan
        .exchange
        .request
        .render(&Variables::new(), &frozen())
        .unwrap();
    assert_eq!(wire(&request), "POST\naccept: application/json\n\n");
    assert_eq!(plan.exchange.grant, "default");
    assert!(plan.exchange.refresh.is_none());
    assert_eq!(plan.inject.header_names(), ["authorization"]);
    assert_eq!(plan.reject.status, [401]);
    assert_eq!(plan.reject.grpc_status, [16]);
}

#[test]
fn provider_overrides_grant_overrides_auth_overrides_request() {
    let tables = [
        ("request.request", "x.request.headers.A"),
        ("auth", "x.auth.m.headers.A"),
        ("grant", "x.grants.g.headers.A"),
    ];
    // Each table overrides the tables before it.
    let mut dialects =
        "x.default_auth = 'm'\nx.auth.m.query = {}\nx.grants.g.query = {}\n".to_owned();
    for (name, key) in tables {
        dialects.push_str(&format!("{key} = '{name}'\n"));
        let provider = x(dialects.clone().leak());
        assert_eq!(provider.request(&[]), format!("POST\na: {name}\n\n"));
    }
    let provider = Provider {
        overrides: "request.headers.A = 'provider'",
        ..x(dialects.leak())
    };
    assert_eq!(provider.request(&[]), "POST\na: provider\n\n");
}

#[test]
fn a_written_key_replaces_the_inherited_one_whole() {
    let provider = Provider {
        overrides: "request.headers = { B = '2' }",
        ..x("x.request = { method = 'GET', headers = { A = '1' }, query = { q = '1' } }")
    };
    assert_eq!(provider.request(&[]), "GET?q=1\nb: 2\n\n");
}

#[test]
fn basic_false_removes_an_inherited_basic() {
    let provider = Provider {
        overrides: "request = { basic = false, headers = { Authorization = 'ID {client_id}' } }",
        ..Provider::of("oauth2")
    };
    assert!(
        provider
            .request(&[("client_id", text("7"))])
            .contains("authorization: ID 7\n")
    );
    let both = Provider {
        overrides: "request.headers = { Authorization = 'ID {client_id}' }",
        ..Provider::of("oauth2")
    };
    assert_eq!(both.problems()[0].0, "request.headers.Authorization");
}

#[test]
fn form_json_and_body_replace_each_other() {
    let provider = |overrides| Provider {
        overrides,
        ..x("x.grants.g.form = { a = '1' }")
    };
    assert!(provider("").request(&[]).ends_with("\n\na=1"));
    assert!(
        provider("request.json = { b = 2 }")
            .request(&[])
            .ends_with("\n\n{\"b\":2}")
    );
    let raw = provider("request.body = '<x>{y}</x>'").request(&[("y", text("&"))]);
    assert!(
        raw.ends_with("content-type: text/plain; charset=utf-8\n\n<x>&</x>"),
        "{raw}"
    );
}

#[test]
fn auth_entries_join_the_grants_body_but_not_the_providers() {
    let post = |overrides| Provider {
        overrides,
        ..Provider::of("oauth2-post")
    };
    let variables = [("client_id", text("i")), ("client_secret", text("s"))];
    let body = |provider: Provider| {
        let request = provider.request(&variables);
        request.rsplit_once('\n').unwrap().1.to_owned()
    };
    assert_eq!(
        body(post("")),
        "client_id=i&client_secret=s&grant_type=client_credentials"
    );
    // The body keeps the file's order.
    assert_eq!(body(post("request.form = { a = '1' }")), "a=1");
    // The grant wins a name that both write.
    let clash = "x.default_auth = 'm'\nx.auth.m.form = { a = 'auth', b = 'auth' }\n\
                 x.grants.g.form = { a = 'grant', c = 'grant' }";
    assert_eq!(body(x(clash)), "a=grant&b=auth&c=grant");
    // The auth method overrides [request].
    let lists = "x.default_auth = 'm'\nx.auth.m.form = { a = 'auth', b = ['auth', '2'] }\n\
                 x.grants.g.form = { a = ['1', '2'], c = ['x', 'y'] }";
    assert_eq!(body(x(lists)), "a=1&a=2&b=auth&b=2&c=x&c=y");
    let clash = "x.default_auth = 'm'\nx.auth.m.form = { a = 'auth', b = 'auth' }\n\
                 x.request.form = { a = 'request', c = 'request' }";
    assert_eq!(body(x(clash)), "a=auth&b=auth&c=request");
    let json =
        "x.default_auth = 'm'\nx.auth.m.json = { id = '{client_id}' }\nx.grants.g.json = { g = 1 }";
    assert_eq!(body(x(json)), r#"{"id":"i","g":1}"#);
}

#[test]
fn auth_entries_of_another_kind_than_the_body_are_a_problem() {
    let provider =
        x("x.default_auth = 'm'\nx.auth.m.form = { a = '1' }\nx.grants.g.json = { b = 1 }");
    assert_eq!(
        provider.problems(),
        [(
            "auth.m.form".to_owned(),
            "the auth method's entries are for a form body, but grants.g.json states a JSON body"
                .to_owned()
        )]
    );
}

#[test]
fn only_refresh_may_send_the_token_that_it_renews() {
    let provider = |overrides| Provider {
        dialects: r#"
            [x.grants.g]
            form = { a = "b" }
            [x.vars]
            old = "{access_token}"
            [x.response]
            token = "/t"
            [x.refresh]
            path = "/renew"
            json = { a = ["{old}"] }
        "#,
        overrides,
        ..Provider::of("x")
    };
    let plan = provider("").exchange();
    assert!(plan.refresh.unwrap().names_access_token());
    assert!(!plan.request.names_access_token());
    let wire = provider("").refresh(&[("access_token", text("tok"))]);
    assert!(wire.ends_with(r#"{"a":["tok"]}"#), "{wire}");

    for overrides in [
        "request.headers = { A = '{access_token}' }",
        "request.headers = { A = '{old}' }",
    ] {
        let (_, message) = &provider(overrides).problems()[0];
        assert!(
            message.contains("known only in [inject] and [refresh]"),
            "{message}"
        );
    }
}

#[test]
fn refresh_shares_credentials_but_no_parameters() {
    let provider = Provider {
        overrides: "request = { headers = { H = '1' }, form = { what = 'grant' } }",
        ..Provider::of("oauth2-post")
    };
    let variables = [
        ("client_id", text("i")),
        ("client_secret", text("s")),
        ("refresh_token", text("r")),
    ];
    assert!(provider.request(&variables).ends_with("\n\nwhat=grant"));
    assert_eq!(
        provider.refresh(&variables),
        "POST\ncontent-type: application/x-www-form-urlencoded\nh: 1\n\n\
         client_id=i&client_secret=s&grant_type=refresh_token&refresh_token=r"
    );
}

#[test]
fn a_dialect_overrides_the_extended_one() {
    let provider = Provider {
        dialects: r#"
            [x]
            extends = "y"
            [x.request]
            basic = { username = "{client_id}", password = "{client_secret|md5}", encoding = "raw" }
            [x.inject.headers]
            X-Token = "{access_token}"
            [y]
            extends = "oauth2"
            single_active = true
            [y.grants.client_credentials]
            form = { grant_type = "y" }
            [y.response]
            token = "/y"
        "#,
        ..Provider::of("x")
    };
    let request = provider.request(&[
        ("client_id", text("joelhy")),
        ("client_secret", text("hunter2")),
    ]);
    // The nearer dialect's [request] overrides even the inherited auth method.
    assert!(
        request.contains(
            "authorization: Basic am9lbGh5OjJhYjk2MzkwYzdkYmUzNDM5ZGU3NGQwYzliMGIxNzY3\n"
        )
    );
    assert!(request.ends_with("\n\ngrant_type=y"));
    let plan = provider.compile().unwrap();
    assert!(plan.exchange.single_active);
    assert_eq!(plan.inject.header_names(), ["x-token"]);
    let issued = provider
        .read(200, &[], r#"{"y":"t","expires_in":60}"#)
        .unwrap();
    assert_eq!(issued.access_token.expose(), "t");
    assert_eq!(
        issued.expiry,
        Expiry::In(Duration::from_secs(60)),
        "response merges key by key"
    );
}

/// A dialect that uses most tables.
#[test]
fn a_dialect_with_all_tables_compiles() {
    let provider = |grant| Provider {
        dialects: r#"
            [x]
            extends       = "oauth2"
            default_grant = "client_credentials"
            default_auth  = "client_secret_basic"
            single_active = false
            [x.request]
            method  = "POST"
            headers = { Accept = "application/json" }
            basic = { username = "{client_id}", password = "{client_secret|md5}", encoding = "raw" }
            [x.auth]
            client_secret_basic = { basic = { username = "{client_id}", password = "{client_secret}" } }
            client_secret_post = { form = { client_id = "{client_id}", client_secret = "{client_secret}" } }
            [x.grants.client_credentials]
            form = { grant_type = "client_credentials", scope = "{scope?}" }
            [x.grants.sms]
            form     = { grant_type = "sms", phone = "{phone}", sms = "{sms}" }
            one_time = ["sms"]
            [x.refresh]
            form = { grant_type = "refresh_token", refresh_token = "{refresh_token}" }
            [x.response]
            token = "/access_token"
            expires = ["/expires_in", "/expires_at"]
            refresh_token = "/refresh_token"
            ok = { "/code" = [200] }
            error = "/error"
            error_description = ["/error_description", "/message"]
            permanent = []
            transient = ["temporarily_unavailable"]
            [x.inject]
            headers = { Authorization = "Bearer {access_token}" }
            [x.reject]
            status = [401]
            grpc_status = [16]
            body = { "/errcode" = [40001, 42001] }
        "#,
        grant,
        ..Provider::of("x")
    };
    let variables = [
        ("client_id", text("i")),
        ("client_secret", text("s")),
        ("phone", text("1")),
        ("sms", text("2")),
    ];
    // Inside one dialect, auth overrides [request]: Basic is i:s.
    let head = "POST\naccept: application/json\nauthorization: Basic aTpz\n\
                content-type: application/x-www-form-urlencoded\n\n";
    let request = provider(None).request(&variables);
    assert_eq!(request, format!("{head}grant_type=client_credentials"));
    let request = provider(Some("sms")).request(&variables);
    assert_eq!(request, format!("{head}grant_type=sms&phone=1&sms=2"));
    let plan = provider(Some("sms")).compile().unwrap();
    assert_eq!(plan.exchange.one_time, ["sms"]);
    assert!(plan.reject.reads_bodies());
}

#[test]
fn a_dialect_may_extend_the_built_in_one_of_its_name() {
    let provider = Provider {
        dialects: "oauth2.extends = 'oauth2'\noauth2.request.method = 'PUT'",
        ..Provider::of("oauth2")
    };
    let request = provider.request(&[("client_id", text("i")), ("client_secret", text("s"))]);
    assert!(request.starts_with("PUT\n") && request.ends_with("grant_type=client_credentials"));
}

#[test]
fn inject_by_query_replaces_the_default_header() {
    let provider = Provider {
        overrides: "inject.query = { access_token = '{access_token}' }",
        ..Provider::of("oauth2")
    };
    let plan = provider.compile().unwrap();
    assert_eq!(plan.inject.query_names(), ["access_token"]);
    assert!(plan.inject.header_names().is_empty());
}

#[test]
fn json_keeps_types_and_order_and_drops_unset_keys() {
    let provider = x(r#"
        [x.request.json]
        z = "{id}"
        a = "{id} "
        yes = "{yes}"
        f = 1.5
        when = 2020-01-02
        unset = "{nope?}"
        deep = { list = [1, "{nope?}", "{id|upper}"], unset = "{nope?}", at = "{unix}", "{id}" = false }
    "#);
    let request = provider.request(&[("id", Var::Integer(19)), ("yes", Var::Boolean(true))]);
    let body = concat!(
        r#"{"z":19,"a":"19 ","yes":true,"f":1.5,"when":"2020-01-02","#,
        r#""deep":{"list":[1,"19"],"at":1700000000,"{id}":false}}"#
    );
    assert_eq!(request.rsplit_once('\n').unwrap().1, body);
}

#[test]
fn unset_keys_are_dropped_from_query_and_headers_too() {
    let provider = x("[x.request]\nquery = { a = '{n?}', b = '{s}' }\n\
         headers = { A = '{n?}', Content-Type = 'text/x' }\nbody = ''");
    assert_eq!(
        provider.request(&[("s", text("a b&+~/é"))]),
        "POST?b=a%20b%26%2B~%2F%C3%A9\ncontent-type: text/x\n\n"
    );
}

#[test]
fn render_errors_name_path_and_variable_but_no_value() {
    for (dialects, path, message) in [
        (
            "x.grants.g.form = { p = '{phnoe}' }",
            "grants.g.form.p",
            "variable `phnoe` has no value; did you mean `phone`?",
        ),
        (
            "x.request.json = { a = { b = '{zz}' } }",
            "request.json.a",
            "variable `zz` has no value",
        ),
        (
            "x.request.headers = { A = 'x {bad}' }",
            "request.headers.A",
            "`bad` contains a character that a header cannot carry",
        ),
        (
            "x.request.basic = { username = '{colon}', password = '', encoding = 'raw' }",
            "request.basic.username",
            "a user name cannot contain a colon (RFC 7617); \
             use `encoding = \"form\"` if the vendor decodes it",
        ),
    ] {
        let variables = vars(&[
            ("phone", text("1")),
            ("bad", text("a\r\nb")),
            ("colon", text("a:b")),
        ]);
        let problem = x(dialects)
            .exchange()
            .request
            .render(&variables, &frozen())
            .err()
            .unwrap();
        assert_eq!((&*problem.path, &*problem.message), (path, message));
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let provider = Provider {
        dialects: r#"
            [x]
            default_grant = "smss"
            default_auth = "nope"
            [x.request]
            method = "post"
            headers = { "a b" = "1", Host = "h", A = "1", a = "2" }
            [x.grants.sms]
            form = { phone = "{phone|md4}", sms = "{sms" }
            json = { a = nan, b = ["{provider.}"] }
            [x.grants.other]
            basic = { username = "u" }
            body = "{access_token}"
            [x.refresh]
            body = "{access_token"
            [x.response]
            expires = ["expires_in", "re:("]
            error = "jwt:exp"
            permanent = [1]
            transient = ["1"]
            ok = { code = [1] }
            [x.inject]
            headers = { A = "{unix}" }
            [x.reject]
            status = [99]
            body = { body = [1] }
        "#,
        overrides: "request.query = { q = '}' }",
        ..Provider::of("x")
    };
    let problems = provider.problems();
    let mut paths: Vec<_> = problems.iter().map(|(path, _)| path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "default_auth",
            "default_grant",
            "grants.other.basic.password",
            "grants.other.body",
            "grants.sms.form.phone",
            "grants.sms.form.sms",
            "grants.sms.json",
            "grants.sms.json.a",
            "grants.sms.json.b.0",
            "inject.headers.A",
            "refresh.body",
            "reject.body.body",
            "reject.status",
            "request.headers.Host",
            "request.headers.a",
            "request.headers.a b",
            "request.method",
            "request.query.q",
            "response.error",
            "response.expires",
            "response.expires",
            "response.ok.code",
            "response.permanent",
            "response.token",
        ]
    );
    let message = |path| &problems.iter().find(|(at, _)| at == path).unwrap().1;
    assert_eq!(
        message("default_grant"),
        "the dialect has no such grant; did you mean `sms`?"
    );
    assert_eq!(
        message("grants.sms.form.phone"),
        "unknown filter; did you mean `md5`? (character 1) (dialect `x`)"
    );
    assert_eq!(
        message("default_auth"),
        "the dialect offers no choice of auth method; leave this out"
    );
}

#[test]
fn unknown_names_are_reported_with_a_hint() {
    let cases = [
        (
            Provider::of("oauth"),
            "dialect",
            "unknown dialect; did you mean `oauth2`?",
        ),
        (
            Provider {
                dialects: "x.extends = 'cnc'",
                ..Provider::of("x")
            },
            "extends",
            "unknown dialect; did you mean `cncn`? (dialect `x`)",
        ),
        (
            Provider {
                dialects: "x.extends = 'x'",
                ..Provider::of("x")
            },
            "extends",
            "a dialect cannot extend itself (dialect `x`)",
        ),
        (
            Provider {
                dialects: "x.extends = 'y'\ny.extends = 'x'",
                ..Provider::of("x")
            },
            "extends",
            "the dialects extend each other in a circle (dialect `y`)",
        ),
        (
            Provider {
                grant: Some("passwort"),
                ..Provider::of("oauth2")
            },
            "grant",
            "the dialect has no such grant; did you mean `password`?",
        ),
        (
            Provider {
                auth_method: Some("basic"),
                ..Provider::of("oauth2")
            },
            "auth_method",
            "the dialect has no such auth method; known: client_secret_basic, \
             client_secret_post, none, private_key_jwt, client_secret_jwt, tls_client_auth, \
             self_signed_tls_client_auth",
        ),
        (
            x("x.grants = { a = {}, b = {} }"),
            "grant",
            "missing: choose one of a, b",
        ),
        (
            x("x.grants.g = { form = { c = '{code}' }, one_time = ['cod'] }"),
            "grants.g.one_time",
            "names a variable that the grant does not use; did you mean `code`?",
        ),
    ];
    for (provider, path, message) in cases {
        assert_eq!(provider.problems(), [(path.to_owned(), message.to_owned())]);
    }
}

#[test]
fn a_provider_without_a_dialect_writes_all_tables() {
    let provider = Provider {
        overrides: "request.form = { k = '{client_id}' }\nresponse.token = '/t'",
        ..Provider::default()
    };
    assert!(
        provider
            .request(&[("client_id", text("i"))])
            .ends_with("\n\nk=i")
    );
}

#[test]
fn a_static_token_needs_only_inject_and_reject() {
    let user = BTreeMap::new();
    let overrides: Overrides =
        toml::from_str("inject.headers = { X-Key = '{access_token}' }").unwrap();
    let source = |overrides| Source {
        dialect: "oauth2",
        user: &user,
        overrides,
        grant: None,
        auth_method: None,
    };
    let (inject, reject) = compile_static(&source(&overrides)).unwrap();
    assert_eq!(inject.header_names(), ["x-key"]);
    assert_eq!(reject.status, [401]);
    let overrides: Overrides = toml::from_str("request.method = 'GET'").unwrap();
    assert_eq!(
        compile_static(&source(&overrides)).unwrap_err()[0].path,
        "request"
    );
}

proptest! {
    #[test]
    fn forms_decode_to_their_pairs(
        pairs in prop::collection::vec((any::<String>(), any::<String>()), 0..6),
    ) {
        let mut toml = toml::Table::new();
        let mut variables = Variables::new();
        let mut expected: Vec<(String, String)> = Vec::new();
        for (index, (name, value)) in pairs.into_iter().enumerate() {
            if toml.contains_key(&name) {
                continue;
            }
            let variable = format!("v{index}");
            toml.insert(name.clone(), format!("{{{variable}}}").into());
            variables.insert(variable, Var::Text(value.as_str().into()));
            expected.push((name, value));
        }
        let overrides = Overrides {
            request: schema::RequestToml {
                form: Some(toml.clone().try_into().unwrap()),
                query: Some(toml.try_into().unwrap()),
                ..Default::default()
            },
            response: toml::from_str("token = '/t'").unwrap(),
            ..Default::default()
        };
        let user = BTreeMap::new();
        let source = Source {
            dialect: "",
            user: &user,
            overrides: &overrides,
            grant: None,
            auth_method: None,
        };
        let request = compile(&source).unwrap().exchange.request;
        let request = request.render(&variables, &frozen()).unwrap();
        let parse = |bytes: &[u8]| form_urlencoded::parse(bytes).into_owned().collect::<Vec<_>>();
        prop_assert_eq!(&parse(&request.body), &expected);
        let query = request.query.unwrap_or_default();
        prop_assert_eq!(&parse(query.as_bytes()), &expected);
    }
}
