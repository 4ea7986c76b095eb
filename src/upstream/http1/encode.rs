//! Encodes request heads, chunks and trailers (RFC 9112 §3, §5 and §7.1).
//!
//! [`http`]'s types guarantee that names and values contain no line breaks.

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method};
use http_body::Body;

use crate::fields::is_trailer;

/// How a request body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestFraming {
    /// No body, and no framing field unless the app's head has a `Content-Length`.
    None,
    /// Bytes still to be sent.
    Length(u64),
    Chunked,
}

/// The end of a chunked body without trailers.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The line break after a chunk's data, and [`LAST_CHUNK`].
pub(super) const CHUNK_END_AND_LAST: &[u8] = b"\r\n0\r\n\r\n";

/// Appends the line before a chunk's data.
pub(super) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[size >> (4 * digit) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

pub(super) fn last_chunk(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        if is_trailer(name) {
            field(out, name, value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `Content-Length` or `Transfer-Encoding`.
fn framing_field(out: &mut Vec<u8>, framing: RequestFraming) {
    match framing {
        RequestFraming::None => {}
        RequestFraming::Length(length) => {
            let mut digits = itoa::Buffer::new();
            field(out, &CONTENT_LENGTH, digits.format(length).as_bytes());
        }
        RequestFraming::Chunked => field(out, &TRANSFER_ENCODING, b"chunked"),
    }
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Returns the framing of `body`. The head's framing fields describe only the app's connection.
pub(super) fn framing(head: &Parts, body: &impl Body) -> RequestFraming {
    if !body.is_end_stream() {
        let length = body.size_hint().exact();
        return length.map_or(RequestFraming::Chunked, RequestFraming::Length);
    }
    // RFC 9110 §8.6: an empty body is announced if the method defines a meaning for a body; for
    // other methods, `head` announces it if the app did.
    match head.method {
        Method::POST | Method::PUT | Method::PATCH => RequestFraming::Length(0),
        _ => RequestFraming::None,
    }
}

/// Appends a request's head, with the target in origin-form.
pub(super) fn head(out: &mut Vec<u8>, head: &Parts, framing: RequestFraming) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = head.uri.path_and_query();
    let target = target.map_or("/", |target| target.as_str());
    // `PathAndQuery` starts with `/`, `*`, or with the query if the path is empty.
    if target.starts_with('?') {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut framing = Some(framing);
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH {
            match framing.take() {
                Some(RequestFraming::None) => framing_field(out, RequestFraming::Length(0)),
                Some(framing) => framing_field(out, framing),
                None => {}
            }
        } else if *name != TRANSFER_ENCODING && *name != EXPECT {
            field(out, name, value.as_bytes());
        }
    }
    if let Some(framing) = framing {
        framing_field(out, framing);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
