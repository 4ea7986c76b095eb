//! Requests written and responses read, in the terms of HTTP (RFC 9113 §8).

use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;

use crate::http2::hpack::{Name, Value, encode};
use crate::upstream::body::RequestBody;
use crate::upstream::http1::is_trailer;

/// A head or a trailer section that is being read.
pub(super) struct Reading {
    status: Option<StatusCode>,
    fields: HeaderMap,
    /// What the head says of it.
    length: Option<u64>,
    fault: Option<Malformed>,
}

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

/// What most responses have, in a map that was used before; more need another allocation.
const FEW_FIELDS: usize = 6;

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
    matches!(head.method, Method::POST | Method::PUT | Method::PATCH).then_some(0)
}

/// Appends a request's header block; `ends` if there is no body.
pub(super) fn request(out: &mut Vec<u8>, head: &Parts, mut length: Option<u64>, ends: bool) {
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
        if *name == CONTENT_LENGTH {
            length = length.or_else(|| ends.then_some(0));
        } else if *name != HOST && *name != EXPECT && !is_connections(name, value) {
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

impl Reading {
    pub(super) fn new() -> Self {
        Self {
            status: None,
            fields: HeaderMap::with_capacity(FEW_FIELDS),
            length: None,
            fault: None,
        }
    }

    /// The next field.
    pub(super) fn take(&mut self, name: Name, value: Value) {
        if self.fault.is_none() {
            self.fault = self.try_take(name, value).err();
        }
    }

    fn try_take(&mut self, name: Name, value: Value) -> Result<(), Malformed> {
        let Value::Field(value) = value else {
            return Err(Malformed("a field value that HTTP does not allow"));
        };
        match name {
            Name::Field(name) => {
                if is_connections(&name, &value) {
                    return Err(Malformed("a field that is about connections"));
                }
                if name == CONTENT_LENGTH {
                    self.take_length(&value)?;
                }
                self.fields.append(name, value);
                Ok(())
            }
            Name::Status if self.status.is_none() && self.fields.is_empty() => {
                let status = StatusCode::from_bytes(value.as_bytes());
                self.status = Some(status.map_err(|_| Malformed("an invalid :status"))?);
                Ok(())
            }
            Name::Status => Err(Malformed(":status twice, or behind a field")),
            Name::Other(_) => Err(Malformed("a field name that HTTP/2 does not allow")),
        }
    }

    /// RFC 9110 §8.6.
    fn take_length(&mut self, value: &HeaderValue) -> Result<(), Malformed> {
        const INVALID: Malformed = Malformed("an invalid content-length");
        let digits = value.as_bytes();
        if self.length.is_some() {
            return Err(Malformed("more than one content-length"));
        }
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(INVALID);
        }
        let length = digits.iter().try_fold(0_u64, |length, digit| {
            let length = length.checked_mul(10)?;
            length.checked_add(u64::from(digit - b'0'))
        });
        self.length = Some(length.ok_or(INVALID)?);
        Ok(())
    }

    /// As a response's head; `head_only` if it is the answer to HEAD.
    pub(super) fn head(self, head_only: bool) -> Result<Parsed, Malformed> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let status = self.status.ok_or(Malformed("a head without :status"))?;
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = self.fields;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Malformed("101, which HTTP/2 does not have"));
        }
        if status.is_informational() {
            return Ok(Parsed::Interim(response));
        }
        let bodiless =
            head_only || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let content = match self.length {
            _ if bodiless => Content::None,
            Some(length) => Content::Length(length),
            None => Content::Unknown,
        };
        Ok(Parsed::Final(Head { response, content }))
    }

    /// As a trailer section. What may not stand in one is left out, as in HTTP/1.1.
    pub(super) fn trailers(self) -> Result<HeaderMap, Malformed> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.status.is_some() {
            return Err(Malformed(":status in trailers"));
        }
        let mut trailers = self.fields;
        let wrong: Vec<_> = trailers
            .keys()
            .filter(|name| !is_trailer(name))
            .cloned()
            .collect();
        for name in wrong {
            trailers.remove(name);
        }
        Ok(trailers)
    }
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

#[cfg(test)]
mod tests;
