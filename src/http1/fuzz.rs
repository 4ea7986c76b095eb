//! Fuzz target: a connection's requests, from the first byte to the last.

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Version};

use super::decode::{Decoder, Step};
use super::request::{self, Head};
use super::{Framing, MAX_HEAD};

/// One request as it was read.
#[derive(Debug, PartialEq)]
struct Read {
    line: (String, String, Version),
    fields: HeaderMap,
    keep_alive: bool,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// What came of a connection.
#[derive(Debug, PartialEq)]
struct Outcome {
    requests: Vec<Read>,
    /// A rule was broken, which ends it.
    refused: bool,
}

/// All that an app ever sends on a connection. However it arrives, it is the same requests.
pub fn http1_requests(data: &[u8]) {
    let whole = read(data, data.len().max(1));
    for step in [1, 2, 3, 7, 64] {
        let other = read(data, step);
        assert_eq!(other.requests, whole.requests, "in steps of {step}");
        // What is not all there may break a rule further on only: byte by byte that is seen no earlier.
        assert!(whole.refused || !other.refused, "in steps of {step}");
    }
}

fn read(data: &[u8], step: usize) -> Outcome {
    let mut pieces = data.chunks(step);
    let mut read = BytesMut::new();
    let mut outcome = Outcome {
        requests: Vec::new(),
        refused: false,
    };
    let mut feed = |read: &mut BytesMut| {
        read.extend_from_slice(pieces.next()?);
        Some(())
    };
    loop {
        match request::parse(&mut read) {
            Err(_) => {
                outcome.refused = true;
                return outcome;
            }
            Ok(None) => {
                assert!(read.len() < MAX_HEAD);
                if feed(&mut read).is_none() {
                    return outcome;
                }
            }
            Ok(Some(head)) => {
                check(&head);
                match read_body(head, &mut read, &mut feed) {
                    Some(Ok(request)) => outcome.requests.push(request),
                    Some(Err(())) => {
                        outcome.refused = true;
                        return outcome;
                    }
                    None => return outcome,
                }
            }
        }
    }
}

/// `None`: it is not all there.
fn read_body(
    head: Head,
    read: &mut BytesMut,
    feed: &mut impl FnMut(&mut BytesMut) -> Option<()>,
) -> Option<Result<Read, ()>> {
    let (parts, ()) = head.request.into_parts();
    let mut request = Read {
        line: (
            parts.method.to_string(),
            parts.uri.to_string(),
            parts.version,
        ),
        fields: parts.headers,
        keep_alive: head.asked.keep_alive,
        body: Vec::new(),
        trailers: None,
    };
    let mut decoder = Decoder::new(head.framing);
    loop {
        match decoder.step(read) {
            Err(_) => return Some(Err(())),
            Ok(Step::Data(data)) => request.body.extend_from_slice(&data),
            Ok(Step::Trailers(trailers)) => request.trailers = Some(trailers),
            Ok(Step::End) => break,
            Ok(Step::More) => feed(read)?,
        }
    }
    if let Framing::Length(length) = head.framing {
        assert_eq!(request.body.len() as u64, length);
    }
    Some(Ok(request))
}

/// What holds of every head that was accepted.
fn check(head: &Head) {
    let fields = head.request.headers();
    assert!(!fields.contains_key(TRANSFER_ENCODING) && !fields.contains_key("keep-alive"));
    let lengths = fields.get_all(CONTENT_LENGTH).iter().count();
    match head.framing {
        Framing::Empty => assert!(lengths <= 1),
        Framing::Length(_) => assert_eq!(lengths, 1),
        Framing::Chunked => assert!(lengths == 0 && head.asked.http11),
        Framing::Close | Framing::Tunnel => panic!("no framing of a request"),
    }
    assert!(!head.expects_continue || head.framing != Framing::Empty);
    for value in fields.values() {
        let breaks = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        assert!(!value.as_bytes().iter().any(breaks));
    }
    let target = head.request.uri().to_string();
    let odd = |byte: u8| byte <= b' ' || byte == 0x7f || byte == b'#';
    assert!(!target.bytes().any(odd), "{target}");
}
