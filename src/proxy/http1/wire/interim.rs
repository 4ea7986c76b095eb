//! What is written before a response: `100 Continue` (RFC 9110 §10.1.1), and the interim heads of the upstream (§15.2).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use tokio::io::AsyncWrite;

use super::State;
use crate::http1::{MAX_HEAD, response};

pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What is still to be written of `100 Continue`: so many bytes of its end. Small, as connections are many.
#[derive(Clone, Copy)]
pub(super) struct GoOn(u8);

// === impl GoOn ===

impl GoOn {
    pub(super) const NOTHING: Self = Self(0);
    pub(super) const WHOLE: Self = Self(CONTINUE.len() as u8);

    pub(super) fn is_nothing(self) -> bool {
        self.0 == 0
    }

    pub(super) fn take(&mut self) -> &'static [u8] {
        std::mem::replace(self, Self::NOTHING).left()
    }

    pub(super) fn wrote(&mut self, wrote: usize) {
        self.0 = self.left()[wrote..].len() as u8;
    }

    fn has_begun(self) -> bool {
        !self.is_nothing() && self.0 < Self::WHOLE.0
    }

    fn left(self) -> &'static [u8] {
        &CONTINUE[CONTINUE.len() - usize::from(self.0)..]
    }
}

// === impl State ===

impl State {
    /// Writes what is left of `100 Continue`, or has it written.
    pub(super) fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            // The connection's task is at it, and must not lose its place: a socket wakes one writer.
            self.early.extend_from_slice(self.go_on.take());
            return Poll::Ready(Ok(()));
        }
        let io = self.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        while !self.go_on.is_nothing() {
            let wrote = ready!(Pin::new(&mut *io).poll_write(cx, self.go_on.left()))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.go_on.wrote(wrote);
        }
        Poll::Ready(Ok(()))
    }

    /// Has an interim head written before the response. Of a client that takes none no more are kept.
    pub(super) fn put_early(&mut self, head: &Response<()>) {
        if self.early.len() > MAX_HEAD {
            return;
        }
        if self.go_on.has_begun() {
            // Its reader waits for room to write the rest of it, which it need not do any more.
            self.early.extend_from_slice(self.go_on.take());
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
        response::interim_head(&mut self.early, head);
    }

    pub(super) fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let io = self.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        while !self.early.is_empty() {
            let written = Pin::new(&mut *io).poll_write(cx, &self.early);
            match ready!(self.stall.written(cx, written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                wrote => drop(self.early.drain(..wrote)),
            }
        }
        self.early = Vec::new();
        Poll::Ready(Ok(()))
    }
}
