//! The body of a request, as its reader sees it: good until its request, or its connection, is over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{Wire, remember};
use crate::http1::decode::Step;
use crate::upstream::send::Cause;

/// A request's body as it comes in.
pub(in crate::proxy) struct Incoming {
    pub(super) wire: Arc<Wire>,
    pub(super) request: u32,
}

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the app closed the connection in the middle of it")]
    Closed,
    #[error("its request has been answered")]
    Overtaken,
}

// === impl Incoming ===

impl Body for Incoming {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        let mut state = self.wire.lock();
        if state.request != self.request {
            return Poll::Ready(Some(Err(BodyError::Overtaken.into())));
        }
        let Poll::Ready(step) = state.poll_step(cx, &self.wire.buffers) else {
            remember(&mut state.reader, cx);
            return Poll::Pending;
        };
        if state.body.is_done() || step.is_err() {
            state.body_ended(cx);
        }
        Poll::Ready(match step {
            Ok(Step::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Step::Trailers(fields)) => Some(Ok(Frame::trailers(fields))),
            Ok(Step::End | Step::More) => None,
            Err(cause) => Some(Err(cause)),
        })
    }

    fn is_end_stream(&self) -> bool {
        let state = self.wire.lock();
        state.request == self.request && state.body.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.wire.lock();
        match state.body.remaining() {
            Some(left) if state.request == self.request => SizeHint::with_exact(left),
            _ => SizeHint::new(),
        }
    }
}
