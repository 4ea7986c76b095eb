use http::header::TE;
use http::{HeaderName, HeaderValue, Request, Uri};
use proptest::prelude::*;

use super::*;
use crate::upstream::RequestBody;

fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn text(head: &Parts, framing: RequestFraming) -> String {
    let mut out = Vec::new();
    super::head(&mut out, head, framing);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_head_is_encoded_exactly() {
    let get = parts(
        "GET",
        "/a/b?c=d",
        &[
            ("host", "api.example"),
            ("authorization", "Bearer t"),
            ("accept", "a"),
            ("accept", "b"),
        ],
    );
    assert_eq!(
        text(&get, RequestFraming::None),
        "GET /a/b?c=d HTTP/1.1\r\nhost: api.example\r\nauthorization: Bearer t\r\n\
         accept: a\r\naccept: b\r\n\r\n"
    );
    let put = parts("PUT", "/", &[("host", "a")]);
    assert_eq!(
        text(&put, RequestFraming::Length(1024)),
        "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 1024\r\n\r\n"
    );
    assert_eq!(
        text(&put, RequestFraming::Chunked),
        "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    );
}

#[test]
fn the_target_is_in_origin_form() {
    for (uri, target) in [
        ("https://api.example/a?b", "/a?b"),
        ("https://api.example", "/"),
        ("https://api.example?b", "/?b"),
        ("/", "/"),
        ("*", "*"),
        ("/%2e%00?%0d", "/%2e%00?%0d"),
    ] {
        let line = format!("OPTIONS {target} HTTP/1.1\r\n\r\n");
        assert_eq!(
            text(&parts("OPTIONS", uri, &[]), RequestFraming::None),
            line
        );
    }
}

#[test]
fn the_apps_framing_fields_are_replaced() {
    let head = parts(
        "POST",
        "/",
        &[
            ("content-length", "7"),
            ("content-length", "8"),
            ("transfer-encoding", "gzip"),
            ("expect", "100-continue"),
            ("x", "y"),
        ],
    );
    assert_eq!(
        text(&head, RequestFraming::Chunked),
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nx: y\r\n\r\n"
    );
    assert_eq!(
        text(&head, RequestFraming::Length(3)),
        "POST / HTTP/1.1\r\ncontent-length: 3\r\nx: y\r\n\r\n"
    );
}

#[test]
fn an_empty_body_is_announced_if_expected_or_declared() {
    for (method, fields, expected) in [
        ("GET", &[][..], RequestFraming::None),
        ("HEAD", &[], RequestFraming::None),
        ("DELETE", &[], RequestFraming::None),
        ("REPORT", &[], RequestFraming::None),
        ("POST", &[], RequestFraming::Length(0)),
        ("PUT", &[], RequestFraming::Length(0)),
        ("PATCH", &[], RequestFraming::Length(0)),
        ("GET", &[("content-length", "0")], RequestFraming::Length(0)),
        (
            "DELETE",
            &[("content-length", "5")],
            RequestFraming::Length(0),
        ),
    ] {
        let head = parts(method, "/", fields);
        let length = match expected {
            RequestFraming::None => "",
            _ => "content-length: 0\r\n",
        };
        assert_eq!(
            text(&head, framing(&head, &RequestBody::Empty)),
            format!("{method} / HTTP/1.1\r\n{length}\r\n")
        );
    }
}

proptest! {
    /// Another parser reads exactly the encoded fields.
    #[test]
    fn a_server_reads_the_same(
        method in "[A-Z!#-]{1,10}",
        path in "/[!$-;=@-Z_a-z~]{0,20}(\\?[!$-;=?-Z_a-z~]{0,10})?",
        fields in proptest::collection::vec(
            ("[a-z][a-z0-9-]{0,10}", "([!-~\u{80}-\u{ff}]([ -~\t]{0,10}[!-~])?)?"),
            0..10,
        ),
        length: u64,
    ) {
        let request = Request::builder().method(&*method).uri(path.parse::<Uri>().unwrap());
        let mut head = request.body(()).unwrap().into_parts().0;
        for (name, value) in &fields {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            head.headers.append(HeaderName::try_from(name).unwrap(), value);
        }
        let mut out = Vec::new();
        super::head(&mut out, &head, RequestFraming::Length(length));
        let mut slots = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut slots);
        prop_assert_eq!(parsed.parse(&out), Ok(httparse::Status::Complete(out.len())));
        prop_assert_eq!(parsed.method, Some(&*method));
        prop_assert_eq!(parsed.path, Some(head.uri.path_and_query().unwrap().as_str()));
        let replaced = [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT];
        let mut expected = Vec::from_iter(
            head.headers.iter()
                .filter(|(name, _)| **name != TE && !replaced.contains(*name))
                .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())),
        );
        expected.push(("content-length".to_owned(), length.to_string().into_bytes()));
        let read = Vec::from_iter(parsed.headers.iter()
            .filter(|field| field.name != "te")
            .map(|field| (field.name.to_owned(), field.value.to_vec())));
        prop_assert_eq!(read, expected);
    }
}

#[test]
fn chunk_sizes_are_hexadecimal() {
    for (size, line) in [
        (0, "0\r\n"),
        (1, "1\r\n"),
        (15, "f\r\n"),
        (16, "10\r\n"),
        (0x4000, "4000\r\n"),
        (0xabc_def0, "abcdef0\r\n"),
        (usize::MAX, "ffffffffffffffff\r\n"),
    ] {
        let mut out = Vec::new();
        chunk_size(&mut out, size);
        assert_eq!(out, line.as_bytes());
    }
}

#[test]
fn trailers_lose_fields_for_heads_only() {
    let mut trailers = HeaderMap::new();
    for name in [
        "x-sum",
        "content-length",
        "host",
        "authorization",
        "keep-alive",
        "connection",
    ] {
        trailers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    let mut out = Vec::new();
    last_chunk(&mut out, &trailers);
    assert_eq!(out, b"0\r\nx-sum: 1\r\n\r\n");
    out.clear();
    last_chunk(&mut out, &HeaderMap::new());
    assert_eq!(out, LAST_CHUNK);
}
