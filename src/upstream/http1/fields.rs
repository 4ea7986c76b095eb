//! Header fields (RFC 9112 §5): collects them without copying values, and reads framing and
//! connection options.

use std::ops::Range;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::framing::Malformed;

/// Byte ranges of a field's name and value in the head.
pub(super) type Field = (Range<u32>, Range<u32>);

/// Stores the byte ranges of `headers` within `head`; returns their number.
pub(super) fn locate(
    head: &[u8],
    headers: &[httparse::Header<'_>],
    fields: &mut [Field],
) -> Result<usize, Malformed> {
    if !ends_lines_in_crlf(head, headers) {
        return Err(Malformed::Syntax(httparse::Error::NewLine));
    }
    let base = head.as_ptr() as usize;
    for (field, header) in fields.iter_mut().zip(headers) {
        let name = position(base, header.name.as_bytes());
        *field = (name, position(base, header.value));
    }
    Ok(headers.len())
}

/// Returns whether every line ends in CRLF. httparse also accepts a bare LF, where other parsers
/// may not see a line end (RFC 9112 §2.2).
pub(super) fn ends_lines_in_crlf(section: &[u8], headers: &[httparse::Header<'_>]) -> bool {
    let base = section.as_ptr() as usize;
    let follows_crlf = |header: &httparse::Header<'_>| {
        let start = position(base, header.name.as_bytes()).start as usize;
        // httparse has found the LF.
        start == 0 || start >= 2 && section[start - 2] == b'\r'
    };
    section.ends_with(b"\r\n\r\n") && headers.iter().all(follows_crlf)
}

/// Returns the range of `part` in a buffer at address `base`, whose size is near
/// [`crate::fields::MAX_HEAD`].
pub(super) fn position(base: usize, part: &[u8]) -> Range<u32> {
    let start = (part.as_ptr() as usize).wrapping_sub(base) as u32;
    start..start.wrapping_add(part.len() as u32)
}

/// Parses `Content-Length` digits (RFC 9110 §8.6).
pub(in crate::upstream) fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    // `u64::from_str` accepts a plus sign.
    digits.parse().ok().filter(|_| !digits.starts_with('+'))
}

pub(super) fn slice(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// Framing and connection options of a head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notes {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    /// `Connection: close`.
    pub(super) close: bool,
    /// `Connection: keep-alive`.
    pub(super) keep: bool,
}

impl Notes {
    /// Collects all fields but `Keep-Alive`, `Transfer-Encoding`, and a `Connection` field without
    /// other options.
    pub(super) fn take_fields(
        &mut self,
        bytes: &Bytes,
        fields: &[Field],
    ) -> Result<HeaderMap, Malformed> {
        let mut headers = HeaderMap::with_capacity(fields.len());
        for (name, value) in fields {
            let name = &bytes[slice(name)];
            // Only names as long as `Connection` and `Keep-Alive`, `Content-Length` or
            // `Transfer-Encoding` need a comparison.
            let framing = matches!(name.len(), 10 | 14 | 17);
            // Compared as bytes: http has no constant for the name, and would allocate a copy.
            if framing && name.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            let value = bytes.slice(slice(value));
            let name = HeaderName::from_bytes(name)
                .map_err(|_| Malformed::Syntax(httparse::Error::HeaderName))?;
            if framing && !self.passes_on(&name, &value)? {
                continue;
            }
            let value = HeaderValue::from_maybe_shared(value)
                .map_err(|_| Malformed::Syntax(httparse::Error::HeaderValue))?;
            headers.append(name, value);
        }
        Ok(headers)
    }

    /// Reads a framing field. Returns whether the field is forwarded.
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

    /// Rejects repeated values too, even equal ones (RFC 9110 §8.6).
    fn note_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.length.is_some() {
            return Err(Malformed::Rule("more than one Content-Length"));
        }
        let length = parse_length(value).ok_or(Malformed::Rule("an invalid Content-Length"))?;
        self.length = Some(length);
        Ok(())
    }

    /// Accepts only a single `chunked` (RFC 9112 §6.1, §7.4): requests to upstreams have no `TE`.
    fn note_coding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            let fault = "a Transfer-Encoding that is not just chunked";
            return Err(Malformed::Rule(fault));
        }
        self.chunked = true;
        Ok(())
    }

    /// Reads `Connection`. Returns whether it has options other than `close` and `keep-alive`.
    fn note_options(&mut self, value: &[u8]) -> bool {
        // The most common value, at a tenth of the cost of splitting.
        if value == b"keep-alive" {
            self.keep = true;
            return false;
        }
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

    /// Rejects a message that two parsers could frame differently (RFC 9112 §6.1 and §6.3).
    pub(super) fn check(&self, http11: bool) -> Result<(), Malformed> {
        if self.chunked && self.length.is_some() {
            return Err(Malformed::Rule("both Transfer-Encoding and Content-Length"));
        }
        if self.chunked && !http11 {
            return Err(Malformed::Rule("Transfer-Encoding in HTTP/1.0"));
        }
        Ok(())
    }

    /// Returns whether the head lets the connection persist (RFC 9112 §9.3).
    pub(super) fn keep_alive(&self, http11: bool) -> bool {
        !self.close && (http11 || self.keep)
    }
}
