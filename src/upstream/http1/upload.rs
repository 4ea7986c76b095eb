//! A request on its way out: the head with what there is of the body, then the rest as it comes.
//!
//! A state machine to be polled beside the reading of the response, in the same task.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::request::Parts;
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::encode::{self, Framing};
use crate::upstream::body::RequestBody;
use crate::upstream::send::Cause;

/// Frames up to this size are copied together, so that they leave as one TLS record and one system call.
const SMALL_FRAME: usize = 2 * 1024;

/// So much is copied together at most; also the largest TLS record.
const GATHER: usize = 16 * 1024;

/// What the buffer of a connection that nobody uses may hold on to.
const KEPT: usize = 4 * 1024;

/// The sending half of a connection.
pub(super) struct Upload {
    body: RequestBody,
    framing: Framing,
    state: State,
    /// Head, chunk sizes, small frames and trailers. What is to be written: `out[written..]`, then `data`, then `tail`.
    out: Vec<u8>,
    written: usize,
    data: Bytes,
    tail: &'static [u8],
    /// Something was written, or may have been.
    started: bool,
    /// When a frame was last taken from the app, or a part of it by the upstream.
    moved: Option<Instant>,
    /// The upstream would take more, but the app has sent no more.
    waits_for_app: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Body,
    /// The body has ended, and is to be written to its end.
    Ending,
    Done,
    /// Nothing more can be written; an answer may have been sent all the same.
    Broken,
}

/// Why a request cannot be sent to its end.
#[derive(Debug)]
pub(super) enum UploadError {
    App(Cause),
    Upstream(io::Error),
}

/// The body is not as long as its `Content-Length`.
#[derive(Debug, thiserror::Error)]
#[error("it is not as long as its Content-Length")]
struct WrongLength;

impl Upload {
    /// Of a connection that has yet to carry a request.
    pub(super) const fn new() -> Self {
        Self {
            body: RequestBody::Empty,
            framing: Framing::None,
            state: State::Done,
            out: Vec::new(),
            written: 0,
            data: Bytes::new(),
            tail: b"",
            started: false,
            moved: None,
            waits_for_app: false,
        }
    }

    /// Gets a request ready. The one before was sent to its end.
    pub(super) fn begin(&mut self, head: &Parts, body: RequestBody) {
        self.framing = Framing::of(head, &body);
        self.out.clear();
        self.written = 0;
        encode::head(&mut self.out, head, self.framing);
        self.state = if body.is_end_stream() {
            State::Ending
        } else {
            State::Body
        };
        self.body = body;
        self.started = false;
        self.moved = None;
        self.waits_for_app = false;
    }

    pub(super) fn has_started(&self) -> bool {
        self.started
    }

    /// The whole request was written and flushed.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// There is something left to do.
    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Body | State::Ending)
    }

    /// Writes no more.
    pub(super) fn abandon(&mut self) {
        self.state = State::Broken;
    }

    /// When the upstream has had `wait` to take the next part, or to answer after the last one. An app that is slow to send
    /// does not use up the upstream's time.
    pub(super) fn deadline(&self, now: Instant, wait: Duration) -> Option<Instant> {
        if self.waits_for_app {
            return Some(now + wait);
        }
        self.moved.map(|moved| moved + wait)
    }

    /// Memory that an idle connection can do without.
    pub(super) fn shed(&mut self) {
        self.out.clear();
        self.out.shrink_to(KEPT);
    }

    /// Goes on as far as app and upstream let it.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), UploadError>> {
        self.waits_for_app = false;
        loop {
            self.gather(cx).map_err(UploadError::App)?;
            if self.has_output() {
                ready!(self.write(cx, io)).map_err(UploadError::Upstream)?;
                continue;
            }
            ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(UploadError::Upstream)?;
            if self.state == State::Body {
                self.waits_for_app = true;
                return Poll::Pending;
            }
            self.state = State::Done;
            self.body = RequestBody::Empty;
            return Poll::Ready(Ok(()));
        }
    }

    /// Takes what the app has sent.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        while self.state == State::Body
            && self.data.is_empty()
            // The end of a chunk goes out before the next one's size.
            && self.tail.is_empty()
            && self.out.len() - self.written < GATHER
        {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.end()?,
                Poll::Ready(Some(frame)) => self.take(frame?)?,
            }
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Cause> {
        self.moved = Some(Instant::now());
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => self.take_data(data)?,
            Err(frame) => {
                if self.framing == Framing::Chunked
                    && let Some(trailers) = frame.trailers_ref()
                {
                    encode::last_chunk(&mut self.out, trailers);
                    self.state = State::Ending;
                    return Ok(());
                }
            }
        }
        if self.state == State::Body && self.body.is_end_stream() {
            self.end()?;
        }
        Ok(())
    }

    fn take_data(&mut self, data: Bytes) -> Result<(), Cause> {
        let chunked = match &mut self.framing {
            Framing::Chunked => true,
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                false
            }
            Framing::None => return Err(WrongLength.into()),
        };
        if chunked {
            encode::chunk_size(&mut self.out, data.len());
        }
        let end: &[u8] = if chunked { b"\r\n" } else { b"" };
        if data.len() <= SMALL_FRAME {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(end);
        } else {
            self.data = data;
            self.tail = end;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Cause> {
        match self.framing {
            Framing::None | Framing::Length(0) => {}
            Framing::Length(_) => return Err(WrongLength.into()),
            Framing::Chunked if self.data.is_empty() => {
                self.out.extend_from_slice(encode::LAST_CHUNK);
            }
            Framing::Chunked => self.tail = encode::CHUNK_END_AND_LAST,
        }
        self.state = State::Ending;
        Ok(())
    }

    fn has_output(&self) -> bool {
        self.written < self.out.len() || !self.data.is_empty() || !self.tail.is_empty()
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let out = &self.out[self.written..];
        let total = out.len() + self.data.len() + self.tail.len();
        let io = Pin::new(io);
        let wrote = if out.len() == total {
            ready!(io.poll_write(cx, out))
        } else {
            let parts = [out, &self.data, self.tail].map(IoSlice::new);
            ready!(io.poll_write_vectored(cx, &parts))
        };
        // An error at the first try means that nothing can have been understood, unless there was more than one TLS record.
        self.started |= wrote.is_ok() || total > GATHER;
        let wrote = match wrote? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            wrote => wrote,
        };
        if self.moved.is_some() {
            self.moved = Some(Instant::now());
        }
        self.advance(wrote);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, wrote: usize) {
        let of_out = wrote.min(self.out.len() - self.written);
        self.written += of_out;
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        let of_data = (wrote - of_out).min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[wrote - of_out - of_data..];
    }
}

#[cfg(test)]
mod tests;
