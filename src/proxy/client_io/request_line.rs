//! Percent-encodes raw bytes in the request target of a message's first line.
//!
//! Legacy apps put raw `"`, `<`, `>` or GBK into a query, which [`Uri`] refuses. Browsers encode
//! the same bytes.

use bytes::Bytes;
use http::Uri;
use percent_encoding::percent_encode_byte;

use crate::fields::MAX_HEAD;

/// Follows the bytes of a connection to find the first line of each message.
pub(super) struct RequestLine {
    position: Position,
    /// Spaces of the line that were passed on already. The target follows the first.
    spaces: usize,
    /// The start of a line that may need a change, until the line is complete.
    held: Vec<u8>,
    /// The last bytes, to detect an empty line.
    last: [u8; 3],
}

/// The part of a message that the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// The first line, or an empty line before that (RFC 9112 §2.2).
    Line,
    Head(FieldLine),
    /// After the head; the number of bytes received so far.
    Past(u64),
    /// Unknown. Bytes stay as they are.
    Unknown,
}

/// The bytes of a field line so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldLine {
    Nothing,
    CarriageReturn,
    Field,
}

impl RequestLine {
    pub(super) fn new() -> Self {
        Self {
            position: Position::Line,
            spaces: 0,
            held: Vec::new(),
            last: [0; 3],
        }
    }

    /// Takes received bytes. Returns their replacement: `None` for the same bytes, and no bytes
    /// while the rest of the line is missing.
    pub(super) fn pass(&mut self, read: &[u8]) -> Option<Bytes> {
        self.remember(read);
        let mut at = 0;
        while self.position == Position::Line {
            let (line, rest) = split_line(&read[at..]);
            if !self.held.is_empty() || line.iter().copied().any(is_suspect) {
                return Some(self.pass_suspect(&read[..at], line, rest));
            }
            at += line.len();
            match line {
                b"\r\n" | b"\n" if self.spaces == 0 => {}
                [.., b'\n'] => self.begin_head(),
                _ => {
                    self.spaces += line.iter().filter(|byte| **byte == b' ').count();
                    return None;
                }
            }
        }
        self.follow(&read[at..]);
        None
    }

    /// Notes that a message is being answered.
    pub(super) fn message_runs(&mut self) {
        // hyper had read the whole message before the last one ended.
        if self.position == Position::Line {
            self.position = Position::Unknown;
        }
    }

    /// Notes that a message has ended; `body` is the length of its body, if that was stated.
    ///
    /// The next byte begins a message if the last byte ended this message or a head: hyper parses
    /// the heads in its buffer before it reads. Otherwise hyper may hold the start of a line.
    pub(super) fn message_ended(&mut self, body: Option<u64>) {
        let at_its_end =
            matches!((self.position, body), (Position::Past(came), Some(body)) if came == body);
        let has_no_length = body.is_none_or(|length| length == 0);
        let at_a_heads_end =
            has_no_length && matches!(self.last, [b'\n', b'\r', b'\n'] | [_, b'\n', b'\n']);
        self.position = match at_its_end || at_a_heads_end {
            true => Position::Line,
            false => Position::Unknown,
        };
        self.spaces = 0;
    }

    /// Returns the held bytes, at the end of the connection.
    pub(super) fn end(&mut self) -> Bytes {
        self.position = Position::Unknown;
        std::mem::take(&mut self.held).into()
    }

    /// Holds a line that may need a change until the line is complete, then returns all of it.
    fn pass_suspect(&mut self, before: &[u8], line: &[u8], rest: &[u8]) -> Bytes {
        self.held.extend_from_slice(line);
        let ended = line.ends_with(b"\n");
        let method = self.held.split(|byte| *byte == b' ').next();
        let in_method =
            self.spaces == 0 && method.is_some_and(|it| it.iter().copied().any(is_suspect));
        // hyper refuses a method with such a byte, and a line of this length.
        let refused = in_method || self.held.len() > MAX_HEAD;
        let mut out = before.to_vec();
        if !ended && !refused {
            return out.into();
        }
        let held = std::mem::take(&mut self.held);
        match refused {
            true => {
                out.extend_from_slice(&held);
                self.position = Position::Unknown;
            }
            false => {
                encode_line(&held, self.spaces, &mut out);
                self.begin_head();
            }
        }
        out.extend_from_slice(rest);
        self.follow(rest);
        out.into()
    }

    fn begin_head(&mut self) {
        self.position = Position::Head(FieldLine::Nothing);
        self.spaces = 0;
    }

    /// Follows bytes behind a first line.
    fn follow(&mut self, mut read: &[u8]) {
        while let Position::Head(seen) = self.position {
            let (line, rest) = split_line(read);
            self.position = match (seen, line) {
                (_, []) => return,
                (FieldLine::Nothing, b"\r\n" | b"\n") | (FieldLine::CarriageReturn, b"\n") => {
                    Position::Past(0)
                }
                (_, [.., b'\n']) => Position::Head(FieldLine::Nothing),
                (FieldLine::Nothing, b"\r") => Position::Head(FieldLine::CarriageReturn),
                _ => Position::Head(FieldLine::Field),
            };
            read = rest;
        }
        if let Position::Past(came) = &mut self.position {
            *came += read.len() as u64;
        }
    }

    fn remember(&mut self, read: &[u8]) {
        match read {
            [.., a, b, c] => self.last = [*a, *b, *c],
            [a, b] => self.last = [self.last[2], *a, *b],
            [a] => self.last = [self.last[1], self.last[2], *a],
            [] => {}
        }
    }
}

/// Splits behind the first line end, or at the end.
fn split_line(read: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b'\n', read);
    read.split_at(end.map_or(read.len(), |at| at + 1))
}

/// Returns whether a request target with this byte may need encoding.
fn is_suspect(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`') || !byte.is_ascii()
}

/// Appends the rest of a request line after `spaces` spaces. Encodes a target that [`Uri`] refuses.
fn encode_line(line: &[u8], spaces: usize, out: &mut Vec<u8>) {
    let space = |from: usize| {
        let at = line[from..].iter().position(|byte| *byte == b' ');
        at.map(|at| from + at)
    };
    let start = match spaces {
        0 => space(0).map_or(line.len(), |at| at + 1),
        1 => 0,
        _ => line.len(),
    };
    let line_end = line.trim_ascii_end().len().max(start);
    let end = space(start).unwrap_or(line_end);
    let target = &line[start..end];
    out.extend_from_slice(&line[..start]);
    match Uri::try_from(target).is_ok() {
        true => out.extend_from_slice(target),
        false => percent_encode(target, out),
    }
    out.extend_from_slice(&line[end..]);
}

/// Keeps the non-ASCII bytes of valid UTF-8, and encodes others (RFC 3986 §2.1).
fn percent_encode(target: &[u8], out: &mut Vec<u8>) {
    let is_text = std::str::from_utf8(target).is_ok();
    for byte in target {
        let stays = is_text && !byte.is_ascii();
        match is_suspect(*byte) && !stays {
            true => out.extend_from_slice(percent_encode_byte(*byte).as_bytes()),
            false => out.push(*byte),
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(in crate::proxy) mod fuzz;
#[cfg(test)]
mod tests;
