//! One stream: what has come in of a response and is not read yet, and what of a request is to be sent.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};

use super::{End, STREAM_WINDOW};
use crate::http2::Reason;
use crate::upstream::http2::head::{Content, Head, Malformed};

/// A piece that is smaller is copied behind what waits already. It would keep a whole read's memory for as long as nobody reads it; and
/// whoever passes it on does so at the cost of a system call, which is that of many copies.
const SMALL: usize = 16 * 1024;

/// So much is copied together.
const GATHERED: usize = 32 * 1024;

pub(super) struct Stream {
    /// The request was HEAD.
    pub(super) head_only: bool,
    pub(super) receiving: Receiving,
    /// Heads of 1xx, not handed on yet, and how many there were.
    pub(super) interim: VecDeque<Response<()>>,
    pub(super) interims: u32,
    pub(super) head: Option<Head>,
    pub(super) content: Content,
    pub(super) chunks: Chunks,
    pub(super) trailers: Option<HeaderMap>,
    /// How much the peer may still send.
    pub(super) window: i64,
    /// Read, and not given back to the peer yet.
    pub(super) unreported: u32,

    /// What of the request's body is to go out next.
    pub(super) pending: Bytes,
    /// With it the request ends.
    pub(super) ends: bool,
    /// It ended: END_STREAM is in the output.
    pub(super) sent: bool,
    /// The peer wants no more of it.
    pub(super) stopped: bool,
    /// It stands among those that have something to send.
    pub(super) queued: bool,
    /// How much we may still send; below zero after SETTINGS have made the window smaller.
    pub(super) send_window: i64,
    /// Where in the output its head begins.
    pub(super) start: u64,
    /// How long that is.
    pub(super) head_size: usize,
    /// The connection ended before any of it was written.
    pub(super) unsent: bool,

    pub(super) fault: Option<Fault>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Head,
    Body,
    Ended,
}

/// Why a stream came to no good end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(in crate::upstream::http2) enum Fault {
    #[error("{0}")]
    Malformed(Malformed),
    #[error("the stream was reset: {0}{hint}", hint = hint(*.0))]
    Reset(Reason),
    /// RFC 9113 §8.7: by REFUSED_STREAM, or as a stream that the peer's GOAWAY does not name. It was not looked at.
    #[error("the stream was refused")]
    Refused,
    #[error(transparent)]
    Connection(End),
}

/// Content in the order in which it came: `first`, then `more`, then `tail`.
#[derive(Default)]
pub(super) struct Chunks {
    first: Bytes,
    more: VecDeque<Bytes>,
    tail: BytesMut,
}

impl Stream {
    pub(super) fn new(head_only: bool, send_window: i64, start: u64) -> Self {
        Self {
            head_only,
            receiving: Receiving::Head,
            interim: VecDeque::new(),
            interims: 0,
            head: None,
            content: Content::Unknown,
            chunks: Chunks::default(),
            trailers: None,
            window: i64::from(STREAM_WINDOW),
            unreported: 0,
            pending: Bytes::new(),
            ends: false,
            sent: false,
            stopped: false,
            queued: false,
            send_window,
            start,
            head_size: 0,
            unsent: false,
            fault: None,
            waker: None,
        }
    }

    /// Everything of the response was handed out.
    pub(super) fn is_read(&self) -> bool {
        self.receiving == Receiving::Ended
            && self.fault.is_none()
            && self.chunks.is_empty()
            && self.trailers.is_none()
    }

    /// Neither side may send any more on it.
    pub(super) fn is_closed(&self) -> bool {
        self.fault.is_some() || self.receiving == Receiving::Ended && (self.sent || self.stopped)
    }

    /// A response that is whole stays so.
    pub(super) fn fail(&mut self, fault: Fault) {
        if self.receiving != Receiving::Ended {
            self.fault.get_or_insert(fault);
        }
        self.stop();
    }

    /// No more of the request goes out.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.pending = Bytes::new();
        self.ends = false;
        self.wake();
    }

    /// What is to be woken by whatever happens next.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Nobody has to be woken: its task is at it.
    pub(super) fn unregister(&mut self) {
        self.waker = None;
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What the operator can do about it.
fn hint(reason: Reason) -> &'static str {
    match reason {
        Reason::HTTP_1_1_REQUIRED => " (see the upstream's `http`)",
        _ => "",
    }
}

impl Chunks {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.more.is_empty() && self.tail.is_empty()
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        if self.is_empty() {
            self.first = piece;
        } else if piece.len() < SMALL {
            if self.tail.len() + piece.len() > GATHERED {
                self.more.push_back(self.tail.split().freeze());
            }
            if piece.len() >= SMALL / 4 {
                // More of that kind will follow.
                self.tail.reserve(GATHERED - self.tail.len());
            }
            self.tail.extend_from_slice(&piece);
        } else {
            if !self.tail.is_empty() {
                self.more.push_back(self.tail.split().freeze());
            }
            self.more.push_back(piece);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if !self.first.is_empty() {
            return Some(std::mem::take(&mut self.first));
        }
        if let Some(chunk) = self.more.pop_front() {
            return Some(chunk);
        }
        (!self.tail.is_empty()).then(|| self.tail.split().freeze())
    }

    /// All of it, if it is in one piece.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        let whole = self.more.is_empty() && self.tail.is_empty();
        whole.then(|| std::mem::take(&mut self.first))
    }
}
