//! A connection's state, without its socket: bytes that were read go in, bytes to be written come out, and streams lie between.
//!
//! [`receive`] takes frames in, those that are about the connection in [`control`]. Content of requests waits in its stream, one frame of
//! the app's for each, and goes out by turns ([`send`]): nobody is woken for room that another takes first.

mod calm;
mod control;
mod output;
mod receive;
mod send;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Response};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use self::calm::Calm;
use self::output::Output;
use self::receive::{Block, Data};
use self::stream::{Receiving, Stream};
use super::head::{self, Head};
use crate::http2::frame::{self, kind, setting};
use crate::http2::hpack::{Decoder, encode};
use crate::http2::{FIRST_WINDOW, MAX_STREAM, Reason, Violation};
use crate::upstream::MAX_HEAD;

pub(super) use send::Turn;
pub(super) use stream::Fault;

/// Per stream and per connection. Large enough for 10 MiB bodies at a few milliseconds of round trip. What a stream's window lets in may
/// lie in memory until it is read; the connection's is given back at once, so that who does not read holds up nobody else.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// How much is read at once: the first of them, doubled while reads fill what they are given. A new buffer is had when less than a
/// quarter is left of the old one.
const FIRST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 64 * 1024;

pub(super) struct Session {
    /// Read, and not used yet.
    read: BytesMut,
    read_size: usize,
    /// Something was read since the driver last asked.
    pub(super) heard: bool,
    /// A DATA frame of which not everything has come in.
    data: Option<Data>,
    /// A header block that goes on in CONTINUATION.
    block: Option<Block>,
    decoder: Decoder,
    output: Output,
    streams: HashMap<u32, Stream, BuildHasherDefault<ById>>,
    /// Those that have something to send, each once, in the order of their turns.
    ready: VecDeque<u32>,
    /// The number of the next stream.
    next: u32,
    /// How long the heads of the streams' requests are together.
    heads: usize,
    /// How much content we may still send on all streams together.
    send_window: i64,
    /// What came on all streams together and was not given back. More than the window cannot come: what is half of it is given back.
    unreported: u32,
    /// The peer's settings.
    first_window: i64,
    max_streams: Option<usize>,
    /// They have come.
    pub(super) settled: bool,
    calm: Calm,
    /// The peer takes no more streams, and says why.
    going_away: Option<Reason>,
    /// Nobody will ask for another stream.
    pub(super) released: bool,
    pub(super) end: Option<End>,
    driver: Option<Waker>,
    /// It was woken, and has not run since.
    woken: bool,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum End {
    #[error("{0}")]
    Closed(io::ErrorKind),
    #[error("it answers no PING")]
    Silent,
    #[error(transparent)]
    Violation(Violation),
    #[error("it went away: {0}")]
    GoneAway(Reason),
}

impl End {
    /// The peer broke the rules.
    pub(super) fn is_protocol(self) -> bool {
        matches!(self, Self::Violation(_))
    }

    pub(super) fn is_silence(self) -> bool {
        matches!(self, Self::Silent)
    }
}

/// What comes before the content.
pub(super) enum Answer {
    #[allow(dead_code, reason = "interim responses are skipped")]
    Interim(Response<()>),
    Final(Head),
}

/// No stream can be begun.
pub(super) struct Full;

impl Session {
    /// With what a connection begins in the output (RFC 9113 §3.4).
    pub(super) fn new() -> Self {
        let mut output = Output::default();
        let out = output.text();
        out.extend_from_slice(frame::PREFACE);
        frame::put_settings(
            out,
            &[
                (setting::ENABLE_PUSH, 0),
                (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
                (setting::MAX_HEADER_LIST_SIZE, MAX_HEAD as u32),
            ],
        );
        frame::put_window(out, 0, CONNECTION_WINDOW - FIRST_WINDOW);
        Self {
            read: BytesMut::new(),
            read_size: FIRST_READ,
            heard: false,
            data: None,
            block: None,
            decoder: Decoder::new(),
            output,
            streams: HashMap::default(),
            ready: VecDeque::new(),
            next: 1,
            heads: 0,
            send_window: i64::from(FIRST_WINDOW),
            unreported: 0,
            first_window: i64::from(FIRST_WINDOW),
            max_streams: None,
            settled: false,
            calm: Calm::new(),
            going_away: None,
            released: false,
            end: None,
            driver: None,
            woken: false,
        }
    }

    // === for whoever asks ===

    /// Begins a stream with this head; `ends` if nothing follows it.
    pub(super) fn begin(
        &mut self,
        asked: &Parts,
        length: Option<u64>,
        ends: bool,
    ) -> Result<u32, Full> {
        if self.end.is_some() || self.going_away.is_some() || self.next > MAX_STREAM {
            return Err(Full);
        }
        let id = self.next;
        self.next += 2;
        let start = self.output.position();
        let head_only = asked.method == Method::HEAD;
        let mut stream = Stream::new(head_only, self.first_window, start);
        stream.sent = ends;
        self.streams.insert(id, stream);
        self.calm.earn(16);
        let text = self.output.text();
        frame::put_headers(text, id, ends, frame::MAX_PAYLOAD, |out| {
            if id == 1 {
                encode::no_table(out);
            }
            head::request(out, asked, length, ends);
        });
        let size = (self.output.position() - start) as usize;
        self.heads += size;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.head_size = size;
        }
        self.wake_driver();
        Ok(id)
    }

    /// The next head of the answer, the final one last.
    pub(super) fn poll_answer(&mut self, cx: &Context<'_>, id: u32) -> Poll<Result<Answer, Fault>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(Fault::Reset(Reason::CANCEL)));
        };
        if let Some(interim) = stream.interim.pop_front() {
            return Poll::Ready(Ok(Answer::Interim(interim)));
        }
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(Answer::Final(head)));
        }
        if let Some(fault) = stream.fault {
            return Poll::Ready(Err(fault));
        }
        stream.register(cx);
        Poll::Pending
    }

    /// All of the content, if it has come and is in one piece.
    pub(super) fn take_whole(&mut self, id: u32) -> Option<Bytes> {
        let stream = self.streams.get_mut(&id)?;
        let whole = stream.receiving == Receiving::Ended
            && stream.fault.is_none()
            && stream.trailers.is_none();
        whole.then(|| stream.chunks.take_whole()).flatten()
    }

    /// The next frame of the content.
    pub(super) fn poll_frame(
        &mut self,
        cx: &Context<'_>,
        id: u32,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(None);
        };
        if let Some(chunk) = stream.chunks.pop() {
            // No more than a window.
            stream.unreported += chunk.len() as u32;
            self.give_back(id);
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if let Some(fault) = stream.fault {
            return Poll::Ready(Some(Err(fault)));
        }
        if stream.receiving == Receiving::Ended {
            let trailers = stream.trailers.take();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        stream.register(cx);
        Poll::Pending
    }

    /// Everything of the response was handed out.
    pub(super) fn is_read(&self, id: u32) -> bool {
        self.streams.get(&id).is_none_or(Stream::is_read)
    }

    /// The stream is not wanted any more. It is reset, unless it is over.
    pub(super) fn forget(&mut self, id: u32) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        self.heads -= stream.head_size;
        if !stream.is_closed() && self.end.is_none() {
            frame::put_reset(self.output.text(), id, Reason::CANCEL);
            self.wake_driver();
        } else if self.streams.is_empty() {
            // It may have waited for the last one.
            self.wake_driver_if_leaving();
        }
    }

    /// Whether the peer can have understood nothing of a stream.
    pub(super) fn is_unsent(&self, id: u32, fault: Fault) -> bool {
        match fault {
            Fault::Refused => true,
            Fault::Malformed(_) | Fault::Reset(_) => false,
            Fault::Connection(_) => self.streams.get(&id).is_some_and(|stream| stream.unsent),
        }
    }

    /// Gives memory back that a connection can do without which nobody uses.
    pub(super) fn shed(&mut self) {
        if self.streams.is_empty() && self.read.is_empty() {
            self.read = BytesMut::new();
            self.read_size = FIRST_READ;
            self.decoder.shed();
            self.output.shed();
            self.streams.shrink_to_fit();
            self.ready = VecDeque::new();
        }
    }

    // === for the driver ===

    /// The driver is at it.
    pub(super) fn attend(&mut self, cx: &Context<'_>) {
        self.woken = false;
        match &mut self.driver {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = &self.driver
            && !std::mem::replace(&mut self.woken, true)
        {
            driver.wake_by_ref();
        }
    }

    fn wake_driver_if_leaving(&mut self) {
        if self.going_away.is_some() || self.released || self.end.is_some() {
            self.wake_driver();
        }
    }

    pub(super) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// There is nothing left to do, and nothing will come.
    pub(super) fn is_over(&self) -> bool {
        let leaving = self.going_away.is_some() || self.released;
        self.end.is_some() || leaving && self.streams.is_empty()
    }

    /// How many streams the peer allows at once, if it has said so since the last call.
    pub(super) fn take_max_streams(&mut self) -> Option<usize> {
        self.max_streams.take()
    }

    /// Reads once. 0 is the end.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        let mut room = self.read.capacity() - self.read.len();
        if room < self.read_size / 4 {
            self.read.reserve(self.read_size);
            room = self.read.capacity() - self.read.len();
        }
        // The future keeps nothing from one poll to the next.
        let read = ready!(pin!(io.read_buf(&mut self.read)).poll(cx))?;
        self.heard |= read > 0;
        if read == room && self.read_size < LARGEST_READ {
            self.read_size *= 2;
        }
        Poll::Ready(Ok(read))
    }

    /// Writes all there is.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            self.pump();
            if self.output.is_empty() {
                return self.output.poll_flush(cx, Pin::new(io));
            }
            if self.output.is_overflowing(self.heads) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            ready!(self.output.poll_write(cx, Pin::new(&mut *io)))?;
        }
    }

    /// Asks the peer whether it is there.
    pub(super) fn ping(&mut self) {
        frame::put(self.output.text(), kind::PING, 0, 0, b"cupbears");
    }

    /// Ends the connection, and with it all streams. Those that may be sent again are not sent here any more.
    pub(super) fn fail(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        let mut kept = self.output.position();
        for stream in self.streams.values_mut() {
            stream.unsent = self.output.is_unwritten(stream.start);
            if stream.unsent {
                kept = kept.min(stream.start);
            }
            stream.fail(Fault::Connection(end));
        }
        self.output.take_back(kept);
    }

    /// The connection was closed under us.
    pub(super) fn hang_up(&mut self, kind: io::ErrorKind) {
        self.fail(match self.going_away {
            Some(reason) if reason != Reason::NO_ERROR => End::GoneAway(reason),
            _ => End::Closed(kind),
        });
    }

    /// Whether it takes no new streams any more.
    pub(super) fn is_leaving(&self) -> bool {
        self.going_away.is_some() || self.end.is_some()
    }

    /// Says goodbye (RFC 9113 §6.8): with the reason if the peer broke the rules.
    pub(super) fn take_leave(&mut self) {
        let reason = match self.end {
            None => Reason::NO_ERROR,
            Some(End::Violation(violation)) => violation.reason,
            Some(End::Closed(_) | End::Silent | End::GoneAway(_)) => return,
        };
        frame::put_go_away(self.output.text(), reason);
    }

    /// Lets the peer send as much on a stream as was read of it, once that is worth a frame.
    fn give_back(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let over = stream.receiving == Receiving::Ended || stream.fault.is_some();
        if over || stream.unreported < STREAM_WINDOW / 2 {
            return;
        }
        let more = std::mem::take(&mut stream.unreported);
        stream.window += i64::from(more);
        frame::put_window(self.output.text(), id, more);
        self.wake_driver();
    }

    /// Ends a stream for a fault of the peer's. A response that is whole stays so.
    fn reset(&mut self, id: u32, reason: Reason, rule: &'static str) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.is_closed() {
            return;
        }
        if stream.receiving != Receiving::Ended {
            // Not even its head can be relied upon.
            stream.head = None;
            stream.interim.clear();
        }
        stream.fail(Fault::Malformed(head::Malformed(rule)));
        frame::put_reset(self.output.text(), id, reason);
    }
}

/// Streams are numbered by us: nobody can make their hashes meet.
#[derive(Default)]
struct ById(u64);

impl Hasher for ById {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        // The map looks at the first bits and at the last ones.
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

#[cfg(test)]
mod tests;
