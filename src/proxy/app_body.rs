//! A request's body as it comes in from the app, over HTTP/1.1 or HTTP/2.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::guard;
use super::watch::Watch;
use crate::fields::MAX_HEAD;
use crate::upstream::error::{Cause, PollFrame};

#[derive(Default)]
pub(super) enum AppBody {
    #[default]
    Empty,
    Http1(Http1Body),
    Http2(Incoming),
    /// One of the others, whose bytes are counted for the access log.
    Counted(Box<Self>, Arc<Tally>),
}

/// Counters in the request's extensions.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) received: AtomicU64,
    pub(super) replays: AtomicU32,
    pub(super) resends: AtomicU32,
}

/// A body that tells [`Watch`] when it was read to its end.
///
/// Dropping the body before its end discards a short rest, so that the connection can be reused.
pub(super) struct Http1Body {
    /// `None` once the body has ended.
    incoming: Option<Incoming>,
    /// The app may wait for `100 Continue`.
    waits: bool,
    /// Number of the message that the body belongs to.
    message: u32,
    watch: Arc<Watch>,
}

/// How many bytes of an unwanted body are read to keep the connection, and for how long.
pub(super) const SKIP: u64 = 64 * 1024;
const SKIP_TIME: Duration = Duration::from_millis(500);

/// RST_STREAM within a body. hyper takes CANCEL and NO_ERROR for the end of the body.
#[derive(Debug, thiserror::Error)]
#[error("the app reset the HTTP/2 stream")]
struct Reset;

impl AppBody {
    /// `waits`: the app may wait for `100 Continue`, which hyper sends when the body is polled.
    pub(super) fn http1(incoming: Incoming, waits: bool, watch: &Arc<Watch>) -> Self {
        let length = incoming.size_hint().exact();
        let message = watch.message_started(length);
        match length {
            Some(0) => Self::Empty,
            _ => Self::Http1(Http1Body {
                incoming: Some(incoming),
                waits,
                message,
                watch: Arc::clone(watch),
            }),
        }
    }

    pub(super) fn http2(incoming: Incoming) -> Self {
        match incoming.is_end_stream() {
            true => Self::Empty,
            false => Self::Http2(incoming),
        }
    }

    pub(super) fn counted(self, tally: Arc<Tally>) -> Self {
        Self::Counted(Box::new(self), tally)
    }
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<Cause> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(incoming) => poll_http2(incoming, cx),
            Self::Counted(body, tally) => {
                let frame = ready!(Pin::new(&mut **body).poll_frame(cx));
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    tally.received.fetch_add(data.len() as u64, Relaxed);
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.incoming.is_none(),
            Self::Http2(incoming) => incoming.is_end_stream(),
            Self::Counted(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => match &body.incoming {
                Some(incoming) => incoming.size_hint(),
                None => SizeHint::with_exact(0),
            },
            Self::Http2(incoming) => incoming.size_hint(),
            Self::Counted(body, _) => body.size_hint(),
        }
    }
}

impl Tally {
    /// The request was sent again with a newer token.
    pub(super) fn replayed(&self) {
        self.replays.fetch_add(1, Relaxed);
    }

    /// The request was sent again because its connection was dead.
    pub(super) fn resent(&self) {
        self.resends.fetch_add(1, Relaxed);
    }
}

impl Http1Body {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<Cause> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        self.waits = false;
        match &frame {
            Some(Err(_)) => {
                self.watch.body_broke(self.message);
                self.incoming = None;
            }
            Some(Ok(frame)) if frame.is_data() && !incoming.is_end_stream() => {}
            Some(Ok(_)) | None => {
                self.watch.body_ended(self.message);
                self.incoming = None;
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        // A read would make hyper send `100 Continue` to a waiting app.
        if let Some(incoming) = self.incoming.take_if(|_| !self.waits)
            && let Ok(runtime) = Handle::try_current()
        {
            let skip = skip(incoming, self.message, Arc::clone(&self.watch));
            runtime.spawn(timeout(SKIP_TIME, skip));
        }
    }
}

/// Reads a short rest of a body to its end. hyper closes the connection of a longer one.
async fn skip(incoming: Incoming, message: u32, watch: Arc<Watch>) {
    if incoming.size_hint().lower() > SKIP {
        return;
    }
    let mut rest = Limited::new(incoming, SKIP as usize);
    while !rest.is_end_stream() {
        match rest.frame().await {
            None => break,
            Some(Ok(_)) => {}
            Some(Err(_)) => return,
        }
    }
    watch.body_ended(message);
}

fn poll_http2(incoming: &mut Incoming, cx: &mut Context<'_>) -> PollFrame<Cause> {
    let Some(frame) = ready!(Pin::new(&mut *incoming).poll_frame(cx)) else {
        let is_reset = !incoming.is_end_stream();
        return Poll::Ready(is_reset.then(|| Err(Reset.into())));
    };
    let frame = frame?;
    if let Some(trailers) = frame.trailers_ref() {
        guard::http2_fields(trailers, MAX_HEAD)?;
    }
    Poll::Ready(Some(Ok(frame)))
}
