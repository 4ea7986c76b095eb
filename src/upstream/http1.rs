//! HTTP/1.1 connections of a pool: one request at a time, returned after the response was read.
//!
//! The only HTTP codec of this crate. The task of a request owns the connection and polls both
//! halves without channels and wake-ups; dropping the connection closes it. An idle connection is
//! checked right before its next use, and by the pool's sweep. This module knows neither the pool
//! nor the type of request bodies.
//!
//! The rejected alternative, hyper's client, costs 12,000 instructions more per request.

mod decode;
mod encode;
mod fields;
mod framing;
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
use self::framing::{Framing, Malformed};
use self::head::{Head, Parsed};
use self::upload::{Upload, UploadError};
use super::connect::Stream;
use super::counted::Open;
use super::error::{BodyError, Cause, PollFrame, SendError, SendFailure};

pub(super) use fields::parse_length;
pub(super) use output::WrongLength;
pub use tunnel::Tunnel;

/// Read size: starts at the first, and doubles while reads fill the buffer. A buffer is replaced
/// when less than a quarter of the read size is free.
const FIRST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 64 * 1024;

/// Limit of interim responses, which are skipped: hyper's server cannot forward 1xx, and RFC 9110
/// §15.2 lets a proxy drop them.
pub(super) const MAX_INTERIM: u32 = 64;

/// A connection with the state of its current exchange; `B` is the request body.
pub(super) struct Connection<B> {
    io: Stream,
    /// Bytes read and not consumed yet.
    read: BytesMut,
    read_size: usize,
    /// Length of the prefix of `read` that was parsed and is an incomplete head.
    seen: usize,
    interim: u32,
    upload: Upload<B>,
    upload_error: Option<Cause>,
    download: Decoder,
    keep_alive: bool,
    /// Kept for the whole connection: a reset is almost free, while a timer per request would enter
    /// and leave the timer wheel.
    timer: Pin<Box<Sleep>>,
    /// End of the time in which the connection takes new requests.
    expires: Instant,
    pub(super) idle_since: Instant,
    pub(super) reused: bool,
    /// Dialled for an upgrade. HTTP/1.1 even if the upstream's other connections are HTTP/2, so the
    /// connection never enters the pool.
    pub(super) for_upgrade: bool,
    open: Open,
}

/// The part of a response that arrived with its head.
pub(super) enum Received<B> {
    /// The whole body, and the connection if it can carry another request.
    Whole(Bytes, Option<Box<Connection<B>>>),
    /// [`Connection::poll_frame`] returns the body.
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
            upload_error: None,
            download: Decoder::DONE,
            keep_alive: false,
            timer: Box::pin(tokio::time::sleep_until(now)),
            expires: now + life,
            idle_since: now,
            reused: false,
            for_upgrade: false,
            open,
        })
    }

    /// Returns whether a request may use the connection. The peer may still close it at any time.
    pub(super) fn usable(&mut self, now: Instant, idle: Duration) -> bool {
        let unused = now.saturating_duration_since(self.idle_since);
        now < self.expires && unused < idle && self.is_alive()
    }

    /// Returns whether the connection had not expired at `idle_since`, which saves a clock read.
    pub(super) fn lasts(&self) -> bool {
        self.idle_since < self.expires
    }

    /// Returns whether there is nothing to read: unrequested bytes, or the end, mean a dead
    /// connection. Makes a system call only if the kernel has reported readiness.
    ///
    /// Ignores tokio's coop budget: a task without budget sees no bytes, and a pool uses its budget
    /// up while it checks many dead connections.
    fn is_alive(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        let read = poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut buf));
        pin!(unconstrained(read)).poll(&mut cx).is_pending()
    }

    /// Frees memory that an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        self.read = BytesMut::new();
        self.upload.shrink();
    }

    /// Sends a request and waits up to `wait` for the response head, counted from the upload's last
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
        match poll_fn(|cx| self.poll_response(cx, head, wait)).await {
            Ok(head) => Ok(self.respond(head)),
            Err(failure) => Err(SendError {
                failure,
                reused: self.reused,
                unsent: !self.upload.has_started(),
            }),
        }
    }

    /// Reads first: this finds a dead connection before the first write, and registers the waker
    /// before the write can trigger a response.
    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        request: &Parts,
        wait: Duration,
    ) -> Poll<Result<Head, SendFailure>> {
        let mut response = self.poll_head(cx, request);
        if self.upload.is_active() && !matches!(response, Poll::Ready(Err(_))) {
            match self.upload.poll(cx, &mut self.io) {
                Poll::Pending | Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(UploadError::App(cause))) => {
                    return Poll::Ready(Err(SendFailure::App(cause)));
                }
                Poll::Ready(Err(UploadError::Upstream(error))) => {
                    if !self.upload.has_started() {
                        return Poll::Ready(Err(SendFailure::Closed(error.into())));
                    }
                    // The upstream takes no more bytes, but may have sent a response.
                    self.upload.abandon();
                    if response.is_pending() {
                        response = self.poll_head(cx, request);
                    }
                }
            }
        }
        match &response {
            Poll::Pending if self.is_overdue(cx, wait) => Poll::Ready(Err(SendFailure::Timeout)),
            Poll::Ready(Ok(head)) if head.framing == Framing::Tunnel && !self.upload.is_done() => {
                let fault = Malformed::Rule("101 before the request was complete");
                Poll::Ready(Err(protocol(fault)))
            }
            _ => response,
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
        request: &Parts,
    ) -> Poll<Result<Head, SendFailure>> {
        loop {
            if self.read.len() > self.seen {
                if !self.upload.has_started() {
                    let early = "it sent bytes before the request";
                    return Poll::Ready(Err(SendFailure::Closed(early.into())));
                }
                match head::parse(&mut self.read, request).map_err(protocol)? {
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

    /// Reads once; returns 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = self.read.capacity() - self.read.len();
        if room < self.read_size / 4 {
            self.read.reserve(self.read_size);
            room = self.read.capacity() - self.read.len();
        }
        // `ReadBuf` keeps no state between polls.
        let read = ready!(pin!(self.io.read_buf(&mut self.read)).poll(cx))?;
        if read == room && self.read_size < LARGEST_READ {
            self.read_size *= 2;
        }
        Poll::Ready(Ok(read))
    }

    fn respond(mut self: Box<Self>, head: Head) -> (Response<()>, Received<B>) {
        self.keep_alive = head.keep_alive;
        let received = match head.framing {
            Framing::Tunnel => Received::Tunnel(Tunnel {
                io: self.io,
                read: self.read,
                _open: self.open,
            }),
            Framing::Empty => Received::Whole(Bytes::new(), self.into_idle()),
            // Small bodies arrive with their heads.
            Framing::Length(length) if length <= self.read.len() as u64 => {
                let whole = self.read.split_to(length as usize).freeze();
                Received::Whole(whole, self.into_idle())
            }
            framing => {
                if let Framing::Length(length) = framing {
                    // A small first read would only show that there is more.
                    let size = length.min(LARGEST_READ as u64) as usize;
                    self.read_size = self.read_size.max(size);
                }
                self.download = Decoder::new(framing);
                Received::Partly(self)
            }
        };
        (head.response, received)
    }

    /// Returns the next frame of the body; `None` at its end. Continues the upload.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<BodyError> {
        self.poll_upload(cx);
        if let Some(cause) = self.upload_error.take() {
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

    /// Continues the upload. [`Self::poll_frame`] reports failures of the app.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if !self.upload.is_active() || self.upload_error.is_some() {
            return;
        }
        match self.upload.poll(cx, &mut self.io) {
            Poll::Ready(Err(UploadError::App(cause))) => self.upload_error = Some(cause),
            Poll::Ready(Err(UploadError::Upstream(_))) => self.upload.abandon(),
            Poll::Pending | Poll::Ready(Ok(())) => {}
        }
    }

    pub(super) fn is_uploading(&self) -> bool {
        self.upload.is_active()
    }

    /// Returns whether every frame has been returned.
    pub(super) fn is_end_stream(&self) -> bool {
        self.download.is_done()
    }

    pub(super) fn remaining(&self) -> Option<u64> {
        self.download.remaining()
    }

    /// Returns the connection if it can carry another request (RFC 9112 §9.3); closes it otherwise,
    /// also while an upload is incomplete.
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

fn protocol(fault: Malformed) -> SendFailure {
    SendFailure::Protocol(fault.into())
}

#[cfg(test)]
mod tests;
