//! The sending half of a connection: a state machine that the task which reads the response polls.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::encode;
use super::output::{GATHER, Output};
use crate::upstream::error::Cause;

pub(super) struct Upload<B> {
    /// `None` once the body has ended.
    body: Option<B>,
    state: UploadState,
    out: Output,
    /// Bytes were written, or may have been.
    started: bool,
    /// When the app last sent a frame, or the upstream last took bytes of the body.
    moved: Option<Instant>,
    /// The upstream would take more, but the app has sent no more.
    waits_for_app: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UploadState {
    Body,
    /// The body has ended; its last bytes are being written.
    Ending,
    Done,
    /// The upstream takes no more bytes, but may have sent a response.
    Broken,
}

/// Why a request was not sent completely.
#[derive(Debug)]
pub(super) enum UploadError {
    App(Cause),
    Upstream(io::Error),
}

impl<B: Body<Data = Bytes, Error = Cause> + Unpin> Upload<B> {
    pub(super) const fn new() -> Self {
        Self {
            body: None,
            state: UploadState::Done,
            out: Output::new(),
            started: false,
            moved: None,
            waits_for_app: false,
        }
    }

    /// Prepares a request. The previous request must have been sent completely.
    pub(super) fn begin(&mut self, head: &Parts, body: B) {
        let framing = encode::framing(head, &body);
        encode::head(self.out.begin(framing), head, framing);
        self.state = if body.is_end_stream() {
            UploadState::Ending
        } else {
            UploadState::Body
        };
        self.body = Some(body);
        self.started = false;
        self.moved = None;
        self.waits_for_app = false;
    }

    pub(super) fn has_started(&self) -> bool {
        self.started
    }

    /// Returns whether the whole request was written and flushed.
    pub(super) fn is_done(&self) -> bool {
        self.state == UploadState::Done
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, UploadState::Body | UploadState::Ending)
    }

    pub(super) fn abandon(&mut self) {
        self.state = UploadState::Broken;
    }

    /// Returns when the upstream has had `wait` to take the next part, or to respond after the last
    /// part; `None` if no body bytes moved. Time in which the app sends nothing does not count.
    pub(super) fn deadline(&self, now: Instant, wait: Duration) -> Option<Instant> {
        if self.waits_for_app {
            return Some(now + wait);
        }
        self.moved.map(|moved| moved + wait)
    }

    pub(super) fn shrink(&mut self) {
        self.out.shrink();
    }

    /// Sends until the app or the upstream is pending.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), UploadError>> {
        self.waits_for_app = false;
        loop {
            self.gather(cx).map_err(UploadError::App)?;
            if !self.out.is_empty() {
                ready!(self.write(cx, io)).map_err(UploadError::Upstream)?;
                continue;
            }
            ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(UploadError::Upstream)?;
            if self.state == UploadState::Body {
                self.waits_for_app = true;
                return Poll::Pending;
            }
            self.state = UploadState::Done;
            self.body = None;
            return Poll::Ready(Ok(()));
        }
    }

    /// Takes the available frames from the app.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        while self.state == UploadState::Body && self.out.has_room() {
            let Some(body) = &mut self.body else { break };
            match Pin::new(body).poll_frame(cx) {
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
            Ok(data) => self.out.put(data)?,
            Err(frame) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.out.end_with(trailers)?;
                    self.state = UploadState::Ending;
                    return Ok(());
                }
            }
        }
        if self.state == UploadState::Body && self.body.as_ref().is_none_or(Body::is_end_stream) {
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Cause> {
        self.out.end()?;
        self.state = UploadState::Ending;
        Ok(())
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let total = self.out.len();
        let wrote = ready!(self.out.poll_write(cx, Pin::new(io)));
        // After a failed first write the peer has at most a part of the request, unless the bytes
        // filled more than one TLS record.
        self.started |= wrote.is_ok() || total > GATHER;
        wrote?;
        if self.moved.is_some() {
            self.moved = Some(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
