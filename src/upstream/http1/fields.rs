//! Fields of a head (RFC 9112 §5): their values not copied, and what they say about framing and the connection.

use std::ops::Range;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;

/// Where the parts of a field are in the head.
pub(super) struct Field {
    name: Range<u32>,
    value: Range<u32>,
}

impl Field {
    pub(super) const NONE: Self = Self {
        name: 0..0,
        value: 0..0,
    };
}

/// Notes where the `headers` are that were found in `head`, and checks that all lines end in CRLF: httparse takes a bare LF for
/// as much, and other readers do not (RFC 9112 §2.2). Returns how many there are.
pub(super) fn locate(
    head: &[u8],
    headers: &[httparse::Header<'_>],
    fields: &mut [Field],
) -> Result<usize, Malformed> {
    let base = head.as_ptr() as usize;
    let mut good = head.ends_with(b"\r\n\r\n");
    for (field, header) in fields.iter_mut().zip(headers) {
        let name = position(base, header.name.as_bytes());
        good &= follows_crlf(head, name.start as usize);
        *field = Field {
            name,
            value: position(base, header.value),
        };
    }
    match good {
        true => Ok(headers.len()),
        false => Err(Malformed::Syntax(httparse::Error::NewLine)),
    }
}

/// The LF is there, or there would be no line.
fn follows_crlf(head: &[u8], start: usize) -> bool {
    start == 0 || start >= 2 && head[start - 2] == b'\r'
}

/// The same for a section of which no more is to be known.
pub(super) fn ends_lines_in_crlf(section: &[u8], headers: &[httparse::Header<'_>]) -> bool {
    let base = section.as_ptr() as usize;
    section.ends_with(b"\r\n\r\n")
        && headers.iter().all(|header| {
            follows_crlf(
                section,
                position(base, header.name.as_bytes()).start as usize,
            )
        })
}

/// Returns where `part` lies in a buffer that starts at `base` and is not much larger than
/// [`crate::upstream::MAX_HEAD`].
pub(super) fn position(base: usize, part: &[u8]) -> Range<u32> {
    let start = (part.as_ptr() as usize).wrapping_sub(base) as u32;
    start..start.wrapping_add(part.len() as u32)
}

pub(super) fn slice(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// What a head says about its body and its connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notes {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    /// Options of `Connection`.
    pub(super) close: bool,
    pub(super) keep: bool,
}

impl Notes {
    /// All fields but those that are about this connection alone (`Keep-Alive`, `Transfer-Encoding`, and `Connection` where it
    /// names nothing else).
    pub(super) fn take_fields(
        &mut self,
        bytes: &Bytes,
        fields: &[Field],
    ) -> Result<HeaderMap, Malformed> {
        let mut headers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = &bytes[slice(&field.name)];
            // `Connection` and `Keep-Alive`, `Content-Length`, `Transfer-Encoding`: no other has to be compared with them.
            let framing = matches!(name.len(), 10 | 14 | 17);
            // Not one of the names that http knows: it would be copied.
            if framing && name.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            let value = bytes.slice(slice(&field.value));
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

    /// `chunked`, once, is all that there can be (RFC 9112 §6.1, §7.4): upstreams are sent no `TE`, and of apps no other coding
    /// could be passed on.
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
        // What almost everybody says, at a tenth of the cost of taking it apart.
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

    /// RFC 9112 §6.1 and §6.3: a message that two readers could frame differently is refused.
    pub(super) fn check(&self, http11: bool) -> Result<(), Malformed> {
        if self.chunked && self.length.is_some() {
            return Err(Malformed::Rule("both Transfer-Encoding and Content-Length"));
        }
        if self.chunked && !http11 {
            return Err(Malformed::Rule("Transfer-Encoding in HTTP/1.0"));
        }
        Ok(())
    }

    /// RFC 9112 §9.3, as far as the head says.
    pub(super) fn keep_alive(&self, http11: bool) -> bool {
        !self.close && (http11 || self.keep)
    }
}
