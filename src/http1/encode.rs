//! Fields and chunks as bytes (RFC 9112 §5 and §7.1).
//!
//! Names and values come from [`http`]'s types, which hold nothing that could end a line.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, EXPECT, HOST, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName};

/// How the reader knows where a body that we write ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body. Nothing is said about it, unless the head did already.
    None,
    /// So many bytes are still to be sent.
    Length(u64),
    Chunked,
    /// Of a response to HTTP/1.0: with the connection.
    Close,
}

/// The end of a body in chunks, without trailers.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// [`LAST_CHUNK`] after the end of the last chunk but it.
pub(crate) const CHUNK_END_AND_LAST: &[u8] = b"\r\n0\r\n\r\n";

/// Appends the line before a chunk's data.
pub fn chunk_size(out: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[size >> (4 * digit) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a body in chunks.
pub fn last_chunk(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        if is_trailer(name) {
            field(out, name, value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a field may stand in a trailer section: not what frames or routes a message, authenticates, or is for whoever
/// handles the content (RFC 9110 §6.5.1).
pub fn is_trailer(name: &HeaderName) -> bool {
    const FOR_HEADS: [HeaderName; 19] = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        EXPECT,
        HOST,
        MAX_FORWARDS,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        WWW_AUTHENTICATE,
    ];
    !FOR_HEADS.contains(name) && name.as_str() != "keep-alive"
}

/// Appends the field that says how the body is framed.
pub(crate) fn framing_field(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::Close => {}
        Framing::Length(length) => {
            let mut digits = itoa::Buffer::new();
            field(out, &CONTENT_LENGTH, digits.format(length).as_bytes());
        }
        Framing::Chunked => field(out, &TRANSFER_ENCODING, b"chunked"),
    }
}

/// Appends one line. Room is not made beforehand: what messages are gathered in has it. Inlined, as a call would cost as much as
/// what it does, ten times for a request.
#[inline(always)]
pub(crate) fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
