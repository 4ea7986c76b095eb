use proptest::prelude::*;

use super::*;

#[test]
fn urls_are_normalized() {
    for (text, authority, path, query) in [
        ("https://api.example.com", "api.example.com", "/", None),
        (
            "https://API.example.com:443/V1",
            "api.example.com",
            "/V1",
            None,
        ),
        ("http://127.0.0.1:80/a/", "127.0.0.1", "/a/", None),
        ("https://h:8443/t?a=b&c", "h:8443", "/t", Some("a=b&c")),
        ("https://h?a=b", "h", "/", Some("a=b")),
        ("https://[::1]:8443/x", "[::1]:8443", "/x", None),
        ("https://[2001:DB8:0::1]", "[2001:db8::1]", "/", None),
        (
            "https://svc.ns.svc.cluster.local./",
            "svc.ns.svc.cluster.local.",
            "/",
            None,
        ),
    ] {
        let url = Url::from_text(text).unwrap();
        assert_eq!(url.origin.authority, authority, "{text}");
        assert_eq!(url.path, path, "{text}");
        assert_eq!(url.query.as_deref(), query, "{text}");
    }
    let v6 = Url::from_text("http://[::1]/").unwrap().origin;
    assert_eq!((v6.host.as_str(), v6.port), ("::1", 80));
    assert_eq!(v6.url(), "http://[::1]");
}

#[test]
fn invalid_urls_are_refused() {
    for text in [
        "",
        "api.example.com",
        "/v1",
        "ftp://h/",
        "https://",
        "https:///v1",
        "https://h:0/",
        "https://h:65536/",
        "https://h:+1/",
        "https://h:/",
        "https://h/#f",
        "https://u:p@h/",
        "https://u@h/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://::1/",
        "https://a b/",
        "https://a..b/",
        "https://-a/",
        "https://例子.cn/",
        "https://h/路",
    ] {
        assert!(Url::from_text(text).is_err(), "{text}");
    }
    let userinfo = Url::from_text("https://u:hunter2@h/").unwrap_err();
    assert!(userinfo.hint.unwrap().contains("client_secret"));
}

#[test]
fn only_loopback_addresses_and_localhost_are_loopback() {
    for host in [
        "localhost",
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ] {
        assert!(is_loopback(host), "{host}");
    }
    for host in [
        "example.com",
        "10.0.0.1",
        "0.0.0.0",
        "::",
        "127.1",
        "localhost.evil.com",
        "api.localhost",
        "[localhost]",
        "[::1",
        "::1]",
    ] {
        assert!(!is_loopback(host), "{host}");
    }
}

#[test]
fn hosts_are_lower_case_and_ports_valid() {
    let at = HostPort::from_text("[::1]:8443").unwrap();
    assert_eq!((at.host.as_str(), at.port), ("::1", 8443));
    for text in [
        "",
        "h",
        ":1",
        "h:0",
        "h:x",
        "::1:1",
        "http://h:1",
        "h:1/",
        "a@h:1",
    ] {
        assert!(HostPort::from_text(text).is_err(), "{text}");
    }
    assert_eq!(
        HostText::from_text("API.Local:80").unwrap().0,
        "api.local:80"
    );
    assert_eq!(HostText::from_text("[::1]").unwrap().0, "[::1]");
    assert!(HostText::from_text("a/b").is_err());
}

#[test]
fn origins_have_no_path() {
    let text = |text| OriginText::from_text(text).map(|origin| origin.0);
    assert_eq!(text("HTTPS://App.example").unwrap(), "https://app.example");
    assert_eq!(
        text("chrome-extension://abc").unwrap(),
        "chrome-extension://abc"
    );
    for bad in [
        "",
        "null",
        "app.example",
        "https://a/",
        "https://",
        "://a",
        "https://a b",
    ] {
        assert!(text(bad).is_err(), "{bad}");
    }
}

#[test]
fn server_names_have_no_port() {
    for good in ["a.example", "10.0.0.1", "::1", "[::1]"] {
        assert!(ServerName::from_text(good).is_ok(), "{good}");
    }
    for bad in ["", "a:1", "a b", "https://a"] {
        assert!(ServerName::from_text(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "\\PC*") {
        let _ = Url::from_text(&text);
        let _ = Url::from_text(&format!("https://{text}"));
        let _ = HostPort::from_text(&text);
        let _ = OriginText::from_text(&text);
    }

    #[test]
    fn an_origin_survives_a_round_trip(host in "[a-z]{1,9}", port in 1_u16.., tls: bool) {
        let scheme = if tls { "https" } else { "http" };
        let origin = Url::from_text(&format!("{scheme}://{host}:{port}/")).unwrap().origin;
        prop_assert_eq!(Url::from_text(&origin.url()).unwrap().origin, origin);
    }
}
