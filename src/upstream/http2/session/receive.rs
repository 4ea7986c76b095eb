//! Frames that come in (RFC 9113 §4 to §6, as a client that allows no push).

use bytes::{Buf, BytesMut};

use super::stream::{Receiving, Stream};
use super::{CONNECTION_WINDOW, Session};
use crate::http2::frame::{self, HEAD, flag, kind};
use crate::http2::hpack::decode::Limits;
use crate::http2::{Reason, Violation};
use crate::upstream::http2::head::{Content, Malformed, Parsed, Reading};
use crate::upstream::send::MAX_INTERIM;
use crate::upstream::{MAX_FIELDS, MAX_HEAD};

/// Frames in which a header block may come. Four full ones hold [`MAX_HEAD`].
const MAX_FRAGMENTS: u32 = 64;

const LIMITS: Limits = Limits {
    size: MAX_HEAD,
    fields: MAX_FIELDS,
};

/// A DATA frame of which some is still to come in.
pub(super) struct Data {
    stream: u32,
    left: usize,
    padding: usize,
    ends: bool,
}

/// A header block of which some is still to come in.
pub(super) struct Block {
    stream: u32,
    ends: bool,
    text: Vec<u8>,
    fragments: u32,
}

impl Session {
    /// Uses up what was read, as far as its frames are whole; DATA is passed on as it comes.
    pub(in crate::upstream::http2) fn receive(&mut self) -> Result<(), Violation> {
        let mut read = std::mem::take(&mut self.read);
        let result = loop {
            match self.step(&mut read) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(violation) => break Err(violation),
            }
        };
        self.read = read;
        result
    }

    /// `false`: more has to be read.
    fn step(&mut self, read: &mut BytesMut) -> Result<bool, Violation> {
        if let Some(data) = self.data.take() {
            return Ok(self.content(data, read));
        }
        let Some(head) = frame::Head::read(read) else {
            return Ok(false);
        };
        self.check(head)?;
        if head.kind == kind::DATA {
            return self.data(head, read);
        }
        let end = HEAD + head.length;
        if read.len() < end {
            return Ok(false);
        }
        self.frame(head, &read[HEAD..end])?;
        read.advance(end);
        Ok(true)
    }

    /// What holds of all frames.
    fn check(&self, head: frame::Head) -> Result<(), Violation> {
        if head.length > frame::MAX_PAYLOAD {
            let rule = "a frame that is larger than allowed";
            return Err(Violation::new(Reason::FRAME_SIZE_ERROR, rule));
        }
        if !self.settled && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Violation::protocol("a beginning without SETTINGS"));
        }
        match &self.block {
            Some(block) if head.kind != kind::CONTINUATION || head.stream != block.stream => {
                Err(Violation::protocol("a header block that does not go on"))
            }
            None if head.kind == kind::CONTINUATION => {
                Err(Violation::protocol("CONTINUATION of nothing"))
            }
            _ => Ok(()),
        }
    }

    fn frame(&mut self, head: frame::Head, payload: &[u8]) -> Result<(), Violation> {
        match head.kind {
            kind::HEADERS => self.headers(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            kind::RST_STREAM => self.rst_stream(head, payload),
            kind::SETTINGS => self.settings(head, payload),
            kind::PING => self.pong(head, payload),
            kind::GOAWAY => self.go_away(head, payload),
            kind::WINDOW_UPDATE => self.window_update(head, payload),
            kind::PUSH_PROMISE => Err(Violation::protocol("PUSH_PROMISE, which is not enabled")),
            kind::PRIORITY => self.priority(head),
            // RFC 9113 §4.1 and §5.5.
            _ => self.calm.disturb(),
        }
    }

    // === content ===

    fn data(&mut self, head: frame::Head, read: &mut BytesMut) -> Result<bool, Violation> {
        self.check_number(head.stream)?;
        let mut padding = 0;
        let mut overhead = 0;
        if head.has(flag::PADDED) {
            if head.length == 0 {
                let rule = "DATA that are too short";
                return Err(Violation::new(Reason::FRAME_SIZE_ERROR, rule));
            }
            let Some(length) = read.get(HEAD) else {
                return Ok(false);
            };
            padding = usize::from(*length);
            overhead = 1 + padding;
            if overhead > head.length {
                return Err(Violation::protocol("more padding than DATA"));
            }
        }
        read.advance(HEAD + usize::from(overhead > 0));
        self.count(head, overhead)?;
        let left = head.length - overhead;
        let ends = head.has(flag::END_STREAM);
        let stream = self.live(head.stream);
        let goes_on = stream.is_some_and(|stream| stream.receiving == Receiving::Body);
        if left == 0 && !(ends && goes_on) {
            self.calm.disturb()?;
        } else {
            self.calm.earn(1);
        }
        Ok(self.content(
            Data {
                stream: head.stream,
                left,
                padding,
                ends,
            },
            read,
        ))
    }

    /// Flow control (RFC 9113 §6.9): whatever becomes of the content, the connection's window is given back.
    fn count(&mut self, head: frame::Head, overhead: usize) -> Result<(), Violation> {
        // A frame is no larger than 16 KiB.
        let length = head.length as u32;
        self.unreported += length;
        if self.unreported >= CONNECTION_WINDOW / 2 {
            let more = std::mem::take(&mut self.unreported);
            frame::put_window(self.output.text(), 0, more);
        }
        let Some(stream) = self.live(head.stream) else {
            return self.calm.disturb();
        };
        match stream.receiving {
            Receiving::Body => {}
            Receiving::Head => {
                self.reset(head.stream, Reason::PROTOCOL_ERROR, "DATA before a head");
                return Ok(());
            }
            Receiving::Ended => return self.behind_the_end(head.stream),
        }
        stream.window -= i64::from(length);
        stream.unreported += overhead as u32;
        if stream.window < 0 {
            let rule = "more DATA than the stream's window";
            self.reset(head.stream, Reason::FLOW_CONTROL_ERROR, rule);
        } else {
            self.give_back(head.stream);
        }
        Ok(())
    }

    /// Passes on what there is of a DATA frame. `false`: more has to be read.
    fn content(&mut self, mut data: Data, read: &mut BytesMut) -> bool {
        let length = data.left.min(read.len());
        data.left -= length;
        match self.live(data.stream) {
            Some(stream) if length > 0 && stream.receiving == Receiving::Body => {
                let fits = match &mut stream.content {
                    Content::None => false,
                    Content::Unknown => true,
                    Content::Length(left) => {
                        let rest = left.checked_sub(length as u64);
                        *left = rest.unwrap_or_default();
                        rest.is_some()
                    }
                };
                let piece = read.split_to(length).freeze();
                if fits {
                    stream.chunks.push(piece);
                    stream.wake();
                } else {
                    let rule = "more DATA than the head allows";
                    self.reset(data.stream, Reason::PROTOCOL_ERROR, rule);
                }
            }
            _ => read.advance(length),
        }
        if data.left == 0 {
            let length = data.padding.min(read.len());
            read.advance(length);
            data.padding -= length;
        }
        if data.left > 0 || data.padding > 0 {
            self.data = Some(data);
            return false;
        }
        if data.ends {
            self.end_stream(data.stream);
        }
        true
    }

    fn end_stream(&mut self, id: u32) {
        let Some(stream) = self.live(id) else {
            return;
        };
        match stream.content {
            Content::Length(1..) => {
                let rule = "less DATA than content-length";
                self.reset(id, Reason::PROTOCOL_ERROR, rule);
            }
            Content::Length(0) | Content::None | Content::Unknown => {
                stream.receiving = Receiving::Ended;
                stream.wake();
            }
        }
    }

    // === heads ===

    fn headers(&mut self, head: frame::Head, payload: &[u8]) -> Result<(), Violation> {
        self.check_number(head.stream)?;
        let fragment = frame::fragment(head, payload)?;
        let ends = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, ends, fragment);
        }
        self.block = Some(Block {
            stream: head.stream,
            ends,
            text: fragment.to_vec(),
            fragments: 1,
        });
        Ok(())
    }

    fn continuation(&mut self, head: frame::Head, payload: &[u8]) -> Result<(), Violation> {
        let Some(mut block) = self.block.take() else {
            return Ok(());
        };
        block.fragments += 1;
        if block.fragments > MAX_FRAGMENTS || block.text.len() + payload.len() > MAX_HEAD {
            // What is left out of it would be missing in the table.
            let rule = "a header block without end";
            return Err(Violation::new(Reason::ENHANCE_YOUR_CALM, rule));
        }
        block.text.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.block(block.stream, block.ends, &block.text);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole block. It is read whatever becomes of its stream: the table is the connection's.
    fn block(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Violation> {
        let stream = self.streams.get_mut(&id);
        let Some(stream) = stream.filter(|stream| stream.fault.is_none()) else {
            self.decoder.decode(block, LIMITS, |_, _| {})?;
            return self.calm.disturb();
        };
        let mut reading = Reading::new();
        let take = |name, value| reading.take(name, value);
        let whole = self.decoder.decode(block, LIMITS, take)?;
        let taken = match stream.receiving {
            Receiving::Ended => return self.behind_the_end(id),
            Receiving::Head | Receiving::Body if !whole => {
                Err(Malformed("a head or a trailer section that is too large"))
            }
            Receiving::Head => stream.take_head(reading, ends),
            Receiving::Body => stream.take_trailers(reading, ends),
        };
        stream.wake();
        match taken {
            Err(Malformed(rule)) => self.reset(id, Reason::PROTOCOL_ERROR, rule),
            Ok(()) if ends => self.end_stream(id),
            Ok(()) => {}
        }
        Ok(())
    }

    /// The response is whole all the same; the rest of the request may not be sent any more (RFC 9113 §5.1).
    fn behind_the_end(&mut self, id: u32) -> Result<(), Violation> {
        if let Some(stream) = self.live(id)
            && !stream.is_closed()
        {
            stream.stop();
            frame::put_reset(self.output.text(), id, Reason::STREAM_CLOSED);
        }
        self.calm.disturb()
    }

    /// The stream, unless it is over: what the peer sends on it then was on the way, and means nothing (RFC 9113 §5.1).
    pub(super) fn live(&mut self, id: u32) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(&id);
        stream.filter(|stream| stream.fault.is_none())
    }

    /// Streams are begun by us only, and have odd numbers (RFC 9113 §5.1.1).
    pub(super) fn check_number(&self, id: u32) -> Result<(), Violation> {
        match id % 2 == 1 && id < self.next {
            true => Ok(()),
            false => Err(Violation::protocol(
                "a frame of a stream that was never begun",
            )),
        }
    }
}

impl Stream {
    fn take_head(&mut self, reading: Reading, ends: bool) -> Result<(), Malformed> {
        match reading.head(self.head_only)? {
            Parsed::Interim(_) if ends => Err(Malformed("a 1xx response that ends the stream")),
            Parsed::Interim(response) => {
                self.interims += 1;
                if self.interims > MAX_INTERIM {
                    return Err(Malformed("too many 1xx responses"));
                }
                self.interim.push_back(response);
                Ok(())
            }
            Parsed::Final(head) => {
                self.receiving = Receiving::Body;
                self.content = head.content;
                self.head = Some(head);
                Ok(())
            }
        }
    }

    fn take_trailers(&mut self, reading: Reading, ends: bool) -> Result<(), Malformed> {
        if !ends {
            return Err(Malformed("a second head"));
        }
        let trailers = reading.trailers()?;
        self.trailers = (!trailers.is_empty()).then_some(trailers);
        Ok(())
    }
}
