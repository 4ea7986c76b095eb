//! What is to be written: frames of all streams one behind the other, so that those of many requests leave together.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Content is taken from requests while there is less.
const FULL: usize = 64 * 1024;

/// A peer that reads nothing of what we must send without its leave (heads, answers to its frames) is none.
const TOO_MUCH: usize = 4 * 1024 * 1024;

/// The largest TLS record: what is longer may be understood in part though its writing failed.
const RECORD: usize = 16 * 1024;

/// What the buffer of a connection that nobody uses may hold on to.
const KEPT: usize = 4 * 1024;

#[derive(Default)]
pub(super) struct Output {
    text: Vec<u8>,
    written: usize,
    /// How much was written before `text`.
    before: u64,
    /// Something was written and not flushed.
    dirty: bool,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.text.len() - self.written
    }

    /// Whether content may be appended.
    pub(super) fn has_room(&self) -> bool {
        self.len() < FULL
    }

    /// Whether the peer leaves too much unread, besides the heads of so many bytes that are still waited for: any number of requests
    /// may begin at once, as when a token has come.
    pub(super) fn is_overflowing(&self, heads: usize) -> bool {
        self.len() > TOO_MUCH + heads
    }

    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Of what is appended next.
    pub(super) fn position(&self) -> u64 {
        self.before + self.text.len() as u64
    }

    /// Whether nothing from there on can have been understood by the peer.
    pub(super) fn is_unwritten(&self, position: u64) -> bool {
        position >= self.before + self.written as u64
    }

    /// Takes away what was appended from there on, where a frame begins and nothing was written yet.
    pub(super) fn take_back(&mut self, position: u64) {
        let kept = position.saturating_sub(self.before);
        self.text
            .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }

    /// Writes once.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        let text = &self.text[self.written..];
        match ready!(io.poll_write(cx, text)) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(wrote) => {
                self.dirty = true;
                self.advance(wrote);
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                if text.len() > RECORD {
                    self.written = self.text.len();
                }
                Poll::Ready(Err(error))
            }
        }
    }

    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        io: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        if self.dirty {
            ready!(io.poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, wrote: usize) {
        self.written += wrote;
        // What is left is moved to the front only when it is little beside what is gone.
        if self.written == self.text.len() || self.written >= FULL {
            self.before += self.written as u64;
            self.text.drain(..self.written);
            self.written = 0;
        }
    }

    /// Gives memory back.
    pub(super) fn shed(&mut self) {
        if self.is_empty() {
            self.text.shrink_to(KEPT);
        }
    }
}
