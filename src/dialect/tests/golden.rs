//! Each vendor document's sample request, byte for byte, and each of its sample answers, verbatim.

use super::*;

fn form(authorization: &str, body: &str) -> String {
    let authorization = match authorization {
        "" => String::new(),
        value => format!("authorization: {value}\n"),
    };
    format!(
        "POST\naccept: application/json\n{authorization}\
         content-type: application/x-www-form-urlencoded\n\n{body}"
    )
}

fn life(seconds: u64) -> Expiry {
    Expiry::In(Duration::from_secs(seconds))
}

#[test]
fn cncn_request() {
    // The document's Authorization value: its password is already an MD5.
    let sample = Provider {
        overrides: r#"request.basic = { username = "{client_id}", password = "{client_secret}", encoding = "raw" }"#,
        ..Provider::of("cncn")
    };
    let md5 = text("a60230b59073ad83080a4a531185badb");
    let request = sample.request(&[("client_id", text("joelhy")), ("client_secret", md5)]);
    let body = "grant_type=client_credentials";
    let authorization = "Basic am9lbGh5OmE2MDIzMGI1OTA3M2FkODMwODBhNGE1MzExODViYWRi";
    assert_eq!(request, form(authorization, body));
    assert_eq!(body.len(), 29, "the document's Content-Length");

    // The MD5 of a secret: md5("hunter2") = 2ab96390c7dbe3439de74d0c9b0b1767.
    let variables = [
        ("client_id", text("joelhy")),
        ("client_secret", text("hunter2")),
    ];
    let authorization = "Basic am9lbGh5OjJhYjk2MzkwYzdkYmUzNDM5ZGU3NGQwYzliMGIxNzY3";
    assert_eq!(
        Provider::of("cncn").request(&variables),
        form(authorization, body)
    );
}

#[test]
fn cncn_answers() {
    let cncn = Provider::of("cncn");
    let headers = [
        ("date", "Tue, 22 Dec 2015 05:21:49 GMT"),
        ("content-type", "application/json;charset=utf-8"),
    ];
    let issued = cncn
        .read(200, &headers, include_str!("samples/cncn-ok.json"))
        .unwrap();
    assert_eq!(
        issued,
        Issued {
            access_token: "435ff6c5415d33ab2c3dbe053adf378e".into(),
            refresh_token: None,
            expiry: life(3600),
            warnings: vec![],
        }
    );
    let refusal = cncn
        .read(400, &headers, include_str!("samples/cncn-error.json"))
        .unwrap_err();
    assert_eq!(
        refusal,
        Refusal {
            class: FailureClass::Permanent,
            is_final: false,
            status: 400,
            code: Some("invalid_client".into()),
            description: Some("用户名或密码错误".into()),
            retry_after: None,
            detail: None,
        }
    );
}

#[test]
fn cncn_falls_back_to_expires_at() {
    let body = r#"{"access_token":"t","expires_at":1450765309}"#;
    let headers = [("date", "Tue, 22 Dec 2015 05:21:49 GMT")];
    let issued = Provider::of("cncn").read(200, &headers, body).unwrap();
    let at = UNIX_EPOCH + Duration::from_secs(1_450_765_309);
    let date = Some(at - Duration::from_secs(3600));
    assert_eq!(issued.expiry, Expiry::At { at, date });
}

#[test]
fn besender_request() {
    let request = Provider::of("besender").request(&[
        ("client_id", Var::Integer(19)),
        ("client_secret", text("cAREfCzucJ8hXXXXXXXXXXXX")),
    ]);
    let body = r#"{"client_id":19,"client_secret":"cAREfCzucJ8hXXXXXXXXXXXX"}"#;
    let head = "POST\naccept: application/json\ncontent-type: application/json\n\n";
    assert_eq!(request, format!("{head}{body}"));
    let sample: serde_json::Value =
        serde_json::from_str(include_str!("samples/besender-request.json")).unwrap();
    assert_eq!(
        sample,
        serde_json::from_str::<serde_json::Value>(body).unwrap()
    );
}

#[test]
fn besender_answers() {
    let besender = Provider::of("besender");
    let issued = besender
        .read(200, &[], include_str!("samples/besender-ok.json"))
        .unwrap();
    let token = issued.access_token.expose();
    assert!(token.starts_with("eyJ0eXAiOiJKV1Qi") && token.ends_with("A8ebtg0wHUMY7wHA"));
    assert_eq!((issued.expiry, issued.refresh_token), (life(86400), None));
    assert_eq!(issued.warnings, [""; 0]);

    for (body, class, code, description) in [
        (
            r#"{"code":401,"message":"密钥错误","data":[]}"#,
            FailureClass::Permanent,
            Some("401"),
            Some("密钥错误"),
        ),
        (
            r#"{"code":"40001","message":null,"data":"x"}"#,
            FailureClass::Permanent,
            Some("40001"),
            None,
        ),
        (
            r#"{"code":429,"message":"slow","data":null}"#,
            FailureClass::Transient,
            Some("429"),
            Some("slow"),
        ),
        (
            r#"{"code":500,"data":""}"#,
            FailureClass::Transient,
            Some("500"),
            None,
        ),
        // A success without a token: its code is not an error code.
        (
            r#"{"code":200,"data":{}}"#,
            FailureClass::Permanent,
            None,
            None,
        ),
    ] {
        let refusal = besender.read(200, &[], body).unwrap_err();
        assert_eq!(
            (
                refusal.class,
                refusal.code.as_deref(),
                refusal.description.as_deref()
            ),
            (class, code, description),
            "{body}"
        );
    }
    let refusal = besender
        .read(200, &[], r#"{"code":200,"data":{}}"#)
        .unwrap_err();
    let detail = "no token at /data/token/access_token (keys: code, data)";
    assert_eq!(refusal.detail.as_deref(), Some(detail));
}

#[test]
fn ctcfile_request() {
    let ctcfile = Provider::of("ctcfile");
    let request = ctcfile.request(&[
        ("client_id", text("6zgY2DngtDjAq567k5sWfqJ6S01l")),
        (
            "client_secret",
            text("f6b24565-8566-32b6-120d-5a137a7110f8"),
        ),
    ]);
    assert_eq!(
        request,
        "GET?clientId=6zgY2DngtDjAq567k5sWfqJ6S01l&clientSecret=f6b24565-8566-32b6-120d-5a137a7110f8\n\
         accept: application/json\n\n"
    );
    assert!(ctcfile.exchange().single_active);
}

#[test]
fn ctcfile_answers() {
    let ctcfile = Provider::of("ctcfile");
    let headers = [("content-type", "application/json")];
    let issued = ctcfile
        .read(200, &headers, include_str!("samples/ctcfile-ok.json"))
        .unwrap();
    assert_eq!(issued.access_token.expose().len(), 792);
    assert_eq!((issued.expiry, issued.refresh_token), (life(3600), None));
    for errcode in ["0", "\"0\"", "null", "\"\""] {
        let body = format!(r#"{{"access_token":"t","errcode":{errcode}}}"#);
        assert!(ctcfile.read(200, &headers, &body).is_ok(), "{errcode}");
    }
    let body = r#"{"access_token":"t","errcode":"40013","errmsg":"无效的clientId"}"#;
    let refusal = ctcfile.read(200, &headers, body).unwrap_err();
    assert_eq!(refusal.class, FailureClass::Permanent);
    assert_eq!(refusal.code.as_deref(), Some("40013"));
    assert_eq!(refusal.description.as_deref(), Some("无效的clientId"));
}

#[test]
fn identityserver_requests() {
    let id = "client_id=client1&client_secret=secret&";
    for (grant, body) in [
        // The document's sample.
        (
            "authorization_code",
            "grant_type=authorization_code&code=hdh922&redirect_uri=https%3A%2F%2Fmyapp.com%2Fcallback",
        ),
        ("client_credentials", "grant_type=client_credentials"),
        ("password", "grant_type=password&username=u&password=p+%26"),
        (
            "password_ad",
            "grant_type=password_ad&username=u&password=p+%26",
        ),
        (
            "refresh_token",
            "grant_type=refresh_token&refresh_token=8xLOxBtZp8",
        ),
        ("sms", "grant_type=sms&phone=13800000000&sms=123456"),
        ("wechat", "grant_type=wechat&openId=oABC"),
    ] {
        let provider = Provider {
            grant: Some(grant),
            ..Provider::of("identityserver")
        };
        let variables = [
            ("client_id", text("client1")),
            ("client_secret", text("secret")),
            ("code", text("hdh922")),
            ("redirect_uri", text("https://myapp.com/callback")),
            ("username", text("u")),
            ("password", text("p &")),
            ("refresh_token", text("8xLOxBtZp8")),
            ("phone", text("13800000000")),
            ("sms", text("123456")),
            ("open_id", text("oABC")),
        ];
        assert_eq!(
            provider.request(&variables),
            form("", &format!("{id}{body}")),
            "{grant}"
        );
        let refresh = format!("{id}grant_type=refresh_token&refresh_token=8xLOxBtZp8");
        assert_eq!(provider.refresh(&variables), form("", &refresh), "{grant}");

        let basic = Provider {
            auth_method: Some("client_secret_basic"),
            ..provider
        };
        let authorization = "Basic Y2xpZW50MTpzZWNyZXQ=";
        assert_eq!(
            basic.request(&variables),
            form(authorization, body),
            "{grant}"
        );
        let refresh = "grant_type=refresh_token&refresh_token=8xLOxBtZp8";
        assert_eq!(
            basic.refresh(&variables),
            form(authorization, refresh),
            "{grant}"
        );
    }
}

#[test]
fn identityserver_spends_one_time_inputs() {
    let one_time = |grant| {
        let provider = Provider {
            grant: Some(grant),
            ..Provider::of("identityserver")
        };
        provider.exchange().one_time
    };
    assert_eq!(one_time("sms"), ["sms"]);
    assert_eq!(one_time("authorization_code"), ["code"]);
    assert_eq!(one_time("wechat"), [""; 0]);
}

#[test]
fn identityserver_answers() {
    let identityserver = Provider::of("identityserver");
    let headers = [("content-type", "application/json")];
    let body = include_str!("samples/identityserver-ok.json");
    for body in [body.to_owned(), body.replace('\n', "\r\n")] {
        let issued = identityserver.read(200, &headers, &body).unwrap();
        let token = issued.access_token.expose();
        assert_eq!(token.len(), 588);
        assert!(
            token.starts_with("eyJhbGciOiJSUzI1NiIsImtpZCI6IjFlOWdkazcifQ.ewogImlzcyI6ICJodHRw")
        );
        assert!(token.ends_with("fubEEBLuVVk4XUVrWOLrLl0nx7RkKU8NXNHq-rvKMzqg"));
        assert_eq!(issued.refresh_token, Some("8xLOxBtZp8".into()));
        assert_eq!(issued.expiry, life(3600));
        assert_eq!(issued.warnings.len(), 1);
        assert!(issued.warnings[0].contains("raw line breaks"));
    }
    let body = include_str!("samples/identityserver-error.json");
    let refusal = identityserver.read(400, &headers, body).unwrap_err();
    assert_eq!(refusal.class, FailureClass::Permanent);
    assert_eq!(refusal.code.as_deref(), Some("invalid_request"));
    assert_eq!((refusal.description, refusal.detail), (None, None));
}

#[test]
fn passport_request() {
    let mut variables = vec![
        ("client_id", Var::Integer(2)),
        ("client_secret", text("s")),
        ("username", text("13800000000")),
        ("password", text("p")),
    ];
    let passport = Provider::of("passport");
    let body =
        "grant_type=password&client_id=2&client_secret=s&scope=&username=13800000000&password=p";
    assert_eq!(passport.request(&variables), form("", body));
    variables.push(("scope", text("a b")));
    let body = body.replace("scope=", "scope=a+b");
    assert_eq!(passport.request(&variables), form("", &body));
    assert!(
        passport.exchange().refresh.is_none(),
        "the document offers none"
    );
}

#[test]
fn passport_answers() {
    let passport = Provider::of("passport");
    let sample = include_str!("samples/passport-ok.json");
    let issued = passport.read(200, &[], sample).unwrap();
    assert!(issued.access_token.expose().starts_with("eyJ0eXAiOiJKV1Qi"));
    assert_eq!(issued.expiry, life(31_536_000));
    assert_eq!(issued.refresh_token, None, "nothing could spend it");
    let refusal = passport
        .read(401, &[], include_str!("samples/passport-error.json"))
        .unwrap_err();
    assert_eq!(
        refusal,
        Refusal {
            class: FailureClass::Permanent,
            is_final: false,
            status: 401,
            code: Some("invalid_credentials".into()),
            description: Some("The user credentials were incorrect.".into()),
            retry_after: None,
            detail: None,
        }
    );
    // The sample's token is a JWT: 2019-10-08T12:03:36Z.
    let by_jwt = Provider {
        overrides: "response.expires = ['/nope', 'jwt:exp']",
        ..passport
    };
    let at = UNIX_EPOCH + Duration::from_secs(1_570_536_216);
    let issued = by_jwt.read(200, &[], sample).unwrap();
    assert_eq!(issued.expiry, Expiry::At { at, date: None });
}

#[test]
fn oauth2_requests() {
    let variables = [
        ("client_id", text("a:b")),
        ("client_secret", text("s/ +é")),
        ("username", text("u")),
        ("password", text("p")),
        ("code", text("c")),
        ("code_verifier", text("v")),
        ("refresh_token", text("r")),
        ("scope", text("x y")),
        ("audience", text("https://api/")),
    ];
    // RFC 6749 §2.3.1: both parts are form-encoded before they become Basic.
    let basic = "Basic YSUzQWI6cyUyRislMkIlQzMlQTk=";
    let post = "client_id=a%3Ab&client_secret=s%2F+%2B%C3%A9&";
    for (grant, body) in [
        (
            "client_credentials",
            "grant_type=client_credentials&scope=x+y&audience=https%3A%2F%2Fapi%2F",
        ),
        (
            "password",
            "grant_type=password&username=u&password=p&scope=x+y&audience=https%3A%2F%2Fapi%2F",
        ),
        (
            "authorization_code",
            "grant_type=authorization_code&code=c&code_verifier=v",
        ),
        (
            "refresh_token",
            "grant_type=refresh_token&refresh_token=r&scope=x+y",
        ),
    ] {
        let provider = |dialect, auth_method| Provider {
            grant: Some(grant),
            auth_method,
            ..Provider::of(dialect)
        };
        let by_basic = form(basic, body);
        let by_post = form("", &format!("{post}{body}"));
        let by_none = form("", &format!("client_id=a%3Ab&{body}"));
        for (dialect, auth_method, expected) in [
            ("oauth2", None, &by_basic),
            ("oauth2", Some("client_secret_post"), &by_post),
            ("oauth2", Some("none"), &by_none),
            ("oauth2-post", None, &by_post),
            ("oauth2-post", Some("client_secret_basic"), &by_basic),
        ] {
            let request = provider(dialect, auth_method).request(&variables);
            assert_eq!(&request, expected, "{dialect} {auth_method:?} {grant}");
        }
    }
}

#[test]
fn credentials_are_marked_sensitive() {
    let variables = vars(&[("client_id", text("c")), ("client_secret", text("hunter2"))]);
    let plan = Provider::of("oauth2").compile().unwrap();
    let request = plan.exchange.request.render(&variables, &frozen()).unwrap();
    assert!(request.headers["authorization"].is_sensitive());
    assert!(!request.headers["accept"].is_sensitive());
    assert!(!format!("{plan:?} {variables:?} {:?}", request.headers).contains("hunter2"));
}

#[test]
fn redacted_requests_show_names_for_values() {
    let variables = [
        ("client_id", Var::Integer(19)),
        ("client_secret", text("hunter2")),
    ];
    for (dialect, expected) in [
        (
            "cncn",
            "POST\naccept: application/json\nauthorization: Basic <client_id>:<client_secret|md5>\n\
             content-type: application/x-www-form-urlencoded\n\ngrant_type=client_credentials",
        ),
        (
            "besender",
            "POST\naccept: application/json\ncontent-type: application/json\n\n\
             {\"client_id\":\"<client_id>\",\"client_secret\":\"<client_secret>\"}",
        ),
        (
            "ctcfile",
            "GET ?clientId=<client_id>&clientSecret=<client_secret>\naccept: application/json",
        ),
    ] {
        let request = Provider::of(dialect).exchange().request;
        let redacted = request.redacted(&vars(&variables), &frozen());
        assert_eq!(redacted.unwrap(), expected, "{dialect}");
    }
    // An empty value is shown as empty.
    let mut variables = variables.to_vec();
    variables.extend([("username", text("u")), ("password", text("hunter2"))]);
    let passport = Provider::of("passport").exchange().request;
    for scope in [None, Some("")] {
        variables.extend(scope.map(|scope| ("scope", text(scope))));
        let redacted = passport.redacted(&vars(&variables), &frozen()).unwrap();
        assert!(
            redacted.contains("&scope=&username=<username>&"),
            "{redacted}"
        );
    }
    variables.truncate(2);
    let derived = Provider::of("cncn").exchange().request;
    let derived = derived.derived_secrets(&vars(&variables), &frozen());
    assert_eq!(derived, ["2ab96390c7dbe3439de74d0c9b0b1767".into()]);
}

#[test]
fn required_and_known_variables_of_the_vendors() {
    let required = |dialect, grant| {
        let provider = Provider {
            grant,
            ..Provider::of(dialect)
        };
        let names = provider.exchange().required_variables();
        names.into_iter().collect::<Vec<_>>().join(" ")
    };
    for (dialect, grant, expected) in [
        ("oauth2", None, "client_id client_secret"),
        (
            "oauth2",
            Some("password"),
            "client_id client_secret password username",
        ),
        ("cncn", None, "client_id client_secret"),
        (
            "identityserver",
            Some("sms"),
            "client_id client_secret phone sms",
        ),
        (
            "passport",
            None,
            "client_id client_secret password username",
        ),
    ] {
        assert_eq!(required(dialect, grant), expected, "{dialect}");
    }
    let known = Provider::of("oauth2").exchange().known_variables();
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    assert_eq!(
        known,
        [
            "audience",
            "client_id",
            "client_secret",
            "refresh_token",
            "resource",
            "scope"
        ]
    );
}
