//! Raw bytes in a request target become percent-encoded: in the first line of a message only.
//!
//! Legacy apps put `"`, `<`, `>` or GBK into a query as it is, which [`Uri`] refuses. Browsers
//! percent-encode the same bytes.

use bytes::Bytes;
use http::Uri;

use crate::upstream::MAX_HEAD;

/// Follows the bytes of a connection, as far as is needed to know where the first line of a message
/// begins and ends.
pub(super) struct RequestLine {
    place: Place,
    /// Spaces of the line that were handed out already. The target is behind the first.
    spaces: usize,
    /// The part of the line that waits for its end. Empty for a line that needs no change.
    held: Vec<u8>,
    /// The last bytes that came in, to tell a blank line.
    last: [u8; 3],
}

/// Where in a message the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// To its first line, or to an empty line before that (RFC 9112 §2.2).
    Line,
    /// To its fields.
    Head(FieldLine),
    /// To what follows the head, of which so many bytes have come in.
    Past(u64),
    /// Not known. Nothing is changed.
    Elsewhere,
}

/// What has come in of a field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldLine {
    Nothing,
    CarriageReturn,
    Field,
}

impl RequestLine {
    /// Returns the state at the beginning of a connection.
    pub(super) fn new() -> Self {
        Self {
            place: Place::Line,
            spaces: 0,
            held: Vec::new(),
            last: [0; 3],
        }
    }

    /// Takes bytes that have come in. Returns the bytes to hand out in their place: `None` for the
    /// same, and no bytes while the rest of the line has to be known first.
    pub(super) fn pass(&mut self, read: &[u8]) -> Option<Bytes> {
        self.remember(read);
        let mut at = 0;
        while self.place == Place::Line {
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
        // No byte of the message came by here since the one before it ended: hyper had it already.
        if self.place == Place::Line {
            self.place = Place::Elsewhere;
        }
    }

    /// Notes that a message has ended; `body` is the length of its body, if that was stated.
    ///
    /// The next byte begins a message if the last byte that came in ended this message or ended a head:
    /// hyper parses the heads that it has before it reads again. Otherwise hyper may hold the
    /// beginning of a line.
    pub(super) fn message_ended(&mut self, body: Option<u64>) {
        let at_its_end =
            matches!((self.place, body), (Place::Past(came), Some(body)) if came == body);
        let has_no_length = body.is_none_or(|length| length == 0);
        let at_a_heads_end =
            has_no_length && matches!(self.last, [b'\n', b'\r', b'\n'] | [_, b'\n', b'\n']);
        self.place = match at_its_end || at_a_heads_end {
            true => Place::Line,
            false => Place::Elsewhere,
        };
        self.spaces = 0;
    }

    /// Returns what was held back, at the end of the connection.
    pub(super) fn end(&mut self) -> Bytes {
        self.place = Place::Elsewhere;
        std::mem::take(&mut self.held).into()
    }

    /// Holds a line that may need a change until it is complete, then hands out all of it.
    fn pass_suspect(&mut self, before: &[u8], line: &[u8], rest: &[u8]) -> Bytes {
        self.held.extend_from_slice(line);
        let ended = line.ends_with(b"\n");
        let method = self.held.split(|byte| *byte == b' ').next();
        let in_method =
            self.spaces == 0 && method.is_some_and(|it| it.iter().copied().any(is_suspect));
        // hyper refuses such a byte in a method, and a line of this length.
        let refused = in_method || self.held.len() > MAX_HEAD;
        let mut out = before.to_vec();
        if !ended && !refused {
            return out.into();
        }
        let held = std::mem::take(&mut self.held);
        match refused {
            true => {
                out.extend_from_slice(&held);
                self.place = Place::Elsewhere;
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
        self.place = Place::Head(FieldLine::Nothing);
        self.spaces = 0;
    }

    /// Follows bytes behind the first line.
    fn follow(&mut self, mut read: &[u8]) {
        while let Place::Head(seen) = self.place {
            let (line, rest) = split_line(read);
            self.place = match (seen, line) {
                (_, []) => return,
                (FieldLine::Nothing, b"\r\n" | b"\n") | (FieldLine::CarriageReturn, b"\n") => {
                    Place::Past(0)
                }
                (_, [.., b'\n']) => Place::Head(FieldLine::Nothing),
                (FieldLine::Nothing, b"\r") => Place::Head(FieldLine::CarriageReturn),
                _ => Place::Head(FieldLine::Field),
            };
            read = rest;
        }
        if let Place::Past(came) = &mut self.place {
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

/// The first line with its end, or everything if the line is not complete, and the rest.
fn split_line(read: &[u8]) -> (&[u8], &[u8]) {
    let end = read.iter().position(|byte| *byte == b'\n');
    read.split_at(end.map_or(read.len(), |at| at + 1))
}

/// Whether a request target with this byte may have to be encoded.
fn is_suspect(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`') || !byte.is_ascii()
}

/// Appends a request line, or what is left of it behind so many `spaces`. Its target is
/// percent-encoded if [`Uri`] would refuse it.
fn encode_line(line: &[u8], spaces: usize, out: &mut Vec<u8>) {
    let space = |from: usize| {
        line[from..]
            .iter()
            .position(|byte| *byte == b' ')
            .map(|at| from + at)
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

/// UTF-8 stays as it is; other bytes beyond ASCII are encoded one by one (RFC 3986 §2.1).
fn percent_encode(target: &[u8], out: &mut Vec<u8>) {
    let is_text = std::str::from_utf8(target).is_ok();
    for byte in target {
        let stays = is_text && !byte.is_ascii();
        match is_suspect(*byte) && !stays {
            true => {
                out.push(b'%');
                out.extend(
                    [byte >> 4, byte & 0xf].map(|digit| b"0123456789ABCDEF"[digit as usize]),
                );
            }
            false => out.push(*byte),
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(in crate::proxy) mod fuzz;
#[cfg(test)]
mod tests;
