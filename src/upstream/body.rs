//! The bodies of both directions, streamed frame by frame.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};

use super::error::{BodyError, Cause};
use super::http1::Tunnel;
use super::http2;
use super::pool::{Http1, Shared};
use super::pump::Pumped;

use super::stall::Stall;
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
    /// Fields that its trailers may not hold.
    forbidden: Arc<[HeaderName]>,
    /// How long the app may send nothing.
    stall: Stall,
}

/// What the upstream answers. Holds the connection until the end, then gives it back to the pool.
pub struct UpstreamBody {
    content: Content,
    /// How long the upstream may send nothing while somebody waits for it.
    stall: Stall,
}

enum Content {
    /// What is left is in memory, and the connection has been given back or closed.
    Whole(Bytes),
    Http1(Box<Http1>, Arc<Shared>),
    Http2(Box<http2::Exchange>),
    Tunnel(Tunnel),
    Pumped(Pumped),
    /// Broke off; the next poll says so.
    Failed(BodyError),
}

// === impl RequestBody ===

impl RequestBody {
    /// Streams what `source` reads; fields named in `forbidden` are taken out of its trailers.
    pub(super) fn stream(source: Reader, forbidden: Arc<[HeaderName]>) -> Self {
        Self::Stream(Box::new(Upload {
            source,
            forbidden,
            stall: Stall::default(),
        }))
    }

    /// Fails with [`Stalled`] once the app has sent nothing for so long: `known` where it has said how long the body is, and
    /// `unknown` where it has not, which may be a stream that is quiet for good reason.
    pub fn stalls_after(&mut self, known: Duration, unknown: Option<Duration>) {
        if let Self::Stream(upload) = self {
            let limit = match upload.source.size_hint().exact() {
                Some(_) => Some(known),
                None => unknown,
            };
            upload.stall = Stall::after(limit);
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
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
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        let polled = self.source.poll_frame(cx);
        if polled.is_pending() {
            return self.stall.poll(cx).map(|stalled| Some(Err(stalled.into())));
        }
        self.stall.moved();
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

// === impl UpstreamBody ===

impl UpstreamBody {
    fn new(content: Content) -> Self {
        Self {
            content,
            stall: Stall::default(),
        }
    }

    pub(super) fn whole(content: Bytes) -> Self {
        Self::new(Content::Whole(content))
    }

    pub(super) fn http1(connection: Box<Http1>, pool: Arc<Shared>) -> Self {
        Self::new(Content::Http1(connection, pool))
    }

    pub(super) fn http2(exchange: Box<http2::Exchange>) -> Self {
        Self::new(Content::Http2(exchange))
    }

    pub(super) fn tunnel(tunnel: Tunnel) -> Self {
        Self::new(Content::Tunnel(tunnel))
    }

    /// The connection, if the upstream switched protocols (101). As a body it is empty.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        if !matches!(self.content, Content::Tunnel(_)) {
            return None;
        }
        match self.take() {
            Content::Tunnel(tunnel) => Some(tunnel),
            Content::Whole(_)
            | Content::Http1(..)
            | Content::Http2(_)
            | Content::Pumped(_)
            | Content::Failed(_) => None,
        }
    }

    /// Moves the exchange to a task of its own if the request is still being uploaded, so that the
    /// upload goes on while the app does not take the response.
    #[must_use]
    pub fn detach_upload(self) -> Self {
        let uploads = match &self.content {
            Content::Http1(connection, _) => connection.is_uploading(),
            Content::Http2(exchange) => exchange.is_uploading(),
            Content::Whole(_) | Content::Tunnel(_) | Content::Pumped(_) | Content::Failed(_) => {
                false
            }
        };
        match uploads {
            true => Self::new(Content::Pumped(Pumped::spawn(self))),
            false => self,
        }
    }

    /// Moves the upload on, which is otherwise done while this body is polled.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        match &mut self.content {
            Content::Http1(connection, _) => connection.poll_upload(cx),
            Content::Http2(exchange) => exchange.poll_upload(cx),
            Content::Whole(_) | Content::Tunnel(_) | Content::Pumped(_) | Content::Failed(_) => {}
        }
    }

    /// A body of which this is all that is left.
    pub fn failed(error: BodyError) -> Self {
        Self::new(Content::Failed(error))
    }

    /// Fails with [`BodyError::Stalled`] once nothing has come for so long while somebody waited: `known` where the upstream has
    /// said how long the body is, and `unknown` where it has not, which may be a stream that is quiet for good reason.
    pub fn stalls_after(&mut self, known: Duration, unknown: Option<Duration>) {
        let limit = match self.size_hint().exact() {
            Some(_) => Some(known),
            None => unknown,
        };
        self.stall = Stall::after(limit);
    }

    fn poll_content(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // A server stops polling at the frame after which the body says that it ended, so that it ends here.
        let (frame, ended) = match &mut self.content {
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
            Content::Http1(connection, _) => (
                ready!(connection.poll_frame(cx)),
                connection.is_end_stream(),
            ),
            Content::Http2(exchange) => (ready!(exchange.poll_frame(cx)), exchange.is_end_stream()),
            Content::Pumped(pumped) => return pumped.poll_frame(cx),
        };
        if let Some(Err(error)) = frame {
            // The connection closes here. Servers throw away what they have not passed on yet when they hear of an error, so
            // that they get one more chance to pass it on.
            self.content = Content::Failed(error);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if frame.is_none() || ended {
            self.end();
        }
        Poll::Ready(frame)
    }

    fn take(&mut self) -> Content {
        std::mem::replace(&mut self.content, Content::Whole(Bytes::new()))
    }

    /// Lets go of the connection.
    fn end(&mut self) {
        if let Content::Http1(connection, pool) = self.take()
            && let Some(connection) = connection.into_idle()
        {
            pool.put(connection);
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = this.poll_content(cx);
        if polled.is_pending() {
            return this.stall.poll(cx).map(|stalled| {
                // Closes the connection, or resets the stream.
                drop(this.take());
                Some(Err(BodyError::Stalled(stalled)))
            });
        }
        this.stall.moved();
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
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Tunnel(_) => SizeHint::with_exact(0),
            Content::Failed(_) => SizeHint::new(),
            Content::Http1(connection, _) => connection
                .remaining()
                .map_or_else(SizeHint::new, SizeHint::with_exact),
            Content::Pumped(pumped) => pumped.size_hint(),
            Content::Http2(exchange) => exchange
                .remaining()
                .map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}
