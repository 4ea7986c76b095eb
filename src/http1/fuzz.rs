//! Fuzz target: requests of an app, from the first byte to the last.

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Version};

use super::decode::{Decoder, Step};
use super::request::{self, Head};
use super::{Framing, MAX_FIELDS};

/// One request, as far as it came in.
#[derive(Debug, PartialEq)]
struct Outcome {
    line: (Method, String, Version),
    fields: HeaderMap,
    framing: Framing,
    keep_alive: bool,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// It came to its end, so that another one may follow.
    whole: bool,
}

/// All that an app ever sends on a connection. However it arrives, it reads the same.
pub fn http1_request(data: &[u8]) {
    let whole = read(data, data.len().max(1));
    for step in [1, 2, 3, 7, 64] {
        assert_eq!(read(data, step), whole, "in steps of {step}");
    }
    for outcome in &whole {
        check(outcome);
    }
    if let [first, ..] = &whole[..] {
        check_end(data, first);
    }
}

/// As a connection does it, the socket aside.
fn read(text: &[u8], step: usize) -> Vec<Outcome> {
    let mut pieces = text.chunks(step);
    let mut read = BytesMut::new();
    let mut feed = |read: &mut BytesMut| {
        read.extend_from_slice(pieces.next()?);
        Some(())
    };
    let mut outcomes = Vec::new();
    loop {
        let mut request = Request::new(());
        let head = loop {
            match request::parse(&mut read, &mut request) {
                Err(_) => return outcomes,
                Ok(Some(head)) => break head,
                Ok(None) => {}
            }
            if feed(&mut read).is_none() {
                return outcomes;
            }
        };
        let keep_alive = head.asked.keep_alive;
        let outcome = read_body(request, head, &mut read, &mut feed);
        let go_on = outcome.whole && keep_alive;
        outcomes.push(outcome);
        if !go_on {
            return outcomes;
        }
    }
}

fn read_body(
    request: Request<()>,
    head: Head,
    read: &mut BytesMut,
    feed: &mut impl FnMut(&mut BytesMut) -> Option<()>,
) -> Outcome {
    let (parts, ()) = request.into_parts();
    let mut outcome = Outcome {
        line: (parts.method, parts.uri.to_string(), parts.version),
        fields: parts.headers,
        framing: head.framing,
        keep_alive: head.asked.keep_alive,
        body: Vec::new(),
        trailers: None,
        whole: false,
    };
    let mut decoder = Decoder::new(head.framing);
    loop {
        match decoder.step(read) {
            Err(_) => return outcome,
            Ok(Step::Data(data)) => outcome.body.extend_from_slice(&data),
            Ok(Step::Trailers(trailers)) => outcome.trailers = Some(trailers),
            Ok(Step::End) => break,
            Ok(Step::More) => {
                if feed(read).is_none() {
                    return outcome;
                }
            }
        }
    }
    outcome.whole = true;
    outcome
}

/// What holds of every request that was accepted.
fn check(outcome: &Outcome) {
    let fields = &outcome.fields;
    assert!(fields.len() <= MAX_FIELDS);
    assert!(!fields.contains_key(TRANSFER_ENCODING));
    assert!(!matches!(outcome.framing, Framing::Close | Framing::Tunnel));
    let lengths: Vec<_> = fields.get_all(CONTENT_LENGTH).iter().collect();
    match outcome.framing {
        Framing::Length(length) => {
            assert!(lengths.len() == 1 && lengths[0].to_str().is_ok());
            assert!(!outcome.whole || outcome.body.len() as u64 == length);
        }
        Framing::Chunked => assert!(lengths.is_empty()),
        _ => assert!(lengths.len() <= 1 && outcome.body.is_empty()),
    }
    for (name, value) in fields {
        let breaks = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        assert!(!value.as_bytes().iter().any(breaks), "{name}");
    }
    let target = outcome.line.1.as_bytes();
    assert!(!target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f));
    if let Some(trailers) = &outcome.trailers {
        for name in [CONTENT_LENGTH, TRANSFER_ENCODING, HOST] {
            assert!(!trailers.contains_key(&name), "{name} in a trailer");
        }
    }
}

/// Whatever lies behind a head that has come to its end changes nothing of it.
fn check_end(data: &[u8], first: &Outcome) {
    let mut alone = BytesMut::from(data);
    let Ok(Some(head)) = request::parse(&mut alone, &mut Request::new(())) else {
        panic!("it was read before");
    };
    let used = data.len() - alone.len();
    let mut alone = BytesMut::from(&data[..used]);
    match request::parse(&mut alone, &mut Request::new(())) {
        Ok(Some(again)) => assert_eq!(again.framing, head.framing),
        other => panic!("{other:?}"),
    }
    assert!(alone.is_empty());
    // Every line of it ended in CR LF.
    for (at, byte) in data[..used].iter().enumerate() {
        if *byte == b'\n' {
            assert!(at > 0 && data[at - 1] == b'\r', "a bare LF");
        }
    }
    assert_eq!(head.framing, first.framing);
}
