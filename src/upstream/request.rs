//! A request: its head, and the body, which is kept while it streams so that a retry can send the
//! body again.
//!
//! A body is replayable while every byte that was read from the app is still kept: the next attempt
//! sends the kept bytes, then continues with the live body.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::error::{Cause, PollFrame};
use super::stall::Stall;

/// A request without its body. Borrowed, so that a retry needs no copy.
pub struct RequestHead<'a> {
    pub parts: &'a Parts,
    /// Time limit for the response head, counted from the last progress of the upload.
    pub wait: Duration,
}

pub enum RequestBody {
    Empty,
    Stream(Box<Upload>),
}

pub struct Upload {
    source: Reader,
    /// Fields to remove from the trailers.
    forbidden: Arc<[HeaderName]>,
    /// Limits how long the app may send nothing.
    stall: Stall,
}

/// A request body that retries can read again.
pub struct Replay {
    tee: Option<Tee>,
    forbidden: Arc<[HeaderName]>,
}

/// Shared by all attempts; only the last attempt reads.
#[derive(Clone)]
struct Tee(Arc<Mutex<TeeState>>);

struct TeeState {
    live: Pin<Box<dyn Body<Data = Bytes, Error = Cause> + Send>>,
    /// The size hint of the whole body.
    declared: SizeHint,
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// Bytes that may still be kept.
    room: usize,
    /// Every byte that was read is in `kept`.
    whole: bool,
    ended: bool,
    /// The attempt that may read.
    attempt: u32,
    /// Waker of the attempt that waits for the app; woken when that attempt is superseded.
    waiting: Option<Waker>,
}

/// The body as one attempt reads it.
struct Reader {
    tee: Tee,
    next: usize,
    trailers_sent: bool,
    attempt: u32,
}

/// Error for a superseded attempt, whose response may still be read and so poll its upload.
#[derive(Debug, thiserror::Error)]
#[error("a later attempt reads this body")]
struct Superseded;

/// Limit of kept frames for a body of unknown length.
const MOST_FRAMES: usize = 1024;

impl RequestBody {
    /// Makes the body fail with [`Stalled`](super::Stalled) once the app has sent nothing for
    /// `known`, or for `unknown` if the body has no declared length: a stream may pause.
    pub fn stalls_after(&mut self, known: Duration, unknown: Option<Duration>) {
        if let Self::Stream(upload) = self {
            upload.stall = Stall::of_body(&upload.source.size_hint(), known, unknown);
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<Cause> {
        let Self::Stream(upload) = self.get_mut() else {
            return Poll::Ready(None);
        };
        let polled = upload.source.poll_frame(cx);
        if polled.is_pending() {
            return (upload.stall.poll(cx)).map(|stalled| Some(Err(stalled.into())));
        }
        upload.stall.progressed();
        let mut frame = ready!(polled);
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            for name in upload.forbidden.iter() {
                trailers.remove(name);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(upload) => upload.source.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(upload) => upload.source.size_hint(),
        }
    }
}

impl Replay {
    /// Keeps up to `limit` bytes of `body`, and removes the fields named in `forbidden` from the
    /// trailers.
    pub fn new<B>(body: B, forbidden: Arc<[HeaderName]>, limit: usize) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        let tee = (!body.is_end_stream()).then(|| {
            Tee(Arc::new(Mutex::new(TeeState {
                declared: body.size_hint(),
                live: Box::pin(body.map_err(Into::into)),
                kept: Vec::new(),
                trailers: None,
                room: limit,
                whole: true,
                ended: false,
                attempt: 0,
                waiting: None,
            })))
        });
        Self { tee, forbidden }
    }

    pub fn is_empty(&self) -> bool {
        self.tee.is_none()
    }

    /// Returns the body from its beginning; `None` if it is not replayable. Each further attempt
    /// calls [`Self::rewind`] first.
    pub fn body(&self) -> Option<RequestBody> {
        let Some(tee) = &self.tee else {
            return Some(RequestBody::Empty);
        };
        let state = tee.lock();
        if !state.whole {
            return None;
        }
        let source = Reader {
            tee: tee.clone(),
            next: 0,
            trailers_sent: false,
            attempt: state.attempt,
        };
        Some(RequestBody::Stream(Box::new(Upload {
            source,
            forbidden: Arc::clone(&self.forbidden),
            stall: Stall::default(),
        })))
    }

    /// Ends the current attempt, unless the body is not replayable. Returns whether [`Self::body`]
    /// will succeed.
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
        // The app's bytes wake only the last waker, so the superseded attempt would wait for ever.
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        true
    }

    /// Returns whether the body is replayable now.
    pub fn is_replayable(&self) -> bool {
        self.tee.as_ref().is_none_or(|tee| tee.lock().whole)
    }

    /// Returns whether the body stays replayable to its end, by the declared length.
    pub fn stays_replayable(&self) -> bool {
        let Some(tee) = &self.tee else {
            return true;
        };
        let state = tee.lock();
        let kept: usize = state.kept.iter().map(Bytes::len).sum();
        let limit = (kept + state.room) as u64;
        state.whole && state.declared.upper().is_some_and(|length| length <= limit)
    }

    /// Stops keeping bytes: there will be no further attempt.
    pub fn stop_keeping(&self) {
        if let Some(tee) = &self.tee {
            tee.lock().stop_keeping();
        }
    }
}

impl Tee {
    /// Uncontended: one task makes all attempts, and never holds the lock across an await.
    fn lock(&self) -> MutexGuard<'_, TeeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TeeState {
    fn keep(&mut self, data: &Bytes) {
        if !self.whole || data.is_empty() {
            return;
        }
        // A chunked body may arrive byte by byte, and each frame takes more memory than its data.
        let too_many = self.declared.exact().is_none() && self.kept.len() >= MOST_FRAMES;
        if too_many || data.len() > self.room {
            return self.stop_keeping();
        }
        self.room -= data.len();
        self.kept.push(data.clone());
    }

    /// Leaves `kept` to `Reader::poll_frame`, which may not have sent all of it yet.
    fn stop_keeping(&mut self) {
        self.whole = false;
        self.room = 0;
    }

    fn poll_live(&mut self, cx: &mut Context<'_>) -> PollFrame<Cause> {
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

impl Reader {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<Cause> {
        let mut state = self.tee.lock();
        if state.attempt != self.attempt {
            return Poll::Ready(Some(Err(Superseded.into())));
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
            // Not replayable any more, and every kept frame has been read.
            state.kept = Vec::new();
            self.next = 0;
        }
        self.trailers_sent |= state.trailers.is_some();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.tee.lock();
        let kept_left = self.next < state.kept.len();
        let trailers_left = state.trailers.is_some() && !self.trailers_sent;
        !kept_left && !trailers_left && (state.ended || state.live.is_end_stream())
    }

    /// The size of the whole body before the first frame, which is when the encoders ask.
    fn size_hint(&self) -> SizeHint {
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
