//! Fields of a head (RFC 9112 §5): their values not copied, and what they say about framing and the connection.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use http::header::{self, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;

/// Maps that a thread keeps for the next heads, and how many fields one of them may have had room for. Two are in use for each request
/// on its way; their memory would be allocated and freed for each.
const KEPT_MAPS: usize = 32;
const KEPT_ROOM: usize = 64;

thread_local! {
    static SPARE_MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// Takes back a map that is not needed any more, for its memory.
pub(crate) fn recycle(mut map: HeaderMap) {
    if map.capacity() == 0 || map.capacity() > KEPT_ROOM {
        return;
    }
    map.clear();
    SPARE_MAPS.with_borrow_mut(|spare| {
        if spare.len() < KEPT_MAPS {
            spare.push(map);
        }
    });
}

/// An empty map with room for so many fields.
pub(crate) fn with_room(fields: usize) -> HeaderMap {
    match SPARE_MAPS.with_borrow_mut(Vec::pop) {
        Some(mut map) => {
            map.reserve(fields);
            map
        }
        None => HeaderMap::with_capacity(fields),
    }
}

/// Where the parts of a field are in the head.
pub(crate) struct Field {
    name: Range<u32>,
    value: Range<u32>,
}

impl Field {
    pub(crate) const NONE: Self = Self {
        name: 0..0,
        value: 0..0,
    };
}

/// Notes where the `headers` are that were found in `head`, and checks that all lines end in CRLF: httparse takes a bare LF for
/// as much, and other readers do not (RFC 9112 §2.2). Returns how many there are.
pub(crate) fn locate(
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
pub(crate) fn ends_lines_in_crlf(section: &[u8], headers: &[httparse::Header<'_>]) -> bool {
    let base = section.as_ptr() as usize;
    section.ends_with(b"\r\n\r\n")
        && headers.iter().all(|header| {
            follows_crlf(
                section,
                position(base, header.name.as_bytes()).start as usize,
            )
        })
}

/// `part` lies within a buffer that starts at `base` and is little larger than [`super::MAX_HEAD`].
pub(crate) fn position(base: usize, part: &[u8]) -> Range<u32> {
    let start = (part.as_ptr() as usize).wrapping_sub(base) as u32;
    start..start.wrapping_add(part.len() as u32)
}

pub(crate) fn slice(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// Names as almost everybody writes them, told by a comparison or two; http's own look-up takes ten times as long.
fn common(name: &[u8]) -> Option<HeaderName> {
    Some(match name {
        b"Host" | b"host" => header::HOST,
        b"Date" | b"date" => header::DATE,
        b"ETag" | b"etag" => header::ETAG,
        b"Vary" | b"vary" => header::VARY,
        b"Accept" | b"accept" => header::ACCEPT,
        b"Cookie" | b"cookie" => header::COOKIE,
        b"Server" | b"server" => header::SERVER,
        b"Connection" | b"connection" => CONNECTION,
        b"Set-Cookie" | b"set-cookie" => header::SET_COOKIE,
        b"User-Agent" | b"user-agent" => header::USER_AGENT,
        b"Content-Type" | b"content-type" => header::CONTENT_TYPE,
        b"Accept-Ranges" | b"accept-ranges" => header::ACCEPT_RANGES,
        b"Authorization" | b"authorization" => header::AUTHORIZATION,
        b"Cache-Control" | b"cache-control" => header::CACHE_CONTROL,
        b"Last-Modified" | b"last-modified" => header::LAST_MODIFIED,
        b"Content-Length" | b"content-length" => CONTENT_LENGTH,
        b"Accept-Encoding" | b"accept-encoding" => header::ACCEPT_ENCODING,
        b"Accept-Language" | b"accept-language" => header::ACCEPT_LANGUAGE,
        b"Content-Encoding" | b"content-encoding" => header::CONTENT_ENCODING,
        b"Transfer-Encoding" | b"transfer-encoding" => TRANSFER_ENCODING,
        _ => return None,
    })
}

/// What a head says about its body and its connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notes {
    pub(crate) length: Option<u64>,
    pub(crate) chunked: bool,
    /// Options of `Connection`.
    pub(crate) close: bool,
    pub(crate) keep: bool,
}

impl Notes {
    /// All fields but those that are about this connection alone (`Keep-Alive`, `Transfer-Encoding`, and `Connection` where it
    /// names nothing else), with room for `more`. `look` sees those that stay.
    pub(crate) fn take_fields(
        &mut self,
        bytes: &Bytes,
        fields: &[Field],
        more: usize,
        mut look: impl FnMut(&HeaderName, &[u8]),
    ) -> Result<HeaderMap, Malformed> {
        let mut headers = with_room(fields.len() + more);
        for field in fields {
            let name = &bytes[slice(&field.name)];
            // `Connection` and `Keep-Alive`, `Content-Length`, `Transfer-Encoding`: no other has to be compared with them.
            let framing = matches!(name.len(), 10 | 14 | 17);
            // Not one of the names that http knows: it would be copied.
            if framing && name.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            let value = bytes.slice(slice(&field.value));
            let name = match common(name) {
                Some(name) => name,
                None => HeaderName::from_bytes(name)
                    .map_err(|_| Malformed::Syntax(httparse::Error::HeaderName))?,
            };
            if framing && !self.passes_on(&name, &value)? {
                continue;
            }
            look(&name, &value);
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
    pub(crate) fn check(&self, http11: bool) -> Result<(), Malformed> {
        if self.chunked && self.length.is_some() {
            return Err(Malformed::Rule("both Transfer-Encoding and Content-Length"));
        }
        if self.chunked && !http11 {
            return Err(Malformed::Rule("Transfer-Encoding in HTTP/1.0"));
        }
        Ok(())
    }

    /// RFC 9112 §9.3, as far as the head says.
    pub(crate) fn keep_alive(&self, http11: bool) -> bool {
        !self.close && (http11 || self.keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_map_has_room_and_nothing_else() {
        let mut used = HeaderMap::with_capacity(8);
        used.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        used.append(header::COOKIE, HeaderValue::from_static("a"));
        used.append(header::COOKIE, HeaderValue::from_static("b"));
        let room = used.capacity();
        recycle(used);
        let again = with_room(2);
        assert_eq!(again, HeaderMap::new());
        assert_eq!(again.capacity(), room);
        recycle(HeaderMap::with_capacity(KEPT_ROOM + 1));
        assert_eq!(with_room(0).capacity(), 0);
    }

    #[test]
    fn common_names_are_what_http_makes_of_them() {
        let mut seen = 0;
        for name in [
            "Host",
            "Date",
            "ETag",
            "Vary",
            "Accept",
            "Cookie",
            "Server",
            "Connection",
            "Set-Cookie",
            "User-Agent",
            "Content-Type",
            "Accept-Ranges",
            "Authorization",
            "Cache-Control",
            "Last-Modified",
            "Content-Length",
            "Accept-Encoding",
            "Accept-Language",
            "Content-Encoding",
            "Transfer-Encoding",
            "Hos",
            "X-Host",
            "",
        ] {
            for name in [name.to_owned(), name.to_ascii_lowercase()] {
                if let Some(common) = common(name.as_bytes()) {
                    assert_eq!(Ok(common), name.parse().map_err(drop), "{name}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 40);
    }
}
