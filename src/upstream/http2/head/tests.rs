use http::{HeaderValue, Request};

use super::*;
use crate::http2::hpack::Decoder;
use crate::http2::hpack::decode::Limits;
use crate::upstream::http2::testing::{asked, block};
use crate::upstream::{MAX_FIELDS, MAX_HEAD};

const LIMITS: Limits = Limits {
    size: MAX_HEAD,
    fields: MAX_FIELDS,
};

fn reading(fields: &[(&str, &str)]) -> Reading {
    let mut reading = Reading::new();
    let block = block(fields);
    let take = |name, value| reading.take(name, value);
    assert!(Decoder::new().decode(&block, LIMITS, take).unwrap());
    reading
}

fn read_for(head_only: bool, fields: &[(&str, &str)]) -> Result<Parsed, Malformed> {
    reading(fields).head(head_only)
}

fn read_head(fields: &[(&str, &str)]) -> Result<Head, &'static str> {
    match read_for(false, fields) {
        Ok(Parsed::Final(head)) => Ok(head),
        Ok(Parsed::Interim(_)) => Err("interim"),
        Err(Malformed(rule)) => Err(rule),
    }
}

#[test]
fn a_head_is_read() {
    let head = read_head(&[
        (":status", "404"),
        ("server", "x"),
        ("set-cookie", "a"),
        ("set-cookie", "b"),
        ("x-empty", ""),
        ("te", "trailers"),
        ("content-length", "7"),
    ])
    .unwrap();
    assert_eq!(head.response.status(), 404);
    let headers = head.response.headers();
    assert_eq!(
        (headers.len(), &headers["server"]),
        (6, &"x".parse::<HeaderValue>().unwrap())
    );
    assert!(headers.get_all("set-cookie").iter().eq(["a", "b"]));
    assert_eq!(head.content, Content::Length(7));
    assert_eq!(
        read_head(&[(":status", "200")]).unwrap().content,
        Content::Unknown
    );
}

/// RFC 9113 §8.1.1, §8.2 and §8.3.
#[test]
fn what_is_no_head_is_malformed() {
    let status = (":status", "200");
    let name = "a field name that HTTP/2 does not allow";
    let value = "a field value that HTTP does not allow";
    let connection = "a field that is about connections";
    let length = "an invalid content-length";
    let twice = ":status twice, or behind a field";
    for (fields, rule) in [
        (&[][..], "a head without :status"),
        (&[("a", "b")], "a head without :status"),
        (&[("a", "b"), status], twice),
        (&[status, status], twice),
        (&[status, (":path", "/")], name),
        (&[(":path", "/"), status], name),
        (&[status, (":", "")], name),
        (&[status, ("", "b")], name),
        (&[status, ("Server", "b")], name),
        (&[status, ("a b", "b")], name),
        (&[status, ("a\r\nb", "b")], name),
        (&[status, ("a", " b")], value),
        (&[status, ("a", "b\t")], value),
        (&[status, ("a", "b\r\nc: d")], value),
        (&[status, ("a", "b\0")], value),
        (&[(":status", " 200")], value),
        (&[(":status", "20")], "an invalid :status"),
        (&[(":status", "2000")], "an invalid :status"),
        (&[(":status", "099")], "an invalid :status"),
        (&[(":status", "")], "an invalid :status"),
        (&[(":status", "101")], "101, which HTTP/2 does not have"),
        (&[status, ("connection", "close")], connection),
        (&[status, ("keep-alive", "1")], connection),
        (&[status, ("proxy-connection", "a")], connection),
        (&[status, ("transfer-encoding", "chunked")], connection),
        (&[status, ("upgrade", "a")], connection),
        (&[status, ("te", "gzip")], connection),
        (&[status, ("content-length", "")], length),
        (&[status, ("content-length", "+1")], length),
        (&[status, ("content-length", "1, 1")], length),
        (
            &[status, ("content-length", "18446744073709551616")],
            length,
        ),
        (
            &[status, ("content-length", "1"), ("content-length", "1")],
            "more than one content-length",
        ),
    ] {
        assert_eq!(read_head(fields).unwrap_err(), rule, "{fields:?}");
    }
}

#[test]
fn what_has_no_body_has_none_whatever_it_says() {
    for (status, head_only, content) in [
        ("200", false, Content::Length(5)),
        ("200", true, Content::None),
        ("204", false, Content::None),
        ("304", false, Content::None),
        ("205", false, Content::Length(5)),
    ] {
        let fields = [(":status", status), ("content-length", "5")];
        let Ok(Parsed::Final(head)) = read_for(head_only, &fields) else {
            panic!("a final head");
        };
        assert_eq!(head.content, content, "{status}");
        assert_eq!(head.response.headers()["content-length"], "5");
    }
}

#[test]
fn interim_heads_come_with_their_fields() {
    for status in ["100", "103", "199"] {
        let parsed = read_for(false, &[(":status", status), ("link", "</a>")]);
        let Ok(Parsed::Interim(response)) = parsed else {
            panic!("{parsed:?}");
        };
        assert_eq!(response.headers()["link"], "</a>");
        assert_eq!(response.status().as_str(), status);
    }
}

#[test]
fn trailers_have_no_pseudo_fields_and_lose_what_frames_a_message() {
    let read = |fields: &[(&str, &str)]| reading(fields).trailers();
    let trailers = read(&[
        ("grpc-status", "0"),
        ("content-length", "1"),
        ("set-cookie", "a"),
    ]);
    let trailers = trailers.unwrap();
    assert_eq!(
        (trailers.len(), &trailers["grpc-status"]),
        (1, &HeaderValue::from_static("0"))
    );
    for fields in [
        [(":status", "200")],
        [(":path", "/")],
        [("A", "b")],
        [("a", " ")],
        [("connection", "a")],
    ] {
        assert!(read(&fields).is_err(), "{fields:?}");
    }
}

fn written(head: &Parts, length: Option<u64>, ends: bool) -> Vec<(String, String)> {
    let mut out = Vec::new();
    request(&mut out, head, length, ends);
    let mut fields = Vec::new();
    let take = |name: Name, value| {
        let Value::Field(value) = value else {
            panic!("{name:?}");
        };
        let name = String::from_utf8(name.as_bytes().to_vec()).unwrap();
        fields.push((name, value.to_str().unwrap().to_owned()));
    };
    assert!(Decoder::new().decode(&out, LIMITS, take).unwrap());
    fields
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    fields.iter().map(own).collect()
}

#[test]
fn a_request_loses_what_http2_does_not_have() {
    let request = Request::put("http://api:81?q")
        .header("host", "other")
        .header("connection", "x")
        .header("keep-alive", "1")
        .header("proxy-connection", "1")
        .header("transfer-encoding", "chunked")
        .header("upgrade", "x")
        .header("expect", "100-continue")
        .header("content-length", "9")
        .header("te", "gzip")
        .header("accept", "*/*")
        .header("te", "trailers")
        .header("x", "y")
        .body(())
        .unwrap();
    assert_eq!(
        written(&request.into_parts().0, Some(3), false),
        pairs(&[
            (":method", "PUT"),
            (":scheme", "http"),
            (":authority", "api:81"),
            (":path", "/?q"),
            ("te", "trailers"),
            ("accept", "*/*"),
            ("x", "y"),
            ("content-length", "3"),
        ])
    );
    let all = Request::options("*").body(()).unwrap();
    assert_eq!(
        written(&all.into_parts().0, None, true),
        pairs(&[(":method", "OPTIONS"), (":scheme", "https"), (":path", "*")])
    );
}

#[test]
fn an_empty_body_is_announced_where_one_is_expected_or_was_announced() {
    for (method, expected) in [
        ("GET", None),
        ("HEAD", None),
        ("DELETE", None),
        ("POST", Some(0)),
        ("PUT", Some(0)),
    ] {
        assert_eq!(
            length(&asked(method), &RequestBody::Empty),
            expected,
            "{method}"
        );
    }
    let mut head = asked("DELETE");
    let last = |head: &Parts, ends| written(head, None, ends).pop().unwrap().0;
    assert_eq!(last(&head, true), ":path");
    head.headers
        .insert(CONTENT_LENGTH, HeaderValue::from_static("9"));
    assert_eq!(last(&head, true), "content-length");
    assert_eq!(last(&head, false), ":path");
}
