use proptest::prelude::*;

use super::*;

#[test]
fn listeners_are_ip_addresses_or_socket_paths() {
    for good in [
        "127.0.0.1:8080",
        "[::1]:0",
        "0.0.0.0:80",
        "unix:/run/p.sock",
    ] {
        assert!(Listen::from_text(good).is_ok(), "{good}");
    }
    let long = format!("unix:/{}", "x".repeat(107));
    for bad in [
        "",
        "8080",
        ":8080",
        "localhost:8080",
        "unix:",
        "unix:p.sock",
        "unix:/a/",
        &long,
    ] {
        assert!(Listen::from_text(bad).is_err(), "{bad}");
    }
    for (text, remote) in [
        ("127.0.0.2:1", false),
        ("[::1]:1", false),
        ("[::ffff:127.0.0.1]:1", false),
        ("unix:/p", false),
        ("0.0.0.0:1", true),
        ("[::]:1", true),
        ("10.0.0.1:1", true),
    ] {
        assert_eq!(
            Listen::from_text(text).unwrap().is_remote(),
            remote,
            "{text}"
        );
    }
}

#[test]
fn overlapping_listeners_are_refused() {
    for (a, b, clash) in [
        ("127.0.0.1:1", "127.0.0.1:1", true),
        ("127.0.0.1:1", "127.0.0.1:2", false),
        ("127.0.0.1:1", "127.0.0.2:1", false),
        ("0.0.0.0:1", "127.0.0.1:1", true),
        ("127.0.0.1:1", "[::]:1", true),
        ("0.0.0.0:1", "[::1]:1", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
        ("unix:/a", "unix:/a", true),
        ("unix:/a", "unix:/b", false),
    ] {
        let mut listeners = Listeners::default();
        let mut problems = Problems::default();
        for (text, key) in [(a, "a"), (b, "b")] {
            let at = KeyPath::root().key(key);
            listeners.add(&Listen::from_text(text).unwrap(), &at, &mut problems);
        }
        assert_eq!(!problems.is_empty(), clash, "{a} {b}");
    }
}

#[test]
fn prefixes_have_one_spelling() {
    for good in ["/a", "/a/b", "/a-b_c~d", "/.well-known", "/a;v=1", "/..."] {
        assert!(PathPrefix::from_text(good).is_ok(), "{good}");
    }
    for bad in [
        "", "/", "a", "/a/", "//a", "/a//b", "/.", "/a/..", "/a/..;x", "/%61", "/a?b", "/a#b",
        "/a b", "/a\\b", "/路",
    ] {
        assert!(PathPrefix::from_text(bad).is_err(), "{bad}");
    }
}

#[test]
fn allow_rules_hold_a_method_and_a_path() {
    let rule = AllowRule::from_text("GET /v1/*/x/**").unwrap();
    assert_eq!(rule.method, Some(Method::GET));
    assert_eq!(rule.segments, ["v1", "*", "x", "**"]);
    let rule = AllowRule::from_text("*  /").unwrap();
    assert_eq!((rule.method, rule.segments), (None, vec![String::new()]));
    assert_eq!(AllowRule::from_text("PUT /a/").unwrap().segments, ["a", ""]);
    assert!(AllowRule::from_text("PROPFIND /%E8%B7%AF").is_ok());
    for bad in [
        "",
        "GET",
        "/v1",
        "GET v1",
        "get /v1",
        "G@T /",
        "GET /a//b",
        "GET /../a",
        "GET /%2e%2E/a",
        "GET /a%2Fb",
        "GET /a%5cb",
        "GET /a%zz",
        "GET /a%2",
        "GET /**/a",
        "GET /a*",
        "GET /a?b",
        "GET /a b",
    ] {
        assert!(AllowRule::from_text(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "\\PC*") {
        let _ = Listen::from_text(&text);
        let _ = PathPrefix::from_text(&format!("/{text}"));
        let _ = AllowRule::from_text(&format!("GET /{text}"));
    }

    #[test]
    fn accepted_prefixes_have_no_empty_or_dot_segments(text in "[/a.;%2e]{0,9}") {
        if let Ok(PathPrefix(prefix)) = PathPrefix::from_text(&text) {
            for segment in prefix[1..].split('/') {
                let name = segment.split(';').next().unwrap();
                prop_assert!(!segment.is_empty() && name != "." && name != "..");
            }
        }
    }
}
