//! Parses response heads strictly and without copying values (RFC 9112 §4, §5 and §6.3).
//!
//! Removes `Connection`, `Keep-Alive` and `Transfer-Encoding`, which concern this connection only.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::UPGRADE;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::ext::ReasonPhrase;

use super::fields::{self, Field, Notes};
use super::framing::{Framing, Malformed};
use crate::fields::{MAX_FIELDS, MAX_HEAD};

/// Enough fields for most heads. A larger head is parsed again with room for [`MAX_FIELDS`].
const FEW_FIELDS: usize = 64;

#[derive(Debug)]
pub(super) enum Parsed {
    /// The head is incomplete.
    Partial,
    /// 1xx: another head follows.
    Interim,
    Final(Head),
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// The connection is reusable after the body has been read.
    pub(super) keep_alive: bool,
}

/// Takes the head of the response to `request` off the front of `read`. An incomplete head stays in
/// `read`.
pub(super) fn parse(read: &mut BytesMut, request: &Parts) -> Result<Parsed, Malformed> {
    // httparse skips empty lines, but here they would belong to another message.
    if read.first().is_some_and(|first| *first != b'H') {
        return Err(Malformed::Syntax(httparse::Error::Version));
    }
    match parse_up_to::<FEW_FIELDS>(read, request) {
        Err(Malformed::Syntax(httparse::Error::TooManyHeaders)) => {
            parse_up_to::<MAX_FIELDS>(read, request)
        }
        parsed => parsed,
    }
}

fn parse_up_to<const FIELDS: usize>(
    read: &mut BytesMut,
    request: &Parts,
) -> Result<Parsed, Malformed> {
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS];
    let mut fields: [Field; FIELDS] = [const { (0..0, 0..0) }; FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut head, read, &mut slots);
    let length = match parsed.map_err(Malformed::Syntax)? {
        httparse::Status::Complete(length) if length <= MAX_HEAD => length,
        httparse::Status::Partial if read.len() < MAX_HEAD => return Ok(Parsed::Partial),
        _ => return Err(Malformed::Rule("a response head that is too large")),
    };
    let code = head.code.unwrap_or_default();
    let status =
        StatusCode::from_u16(code).map_err(|_| Malformed::Syntax(httparse::Error::Status))?;
    let count = fields::locate(&read[..length], head.headers, &mut fields)?;
    let reason = own_reason(status, head.reason.unwrap_or_default());
    let message = Message::new(status, head.version == Some(1), request)?;
    let bytes = read.split_to(length).freeze();
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Parsed::Interim);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    let mut notes = Notes::default();
    *response.headers_mut() = notes.take_fields(&bytes, &fields[..count])?;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    let framing = message.framing(&notes)?;
    Ok(Parsed::Final(Head {
        response,
        framing,
        keep_alive: message.keep_alive(&notes, framing),
    }))
}

/// Returns a reason phrase that differs from the status code's standard phrase.
fn own_reason(status: StatusCode, reason: &str) -> Option<ReasonPhrase> {
    if reason.is_empty() || status.canonical_reason() == Some(reason) {
        return None;
    }
    ReasonPhrase::try_from(reason.as_bytes()).ok()
}

/// The parts of a response, other than its fields, that determine its framing.
struct Message {
    status: StatusCode,
    http11: bool,
    /// The request was HEAD.
    head_only: bool,
}

impl Message {
    fn new(status: StatusCode, http11: bool, request: &Parts) -> Result<Self, Malformed> {
        if status == StatusCode::SWITCHING_PROTOCOLS
            && !(http11 && request.headers.contains_key(UPGRADE))
        {
            return Err(Malformed::Rule("101 to a request without Upgrade"));
        }
        Ok(Self {
            status,
            http11,
            head_only: request.method == Method::HEAD,
        })
    }

    /// Applies RFC 9112 §6.3 without its leniencies.
    fn framing(&self, notes: &Notes) -> Result<Framing, Malformed> {
        notes.check(self.http11)?;
        if self.status == StatusCode::SWITCHING_PROTOCOLS {
            if notes.chunked || notes.length.is_some() {
                return Err(Malformed::Rule("101 with a body"));
            }
            return Ok(Framing::Tunnel);
        }
        let bodiless = self.status == StatusCode::NO_CONTENT
            || self.status == StatusCode::NOT_MODIFIED
            || self.head_only;
        Ok(match notes.length {
            _ if bodiless => Framing::Empty,
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
            None if notes.chunked => Framing::Chunked,
            None => Framing::Close,
        })
    }

    /// Returns whether the connection persists (RFC 9112 §9.3).
    fn keep_alive(&self, notes: &Notes, framing: Framing) -> bool {
        // A 204 has no body. A server that announces a body may send it, and the bytes would look
        // like the next response.
        let announced = notes.chunked || notes.length.is_some_and(|length| length > 0);
        notes.keep_alive(self.http11)
            && !matches!(framing, Framing::Close | Framing::Tunnel)
            && !(self.status == StatusCode::NO_CONTENT && announced)
    }
}

#[cfg(test)]
mod tests;
