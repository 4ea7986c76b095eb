//! Requests written and responses read, in the terms of HTTP (RFC 9113 §8).

use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;

use crate::http1::encode::is_trailer;
use crate::http2::hpack::decode::Section;
use crate::http2::hpack::{Name, Value, encode};
use crate::upstream::body::RequestBody;

/// A head that was read.
#[derive(Debug)]
pub(super) enum Parsed {
    /// 1xx: another head follows.
    Interim(Response<()>),
    Final(Head),
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) content: Content,
}

/// What DATA there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// None, whatever the head says of its length: HEAD, 204 and 304.
    None,
    /// Exactly so many bytes.
    Length(u64),
    Unknown,
}

/// What was read is no response (RFC 9113 §8.1.1). It is an error of its stream alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// The length that a request announces: that of its body, whatever the head says about how it came to us.
pub(super) fn length(head: &Parts, body: &RequestBody) -> Option<u64> {
    if !body.is_end_stream() {
        return body.size_hint().exact();
    }
    // RFC 9110 §8.6: methods that define a meaning for a body say that it is empty, others only if the app did.
    let says_so = matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
        || head.headers.contains_key(CONTENT_LENGTH);
    says_so.then_some(0)
}

/// Appends a request's header block.
pub(super) fn request(out: &mut Vec<u8>, head: &Parts, length: Option<u64>) {
    let uri = &head.uri;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let scheme = uri.scheme_str().unwrap_or("https");
    if path.starts_with('?') {
        encode::request(out, &head.method, scheme, authority, &format!("/{path}"));
    } else {
        encode::request(out, &head.method, scheme, authority, path);
    }
    for (name, value) in &head.headers {
        let ours = *name == CONTENT_LENGTH || *name == HOST || *name == EXPECT;
        if !ours && !is_connections(name, value) {
            encode::field(out, name, value);
        }
    }
    if let Some(length) = length {
        encode::content_length(out, length);
    }
}

/// Appends a trailer section's block.
pub(super) fn trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    for (name, value) in trailers {
        if is_trailer(name) {
            encode::field(out, name, value);
        }
    }
}

/// Reads a response's head; `head_only` if it is the answer to HEAD.
pub(super) fn read(section: &mut Section<'_>, head_only: bool) -> Result<Parsed, Malformed> {
    let mut headers = HeaderMap::with_capacity(section.len());
    let (mut status, mut length) = (None, None);
    for (name, value) in section.drain() {
        let Value::Field(value) = value else {
            return Err(Malformed("a field value that HTTP does not allow"));
        };
        match name {
            Name::Field(name) => {
                if is_connections(&name, &value) {
                    return Err(Malformed("a field that is about connections"));
                }
                if name == CONTENT_LENGTH && length.replace(content_length(&value)?).is_some() {
                    return Err(Malformed("more than one content-length"));
                }
                headers.append(name, value);
            }
            Name::Status if status.is_none() && headers.is_empty() => {
                let parsed = StatusCode::from_bytes(value.as_bytes());
                status = Some(parsed.map_err(|_| Malformed("an invalid :status"))?);
            }
            Name::Status => return Err(Malformed(":status twice, or behind a field")),
            Name::Other(_) => return Err(Malformed("a field name that HTTP/2 does not allow")),
        }
    }
    let status = status.ok_or(Malformed("a head without :status"))?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Malformed("101, which HTTP/2 does not have"));
    }
    if status.is_informational() {
        return Ok(Parsed::Interim(response));
    }
    let bodiless =
        head_only || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let content = match length {
        _ if bodiless => Content::None,
        Some(length) => Content::Length(length),
        None => Content::Unknown,
    };
    Ok(Parsed::Final(Head { response, content }))
}

/// Reads a trailer section. What may not stand in one is left out, as in HTTP/1.1.
pub(super) fn read_trailers(section: &mut Section<'_>) -> Result<HeaderMap, Malformed> {
    let mut trailers = HeaderMap::with_capacity(section.len());
    for (name, value) in section.drain() {
        let (Name::Field(name), Value::Field(value)) = (name, value) else {
            return Err(Malformed("a trailer that HTTP/2 does not allow"));
        };
        if is_connections(&name, &value) {
            return Err(Malformed("a field that is about connections"));
        }
        if is_trailer(&name) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

/// RFC 9113 §8.2.2.
fn is_connections(name: &HeaderName, value: &HeaderValue) -> bool {
    let name = name.as_str();
    match name.len() {
        2 => name == "te" && value != "trailers",
        7 => name == "upgrade",
        10 => name == "connection" || name == "keep-alive",
        16 => name == "proxy-connection",
        17 => name == "transfer-encoding",
        _ => false,
    }
}

/// RFC 9110 §8.6.
fn content_length(value: &HeaderValue) -> Result<u64, Malformed> {
    const INVALID: Malformed = Malformed("an invalid content-length");
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    digits.iter().try_fold(0_u64, |length, digit| {
        let length = length.checked_mul(10).ok_or(INVALID)?;
        length.checked_add(u64::from(digit - b'0')).ok_or(INVALID)
    })
}

#[cfg(test)]
mod tests;
