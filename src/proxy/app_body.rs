//! A request's body as it comes in from the app, by HTTP/1.1 or HTTP/2.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::access::Counted;
use super::guard;
use super::watch::Watch;
use crate::upstream::MAX_HEAD;
use crate::upstream::error::Cause;

/// A request's body.
#[derive(Default)]
pub(super) enum AppBody {
    #[default]
    Empty,
    Http1(Http1Body),
    Http2(Incoming),
    /// Either, for the access log.
    Counted(Box<Counted>),
}

/// A body that tells the connection when it has been read to its end.
///
/// Dropping it before its end reads and discards a short rest, so that the connection can be used
/// again.
pub(super) struct Http1Body {
    /// `None` once the body has ended.
    incoming: Option<Incoming>,
    /// The app may wait for `100 Continue`.
    waits: bool,
    /// The number of its message.
    message: u32,
    watch: Arc<Watch>,
}

/// How much of a body that is not wanted is read to keep its connection, and for how long.
pub(super) const SKIP: u64 = 64 * 1024;
const SKIP_TIME: Duration = Duration::from_millis(500);

/// RST_STREAM in the middle of a body. hyper takes CANCEL and NO_ERROR for the end of the body.
#[derive(Debug, thiserror::Error)]
#[error("the app has reset the stream")]
struct Reset;

// === impl AppBody ===

impl AppBody {
    /// `waits`: the app may wait for `100 Continue`. hyper sends that when the body is first polled.
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
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(incoming) => poll_http2(incoming, cx),
            Self::Counted(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.incoming.is_none(),
            Self::Http2(incoming) => incoming.is_end_stream(),
            Self::Counted(body) => body.is_end_stream(),
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
            Self::Counted(body) => body.size_hint(),
        }
    }
}

// === impl Http1Body ===

impl Http1Body {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
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
        // Reading on would tell a waiting app to go on.
        let Some(incoming) = self.incoming.take_if(|_| !self.waits) else {
            return;
        };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(
                SKIP_TIME,
                skip(incoming, self.message, Arc::clone(&self.watch)),
            ));
        }
    }
}

/// Reads a short rest of a body to its end. hyper closes the connection where this gives up.
async fn skip(mut incoming: Incoming, message: u32, watch: Arc<Watch>) {
    if incoming
        .size_hint()
        .exact()
        .is_some_and(|length| length > SKIP)
    {
        return;
    }
    let mut left = SKIP;
    while !incoming.is_end_stream() {
        let frame = match incoming.frame().await {
            None => break,
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return,
        };
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
    watch.body_ended(message);
}

fn poll_http2(
    incoming: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
    let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
    Poll::Ready(match frame {
        None if !incoming.is_end_stream() => Some(Err(Reset.into())),
        None => None,
        Some(Err(error)) => Some(Err(error.into())),
        Some(Ok(frame)) => match frame
            .trailers_ref()
            .map(|it| guard::http2_fields(it, MAX_HEAD))
        {
            Some(Err(error)) => Some(Err(error.into())),
            Some(Ok(())) | None => Some(Ok(frame)),
        },
    })
}
