//! HTTP/1.1 connections of a pool: one request at a time, given back when the response has been read.
//!
//! The only HTTP codec of this crate. The task that uses a connection owns it and polls both halves,
//! without channels and wake-ups; dropping the connection closes it. An idle connection is checked
//! right before its next use, and by the pool's sweep. This module knows neither the pool nor the
//! type of a request's body.
//!
//! The rejected alternative is hyper's client, which cost 12,000 instructions a request more.

mod decode;
mod encode;
mod fields;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod head;
mod output;
mod tunnel;
mod upload;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::request::Parts;
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};

use self::decode::{Decoder, Step};
use self::head::{Head, Parsed};
use self::upload::{Upload, UploadError};
use super::connect::Stream;
use super::counted::Open;
use super::error::{BodyError, Cause, SendError, SendFailure};

pub(super) use output::WrongLength;
pub use tunnel::Tunnel;

/// How the end of a body that is read is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// There is none.
    Empty,
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
    /// 101: what follows is not HTTP.
    Tunnel,
}

/// The upstream broke the rules of HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("{0} in a head")]
    Syntax(httparse::Error),
    #[error("{0}")]
    Rule(&'static str),
}

/// How much is read at once: the first of them, doubled while reads fill what they are given. A new buffer is had when less
/// than a quarter is left of the old one.
const FIRST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 64 * 1024;

/// Interim responses before the final one. They are skipped: hyper's server cannot forward one, and
/// RFC 9110 §15.2 lets a proxy drop them.
pub(super) const MAX_INTERIM: u32 = 64;

/// A connection, with what is left of its last exchange; `B` is the body of a request.
pub(super) struct Connection<B> {
    io: Stream,
    /// Read, and not used yet.
    read: BytesMut,
    /// How much to read at once.
    read_size: usize,
    /// How much of `read` is known not to be a whole head.
    seen: usize,
    interim: u32,
    upload: Upload<B>,
    app_broke_off: Option<Cause>,
    download: Decoder,
    keep_alive: bool,
    /// Lives as long as the connection: moving a registered timer on costs next to nothing, while a new one for every
    /// request has to be put into the timer wheel and taken out again.
    timer: Pin<Box<Sleep>>,
    /// From then on it carries no new requests.
    dies: Instant,
    /// Since when it has been idle.
    pub(super) idle_since: Instant,
    pub(super) reused: bool,
    /// Made for an upgrade that may not come about: HTTP/1.1 even where the upstream's connections are HTTP/2, so that
    /// nobody else gets it.
    pub(super) for_upgrade: bool,
    open: Open,
}

/// What has come with a response's head.
pub(super) enum Received<B> {
    /// The whole body, and the connection if it can carry another request.
    Whole(Bytes, Option<Box<Connection<B>>>),
    /// The body comes by [`Connection::poll_frame`].
    Partly(Box<Connection<B>>),
    /// 101: no body, and another protocol.
    Tunnel(Tunnel),
}

impl<B: Body<Data = Bytes, Error = Cause> + Unpin> Connection<B> {
    pub(super) fn new(io: Stream, life: Duration, open: Open) -> Box<Self> {
        let now = Instant::now();
        Box::new(Self {
            io,
            read: BytesMut::new(),
            read_size: FIRST_READ,
            seen: 0,
            interim: 0,
            upload: Upload::new(),
            app_broke_off: None,
            download: Decoder::DONE,
            keep_alive: false,
            timer: Box::pin(tokio::time::sleep_until(now)),
            dies: now + life,
            idle_since: now,
            reused: false,
            for_upgrade: false,
            open,
        })
    }

    /// Whether a request may be put on it. The peer can still close it in the same instant.
    pub(super) fn usable(&mut self, now: Instant, idle: Duration) -> bool {
        self.is_young(now, idle) && self.is_alive()
    }

    fn is_young(&self, now: Instant, idle: Duration) -> bool {
        now < self.dies && now.saturating_duration_since(self.idle_since) < idle
    }

    /// Whether it is worth keeping. `now` is taken from `idle_since`: nobody looks at the clock for this.
    pub(super) fn lasts(&self) -> bool {
        self.idle_since < self.dies
    }

    /// Whatever there is to be read without having asked for it, the end above all, means that it is dead. No system call
    /// is made unless the kernel has said that there is something.
    ///
    /// Not by the task's share of turns: of a task that has used it up, tokio says that there is nothing to read, whatever there is,
    /// and a pool that looks through many dead connections uses it up.
    fn is_alive(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        let read = poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut buf));
        pin!(unconstrained(read)).poll(&mut nobody).is_pending()
    }

    /// Gives memory back that an idle connection can do without.
    pub(super) fn shrink(&mut self) {
        self.read = BytesMut::new();
        self.upload.shrink();
    }

    /// Sends and waits up to `wait` for the head of the response, counted from the upload's last
    /// progress.
    ///
    /// Dropping the future closes the connection: HTTP/1.1 has no other way to abort a request.
    pub(super) async fn send(
        mut self: Box<Self>,
        head: &Parts,
        wait: Duration,
        body: B,
    ) -> Result<(Response<()>, Received<B>), SendError> {
        self.timer.as_mut().reset(Instant::now() + wait);
        self.upload.begin(head, body);
        self.seen = 0;
        self.interim = 0;
        match poll_fn(|cx| self.poll_answer(cx, head, wait)).await {
            Ok(head) => Ok(self.respond(head)),
            Err(failure) => Err(SendError {
                failure,
                reused: self.reused,
                unsent: !self.upload.has_started(),
            }),
        }
    }

    /// Reads first: a dead connection is found before anything is written on it, and the waker is
    /// registered for whatever the write brings about.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        asked: &Parts,
        wait: Duration,
    ) -> Poll<Result<Head, SendFailure>> {
        let mut answer = self.poll_head(cx, asked);
        if self.upload.is_active() && !matches!(answer, Poll::Ready(Err(_))) {
            match self.upload.poll(cx, &mut self.io) {
                Poll::Pending | Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(UploadError::App(cause))) => {
                    return Poll::Ready(Err(SendFailure::App(cause)));
                }
                Poll::Ready(Err(UploadError::Upstream(error))) => {
                    if !self.upload.has_started() {
                        return Poll::Ready(Err(SendFailure::Closed(error.into())));
                    }
                    // It takes no more, but may have said why.
                    self.upload.abandon();
                    if answer.is_pending() {
                        answer = self.poll_head(cx, asked);
                    }
                }
            }
        }
        match &answer {
            Poll::Pending if self.is_overdue(cx, wait) => Poll::Ready(Err(SendFailure::Timeout)),
            Poll::Ready(Ok(head)) if head.framing == Framing::Tunnel && !self.upload.is_done() => {
                let fault = Malformed::Rule("101 before the request was complete");
                Poll::Ready(Err(protocol(fault)))
            }
            _ => answer,
        }
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>, wait: Duration) -> bool {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            match self.upload.deadline(now, wait) {
                Some(deadline) if deadline > now => self.timer.as_mut().reset(deadline),
                _ => return true,
            }
        }
        false
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        asked: &Parts,
    ) -> Poll<Result<Head, SendFailure>> {
        loop {
            if self.read.len() > self.seen {
                if !self.upload.has_started() {
                    let unasked = "it sent something before it was asked";
                    return Poll::Ready(Err(SendFailure::Closed(unasked.into())));
                }
                match head::parse(&mut self.read, asked).map_err(protocol)? {
                    Parsed::Final(head) => return Poll::Ready(Ok(head)),
                    Parsed::Partial => self.seen = self.read.len(),
                    Parsed::Interim => {
                        self.seen = 0;
                        self.interim += 1;
                        if self.interim > MAX_INTERIM {
                            let fault = Malformed::Rule("too many 1xx responses");
                            return Poll::Ready(Err(protocol(fault)));
                        }
                        continue;
                    }
                }
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => {
                    let end = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Poll::Ready(Err(SendFailure::Closed(end.into())));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(SendFailure::Closed(error.into()))),
            }
        }
    }

    /// Reads once. 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = self.read.capacity() - self.read.len();
        if room < self.read_size / 4 {
            self.read.reserve(self.read_size);
            room = self.read.capacity() - self.read.len();
        }
        // `ReadBuf` keeps nothing from one poll to the next.
        let read = ready!(pin!(self.io.read_buf(&mut self.read)).poll(cx))?;
        if read == room && self.read_size < LARGEST_READ {
            self.read_size *= 2;
        }
        Poll::Ready(Ok(read))
    }

    fn respond(mut self: Box<Self>, head: Head) -> (Response<()>, Received<B>) {
        let Head {
            response,
            framing,
            keep_alive,
        } = head;
        self.keep_alive = keep_alive;
        let received = match framing {
            Framing::Tunnel => Received::Tunnel(Tunnel::new(self.io, self.read, self.open)),
            Framing::Empty => Received::Whole(Bytes::new(), self.into_idle()),
            // Small answers come with their heads.
            Framing::Length(length) if length <= self.read.len() as u64 => {
                // Not longer than what is in memory.
                let whole = self.read.split_to(length as usize).freeze();
                Received::Whole(whole, self.into_idle())
            }
            Framing::Length(_) | Framing::Chunked | Framing::Close => {
                self.download = Decoder::new(framing);
                self.read_size = self.read_size.max(first_read(framing));
                Received::Partly(self)
            }
        };
        (response, received)
    }

    /// The next frame of the body; `None` at its end. What is left of the upload goes on meanwhile.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.poll_upload(cx);
        if let Some(cause) = self.app_broke_off.take() {
            return Poll::Ready(Some(Err(BodyError::App(cause))));
        }
        loop {
            let step = self.download.step(&mut self.read);
            match step.map_err(|fault| BodyError::Protocol(fault.into()))? {
                Step::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Step::Trailers(fields) => return Poll::Ready(Some(Ok(Frame::trailers(fields)))),
                Step::End => return Poll::Ready(None),
                Step::More => {
                    if ready!(self.poll_fill(cx)).map_err(BodyError::Closed)? == 0 {
                        let closed = self.download.close();
                        closed.map_err(|kind| BodyError::Closed(kind.into()))?;
                    }
                }
            }
        }
    }

    /// What is left of the upload goes on; how it fails is told by [`Self::poll_frame`].
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if !self.upload.is_active() || self.app_broke_off.is_some() {
            return;
        }
        match self.upload.poll(cx, &mut self.io) {
            Poll::Ready(Err(UploadError::App(cause))) => self.app_broke_off = Some(cause),
            Poll::Ready(Err(UploadError::Upstream(_))) => self.upload.abandon(),
            Poll::Pending | Poll::Ready(Ok(())) => {}
        }
    }

    pub(super) fn is_uploading(&self) -> bool {
        self.upload.is_active()
    }

    /// Every frame was handed out.
    pub(super) fn is_end_stream(&self) -> bool {
        self.download.is_done()
    }

    /// Bytes of the body that are still to come, if that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        self.download.remaining()
    }

    /// Returns the connection if it can carry another request (RFC 9112 §9.3); closes it otherwise.
    /// An upload that goes on after its response is complete is not awaited.
    pub(super) fn into_idle(mut self: Box<Self>) -> Option<Box<Self>> {
        if !self.keep_alive || !self.upload.is_done() || !self.read.is_empty() {
            return None;
        }
        self.reused = true;
        if self.read_size > FIRST_READ {
            self.read_size = FIRST_READ;
            self.read = BytesMut::new();
        }
        self.idle_since = Instant::now();
        Some(self)
    }
}

/// Of a body of known length, a little is not read first to find out that there is more.
fn first_read(framing: Framing) -> usize {
    match framing {
        Framing::Length(length) => length.min(LARGEST_READ as u64) as usize,
        Framing::Empty | Framing::Chunked | Framing::Close | Framing::Tunnel => FIRST_READ,
    }
}

fn protocol(fault: Malformed) -> SendFailure {
    SendFailure::Protocol(fault.into())
}

#[cfg(test)]
mod tests;
