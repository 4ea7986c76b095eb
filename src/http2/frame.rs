//! Frames (RFC 9113 §4 and §6): their heads read and written, and the payloads of those that are about a connection.

use super::{Reason, Violation};

/// Before every frame's payload.
pub const HEAD: usize = 9;

/// Of a payload, as long as nobody allows more (RFC 9113 §4.2). We never do.
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// What a client's connection begins with, before its SETTINGS.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub mod kind {
    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const PRIORITY: u8 = 0x2;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PUSH_PROMISE: u8 = 0x5;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const WINDOW_UPDATE: u8 = 0x8;
    pub const CONTINUATION: u8 = 0x9;
}

pub mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

pub mod setting {
    pub const ENABLE_PUSH: u16 = 0x2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub const MAX_FRAME_SIZE: u16 = 0x5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 0x6;
}

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the payload.
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
}

impl Head {
    /// `None` if it is not all there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = bytes.first_chunk::<HEAD>()?;
        Some(Self {
            length: u32::from_be_bytes([0, *a, *b, *c]) as usize,
            kind: *kind,
            flags: *flags,
            // The first bit is reserved, and ignored.
            stream: u32::from_be_bytes(*stream) & super::MAX_STREAM,
        })
    }

    pub const fn write(self) -> [u8; HEAD] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The fragment of a header block in a HEADERS frame's payload.
pub fn fragment(head: Head, mut payload: &[u8]) -> Result<&[u8], Violation> {
    const SHORT: Violation = Violation::new(Reason::FRAME_SIZE_ERROR, "HEADERS that are too short");
    let mut padding = 0;
    if head.has(flag::PADDED) {
        let (first, rest) = payload.split_first().ok_or(SHORT)?;
        padding = usize::from(*first);
        payload = rest;
    }
    if head.has(flag::PRIORITY) {
        // Deprecated (RFC 9113 §5.3.2).
        payload = payload.get(5..).ok_or(SHORT)?;
    }
    let length = payload.len().checked_sub(padding);
    let length = length.ok_or(Violation::protocol("more padding than HEADERS"))?;
    Ok(&payload[..length])
}

/// The settings in a SETTINGS frame's payload.
pub fn settings(payload: &[u8]) -> Result<impl Iterator<Item = (u16, u32)>, Violation> {
    let (settings, []) = payload.as_chunks::<6>() else {
        let rule = "SETTINGS of a wrong length";
        return Err(Violation::new(Reason::FRAME_SIZE_ERROR, rule));
    };
    Ok(settings
        .iter()
        .map(|[a, b, value @ ..]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))))
}

/// The first 31-bit number of a payload that is `N` bytes long, or longer for GOAWAY.
pub fn number(payload: &[u8], rule: &'static str) -> Result<u32, Violation> {
    match payload.first_chunk() {
        Some(number) => Ok(u32::from_be_bytes(*number)),
        None => Err(Violation::new(Reason::FRAME_SIZE_ERROR, rule)),
    }
}

// === writing ===

/// Appends a frame whole.
pub fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let head = Head {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    out.extend_from_slice(&head.write());
    out.extend_from_slice(payload);
}

pub fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(settings.len() * 6);
    for (setting, value) in settings {
        payload.extend_from_slice(&setting.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    put(out, kind::SETTINGS, 0, 0, &payload);
}

pub fn put_reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    put(out, kind::RST_STREAM, 0, stream, &reason.0.to_be_bytes());
}

pub fn put_window(out: &mut Vec<u8>, stream: u32, more: u32) {
    put(out, kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
}

/// No stream of the peer's was ever taken: there are none.
pub fn put_go_away(out: &mut Vec<u8>, reason: Reason) {
    let [a, b, c, d] = reason.0.to_be_bytes();
    put(out, kind::GOAWAY, 0, 0, &[0, 0, 0, 0, a, b, c, d]);
}

/// Appends HEADERS, and CONTINUATION where it is needed, around the block that `write` appends.
pub fn put_headers(
    out: &mut Vec<u8>,
    stream: u32,
    end_stream: bool,
    max_payload: usize,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    write(out);
    let mut flags = if end_stream { flag::END_STREAM } else { 0 };
    let length = out.len() - start - HEAD;
    if length <= max_payload {
        flags |= flag::END_HEADERS;
    }
    let mut head = Head {
        length: length.min(max_payload),
        kind: kind::HEADERS,
        flags,
        stream,
    };
    out[start..start + HEAD].copy_from_slice(&head.write());
    if length <= max_payload {
        return;
    }
    let rest = out.split_off(start + HEAD + max_payload);
    let mut pieces = rest.chunks(max_payload).peekable();
    while let Some(piece) = pieces.next() {
        head.kind = kind::CONTINUATION;
        head.length = piece.len();
        head.flags = match pieces.peek() {
            Some(_) => 0,
            None => flag::END_HEADERS,
        };
        out.extend_from_slice(&head.write());
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests;
