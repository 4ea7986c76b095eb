//! The bodies of both directions, streamed frame by frame.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::http1;
use super::http2;
use super::tee::Reader;

/// What is sent to the upstream.
pub enum RequestBody {
    Empty,
    /// The app's body as it comes in.
    Stream(Box<Upload>),
}

/// An upload under way.
pub struct Upload {
    source: Reader,
    progress: Arc<Progress>,
    /// Fields that its trailers may not hold.
    forbidden: Arc<[HeaderName]>,
}

/// How an upload goes on, for the response time-out: it is the upstream's, so that it starts anew with every frame, and an app
/// that is slow to send does not use it up.
pub struct Progress {
    start: Instant,
    /// When the last frame was taken from the app, in milliseconds since `start`.
    last: AtomicU64,
    /// The upstream would take more, but the app has sent no more.
    waits_for_app: AtomicBool,
}

/// What the upstream answers. Holds the connection until the end, then gives it back to the pool.
pub struct UpstreamBody {
    inner: Incoming,
    lease: Lease,
}

/// What a response holds of the pool.
pub(super) enum Lease {
    Http1(http1::Lease),
    /// Held for its `Drop`, which frees the stream's slot.
    Http2(#[allow(dead_code, reason = "held for its Drop")] http2::Slot),
    Returned,
}

// === impl RequestBody ===

impl RequestBody {
    /// Streams what `source` reads; fields named in `forbidden` are taken out of its trailers.
    pub(super) fn stream(source: Reader, forbidden: Arc<[HeaderName]>) -> Self {
        let progress = Arc::new(Progress {
            start: Instant::now(),
            last: AtomicU64::new(0),
            waits_for_app: AtomicBool::new(false),
        });
        Self::Stream(Box::new(Upload {
            source,
            progress,
            forbidden,
        }))
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Stream(upload) => Some(Arc::clone(&upload.progress)),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(upload) => upload.poll_frame(cx),
        }
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

// === impl Upload ===

impl Upload {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = self.source.poll_frame(cx);
        self.progress.note(polled.is_pending());
        let mut frame = ready!(polled);
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            for name in self.forbidden.iter() {
                trailers.remove(name);
            }
        }
        Poll::Ready(frame)
    }
}

// === impl Progress ===

impl Progress {
    /// When the upstream has had `wait` to take the next frame, or to answer after the last one.
    pub(super) fn deadline(&self, now: Instant, wait: Duration) -> Instant {
        if self.waits_for_app.load(Ordering::Relaxed) {
            return now + wait;
        }
        self.start + Duration::from_millis(self.last.load(Ordering::Relaxed)) + wait
    }

    fn note(&self, pending: bool) {
        self.waits_for_app.store(pending, Ordering::Relaxed);
        if !pending {
            // 584 million years fit in.
            let since = self.start.elapsed().as_millis() as u64;
            self.last.store(since, Ordering::Relaxed);
        }
    }
}

// === impl UpstreamBody ===

impl UpstreamBody {
    pub(super) fn new(inner: Incoming, lease: Lease) -> Self {
        let mut body = Self { inner, lease };
        if body.inner.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
        match std::mem::replace(&mut self.lease, Lease::Returned) {
            Lease::Http1(lease) => lease.give_back(),
            Lease::Http2(_) | Lease::Returned => {}
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.inner).poll_frame(cx);
        // A server stops polling at the frame after which the body says that it ended.
        if matches!(frame, Poll::Ready(None)) || (frame.is_ready() && this.inner.is_end_stream()) {
            this.give_back();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
