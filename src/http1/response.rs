//! Response heads as bytes (RFC 9112 §4 and §6), and how their bodies are framed.

use std::time::SystemTime;

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use super::encode::{self, Framing};
use super::request::Asked;

/// Whether an answer has a body at all (RFC 9112 §6.3).
pub fn has_body(status: StatusCode, asked: Asked) -> bool {
    !asked.head_only
        && !status.is_informational()
        && status != StatusCode::NO_CONTENT
        && status != StatusCode::NOT_MODIFIED
}

/// How a body is framed of which `exact` is the length, if that is known.
pub fn framing(status: StatusCode, asked: Asked, exact: Option<u64>) -> Framing {
    match exact {
        _ if !has_body(status, asked) => Framing::None,
        Some(length) => Framing::Length(length),
        None if asked.http11 => Framing::Chunked,
        None => Framing::Close,
    }
}

/// Appends a response's head. `exact` is the length of what a body would be where there is none to be sent; `close` says that no
/// further request is answered.
pub fn head<B>(
    out: &mut Vec<u8>,
    response: &Response<B>,
    asked: Asked,
    framing: Framing,
    exact: Option<u64>,
    close: bool,
) {
    let status = response.status();
    status_line(out, response);
    let mut announced = announced(status, asked, framing, exact);
    let mut dated = status.is_informational();
    for (name, value) in response.headers() {
        if *name == CONTENT_LENGTH {
            match framing {
                // Of what is not sent the app is told what the upstream says (RFC 9110 §8.6).
                Framing::None if may_announce(status) => {
                    announced = Framing::None;
                    encode::field(out, name, value.as_bytes());
                }
                // Ours stands in its place.
                _ => encode::framing_field(out, std::mem::replace(&mut announced, Framing::None)),
            }
        } else if *name != TRANSFER_ENCODING {
            dated |= *name == DATE;
            encode::field(out, name, value.as_bytes());
        }
    }
    encode::framing_field(out, announced);
    if !dated {
        // RFC 9110 §6.6.1: whoever forwards a response without one adds it.
        let now = httpdate::fmt_http_date(SystemTime::now());
        encode::field(out, &DATE, now.as_bytes());
    }
    if status != StatusCode::SWITCHING_PROTOCOLS {
        if close {
            encode::field(out, &CONNECTION, b"close");
        } else if !asked.http11 {
            encode::field(out, &CONNECTION, b"keep-alive");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends an interim head (RFC 9110 §15.2): without a word about framing (RFC 9112 §6.3) or the connection.
pub fn interim_head(out: &mut Vec<u8>, response: &Response<()>) {
    status_line(out, response);
    for (name, value) in response.headers() {
        if ![CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(name) {
            encode::field(out, name, value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What the head says about the body, unless the upstream said it before.
fn announced(status: StatusCode, asked: Asked, framing: Framing, exact: Option<u64>) -> Framing {
    match exact {
        // Nothing is known of a body that nobody made.
        Some(length) if length > 0 && asked.head_only && may_announce(status) => {
            Framing::Length(length)
        }
        _ => framing,
    }
}

/// RFC 9110 §8.6: not even a `Content-Length`.
fn may_announce(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT
}

/// The version is our own, whatever the client's is (RFC 9110 §6.2).
fn status_line<B>(out: &mut Vec<u8>, response: &Response<B>) {
    let status = response.status();
    debug_assert!(response.version() != Version::HTTP_2);
    if status == StatusCode::OK && response.extensions().is_empty() {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    let reason = match response.extensions().get::<ReasonPhrase>() {
        Some(reason) => reason.as_bytes(),
        None => status.canonical_reason().unwrap_or("").as_bytes(),
    };
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
