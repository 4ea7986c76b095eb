//! The response body, streamed frame by frame.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::error::{BodyError, PollFrame};
use super::http1::Tunnel;
use super::http2;
use super::pool::{Http1, PoolShared};
use super::pump::Pumped;
use super::stall::Stall;

/// A response body. Holds the connection until the end, then returns it to the pool.
pub struct UpstreamBody {
    content: Content,
    /// Limits how long the upstream may send nothing while the body is polled.
    stall: Stall,
}

pub(super) enum Content {
    /// The rest of the body is in memory; the connection was returned or closed.
    Whole(Bytes),
    Http1(Box<Http1>, Arc<PoolShared>),
    Http2(Box<http2::Exchange<PoolShared>>),
    Tunnel(Tunnel),
    Pumped(Pumped),
    /// The next poll returns the error.
    Failed(BodyError),
}

impl UpstreamBody {
    pub(super) fn new(content: Content) -> Self {
        Self {
            content,
            stall: Stall::default(),
        }
    }

    /// Returns a body whose only item is `error`.
    pub fn failed(error: BodyError) -> Self {
        Self::new(Content::Failed(error))
    }

    /// Takes the connection, if the upstream switched protocols (101).
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        let is_tunnel = matches!(self.content, Content::Tunnel(_));
        match is_tunnel.then(|| self.take()) {
            Some(Content::Tunnel(tunnel)) => Some(tunnel),
            _ => None,
        }
    }

    /// Moves the exchange to its own task if the upload is not complete, so that the upload
    /// continues while the app does not read the response.
    #[must_use]
    pub fn detach_upload(self) -> Self {
        let uploads = match &self.content {
            Content::Http1(connection, _) => connection.is_uploading(),
            Content::Http2(exchange) => exchange.is_uploading(),
            _ => false,
        };
        if !uploads {
            return self;
        }
        let left = self.remaining();
        Self::new(Content::Pumped(Pumped::spawn(
            self,
            left,
            Self::poll_upload,
        )))
    }

    /// Continues the upload without reading the response. Polling the body does both.
    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        match &mut self.content {
            Content::Http1(connection, _) => connection.poll_upload(cx),
            Content::Http2(exchange) => exchange.poll_upload(cx),
            _ => {}
        }
    }

    /// Makes the body fail with [`BodyError::Stalled`] once a poll has waited for `known`, or for
    /// `unknown` if the response has no declared length: a stream may pause.
    pub fn stalls_after(&mut self, known: Duration, unknown: Option<Duration>) {
        self.stall = Stall::of_body(&self.size_hint(), known, unknown);
    }

    /// Bytes that are still to come, if known.
    fn remaining(&self) -> Option<u64> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes.len() as u64),
            Content::Http1(connection, _) => connection.remaining(),
            Content::Http2(exchange) => exchange.remaining(),
            Content::Tunnel(_) => Some(0),
            Content::Pumped(pumped) => pumped.remaining(),
            Content::Failed(_) => None,
        }
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> PollFrame<BodyError> {
        let frame = match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Content::Whole(bytes) => {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
            }
            Content::Tunnel(_) => return Poll::Ready(None),
            Content::Failed(_) => {
                let Content::Failed(error) = self.take() else {
                    return Poll::Ready(None);
                };
                return Poll::Ready(Some(Err(error)));
            }
            Content::Http1(connection, _) => ready!(connection.poll_frame(cx)),
            Content::Http2(exchange) => ready!(exchange.poll_frame(cx)),
            Content::Pumped(pumped) => return pumped.poll_frame(cx),
        };
        if let Some(Err(error)) = frame {
            // Closes the connection. The error waits for the next poll, because a server that gets
            // an error drops the frames it has not written yet.
            self.content = Content::Failed(error);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // A server does not poll again after a frame with which `is_end_stream` becomes true.
        if (frame.is_none() || self.is_end_stream())
            && let Content::Http1(connection, pool) = self.take()
            && let Some(connection) = connection.into_idle()
        {
            pool.put(connection);
        }
        Poll::Ready(frame)
    }

    fn take(&mut self) -> Content {
        std::mem::replace(&mut self.content, Content::Whole(Bytes::new()))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<BodyError> {
        let this = self.get_mut();
        let polled = this.poll_content(cx);
        if polled.is_pending() {
            return this.stall.poll(cx).map(|stalled| {
                // Closes the connection, or resets the stream.
                drop(this.take());
                Some(Err(BodyError::Stalled(stalled)))
            });
        }
        this.stall.progressed();
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Tunnel(_) => true,
            Content::Failed(_) => false,
            Content::Http1(connection, _) => connection.is_end_stream(),
            Content::Http2(exchange) => exchange.is_end_stream(),
            Content::Pumped(pumped) => pumped.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining()
            .map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
