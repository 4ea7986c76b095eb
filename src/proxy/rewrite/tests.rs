use proptest::prelude::*;

use super::*;

fn origin(scheme: Scheme, authority: &str, port: u16) -> Origin {
    Origin {
        scheme,
        host: without_port(authority).trim_matches(['[', ']']).to_owned(),
        port,
        authority: authority.to_owned(),
    }
}

fn https() -> Origin {
    origin(Scheme::Https, "api.test", 443)
}

fn view<'a>(origin: &'a Origin, base_path: &'a str, prefix: &'a str) -> View<'a> {
    View {
        origin,
        base_path,
        authority: Some("localhost:8080"),
        prefix,
    }
}

/// Returns `-` for a reference that stays.
fn location(view: &View<'_>, given: &str) -> String {
    let mapped = view.location(given.as_bytes());
    mapped.map_or_else(|| "-".to_owned(), |bytes| String::from_utf8(bytes).unwrap())
}

fn cookie(view: &View<'_>, given: &str) -> String {
    let mapped = view.cookie(given.as_bytes());
    mapped.map_or_else(|| "-".to_owned(), |bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn locations_below_the_base_point_at_the_proxy() {
    let origin = https();
    let view = view(&origin, "/api/v1", "/cncn");
    for (given, expected) in [
        (
            "https://api.test/api/v1/orders/7?a=b#c",
            "http://localhost:8080/cncn/orders/7?a=b#c",
        ),
        (
            "HTTPS://API.test:443/api/v1/x",
            "http://localhost:8080/cncn/x",
        ),
        ("https://api.test:/api/v1", "http://localhost:8080/cncn"),
        ("//api.test/api/v1/x", "http://localhost:8080/cncn/x"),
        ("/api/v1/x?y", "/cncn/x?y"),
        ("/api/v1", "/cncn"),
        ("/api/v1/", "/cncn/"),
        ("/api/v1?next=/api/v1/x", "/cncn?next=/api/v1/x"),
        ("/api/v1/账号", "/cncn/账号"),
        ("/api/v1/a/../b", "/cncn/a/../b"),
        ("/api/v1//evil.test/x", "/cncn//evil.test/x"),
    ] {
        assert_eq!(location(&view, given), expected, "{given}");
    }
}

#[test]
fn locations_of_other_origins_and_paths_stay() {
    let origin = https();
    let view = view(&origin, "/api/v1", "/cncn");
    for given in [
        "https://login.test/api/v1/x",
        "https://api.test.evil.test/api/v1/x",
        "https://api.test:8443/api/v1/x",
        "https://api.test:x/api/v1/x",
        "https://api.test@evil.test/api/v1/x",
        "https://user@api.test/api/v1/x",
        "http://api.test/api/v1/x",
        "https://api.test/api/v10",
        "https://api.test/other",
        "https://api.test",
        "//login.test/api/v1",
        "/\\login.test/api/v1",
        "/other",
        "/api/v1\\x",
        "/api/v1/../admin",
        "/api/v1/a/%2E./.%2e/admin",
        "/api/v1/..\\admin",
        "/api/v1/\t/x",
        "x/y",
        "../x",
        "?page=2",
        "#top",
        "",
        "mailto:a@api.test",
        "https:",
        "https:/",
        "https://",
    ] {
        assert_eq!(location(&view, given), "-", "{given}");
    }
}

#[test]
fn locations_without_prefix_or_base() {
    let origin = origin(Scheme::Http, "[::1]:9000", 9000);
    let based = view(&origin, "/api", "");
    let bare = view(&origin, "", "");
    for (view, given, expected) in [
        (&based, "http://[::1]:9000/api", "http://localhost:8080/"),
        (&based, "/api", "/"),
        (&based, "/api?x", "/?x"),
        (&based, "/api/x", "/x"),
        // A client would read the path alone as a host.
        (
            &based,
            "/api//evil.test/x",
            "http://localhost:8080//evil.test/x",
        ),
        (
            &based,
            "/api/\\evil.test",
            "http://localhost:8080/\\evil.test",
        ),
        (&bare, "http://[::1]:9000", "http://localhost:8080/"),
        (&bare, "http://[::1]:9000/x", "http://localhost:8080/x"),
        (&bare, "http://[::1]/x", "-"),
        (&bare, "/x", "/x"),
        (&bare, "//evil.test", "-"),
    ] {
        assert_eq!(location(view, given), expected, "{given}");
    }
}

#[test]
fn an_app_without_a_host_gets_paths() {
    let origin = https();
    let mut view = view(&origin, "/api", "");
    view.authority = None;
    for (given, expected) in [
        ("https://api.test/api/x", "/x"),
        ("/api/x", "/x"),
        ("/api//evil.test", "-"),
    ] {
        assert_eq!(location(&view, given), expected, "{given}");
    }
}

#[test]
fn cookies_below_a_prefix() {
    let origin = https();
    let view = view(&origin, "/api", "/cncn");
    for (given, expected) in [
        (
            "a=b; Domain=api.test; Path=/api/x; HttpOnly",
            "a=b; HttpOnly; Path=/cncn/x",
        ),
        ("a=b; Path=/api", "a=b; Path=/cncn"),
        ("a=b; path=/; secure; samesite=NONE", "a=b; Path=/cncn"),
        ("a=b; Path=/apis", "a=b; Path=/cncn"),
        ("a=b; Path=elsewhere", "a=b; Path=/cncn"),
        ("a=b", "a=b; Path=/cncn"),
        ("a=b;Path=/;Path=/api/x", "a=b; Path=/cncn/x"),
        (
            "a=b; SameSite=Lax; Max-Age=9",
            "a=b; SameSite=Lax; Max-Age=9; Path=/cncn",
        ),
        ("a=b; Secure; Partitioned", "a=b; Path=/cncn"),
        ("a=Secure; Domain", "a=Secure; Path=/cncn"),
        ("__Host-a=b; Secure; Path=/", "-"),
        ("__secure-a=b; Secure; Domain=api.test", "-"),
        ("", "; Path=/cncn"),
    ] {
        assert_eq!(cookie(&view, given), expected, "{given}");
    }
}

#[test]
fn cookies_without_a_prefix() {
    let origin = https();
    let based = view(&origin, "/api", "");
    let bare = view(&origin, "", "");
    for (view, given, expected) in [
        (&based, "a=b; Path=/api/x", "a=b; Path=/x"),
        (&based, "a=b; Path=/api", "a=b; Path=/"),
        (&based, "a=b; Path=/", "-"),
        (&based, "a=b; Path=/other", "-"),
        (&based, "a=b; Domain=api.test", "a=b"),
        (&bare, "a=b; Path=/x", "-"),
        (&bare, "a=b; Path=/; Secure", "a=b; Path=/"),
        (&bare, "a=b", "-"),
    ] {
        assert_eq!(cookie(view, given), expected, "{given}");
    }
}

#[test]
fn all_fields_of_a_response_are_rewritten() {
    let origin = https();
    let view = view(&origin, "", "/p");
    let mut headers = HeaderMap::new();
    headers.insert("server", HeaderValue::from_static("x"));
    assert!(!concerns(&headers));
    for (name, value) in [
        ("location", "https://api.test/a"),
        ("content-location", "/b"),
        ("alt-svc", "h3=\":443\""),
        ("set-cookie", "a=1; Secure"),
        ("set-cookie", "b=2; Path=/c"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    assert!(concerns(&headers));
    response(&mut headers, &view);
    assert_eq!(headers["location"], "http://localhost:8080/p/a");
    assert_eq!(headers["content-location"], "/p/b");
    assert!(!headers.contains_key("alt-svc"));
    let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1; Path=/p", "b=2; Path=/p/c"]);
    assert_eq!(headers["server"], "x");
}

/// Meaningful pieces and noise, in any order.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"https://",
        b"api.test",
        b"/api",
        b"//",
        b"\\",
        b"..",
        b"%2e",
        b"/",
        b":443",
        b"?",
        b"; Path=",
        b"; Secure",
        b"x",
        b"\xff",
    ];
    let piece = prop::sample::select(pieces);
    prop::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn rewritten_locations_never_lead_to_another_host(
        given in value(),
        base in prop_oneof![Just(""), Just("/api")],
        prefix in prop_oneof![Just(""), Just("/cncn")],
        named: bool,
    ) {
        let origin = https();
        let mut view = view(&origin, base, prefix);
        if !named {
            view.authority = None;
        }
        if let Some(location) = view.location(&given) {
            let path = location.strip_prefix(b"http://localhost:8080").unwrap_or(&location);
            prop_assert!(path.starts_with(b"/") && path.starts_with(prefix.as_bytes()));
            prop_assert!(path.len() < location.len() || !opens_authority(path));
            let (path, _) = split_before(path, b"?#");
            prop_assert!(!leaves(&path[prefix.len()..]));
        }
    }

    #[test]
    fn rewritten_cookies_stay_below_the_prefix(given in value()) {
        let origin = https();
        let view = view(&origin, "/api", "/cncn");
        if let Some(cookie) = view.cookie(&given) {
            let path = cookie.rsplit(|byte| *byte == b';').next().map(attribute);
            let (name, path) = path.unwrap();
            prop_assert_eq!(name, b"Path");
            prop_assert!(below(path, b"/cncn").is_some());
        }
    }

    #[test]
    fn no_input_panics(given in prop::collection::vec(any::<u8>(), 0..64)) {
        let origin = https();
        let view = view(&origin, "/api", "/cncn");
        let _ = view.location(&given);
        let _ = view.cookie(&given);
    }
}
