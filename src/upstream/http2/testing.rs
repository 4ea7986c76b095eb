//! What a server says, for tests and fuzzing.

use http::Request;
use http::request::Parts;

use crate::http2::frame::{self, HEAD, Head, flag, kind, setting};

/// A frame as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, kind, flags, stream, payload.as_ref());
    out
}

pub(super) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_settings(&mut out, settings);
    out
}

/// SETTINGS that allow a hundred streams.
pub(super) fn hello() -> Vec<u8> {
    settings(&[(setting::MAX_CONCURRENT_STREAMS, 100)])
}

pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            let length = text.len();
            if length < 127 {
                out.push(length as u8);
            } else {
                let rest = length - 127;
                out.extend([
                    127,
                    rest as u8 | 0x80,
                    (rest >> 7) as u8 | 0x80,
                    (rest >> 14) as u8,
                ]);
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

pub(super) fn head(stream: u32, ends: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    let flags = flag::END_HEADERS | if ends { flag::END_STREAM } else { 0 };
    frame(kind::HEADERS, flags, stream, block(fields))
}

pub(super) fn ok(stream: u32) -> Vec<u8> {
    head(stream, false, &[(":status", "200")])
}

pub(super) fn data(stream: u32, ends: bool, content: impl AsRef<[u8]>) -> Vec<u8> {
    let flags = if ends { flag::END_STREAM } else { 0 };
    frame(kind::DATA, flags, stream, content)
}

pub(super) fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, more.to_be_bytes())
}

pub(super) fn reset(stream: u32, reason: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, reason.to_be_bytes())
}

pub(super) fn go_away(last: u32, reason: u32) -> Vec<u8> {
    frame(
        kind::GOAWAY,
        0,
        0,
        [last.to_be_bytes(), reason.to_be_bytes()].concat(),
    )
}

/// The whole frames at the front.
pub(super) fn parse(bytes: &mut Vec<u8>) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Some(head) = Head::read(bytes)
        && bytes.len() >= HEAD + head.length
    {
        let rest = bytes.split_off(HEAD + head.length);
        let frame = std::mem::replace(bytes, rest);
        seen.push(Seen {
            kind: head.kind,
            flags: head.flags,
            stream: head.stream,
            payload: frame[HEAD..].to_vec(),
        });
    }
    seen
}

pub(super) fn asked(method: &str) -> Parts {
    let uri = "https://api/x";
    let request = Request::builder().method(method).uri(uri).body(());
    request.expect("it is valid").into_parts().0
}
