use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use proptest::prelude::*;

use super::*;
use crate::http1::decode::{Decoder, Step};
use crate::http1::output::Output;

const ASKED: Asked = Asked {
    http11: true,
    head_only: false,
    keep_alive: true,
    trailers: true,
};
const HTTP10: Asked = Asked {
    http11: false,
    ..ASKED
};
const HEAD: Asked = Asked {
    head_only: true,
    ..ASKED
};

fn response(status: u16, fields: &[(&str, &str)]) -> Response<()> {
    let mut response = Response::builder().status(status).header("date", "now");
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap()
}

/// The head without what is always there.
fn text(response: &Response<()>, asked: Asked, exact: Option<u64>, close: bool) -> String {
    let mut out = Vec::new();
    let framing = framing(response.status(), asked, exact);
    head(&mut out, response, asked, framing, exact, close);
    let text = String::from_utf8(out).unwrap();
    let text = text.strip_prefix("HTTP/1.1 ").unwrap();
    let text = text.strip_suffix("\r\n\r\n").unwrap();
    text.replace("\r\ndate: now", "").replace("\r\n", "|")
}

#[test]
fn the_head_says_how_the_body_is_framed() {
    let length = ("content-length", "7");
    for (status, fields, asked, exact, expected) in [
        (200, &[][..], ASKED, Some(2), "200 OK|content-length: 2"),
        (
            200,
            &[length, ("x", "y")],
            ASKED,
            Some(2),
            "200 OK|content-length: 2|x: y",
        ),
        (
            200,
            &[length, length],
            ASKED,
            Some(2),
            "200 OK|content-length: 2",
        ),
        (
            200,
            &[("transfer-encoding", "gzip")],
            ASKED,
            None,
            "200 OK|transfer-encoding: chunked",
        ),
        (
            200,
            &[length],
            ASKED,
            None,
            "200 OK|transfer-encoding: chunked",
        ),
        (
            200,
            &[],
            HTTP10,
            Some(0),
            "200 OK|content-length: 0|connection: keep-alive",
        ),
        // What is not sent is described as the upstream does, or as we know it.
        (200, &[length], HEAD, Some(0), "200 OK|content-length: 7"),
        (200, &[], HEAD, Some(0), "200 OK"),
        (404, &[], HEAD, Some(9), "404 Not Found|content-length: 9"),
        (
            304,
            &[length],
            ASKED,
            Some(0),
            "304 Not Modified|content-length: 7",
        ),
        (304, &[], ASKED, Some(0), "304 Not Modified"),
        (204, &[length], ASKED, Some(0), "204 No Content"),
        (204, &[], HEAD, Some(3), "204 No Content"),
    ] {
        let response = response(status, fields);
        assert_eq!(text(&response, asked, exact, false), expected, "{fields:?}");
    }
}

#[test]
fn the_end_of_the_connection_is_announced() {
    let ok = response(200, &[]);
    assert_eq!(
        text(&ok, ASKED, Some(0), true),
        "200 OK|content-length: 0|connection: close"
    );
    assert_eq!(text(&ok, HTTP10, None, true), "200 OK|connection: close");
    let fields = [("connection", "upgrade"), ("upgrade", "x")];
    assert_eq!(
        text(&response(101, &fields), ASKED, Some(0), true),
        "101 Switching Protocols|connection: upgrade|upgrade: x"
    );
}

#[test]
fn a_date_is_added_and_a_reason_kept() {
    let mut other = response(299, &[]);
    assert_eq!(
        text(&other, ASKED, Some(1), false),
        "299 |content-length: 1"
    );
    other
        .extensions_mut()
        .insert(ReasonPhrase::from_static(b"Fine"));
    other.headers_mut().clear();
    let text = text(&other, ASKED, Some(1), false);
    let date = text
        .strip_prefix("299 Fine|content-length: 1|date: ")
        .unwrap();
    assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
}

/// A reader's view of what was written.
fn decode(framing: crate::http1::Framing, text: &[u8]) -> (Vec<u8>, HeaderMap, Vec<u8>) {
    let mut decoder = Decoder::new(framing);
    let mut read = BytesMut::from(text);
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    loop {
        match decoder.step(&mut read).unwrap() {
            Step::Data(frame) => data.extend_from_slice(&frame),
            Step::Trailers(fields) => trailers = fields,
            Step::End => return (data, trailers, read.to_vec()),
            Step::More => {
                decoder.close().unwrap();
            }
        }
    }
}

/// Writes at most `most` bytes at once.
struct Narrow(Vec<u8>, usize);

impl tokio::io::AsyncWrite for Narrow {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let length = buf.len().min(self.1);
        self.0.extend_from_slice(&buf[..length]);
        std::task::Poll::Ready(Ok(length))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

proptest! {
    /// A client reads what was meant, whatever the sizes of frames and writes.
    #[test]
    fn a_client_reads_the_same(
        frames in proptest::collection::vec(0_usize..9_000, 0..6),
        known: bool,
        asked in prop_oneof![Just(ASKED), Just(HTTP10)],
        trailer: bool,
        most in 1_usize..5_000,
    ) {
        let body: Vec<u8> = (0..frames.iter().sum()).map(|n| n as u8).collect();
        let response = response(200, &[("x", "y")]);
        let exact = known.then_some(body.len() as u64);
        let framing = framing(response.status(), asked, exact);
        let mut output = Output::new();
        head(output.begin(framing), &response, asked, framing, exact, false);
        let mut io = Narrow(Vec::new(), most);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut rest = &body[..];
        let mut trailers = HeaderMap::new();
        if trailer {
            trailers.insert(HeaderName::from_static("x-sum"), HeaderValue::from_static("1"));
        }
        for length in frames {
            while !output.has_room() {
                let _ = output.poll_write(&mut cx, std::pin::Pin::new(&mut io));
            }
            let (frame, others) = rest.split_at(length);
            output.put(bytes::Bytes::copy_from_slice(frame)).unwrap();
            rest = others;
        }
        while !output.has_room() {
            let _ = output.poll_write(&mut cx, std::pin::Pin::new(&mut io));
        }
        output.end_with(&trailers).unwrap();
        while !output.is_empty() {
            let _ = output.poll_write(&mut cx, std::pin::Pin::new(&mut io));
        }
        let end = io.0.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let reads = match framing {
            Framing::Length(length) => crate::http1::Framing::Length(length),
            Framing::Chunked => crate::http1::Framing::Chunked,
            Framing::Close => crate::http1::Framing::Close,
            Framing::None => unreachable!("it has a body"),
        };
        let (data, read_trailers, left) = decode(reads, &io.0[end..]);
        prop_assert!(data == body);
        prop_assert!(left.is_empty());
        if framing == Framing::Chunked {
            prop_assert_eq!(read_trailers, trailers);
        }
    }
}
