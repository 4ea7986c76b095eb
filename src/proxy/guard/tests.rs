use percent_encoding::percent_decode_str;
use proptest::prelude::*;

use super::*;

#[test]
fn dot_segments_are_found_in_every_spelling() {
    for bad in [
        "/.",
        "/..",
        "/a/../b",
        "/a/./b",
        "/%2e",
        "/%2E%2e/x",
        "/.%2e",
        "/..;x=1/a",
        "/%2e%2e;/a",
        "/..%3bx/a",
        "/a/..",
    ] {
        assert!(path(bad).is_err(), "{bad}");
    }
    for good in [
        "/",
        "/a.b",
        "/...",
        "/.well-known/x",
        "/a/..b",
        "/%2ehidden",
        "/a%2fb",
        "/a;..",
        "/%2",
        "/v1.0/x",
    ] {
        assert!(path(good).is_ok(), "{good}");
    }
}

#[test]
fn hosts_are_accepted_by_name_and_loopback_address() {
    let hosts = Hosts::new(["api.example.cn".to_owned(), "proxy:8080".to_owned()], []);
    for good in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:8080",
        "127.9.9.9",
        "[::1]:80",
        "API.example.cn",
        "api.example.cn:99",
        "proxy:8080",
    ] {
        assert!(hosts.accept(good), "{good}");
    }
    for bad in [
        "evil.example",
        "proxy",
        "proxy:80",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "10.0.0.1",
    ] {
        assert!(!hosts.accept(bad), "{bad}");
    }
}

#[test]
fn only_host_and_port_are_an_authority() {
    for good in [
        "localhost",
        "localhost:",
        "my_service:8080",
        "[::1]:65535",
        "a.test.",
        "127.0.0.1:0",
    ] {
        assert!(is_authority(good), "{good}");
    }
    for bad in [
        "",
        ":80",
        "localhost:abc",
        "localhost:+1",
        "localhost:65536",
        "localhost:80:80",
        "user@localhost",
        "user:password@localhost:80",
        "localhost/path",
        "localhost?x",
        "local host",
        "::1",
        "[::1",
        "[::1]80",
        "[localhost]",
        "[::1]:abc",
    ] {
        assert!(!is_authority(bad), "{bad}");
    }
}

#[test]
fn origins_are_accepted_by_list_or_host() {
    let hosts = Hosts::new(
        ["api.example.cn".to_owned()],
        ["https://app.example".to_owned()],
    );
    for good in [
        "https://app.example",
        "http://localhost:3000",
        "http://api.example.cn",
    ] {
        assert!(hosts.accept_origin(good), "{good}");
    }
    for bad in [
        "https://evil.example",
        "null",
        "",
        "https://app.example.evil",
    ] {
        assert!(!hosts.accept_origin(bad), "{bad}");
    }
}

proptest! {
    /// Compares with a server that decodes first and removes parameters then.
    #[test]
    fn dot_segments_match_those_of_a_decoder(
        text in prop::collection::vec(
            prop::sample::select(vec![
                ".", "..", "%2e", "%2E", "/", "/", ";", "%3b", "%3B", "a", "%2f", "%5c", "%25",
                "%252e", "%00", "\\", "~",
            ]),
            0..9,
        ),
    ) {
        let text = format!("/{}", text.concat());
        let dots = text.split('/').any(|segment| {
            let segment: Vec<u8> = percent_decode_str(segment).collect();
            let name = segment.split(|byte| *byte == b';').next().unwrap();
            name == b"." || name == b".."
        });
        prop_assert_eq!(path(&text).is_err(), dots, "{}", text);
    }
}

fn loop_seen(via: &[&'static str]) -> bool {
    let mut request = Request::get("/").body(()).unwrap();
    for line in via {
        let line = HeaderValue::from_static(line);
        request.headers_mut().append(VIA, line);
    }
    loops(&request, "cupbearer-1").is_err()
}

#[test]
fn loops_are_found_in_any_via_line_and_member() {
    assert!(loop_seen(&["1.1 cupbearer-1"]));
    assert!(loop_seen(&[
        "1.0 fred",
        "1.1 a,HTTP/1.1  cupbearer-1 (note), 1.1 b"
    ]));
    assert!(!loop_seen(&[]));
    assert!(!loop_seen(&["1.1 cupbearer-12", "1.1 fred (cupbearer-1)"]));
}

#[test]
fn ambiguous_framing_is_refused() {
    let scan = |hosts, content_lengths, transfer_encoding| Scan {
        hosts,
        content_lengths,
        transfer_encoding,
        ..Scan::default()
    };
    let coded = |codings: &[&str]| {
        let mut request = Request::get("/");
        for coding in codings {
            request = request.header("transfer-encoding", *coding);
        }
        request.body(()).unwrap()
    };
    let chunked = coded(&["Chunked"]);
    for odd in [
        &["gzip, chunked"][..],
        &["chunked, chunked"],
        &["chunked", "chunked"],
        &["identity"],
    ] {
        assert!(framing(&coded(odd), &scan(1, 0, true)).is_err(), "{odd:?}");
    }
    assert!(framing(&chunked, &scan(1, 1, false)).is_ok());
    assert!(framing(&chunked, &scan(1, 0, true)).is_ok());
    assert!(framing(&chunked, &scan(1, 2, false)).is_err());
}

#[test]
fn every_origin_line_must_be_accepted() {
    let hosts = Hosts::new([], ["https://app.example".to_owned()]);
    let check = |fields: &[(&'static str, &'static str)]| {
        let mut request = Request::get("/").body(()).unwrap();
        for (name, value) in fields {
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(*name, value);
        }
        origin(&request, &hosts).is_ok()
    };
    assert!(check(&[("origin", "https://app.example")]));
    assert!(check(&[
        ("origin", "https://app.example"),
        ("sec-fetch-site", "cross-site")
    ]));
    assert!(check(&[("sec-fetch-site", "same-origin")]));
    assert!(!check(&[("sec-fetch-site", "cross-site")]));
    assert!(!check(&[
        ("origin", "https://app.example"),
        ("origin", "https://evil.example")
    ]));
    assert!(!check(&[
        ("origin", "https://evil.example"),
        ("origin", "https://app.example")
    ]));
}

#[test]
fn host_must_match_authority_for_http2_only() {
    let says = |field, version| {
        let field = HeaderValue::from_bytes(field).unwrap();
        host_beside_authority(&field, "api.test:80", version).is_ok()
    };
    for good in [&b"api.test:80"[..], b"API.test:80"] {
        assert!(says(good, Version::HTTP_2));
        assert!(says(good, Version::HTTP_11));
    }
    // The target overrides the field.
    assert!(says(b"other.test", Version::HTTP_11));
    assert!(!says(b"other.test", Version::HTTP_2));
    for bad in [&b"a b/@"[..], b"", b"\xe4.test"] {
        assert!(!says(bad, Version::HTTP_11));
        assert!(!says(bad, Version::HTTP_2));
    }
}

#[test]
fn http2_fields_have_no_outer_whitespace_and_a_size_limit() {
    let fields = |value: &str, count: usize| {
        let mut fields = HeaderMap::new();
        for _ in 0..count {
            fields.append("x", HeaderValue::from_str(value).unwrap());
        }
        http2_fields(&fields, 100)
    };
    assert!(fields("a b", 1).is_ok());
    assert!(fields("", 1).is_ok());
    for padded in [" a", "a ", "\ta", "a\t", " "] {
        assert!(matches!(fields(padded, 1), Err(ProxyError::BadRequest(_))));
    }
    // As a line of HTTP/1.1, `x: aaaa` has 9 bytes.
    assert!(fields("aaaa", 11).is_ok());
    assert!(matches!(
        fields("aaaa", 12),
        Err(ProxyError::HeadersTooLarge)
    ));
}

#[test]
fn http2_fields_are_counted() {
    let mut fields = HeaderMap::new();
    for _ in 0..MAX_FIELDS {
        fields.append("x", HeaderValue::from_static(""));
    }
    assert!(http2_fields(&fields, MAX_HEAD).is_ok());
    fields.append("y", HeaderValue::from_static(""));
    assert!(matches!(
        http2_fields(&fields, MAX_HEAD),
        Err(ProxyError::HeadersTooLarge)
    ));
}
