use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;

fn rules(toml: &str) -> ResponseRules {
    let expires = match toml.starts_with("expires") {
        true => "",
        false => "expires = '/expires_in'",
    };
    let toml = format!("token = ['/access_token', '/t']\n{expires}\n{toml}");
    let mut problems = Vec::new();
    let rules = ResponseRules::parse(&toml::from_str(&toml).unwrap(), &mut problems);
    assert_eq!(problems, []);
    rules
}

fn read(
    rules: &ResponseRules,
    status: u16,
    headers: &[(&'static str, &str)],
    body: &[u8],
) -> Result<Issued, Refusal> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, value.parse().unwrap());
    }
    let answer = Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: &map,
        body,
        // Mon, 21 Dec 2015 05:21:49 GMT.
        now: UNIX_EPOCH + Duration::from_secs(1_450_675_309),
    };
    rules.read(answer, &[&Secret::new("hunter2")])
}

#[test]
fn a_401_is_permanent_unless_the_dialect_lists_its_code() {
    use FailureClass::{Permanent, Transient};
    let body = br#"{"error":"server_error","error_description":"access_denied"}"#;
    let listed = "transient = ['server_error']";
    for (text, status, class) in [
        ("", 401, Permanent),
        ("", 400, Transient),
        ("", 503, Transient),
        (listed, 401, Transient),
    ] {
        let refusal = read(&rules(text), status, &[], body).unwrap_err();
        assert_eq!(refusal.class, class, "{text:?} {status}");
    }
}

#[test]
fn the_most_specific_listed_word_decides_the_class() {
    use FailureClass::{Permanent, Transient};
    let rules = rules(
        "transient = ['being processed', 're:(?i)rate limit', 'status:400']\n\
         permanent = ['invalid_grant', 'no rate limit for you']\nfinal = ['revoked', 're:has left']",
    );
    for (status, body, class, is_final) in [
        (400, r#"{"error":"invalid_grant"}"#, Permanent, false),
        (
            400,
            r#"{"error":"invalid_grant","error_description":"token request is already Being Processed"}"#,
            Transient,
            false,
        ),
        (
            403,
            r#"{"error":"API Rate Limit exceeded"}"#,
            Transient,
            false,
        ),
        (400, r#"{"error":"other"}"#, Transient, false),
        (400, r#"{"error":"revoked"}"#, Permanent, true),
        (
            200,
            r#"{"error":"7","message":"the user has left"}"#,
            Permanent,
            true,
        ),
        // Both texts match: the retry may help.
        (400, r#"{"error":"has left: rate limit"}"#, Transient, false),
    ] {
        let refusal = read(&rules, status, &[], body.as_bytes()).unwrap_err();
        assert_eq!(
            (refusal.class, refusal.is_final),
            (class, is_final),
            "{status} {body}"
        );
    }
}

#[test]
fn code_and_status_decide_the_class() {
    use FailureClass::{Permanent, Transient};
    let rules = rules(
        "ok = { '/errcode' = [0] }\nerror = ['/error', '/errcode']\n\
         permanent = ['dead', '-2', 'status:501']\ntransient = ['busy', -1, 'status:422']",
    );
    for (status, body, class, code) in [
        (
            400,
            r#"{"error":"invalid_client"}"#,
            Permanent,
            Some("invalid_client"),
        ),
        (401, "", Permanent, None),
        (403, "<html>", Permanent, None),
        (404, "not found", Transient, None),
        (404, "{}", Transient, None),
        (405, "<html>", Transient, None),
        (410, "", Transient, None),
        (415, r#"{"error":""}"#, Transient, None),
        (404, r#"{"error":"no_app"}"#, Permanent, Some("no_app")),
        (409, r#"{"errcode":7}"#, Permanent, Some("7")),
        // Listed statuses; a listed code wins over a listed status.
        (422, r#"{"errcode":7}"#, Transient, Some("7")),
        (422, r#"{"error":"dead"}"#, Permanent, Some("dead")),
        (501, r#"{"errcode":7}"#, Permanent, Some("7")),
        (501, "", Permanent, None),
        (501, r#"{"error":"busy"}"#, Transient, Some("busy")),
        (404, r#"{"error":"busy"}"#, Transient, Some("busy")),
        (413, r#"{"errcode":"503"}"#, Permanent, Some("503")),
        (400, r#"{"error":"busy"}"#, Transient, Some("busy")),
        (408, "", Transient, None),
        (425, "", Transient, None),
        (429, r#"{"error":"quota"}"#, Transient, Some("quota")),
        (429, r#"{"error":"dead"}"#, Permanent, Some("dead")),
        (500, "", Transient, None),
        (503, "<html>", Transient, None),
        (500, r#"{"error":"dead"}"#, Permanent, Some("dead")),
        (302, "", Transient, None),
        (
            200,
            r#"{"errcode":40013,"t":"x"}"#,
            Permanent,
            Some("40013"),
        ),
        (200, r#"{"errcode":"-1"}"#, Transient, Some("-1")),
        (200, r#"{"errcode":-2}"#, Permanent, Some("-2")),
        (200, r#"{"errcode":503}"#, Transient, Some("503")),
        (200, r#"{"errcode":{"x":1},"t":"x"}"#, Permanent, None),
        (
            200,
            r#"{"error":"invalid_grant"}"#,
            Permanent,
            Some("invalid_grant"),
        ),
        (200, r#"{"error":"busy"}"#, Transient, Some("busy")),
        (200, r#"{"data":1}"#, Permanent, None),
        (200, r#"{"t":""}"#, Permanent, None),
        (200, r#"{"t":null}"#, Permanent, None),
        (
            200,
            "error=bad_verification_code&error_description=x",
            Permanent,
            Some("bad_verification_code"),
        ),
        (200, "null", Permanent, None),
        (200, " 7 ", Permanent, None),
        (200, "\"text\"", Permanent, None),
        (200, "[]", Permanent, None),
        (200, "", Transient, None),
        (200, "<html>maintenance</html>", Transient, None),
        (200, "{\"t\":\"cut of", Transient, None),
        (200, "\0\0\0", Transient, None),
        (204, "", Transient, None),
    ] {
        let refusal = read(&rules, status, &[], body.as_bytes()).unwrap_err();
        assert_eq!(
            (refusal.class, refusal.code.as_deref()),
            (class, code),
            "{status} {body}"
        );
        assert_eq!(refusal.status, status);
        assert_eq!(refusal.detail.is_none(), code.is_some(), "{refusal:?}");
    }
}

#[test]
fn tokens_are_read_from_the_first_selector_that_matches() {
    let rules = rules("ok = { '/errcode' = [0, 'OK'] }\nrefresh_token = '/r'");
    for (body, token, refresh_token) in [
        (r#"{"access_token":"a","t":"b"}"#, "a", None),
        (r#"{"access_token":"","t":"b","r":""}"#, "b", None),
        (r#"{"t":"b","r":null,"errcode":"0"}"#, "b", None),
        (r#"{"t":"b","r":"c","errcode":0.0}"#, "b", Some("c")),
        (r#"{"t":"b","errcode":"OK"}"#, "b", None),
        (
            r#"{"t":"b","errcode":null,"token_type":"bearer extreme"}"#,
            "b",
            None,
        ),
        // An error code that `ok` does not select does not reject a token.
        (r#"{"t":"b","error":"odd"}"#, "b", None),
        (r#"{"t":12345}"#, "12345", None),
        ("access_token=a%2Bb&expires_in=5", "a+b", None),
    ] {
        let issued = read(&rules, 200, &[], body.as_bytes()).unwrap();
        assert_eq!(issued.access_token.expose(), token, "{body}");
        assert_eq!(
            issued.refresh_token,
            refresh_token.map(Secret::from),
            "{body}"
        );
        assert_eq!(issued.warnings, [""; 0]);
    }
    let long = "x".repeat(16 * 1024);
    let issued = read(&rules, 201, &[], format!(r#"{{"t":"{long}"}}"#).as_bytes()).unwrap();
    assert_eq!(issued.access_token.expose(), long);
}

#[test]
fn an_unsendable_token_is_refused_and_not_shown() {
    for token in [
        r"hunter2\r\nX: y",
        "hunter2 x",
        "hünter2",
        r"hunter2\u0000",
        " hunter2",
    ] {
        let body = format!(r#"{{"t":"{token}"}}"#);
        let refusal = read(&rules(""), 200, &[], body.as_bytes()).unwrap_err();
        assert_eq!(
            refusal,
            Refusal {
                class: FailureClass::Transient,
                is_final: false,
                status: 200,
                code: None,
                description: None,
                retry_after: None,
                detail: Some("the token contains a byte that a header cannot carry".into()),
            }
        );
    }
    for token in ["Bearer hunter2", "bearer  hunter2", "Token hunter2"] {
        let body = format!(r#"{{"t":"{token}"}}"#);
        let refusal = read(&rules(""), 200, &[], body.as_bytes()).unwrap_err();
        let detail = refusal.detail.unwrap();
        assert!(detail.ends_with("the scheme must not be in it"), "{detail}");
    }
}

#[test]
fn details_describe_the_answer_without_its_values() {
    let html = [("content-type", "text/html; charset=utf-8")];
    for (status, headers, body, detail) in [
        (
            200,
            &html[..],
            "<html>s3cret</html>",
            "no token at /access_token, /t \
             (the body is not JSON; content type text/html; charset=utf-8)",
        ),
        (
            200,
            &[],
            "s3cret",
            "no token at /access_token, /t (the body is not JSON; no content type)",
        ),
        (
            200,
            &html,
            "",
            "no token at /access_token, /t (the body is empty)",
        ),
        (
            200,
            &[],
            "{}",
            "no token at /access_token, /t (JSON without keys)",
        ),
        (
            200,
            &[],
            r#"{"code":"s3cret","da\nta":{"x":"s3cret"},"hunter2":1}"#,
            "no token at /access_token, /t (keys: code, <a name of 5 characters>, [masked])",
        ),
        (
            400,
            &[],
            r#"{"reason":"s3cret"}"#,
            "no error code at /error (keys: reason)",
        ),
        (
            307,
            &[("location", "https://s3cret/")],
            "",
            "the token endpoint redirects, but token requests follow no redirects: \
             write the final URL as token_url",
        ),
    ] {
        let refusal = read(&rules(""), status, headers, body.as_bytes()).unwrap_err();
        assert_eq!(refusal.detail.as_deref(), Some(detail));
    }
}

#[test]
fn an_unrequested_content_coding_is_reported() {
    let headers = [("content-encoding", "gzip"), ("content-type", "text/plain")];
    let refusal = read(&rules(""), 200, &headers, b"\x1f\x8b\x08\0\0").unwrap_err();
    assert_eq!(refusal.class, FailureClass::Transient);
    let detail = refusal.detail.unwrap();
    assert!(
        detail.contains("unrequested content coding gzip"),
        "{detail}"
    );
}

#[test]
fn a_token_too_long_for_a_request_is_refused() {
    for (length, good) in [(LONGEST_TOKEN, true), (LONGEST_TOKEN + 1, false)] {
        let body = format!(r#"{{"t":"{}"}}"#, "x".repeat(length));
        match read(&rules(""), 200, &[], body.as_bytes()) {
            Ok(_) => assert!(good),
            Err(refusal) => {
                assert!(!good);
                assert!(refusal.detail.unwrap().contains("longer than 48 KiB"));
            }
        }
    }
}

#[test]
fn descriptions_are_masked_escaped_and_capped() {
    let body = format!(
        r#"{{"error":"bad\n hunter2","error_description":"密码 hunter2 错误\u001b[31m{}"}}"#,
        "错".repeat(400)
    );
    let refusal = read(&rules(""), 400, &[], body.as_bytes()).unwrap_err();
    assert_eq!(refusal.code.as_deref(), Some("bad\\n [masked]"));
    let description = refusal.description.unwrap();
    assert!(description.starts_with("密码 [masked] 错误\\u{1b}[31m错错"));
    assert_eq!(description.chars().count(), 301);
}

#[test]
fn an_expiry_that_cannot_be_read_is_a_warning() {
    let rules = |expires: &str| {
        let toml = format!("token = '/t'\nexpires = {expires}");
        let mut problems = Vec::new();
        ResponseRules::parse(&toml::from_str(&toml).unwrap(), &mut problems)
    };
    let life = |seconds| Expiry::In(Duration::from_secs(seconds));
    for (expires, body, expiry, warnings) in [
        ("['/a', '/b']", r#"{"t":"x","a":"","b":"60"}"#, life(60), 0),
        ("['/a', '/b']", r#"{"t":"x","a":0,"b":60}"#, life(60), 0),
        (
            "['/a', '/b']",
            r#"{"t":"x","a":"soon","b":60}"#,
            life(60),
            1,
        ),
        ("'/a'", r#"{"t":"x","a":"soon"}"#, Expiry::Unstated, 1),
        ("'/a'", r#"{"t":"x"}"#, Expiry::Unstated, 0),
        ("'/a'", r#"{"t":"x","a":0}"#, Expiry::Unstated, 0),
        ("'/a'", r#"{"t":"x","a":-5}"#, Expiry::Unstated, 1),
        ("'/a'", r#"{"t":"x","a":"never"}"#, Expiry::Unstated, 1),
        ("'/a'", r#"{"t":"x","a":true}"#, Expiry::Unstated, 1),
        ("'/a'", r#"{"t":"x","a":{}}"#, Expiry::Unstated, 1),
        ("'/a'", r#"{"t":"x","a":null}"#, Expiry::Unstated, 0),
        (
            "['jwt:exp', '/a']",
            r#"{"t":"not.a.jwt","a":60}"#,
            life(60),
            0,
        ),
        ("'header:X-Life'", r#"{"t":"x"}"#, life(7), 0),
    ] {
        let issued = read(&rules(expires), 200, &[("x-life", "7")], body.as_bytes()).unwrap();
        assert_eq!(
            (issued.expiry, issued.warnings.len()),
            (expiry, warnings),
            "{expires} {body}"
        );
        let named = |warning: &String| warning.contains("/a") && !warning.contains("never");
        assert!(issued.warnings.iter().all(named), "{:?}", issued.warnings);
    }
}

#[test]
fn the_earliest_stated_expiry_counts() {
    const NOW: u64 = 1_450_675_309;
    let rules = rules("expires = ['/sec', '/in', '/on']\nissued_at = '/issued_at'");
    let life = |seconds| Expiry::In(Duration::from_secs(seconds));
    let until = |seconds| Expiry::At {
        at: UNIX_EPOCH + Duration::from_secs(NOW + seconds),
        date: None,
    };
    // {"exp":1450675314}
    let jwt = "e30.eyJleHAiOjE0NTA2NzUzMTR9.c2ln";
    for (members, expiry) in [
        (r#""sec":3600,"in":3600000"#.to_owned(), life(3600)),
        (format!(r#""in":"86399","on":"{}""#, NOW + 6), until(6)),
        (format!(r#""in":3600,"on":{}"#, NOW + 86_400), life(3600)),
        (format!(r#""in":3600,"on":{}"#, NOW - 9), life(3600)),
        (format!(r#""in":300,"issued_at":{}"#, NOW - 240), until(60)),
        (
            r#""in":300,"issued_at":"2015-12-21T05:17:49Z""#.to_owned(),
            until(60),
        ),
        // Long ago, in the future, or no time at all: the life counts from the request.
        (
            r#""in":300,"issued_at":"2009-11-10T23:00:00Z""#.to_owned(),
            life(300),
        ),
        (format!(r#""in":300,"issued_at":{}"#, NOW + 60), life(300)),
        (r#""in":300,"issued_at":"today""#.to_owned(), life(300)),
        // A JWT's `exp` counts if nothing else is stated.
        (format!(r#""t":"{jwt}""#), until(5)),
        (format!(r#""t":"{jwt}","in":0"#), until(5)),
        (format!(r#""t":"{jwt}","in":3600"#), life(3600)),
        (r#""t":"e30.e30.c2ln""#.to_owned(), Expiry::Unstated),
    ] {
        let body = format!(r#"{{"access_token":"","t":"x",{members}}}"#);
        let issued = read(&rules, 200, &[], body.as_bytes()).unwrap();
        assert_eq!(issued.expiry, expiry, "{members}");
    }
}

#[test]
fn retry_after_is_read_as_seconds_or_date() {
    let date = ("date", "Tue, 22 Dec 2015 05:21:49 GMT");
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (headers, expected) in [
        (&[("retry-after", "120")][..], seconds(120)),
        (
            &[("retry-after", "Tue, 22 Dec 2015 05:22:49 GMT"), date],
            seconds(60),
        ),
        (
            &[("retry-after", "Tue, 22 Dec 2015 05:20:49 GMT"), date],
            seconds(0),
        ),
        // Without a `Date`, the local clock counts.
        (
            &[("retry-after", "Mon, 21 Dec 2015 05:22:49 GMT")],
            seconds(60),
        ),
        (
            &[("retry-after", "Mon, 21 Dec 2015 05:20:49 GMT")],
            seconds(0),
        ),
        (&[("retry-after", "-1")], None),
        (&[("retry-after", "99999999999999999999")], None),
        (&[], None),
    ] {
        let refusal = read(&rules(""), 503, headers, b"").unwrap_err();
        assert_eq!(refusal.retry_after, expected, "{headers:?}");
    }
}

proptest! {
    #[test]
    fn reading_never_panics(
        body in prop::collection::vec(any::<u8>(), 0..200),
        status in 100u16..600,
    ) {
        let rules = rules("ok = { '/a' = [0] }");
        let _ = read(&rules, status, &[], &body);
    }

    #[test]
    fn reading_never_panics_near_json(
        value in "[-0-9a-z\"{}:,.eE+\\\\\r\n 测]{0,24}",
        status in 200u16..203,
    ) {
        let body = format!(r#"{{"t":"tok","expires_in":{value},"error":{value}}}"#);
        let _ = read(&rules(""), status, &[], body.as_bytes());
    }

    #[test]
    fn an_issued_token_can_always_be_sent(token in any::<String>()) {
        let body = serde_json::json!({ "t": token }).to_string();
        if let Ok(issued) = read(&rules(""), 200, &[], body.as_bytes()) {
            prop_assert!(check_token(issued.access_token.expose()).is_ok());
        }
    }
}

#[test]
fn status_codes_must_be_http_statuses() {
    let toml = toml::from_str("token = '/t'\ntransient = ['status:404', 'status:4o4']").unwrap();
    let mut problems = Vec::new();
    ResponseRules::parse(&toml, &mut problems);
    let paths: Vec<_> = problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(paths, ["response.transient"]);
}
