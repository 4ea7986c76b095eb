//! Request heads (RFC 9112 §3, §5 and §6.3): parsed strictly, their values not copied.
//!
//! What is about this connection only (`Keep-Alive`, `Transfer-Encoding`, and `Connection` where it names no field) is used up
//! here.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{EXPECT, TE};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};

use super::fields::{self, Field, Notes};
use super::{FEW_FIELDS, Framing, MAX_FIELDS, MAX_HEAD, Malformed};

/// What comes first on a connection that speaks HTTP/2 (RFC 9113 §3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Room for fields that are put on a request on its way: a credential and `Via`.
const MORE_FIELDS: usize = 2;

/// What a head says about the message and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub framing: Framing,
    pub asked: Asked,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// What the form of the answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Not HTTP/1.0.
    pub http11: bool,
    /// HEAD.
    pub head_only: bool,
    /// The client does not want to end the connection.
    pub keep_alive: bool,
    /// The client understands trailers (RFC 9110 §10.1.4).
    pub trailers: bool,
}

/// Why there is no request. Nothing that follows on the connection can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("a request head that is too large")]
    TooLarge,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Takes a request's head off the front of `read` and puts it into `request`, which is large and would be moved about otherwise.
/// `None`, and nothing but empty lines taken: more has to be read.
pub fn parse<B>(read: &mut BytesMut, request: &mut Request<B>) -> Result<Option<Head>, Fault> {
    // RFC 9112 §2.2: some clients send a line break too many after a body. httparse would take any number of bare ones, too.
    while read.starts_with(b"\r\n") {
        read.advance(2);
    }
    match read.first() {
        None => return Ok(None),
        Some(b'\n') => return Err(syntax(httparse::Error::NewLine)),
        Some(_) => {}
    }
    match parse_fields(read, request) {
        Err(Fault::Malformed(Malformed::Syntax(httparse::Error::Token))) if escape_target(read) => {
            parse_fields(read, request)
        }
        parsed => parsed,
    }
}

fn parse_fields<B>(read: &mut BytesMut, request: &mut Request<B>) -> Result<Option<Head>, Fault> {
    match parse_up_to::<FEW_FIELDS, B>(read, request) {
        Err(Fault::Malformed(Malformed::Syntax(httparse::Error::TooManyHeaders))) => {
            match parse_up_to::<MAX_FIELDS, B>(read, request) {
                Err(Fault::Malformed(Malformed::Syntax(httparse::Error::TooManyHeaders))) => {
                    Err(Fault::TooLarge)
                }
                parsed => parsed,
            }
        }
        parsed => parsed,
    }
}

fn parse_up_to<const FIELDS: usize, B>(
    read: &mut BytesMut,
    request: &mut Request<B>,
) -> Result<Option<Head>, Fault> {
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS];
    let mut fields = [const { Field::NONE }; FIELDS];
    let mut head = httparse::Request::new(&mut []);
    // No further: how much has come in by now must not make a difference.
    let seen = &read[..read.len().min(MAX_HEAD)];
    let parsed = httparse::ParserConfig::default()
        .parse_request_with_uninit_headers(&mut head, seen, &mut slots);
    let length = match parsed.map_err(syntax)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if seen.len() < MAX_HEAD => return Ok(None),
        httparse::Status::Partial => return Err(Fault::TooLarge),
    };
    let method = Method::from_bytes(head.method.unwrap_or_default().as_bytes())
        .map_err(|_| syntax(httparse::Error::Token))?;
    let http11 = head.version == Some(1);
    let base = seen.as_ptr() as usize;
    let target = fields::position(base, head.path.unwrap_or_default().as_bytes());
    let count = fields::locate(&seen[..length], head.headers, &mut fields)?;
    let bytes = read.split_to(length).freeze();
    let place = fields::slice(&target);
    let target = bytes.slice(place.clone());
    check_target(&method, &target)?;

    let mut notes = Notes::default();
    let (mut trailers, mut expects_continue) = (false, false);
    let headers = notes.take_fields(&bytes, &fields[..count], MORE_FIELDS, |name, value| {
        if *name == TE {
            trailers |= accepts_trailers(value);
        } else if *name == EXPECT {
            expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
        }
    })?;
    notes.check(http11)?;
    let framing = match notes.length {
        None if notes.chunked => Framing::Chunked,
        None | Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
    };
    let asked = Asked {
        http11,
        head_only: method == Method::HEAD,
        // What follows a CONNECT may be meant for a tunnel.
        keep_alive: notes.keep_alive(http11) && method != Method::CONNECT,
        trailers,
    };
    *request.uri_mut() = match Uri::from_maybe_shared(target) {
        Ok(uri) if method == Method::OPTIONS => server_wide(uri, &bytes[place]),
        Ok(uri) => uri,
        Err(_) => Uri::from_maybe_shared(escaped(&bytes[place])).map_err(|_| INVALID_TARGET)?,
    };
    *request.method_mut() = method;
    *request.version_mut() = if http11 {
        Version::HTTP_11
    } else {
        Version::HTTP_10
    };
    *request.headers_mut() = headers;
    Ok(Some(Head {
        framing,
        asked,
        // RFC 9110 §10.1.1: HTTP/1.0 knows no interim responses.
        expects_continue: expects_continue && http11 && framing != Framing::Empty,
    }))
}

/// RFC 9112 §3.2.4: of `OPTIONS http://host`, as a proxy is asked, the last proxy makes `OPTIONS *`. A URI itself cannot tell it from
/// `http://host/`.
fn server_wide(uri: Uri, target: &[u8]) -> Uri {
    let host = target
        .windows(3)
        .position(|part| part == b"://")
        .map(|scheme| &target[scheme + 3..]);
    if host.is_none_or(|host| host.contains(&b'/') || host.contains(&b'?')) {
        return uri;
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    Uri::from_parts(parts).unwrap_or(uri)
}

const INVALID_TARGET: Malformed = Malformed::Rule("an invalid request-target");

fn syntax(error: httparse::Error) -> Fault {
    Fault::Malformed(Malformed::Syntax(error))
}

/// A target that is not UTF-8 becomes one that is: legacy apps put GBK and the like into queries as it is. Whether this was such a one.
#[cold]
fn escape_target(read: &mut BytesMut) -> bool {
    let mut spaces = (0..read.len()).filter(|at| read[*at] == b' ');
    let (Some(before), Some(end)) = (spaces.next(), spaces.next()) else {
        return false;
    };
    let target = &read[before + 1..end];
    if target.contains(&b'\n') || std::str::from_utf8(target).is_ok() {
        return false;
    }
    let target = escaped(target);
    let mut whole = BytesMut::with_capacity(read.len() + target.len());
    whole.extend_from_slice(&read[..=before]);
    whole.extend_from_slice(&target);
    whole.extend_from_slice(&read[end..]);
    *read = whole;
    true
}

/// What a URI cannot hold (RFC 3986 §2), and what clients send all the same, as browsers write it.
#[cold]
fn escaped(target: &[u8]) -> Bytes {
    let is_text = std::str::from_utf8(target).is_ok();
    let mut text = Vec::with_capacity(target.len() * 3);
    for byte in target {
        if matches!(byte, b'"' | b'<' | b'>' | b'`') || !is_text && !byte.is_ascii() {
            text.push(b'%');
            text.extend([byte >> 4, byte & 0xf].map(|digit| b"0123456789ABCDEF"[digit as usize]));
        } else {
            text.push(*byte);
        }
    }
    text.into()
}

/// RFC 9112 §3.2: which form goes with which method. What is in it is checked when it becomes a URI, which would drop a fragment.
fn check_target(method: &Method, target: &[u8]) -> Result<(), Malformed> {
    let form_fits = match target {
        _ if *method == Method::CONNECT => true,
        [b'/', ..] => true,
        b"*" => *method == Method::OPTIONS,
        [first, ..] if first.is_ascii_alphabetic() => target.windows(3).any(|part| part == b"://"),
        _ => false,
    };
    if form_fits && !target.contains(&b'#') {
        Ok(())
    } else {
        Err(INVALID_TARGET)
    }
}

/// `trailers` among the codings of a `TE`.
fn accepts_trailers(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|coding| {
        let name = coding.split(|byte| *byte == b';').next();
        name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

#[cfg(test)]
mod tests;
