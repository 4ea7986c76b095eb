//! Fuzz target: whole HTTP/1.1 responses.

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};

use super::MAX_INTERIM;
use super::decode::{Decoder, Step};
use super::framing::Framing;
use super::head::{self, Head, Parsed};

/// A parsed response.
#[derive(Debug, PartialEq)]
struct Outcome {
    head: Option<(StatusCode, HeaderMap, Framing, bool)>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Length of the response in bytes; `None` if it is incomplete or invalid.
    length: Option<usize>,
}

/// Input: one byte that selects the request, then the upstream's bytes. Every split of the bytes
/// must give the same result.
pub fn http1_response(data: &[u8]) {
    let Some((how, text)) = data.split_first() else {
        return;
    };
    let asked = asked(*how);
    let whole = read(text, &asked, text.len().max(1));
    for step in [1, 2, 3, 7, 64] {
        assert_eq!(read(text, &asked, step), whole, "in steps of {step}");
    }
    if let Some((status, fields, framing, keep_alive)) = &whole.head {
        check(*status, fields, *framing, *keep_alive);
        if let (Framing::Length(length), Some(_)) = (framing, whole.length) {
            assert_eq!(whole.body.len() as u64, *length);
        }
    }
}

fn asked(how: u8) -> Parts {
    let method = match how % 4 {
        0 => Method::HEAD,
        1 => Method::POST,
        _ => Method::GET,
    };
    let mut request = Request::new(());
    *request.method_mut() = method;
    if how % 4 == 3 {
        let websocket = http::HeaderValue::from_static("websocket");
        request.headers_mut().insert(UPGRADE, websocket);
    }
    request.into_parts().0
}

/// Reads like `Connection`, without a socket.
fn read(text: &[u8], asked: &Parts, step: usize) -> Outcome {
    let mut pieces = text.chunks(step);
    let mut read = BytesMut::new();
    let mut fed = 0;
    let mut outcome = Outcome {
        head: None,
        body: Vec::new(),
        trailers: None,
        length: None,
    };
    let mut feed = |read: &mut BytesMut| {
        let piece = pieces.next()?;
        fed += piece.len();
        read.extend_from_slice(piece);
        Some(())
    };
    let Some(head) = read_head(&mut read, asked, &mut feed) else {
        return outcome;
    };
    let framing = head.framing;
    let (parts, ()) = head.response.into_parts();
    outcome.head = Some((parts.status, parts.headers, framing, head.keep_alive));
    let mut decoder = Decoder::new(framing);
    loop {
        match decoder.step(&mut read) {
            Err(_) => return outcome,
            Ok(Step::Data(data)) => {
                assert!(!data.is_empty(), "a frame of nothing");
                outcome.body.extend_from_slice(&data);
            }
            Ok(Step::Trailers(trailers)) => outcome.trailers = Some(trailers),
            Ok(Step::End) => break,
            Ok(Step::More) => {
                if feed(&mut read).is_none() && decoder.close().is_err() {
                    return outcome;
                }
            }
        }
    }
    assert!(decoder.is_done());
    outcome.length = Some(fed - read.len());
    outcome
}

fn read_head(
    read: &mut BytesMut,
    asked: &Parts,
    feed: &mut impl FnMut(&mut BytesMut) -> Option<()>,
) -> Option<Head> {
    let mut interim = 0;
    loop {
        let before = read.len();
        match head::parse(read, asked).ok()? {
            Parsed::Final(head) => return Some(head),
            Parsed::Partial => {
                assert_eq!(read.len(), before, "an unfinished head is left alone");
                feed(read)?;
            }
            Parsed::Interim => {
                interim += 1;
                if interim > MAX_INTERIM {
                    return None;
                }
            }
        }
    }
}

/// Checks the invariants of every accepted head.
fn check(status: StatusCode, fields: &HeaderMap, framing: Framing, keep_alive: bool) {
    assert!(!status.is_informational() || framing == Framing::Tunnel);
    assert!(!fields.contains_key(TRANSFER_ENCODING) && !fields.contains_key("keep-alive"));
    assert!(fields.get_all(CONTENT_LENGTH).iter().count() <= 1);
    let ends_with_connection = matches!(framing, Framing::Close | Framing::Tunnel);
    assert!(!(keep_alive && ends_with_connection));
    let closes = fields.get_all(CONNECTION).iter().any(|options| {
        let mut options = options.as_bytes().split(|byte| *byte == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    });
    assert!(!(keep_alive && closes));
    for value in fields.values() {
        let breaks = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        assert!(!value.as_bytes().iter().any(breaks));
    }
}
