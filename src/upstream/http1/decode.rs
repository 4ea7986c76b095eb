//! Decodes response bodies (RFC 9112 §6.3 and §7.1). Frames are slices of the read buffer.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::fields::ends_lines_in_crlf;
use super::framing::{Framing, Malformed};
use crate::fields::is_trailer;

/// Hexadecimal digits of a chunk's size: as many as 64 bits have.
const MAX_DIGITS: usize = 16;

/// Limit of chunk extensions and padding of a whole body, beyond the length of its data.
const MAX_EXTENSIONS: usize = 16 * 1024;

const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 64;

#[derive(Debug)]
pub(super) struct Decoder {
    state: DecoderState,
    /// Bytes of chunk extensions so far, minus bytes of data.
    extensions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecoderState {
    /// Bytes of the body that are still to come.
    Length(u64),
    UntilClose,
    ChunkSize,
    /// Bytes of this chunk that are still to come.
    Chunk(u64),
    /// Before the line break after a chunk.
    ChunkEnd,
    Trailers,
    Done,
}

#[derive(Debug)]
pub(super) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// `read` needs more bytes.
    More,
}

impl Decoder {
    pub(super) const DONE: Self = Self {
        state: DecoderState::Done,
        extensions: 0,
    };

    pub(super) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Tunnel | Framing::Length(0) => DecoderState::Done,
            Framing::Length(length) => DecoderState::Length(length),
            Framing::Chunked => DecoderState::ChunkSize,
            Framing::Close => DecoderState::UntilClose,
        };
        Self {
            state,
            extensions: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == DecoderState::Done
    }

    pub(super) fn remaining(&self) -> Option<u64> {
        match self.state {
            DecoderState::Length(left) => Some(left),
            DecoderState::Done => Some(0),
            _ => None,
        }
    }

    pub(super) fn step(&mut self, read: &mut BytesMut) -> Result<Step, Malformed> {
        self.pass_framing(read)?;
        match self.state {
            DecoderState::Done => Ok(Step::End),
            DecoderState::ChunkSize | DecoderState::ChunkEnd => Ok(Step::More),
            DecoderState::Trailers => self.trailers(read),
            DecoderState::Length(_) | DecoderState::UntilClose | DecoderState::Chunk(_)
                if read.is_empty() =>
            {
                Ok(Step::More)
            }
            DecoderState::UntilClose => Ok(Step::Data(read.split().freeze())),
            DecoderState::Length(left) => {
                let (data, left) = take(read, left);
                self.state = match left {
                    0 => DecoderState::Done,
                    left => DecoderState::Length(left),
                };
                Ok(Step::Data(data))
            }
            DecoderState::Chunk(left) => {
                let (data, left) = take(read, left);
                self.state = match left {
                    0 => DecoderState::ChunkEnd,
                    left => DecoderState::Chunk(left),
                };
                // Makes `is_done` true with the last data, if the end is in `read`. The next step
                // finds an error again.
                let _ = self.pass_framing(read);
                Ok(Step::Data(data))
            }
        }
    }

    /// Called when the peer closed the connection. Fails if the body is incomplete.
    pub(super) fn close(&mut self) -> Result<(), std::io::ErrorKind> {
        if self.state != DecoderState::UntilClose {
            return Err(std::io::ErrorKind::UnexpectedEof);
        }
        self.state = DecoderState::Done;
        Ok(())
    }

    /// Consumes the available bytes between chunks.
    fn pass_framing(&mut self, read: &mut BytesMut) -> Result<(), Malformed> {
        loop {
            match self.state {
                DecoderState::ChunkEnd
                    if line_break(read, "a chunk that is longer than its size")? =>
                {
                    read.advance(2);
                    self.state = DecoderState::ChunkSize;
                }
                DecoderState::ChunkSize => {
                    let Some((used, size)) = self.chunk_size(read)? else {
                        return Ok(());
                    };
                    read.advance(used);
                    self.state = match size {
                        0 => DecoderState::Trailers,
                        size => DecoderState::Chunk(size),
                    };
                }
                DecoderState::Trailers if read.starts_with(b"\r\n") => {
                    read.advance(2);
                    self.state = DecoderState::Done;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Returns the length of the chunk-size line, and the size; `None` if the line is incomplete.
    fn chunk_size(&mut self, read: &[u8]) -> Result<Option<(usize, u64)>, Malformed> {
        const INVALID: Malformed = Malformed::Rule("an invalid chunk size");
        let mut digits = 0;
        let mut size = 0_u64;
        let digit_at = |at: usize| (*read.get(at)? as char).to_digit(16);
        while let Some(digit) = digit_at(digits) {
            digits += 1;
            if digits > MAX_DIGITS {
                return Err(INVALID);
            }
            size = size << 4 | u64::from(digit);
        }
        if digits == 0 && !read.is_empty() {
            return Err(INVALID);
        }
        let rest = &read[digits..];
        let end = rest
            .iter()
            .position(|byte| byte.is_ascii_control() && *byte != b'\t');
        let extension = &rest[..end.unwrap_or(rest.len())];
        match extension.trim_ascii_start().first() {
            None | Some(b';') => {}
            Some(_) => return Err(INVALID),
        }
        if self.extensions + extension.len() > MAX_EXTENSIONS {
            return Err(Malformed::Rule("chunk extensions that are too long"));
        }
        let Some(end) = end else {
            return Ok(None);
        };
        if !line_break(&rest[end..], "an invalid chunk size")? {
            return Ok(None);
        }
        self.extensions = (self.extensions + extension.len())
            .saturating_sub(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(Some((digits + end + 2, size)))
    }

    fn trailers(&mut self, read: &mut BytesMut) -> Result<Step, Malformed> {
        const TOO_LARGE: Malformed = Malformed::Rule("a trailer section that is too large");
        const INVALID: Malformed = Malformed::Rule("an invalid trailer section");
        let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
        let (length, trailers) = match httparse::parse_headers(read, &mut fields) {
            Ok(httparse::Status::Complete((length, fields))) if length <= MAX_TRAILERS => {
                if !ends_lines_in_crlf(&read[..length], fields) {
                    return Err(INVALID);
                }
                (length, trailers(fields)?)
            }
            Ok(httparse::Status::Partial) if read.len() <= MAX_TRAILERS => return Ok(Step::More),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
            Err(_) => return Err(INVALID),
        };
        read.advance(length);
        self.state = DecoderState::Done;
        if trailers.is_empty() {
            return Ok(Step::End);
        }
        Ok(Step::Trailers(trailers))
    }
}

/// Takes up to `left` bytes; returns them, and how many are left.
fn take(read: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let length = left.min(read.len() as u64);
    (read.split_to(length as usize).freeze(), left - length)
}

/// Returns whether `read` starts with a line break; `false` if a line break is still possible.
fn line_break(read: &[u8], fault: &'static str) -> Result<bool, Malformed> {
    match read {
        [b'\r', b'\n', ..] => Ok(true),
        [] | [b'\r'] => Ok(false),
        _ => Err(Malformed::Rule(fault)),
    }
}

/// Copies the fields that are allowed as trailers: slices would keep a large buffer alive.
fn trailers(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    const INVALID: Malformed = Malformed::Rule("an invalid trailer field");
    let mut trailers = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| INVALID)?;
        if is_trailer(&name) {
            let value = HeaderValue::from_bytes(field.value).map_err(|_| INVALID)?;
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests;
