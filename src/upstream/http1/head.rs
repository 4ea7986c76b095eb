//! Response heads (RFC 9112 §4, §5 and §6.3): parsed strictly, their values not copied.
//!
//! What is about this connection only (`Connection`, `Keep-Alive`, `Transfer-Encoding`) is used up here.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use hyper::ext::ReasonPhrase;

use super::{MAX_FIELDS, MAX_HEAD};

/// Fields of most heads. More are parsed again, with room for [`MAX_FIELDS`].
const FEW_FIELDS: usize = 64;

#[derive(Debug)]
pub(super) enum Parsed {
    /// More has to be read.
    Partial,
    /// 1xx: another head follows.
    Interim,
    Final(Head),
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// The connection may be used again once the body has been read.
    pub(super) keep_alive: bool,
}

/// How the end of a response body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    Length(u64),
    Chunked,
    Close,
    /// 101: what follows is not HTTP.
    Tunnel,
}

/// The upstream broke the rules of HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("{0} in a response head")]
    Syntax(httparse::Error),
    #[error("{0}")]
    Rule(&'static str),
}

/// Takes the head of an answer to `asked` off the front of `read`; leaves `read` as it is unless the head is complete.
pub(super) fn parse(read: &mut BytesMut, asked: &Parts) -> Result<Parsed, Malformed> {
    // httparse skips empty lines; here they would be what is left of another message.
    if read.first().is_some_and(|first| *first != b'H') {
        return Err(Malformed::Syntax(httparse::Error::Version));
    }
    match parse_up_to::<FEW_FIELDS>(read, asked) {
        Err(Malformed::Syntax(httparse::Error::TooManyHeaders)) => {
            parse_up_to::<MAX_FIELDS>(read, asked)
        }
        parsed => parsed,
    }
}

fn parse_up_to<const FIELDS: usize>(
    read: &mut BytesMut,
    asked: &Parts,
) -> Result<Parsed, Malformed> {
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS];
    let mut fields = [const { Field::NONE }; FIELDS];
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
    let base = read.as_ptr() as usize;
    let count = head.headers.len();
    for (field, header) in fields.iter_mut().zip(&*head.headers) {
        *field = Field {
            name: position(base, header.name.as_bytes()),
            value: position(base, header.value),
        };
    }
    let reason = own_reason(status, head.reason.unwrap_or_default());
    let mut message = Message::new(status, head.version == Some(1), asked)?;
    let bytes = read.split_to(length).freeze();
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Parsed::Interim);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = message.take_fields(&bytes, &fields[..count])?;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    let framing = message.framing()?;
    Ok(Parsed::Final(Head {
        response,
        framing,
        keep_alive: message.keep_alive(framing),
    }))
}

/// Where the parts of a field are in the head.
struct Field {
    name: Range<u32>,
    value: Range<u32>,
}

impl Field {
    const NONE: Self = Self {
        name: 0..0,
        value: 0..0,
    };
}

/// `part` lies within a buffer that starts at `base` and is little larger than [`MAX_HEAD`].
fn position(base: usize, part: &[u8]) -> Range<u32> {
    let start = (part.as_ptr() as usize).wrapping_sub(base) as u32;
    start..start.wrapping_add(part.len() as u32)
}

fn slice(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// A reason phrase that says more than the status code does; it is passed on.
fn own_reason(status: StatusCode, reason: &str) -> Option<ReasonPhrase> {
    if reason.is_empty() || status.canonical_reason() == Some(reason) {
        return None;
    }
    ReasonPhrase::try_from(reason.as_bytes()).ok()
}

/// What a head says about the message and the connection.
struct Message {
    status: StatusCode,
    http11: bool,
    /// The request was HEAD.
    head_only: bool,
    length: Option<u64>,
    chunked: bool,
    /// Options of `Connection`.
    close: bool,
    keep: bool,
}

impl Message {
    fn new(status: StatusCode, http11: bool, asked: &Parts) -> Result<Self, Malformed> {
        if status == StatusCode::SWITCHING_PROTOCOLS
            && !(http11 && asked.headers.contains_key(UPGRADE))
        {
            return Err(Malformed::Rule(
                "101 to a request that asked for no upgrade",
            ));
        }
        Ok(Self {
            status,
            http11,
            head_only: asked.method == Method::HEAD,
            length: None,
            chunked: false,
            close: false,
            keep: false,
        })
    }

    /// All fields but those that are about this connection alone.
    fn take_fields(&mut self, bytes: &Bytes, fields: &[Field]) -> Result<HeaderMap, Malformed> {
        let mut headers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = &bytes[slice(&field.name)];
            let value = bytes.slice(slice(&field.value));
            // Not one of the names that http knows: it would be copied.
            if name.len() == 10 && name.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            let name = HeaderName::from_bytes(name)
                .map_err(|_| Malformed::Syntax(httparse::Error::HeaderName))?;
            if !self.passes_on(&name, &value)? {
                continue;
            }
            let value = HeaderValue::from_maybe_shared(value)
                .map_err(|_| Malformed::Syntax(httparse::Error::HeaderValue))?;
            headers.append(name, value);
        }
        Ok(headers)
    }

    fn passes_on(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, Malformed> {
        if *name == CONTENT_LENGTH {
            self.note_length(value)?;
        } else if *name == TRANSFER_ENCODING {
            self.note_coding(value)?;
            return Ok(false);
        } else if *name == CONNECTION {
            return Ok(self.note_options(value));
        }
        Ok(true)
    }

    /// RFC 9110 §8.6. Equal values twice are refused, too: whoever sends them does not know what it frames.
    fn note_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        const INVALID: Malformed = Malformed::Rule("an invalid Content-Length");
        if self.length.is_some() {
            return Err(Malformed::Rule("more than one Content-Length"));
        }
        if value.is_empty() {
            return Err(INVALID);
        }
        let mut length = 0_u64;
        for digit in value {
            if !digit.is_ascii_digit() {
                return Err(INVALID);
            }
            length = length
                .checked_mul(10)
                .and_then(|length| length.checked_add(u64::from(digit - b'0')))
                .ok_or(INVALID)?;
        }
        self.length = Some(length);
        Ok(())
    }

    /// We send no `TE`, so that `chunked`, once, is all that there can be (RFC 9112 §6.1, §7.4).
    fn note_coding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed::Rule(
                "a Transfer-Encoding that is not just chunked",
            ));
        }
        self.chunked = true;
        Ok(())
    }

    /// Whether there is more in it than how long the connection lives.
    fn note_options(&mut self, value: &[u8]) -> bool {
        let mut others = false;
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else {
                others |= !option.is_empty();
            }
        }
        others
    }

    /// RFC 9112 §6.3, less its leniencies.
    fn framing(&self) -> Result<Framing, Malformed> {
        if self.chunked && self.length.is_some() {
            return Err(Malformed::Rule("both Transfer-Encoding and Content-Length"));
        }
        if self.chunked && !self.http11 {
            return Err(Malformed::Rule("Transfer-Encoding with HTTP/1.0"));
        }
        if self.status == StatusCode::SWITCHING_PROTOCOLS {
            if self.chunked || self.length.is_some() {
                return Err(Malformed::Rule("101 with a body"));
            }
            return Ok(Framing::Tunnel);
        }
        let bodiless = self.status == StatusCode::NO_CONTENT
            || self.status == StatusCode::NOT_MODIFIED
            || self.head_only;
        Ok(match self.length {
            _ if bodiless => Framing::Empty,
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
            None if self.chunked => Framing::Chunked,
            None => Framing::Close,
        })
    }

    /// RFC 9112 §9.3.
    fn keep_alive(&self, framing: Framing) -> bool {
        // A 204 has no body; who announces one may well send it, and it would be taken for the next response.
        let announced = self.chunked || self.length.is_some_and(|length| length > 0);
        !(self.close
            || (!self.http11 && !self.keep)
            || matches!(framing, Framing::Close | Framing::Tunnel)
            || (self.status == StatusCode::NO_CONTENT && announced))
    }
}

#[cfg(test)]
mod tests;
