//! The write buffer of a request: its head together with the first body bytes, then the rest.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tokio::io::AsyncWrite;

use super::encode::{self, RequestFraming};

/// Frames up to this size are copied together, into one TLS record and one system call.
pub(super) const SMALL_FRAME: usize = 2 * 1024;

/// Limit of bytes copied together, and the largest TLS record.
pub(super) const GATHER: usize = 16 * 1024;

/// Capacity that an idle connection keeps.
const KEPT: usize = 4 * 1024;

/// Bytes to write: `text[written..]`, then `data`, then `tail`.
pub(super) struct Output {
    framing: RequestFraming,
    /// Head, chunk sizes, small frames and trailers.
    text: Vec<u8>,
    written: usize,
    data: Bytes,
    tail: &'static [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not as long as its Content-Length")]
pub(in crate::upstream) struct WrongLength;

impl Output {
    pub(super) const fn new() -> Self {
        Self {
            framing: RequestFraming::None,
            text: Vec::new(),
            written: 0,
            data: Bytes::new(),
            tail: b"",
        }
    }

    /// Starts the next message; the caller appends the head to the returned buffer. The previous
    /// message must be written completely.
    pub(super) fn begin(&mut self, framing: RequestFraming) -> &mut Vec<u8> {
        self.framing = framing;
        self.text.clear();
        self.written = 0;
        &mut self.text
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes still to be written.
    pub(super) fn len(&self) -> usize {
        self.text.len() - self.written + self.data.len() + self.tail.len()
    }

    /// Returns whether [`Self::put`] may take a frame: a chunk's end precedes the next size.
    pub(super) fn has_room(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty() && self.text.len() - self.written < GATHER
    }

    /// Takes a frame. Requires [`Self::has_room`].
    pub(super) fn put(&mut self, data: Bytes) -> Result<(), WrongLength> {
        if data.is_empty() {
            return Ok(());
        }
        let end: &[u8] = match &mut self.framing {
            RequestFraming::None => return Err(WrongLength),
            RequestFraming::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                b""
            }
            RequestFraming::Chunked => {
                encode::chunk_size(&mut self.text, data.len());
                b"\r\n"
            }
        };
        if data.len() <= SMALL_FRAME {
            self.text.extend_from_slice(&data);
            self.text.extend_from_slice(end);
        } else {
            self.data = data;
            self.tail = end;
        }
        Ok(())
    }

    pub(super) fn end(&mut self) -> Result<(), WrongLength> {
        match self.framing {
            RequestFraming::None | RequestFraming::Length(0) => {}
            RequestFraming::Length(_) => return Err(WrongLength),
            RequestFraming::Chunked if self.data.is_empty() => {
                self.text.extend_from_slice(encode::LAST_CHUNK);
            }
            RequestFraming::Chunked => self.tail = encode::CHUNK_END_AND_LAST,
        }
        Ok(())
    }

    /// Ends the body, with trailers if the body is chunked. Requires [`Self::has_room`].
    pub(super) fn end_with(&mut self, trailers: &HeaderMap) -> Result<(), WrongLength> {
        if self.framing != RequestFraming::Chunked {
            return self.end();
        }
        encode::last_chunk(&mut self.text, trailers);
        Ok(())
    }

    /// Writes once; returns the number of bytes.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<usize>> {
        let text = &self.text[self.written..];
        let wrote = if self.data.is_empty() && self.tail.is_empty() {
            ready!(io.poll_write(cx, text))?
        } else {
            let parts = [text, &self.data, self.tail].map(IoSlice::new);
            ready!(io.poll_write_vectored(cx, &parts))?
        };
        if wrote == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn advance(&mut self, wrote: usize) {
        let of_text = wrote.min(self.text.len() - self.written);
        self.written += of_text;
        if self.written == self.text.len() {
            self.text.clear();
            self.written = 0;
        }
        let of_data = (wrote - of_text).min(self.data.len());
        self.data.advance(of_data);
        if self.data.is_empty() {
            // Even an empty `Bytes` keeps its buffer alive, so the app's reader could not reuse it.
            self.data = Bytes::new();
        }
        self.tail = &self.tail[wrote - of_text - of_data..];
    }

    /// Frees memory. Requires that all bytes were written.
    pub(super) fn shrink(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::BytesMut;

    use super::*;

    #[test]
    fn a_written_frame_releases_its_buffer() {
        let mut buffer = BytesMut::zeroed(2 * SMALL_FRAME);
        let mut output = Output::new();
        output.begin(RequestFraming::Length(2 * SMALL_FRAME as u64));
        output.put(buffer.split().freeze()).unwrap();
        assert!(!buffer.try_reclaim(2 * SMALL_FRAME));

        let mut written = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while !output.is_empty() {
            assert!(
                output
                    .poll_write(&mut cx, Pin::new(&mut written))
                    .is_ready()
            );
        }
        assert_eq!(written.len(), 2 * SMALL_FRAME);
        assert!(buffer.try_reclaim(2 * SMALL_FRAME));
    }
}
