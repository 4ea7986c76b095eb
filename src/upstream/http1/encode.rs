//! Request heads as bytes (RFC 9112 §3).

use http::Method;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::request::Parts;
use http_body::Body as _;

use crate::http1::encode::{Framing, field, framing_field};
use crate::upstream::body::RequestBody;

/// By the body alone: whatever the head says about its length is about how it came to us.
pub(super) fn framing(head: &Parts, body: &RequestBody) -> Framing {
    if !body.is_end_stream() {
        return body
            .size_hint()
            .exact()
            .map_or(Framing::Chunked, Framing::Length);
    }
    // RFC 9110 §8.6: methods that define a meaning for a body say that it is empty, others only if the app did.
    match head.method {
        Method::POST | Method::PUT | Method::PATCH => Framing::Length(0),
        _ => Framing::None,
    }
}

/// Appends a request's head, with the target in origin-form.
pub(super) fn head(out: &mut Vec<u8>, head: &Parts, framing: Framing) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    // A query without a path is the one thing that `PathAndQuery` starts with besides `/` and `*`.
    if target.starts_with('?') {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut framing = Some(framing);
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH {
            // Ours stands in its place.
            match framing.take() {
                Some(Framing::None) => framing_field(out, Framing::Length(0)),
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
