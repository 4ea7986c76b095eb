//! Frames as the scripted peer reads and writes them (RFC 9113 §4 and §6).

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes before a frame's payload.
const HEAD: usize = 9;

pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
}

pub(super) mod flag {
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
}

pub(super) mod reason {
    pub(crate) const NO_ERROR: u32 = 0;
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
    pub(crate) const REFUSED_STREAM: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const HTTP_1_1_REQUIRED: u32 = 13;
}

/// A frame that the peer has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Seen {
    pub(super) fn ends_stream(&self) -> bool {
        let may = self.kind == kind::DATA || self.kind == kind::HEADERS;
        may && self.flags & flag::END_STREAM != 0
    }
}

pub(super) fn cancelled(stream: u32) -> Seen {
    Seen {
        kind: kind::RST_STREAM,
        flags: 0,
        stream,
        payload: reason::CANCEL.to_be_bytes().to_vec(),
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// SETTINGS with SETTINGS_MAX_CONCURRENT_STREAMS.
pub(super) fn settings(max_streams: u32) -> Vec<u8> {
    let mut payload = vec![0, 3];
    payload.extend(max_streams.to_be_bytes());
    frame(kind::SETTINGS, 0, 0, payload)
}

/// A header block of literals without indexing (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            if let Some(mut rest) = text.len().checked_sub(127) {
                out.push(127);
                while rest >= 128 {
                    out.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                out.push(rest as u8);
            } else {
                out.push(text.len() as u8);
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// HEADERS, and CONTINUATION for the rest of a long header block.
pub(super) fn head(stream: u32, ends: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    let block = block(fields);
    let mut parts = block.chunks(16 * 1024).peekable();
    let mut out = Vec::new();
    let (mut kind, mut flags) = (kind::HEADERS, if ends { flag::END_STREAM } else { 0 });
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= flag::END_HEADERS;
        }
        out.extend(frame(kind, flags, stream, part));
        (kind, flags) = (9, 0);
    }
    out
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
    let payload = [last.to_be_bytes(), reason.to_be_bytes()].concat();
    frame(kind::GOAWAY, 0, 0, payload)
}

/// Takes the complete frames from the front.
pub(super) fn parse(bytes: &mut Vec<u8>) -> Vec<Seen> {
    let mut seen = Vec::new();
    while bytes.len() >= HEAD {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        if bytes.len() < HEAD + length {
            break;
        }
        let rest = bytes.split_off(HEAD + length);
        let frame = std::mem::replace(bytes, rest);
        seen.push(Seen {
            kind: frame[3],
            flags: frame[4],
            stream: u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]),
            payload: frame[HEAD..].to_vec(),
        });
    }
    seen
}
