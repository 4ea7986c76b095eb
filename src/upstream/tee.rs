//! The app's request body, kept while it streams, so that it can be sent once more.
//!
//! An upload is replayable as long as every byte that was taken from the app is still here (DESIGN.md §6.4): the next
//! attempt sends what was kept and goes on with the live body.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::body::RequestBody;
use super::error::Cause;

/// A request body that can be asked for again.
pub struct Replay {
    tee: Option<Tee>,
    forbidden: Arc<[HeaderName]>,
}

/// Shared by the attempts, of which only the last one reads.
#[derive(Clone)]
struct Tee(Arc<Mutex<State>>);

/// In a box: most requests have none.
type Live = Pin<Box<dyn Body<Data = Bytes, Error = Cause> + Send>>;

struct State {
    live: Live,
    /// What the app has declared; it holds for every attempt.
    declared: SizeHint,
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// Bytes that may still be kept.
    room: usize,
    /// Nothing that was taken is missing from `kept`.
    whole: bool,
    ended: bool,
    /// Which attempt may read.
    attempt: u32,
    /// Of the one that waits for the app, to tell it that it is over.
    waiting: Option<Waker>,
}

/// One attempt's view.
pub(super) struct Reader {
    tee: Tee,
    next: usize,
    trailers_sent: bool,
    attempt: u32,
}

/// The reader of an attempt that is over: whoever still reads its answer polls its upload, too, until it hears of that.
#[derive(Debug, thiserror::Error)]
#[error("another attempt goes on with this body")]
struct Overtaken;

/// Of a body of unknown length.
const MOST_FRAMES: usize = 1024;

// === impl Replay ===

impl Replay {
    /// Keeps up to `limit` bytes of `body`. Fields named in `forbidden` are taken out of its trailers.
    pub fn new<B>(body: B, forbidden: Arc<[HeaderName]>, limit: usize) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        if body.is_end_stream() {
            return Self {
                tee: None,
                forbidden,
            };
        }
        let state = State {
            declared: body.size_hint(),
            live: Box::pin(body.map_err(Into::into)),
            kept: Vec::new(),
            trailers: None,
            room: limit,
            whole: true,
            ended: false,
            attempt: 0,
            waiting: None,
        };
        Self {
            tee: Some(Tee(Arc::new(Mutex::new(state)))),
            forbidden,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.tee.is_none()
    }

    /// The body from its beginning, for one attempt; `None` if some of it is gone. Before the next one comes [`Self::rewind`].
    pub fn body(&self) -> Option<RequestBody> {
        let Some(tee) = &self.tee else {
            return Some(RequestBody::Empty);
        };
        let state = tee.lock();
        if !state.whole {
            return None;
        }
        let reader = Reader {
            tee: tee.clone(),
            next: 0,
            trailers_sent: false,
            attempt: state.attempt,
        };
        drop(state);
        Some(RequestBody::stream(reader, Arc::clone(&self.forbidden)))
    }

    /// Ends the attempt that reads it now. Whether [`Self::body`] will have it for the next: from here on nobody takes any more
    /// of it from the app.
    pub fn rewind(&self) -> bool {
        let Some(tee) = &self.tee else {
            return true;
        };
        let mut state = tee.lock();
        if !state.whole {
            return false;
        }
        state.attempt += 1;
        let waiting = state.waiting.take();
        drop(state);
        // It would wait for ever: the app's bytes wake whoever asked last.
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        true
    }

    /// Whether [`Self::body`] would have it.
    pub fn is_whole(&self) -> bool {
        self.tee.as_ref().is_none_or(|tee| tee.lock().whole)
    }

    /// Whether [`Self::body`] will have it to the end, as far as the app has declared its length.
    pub fn will_stay_whole(&self) -> bool {
        let Some(tee) = &self.tee else {
            return true;
        };
        let state = tee.lock();
        let kept: usize = state.kept.iter().map(Bytes::len).sum();
        let limit = (kept + state.room) as u64;
        state.whole && state.declared.upper().is_some_and(|length| length <= limit)
    }

    /// No further attempt will come: what was kept is let go, and nothing more is.
    pub fn settle(&self) {
        if let Some(tee) = &self.tee {
            tee.lock().settle();
        }
    }
}

// === impl Tee ===

impl Tee {
    /// Uncontended: all attempts are made by one task, and no poll lasts across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn keep(&mut self, data: &Bytes) {
        if !self.whole || data.is_empty() {
            return;
        }
        // A chunked body may come byte by byte, each of which takes more memory than it holds.
        let crumbs = self.declared.exact().is_none() && self.kept.len() >= MOST_FRAMES;
        if crumbs || data.len() > self.room {
            return self.settle();
        }
        self.room -= data.len();
        self.kept.push(data.clone());
    }

    fn settle(&mut self) {
        // A reader that is still in the middle of `kept` has what it needs: see `Reader::poll_frame`.
        self.whole = false;
        self.room = 0;
    }

    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        let frame = ready!(self.live.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                }
            }
            Some(Err(_)) => self.whole = false,
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }
}

// === impl Reader ===

impl Reader {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        let mut state = self.tee.lock();
        if state.attempt != self.attempt {
            return Poll::Ready(Some(Err(Overtaken.into())));
        }
        if let Some(data) = state.kept.get(self.next).cloned() {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !self.trailers_sent
            && let Some(trailers) = state.trailers.clone()
        {
            self.trailers_sent = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = state.poll_live(cx) else {
            let waker = cx.waker();
            if !(state.waiting.as_ref()).is_some_and(|known| known.will_wake(waker)) {
                state.waiting = Some(waker.clone());
            }
            return Poll::Pending;
        };
        if state.whole {
            self.next = state.kept.len();
        } else if self.next > 0 || !state.kept.is_empty() {
            // Past the limit, and all that was kept has been read: it can go.
            state.kept = Vec::new();
            self.next = 0;
        }
        self.trailers_sent |= state.trailers.is_some();
        Poll::Ready(frame)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.tee.lock();
        let kept_left = self.next < state.kept.len();
        let trailers_left = state.trailers.is_some() && !self.trailers_sent;
        !kept_left && !trailers_left && (state.ended || state.live.is_end_stream())
    }

    /// Of the whole body for a reader at the beginning; the encoders ask only then.
    pub(super) fn size_hint(&self) -> SizeHint {
        let state = self.tee.lock();
        if self.next == 0 && state.whole {
            state.declared
        } else {
            state.live.size_hint()
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
