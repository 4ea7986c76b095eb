//! A response's body on its way to the app, and the measurement of its request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::access::Access;
use super::reject::ForwardedBody;
use super::target::{InFlight, Target};
use super::watch::{Taken, Watch};
use crate::upstream::{BodyError, Tunnel};

/// A response's body, and the end of its measurement.
pub(super) struct ResponseBody {
    content: Content,
    /// Dropped with the body: that is when the request is over. A tunnel has it with it.
    measure: Option<Measure>,
    /// For an app that speaks HTTP/2.
    taken: Option<Arc<Taken>>,
    hides_length: bool,
}

enum Content {
    Own(Option<Bytes>),
    Upstream(ForwardedBody),
}

/// Times a request and keeps count of it, from its head to the end of its response.
pub(super) struct Measure {
    /// `None` once its time was taken.
    started: Option<Instant>,
    pub(super) target: Option<Arc<Target>>,
    /// Its place among the upstream's `max_in_flight`.
    pub(super) place: Option<InFlight>,
    watch: Arc<Watch>,
    pub(super) access: Option<Box<Access>>,
}

// === impl Measure ===

impl Measure {
    /// Starts the clock of a request on the connection that `watch` belongs to.
    pub(super) fn start(watch: &Arc<Watch>) -> Self {
        watch.request_started();
        Self {
            started: Some(Instant::now()),
            target: None,
            place: None,
            watch: Arc::clone(watch),
            access: None,
        }
    }

    pub(super) fn routed(&mut self, target: &Arc<Target>) {
        target.metrics.in_flight.inc();
        self.target = Some(Arc::clone(target));
    }

    /// To be called early where another protocol follows, which lasts; the place among those in flight is kept.
    pub(super) fn take_time(&mut self) {
        if let (Some(started), Some(target)) = (self.started.take(), &self.target) {
            let time = started.elapsed().as_secs_f64();
            target.metrics.duration.observe(time);
        }
    }

    fn broke_off(&self, error: &BodyError) {
        let upstream = self.target.as_ref().map_or("-", |it| &*it.config.name);
        match error {
            BodyError::App(_) => tracing::debug!(upstream, %error, "response cut off"),
            BodyError::Closed(_) | BodyError::Protocol(_) | BodyError::Stalled(_) => {
                tracing::warn!(upstream, %error, "response cut off");
            }
        }
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.watch.request_ended();
        self.take_time();
        if let Some(target) = &self.target {
            target.metrics.in_flight.dec();
        }
        if let Some(access) = self.access.take() {
            let target = self.target.as_ref();
            access.log(target.map(|target| &*target.config.name));
        }
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    /// A body of Cupbearer's own.
    pub(super) fn own(content: Option<Bytes>, measure: Measure) -> Self {
        Self::new(Content::Own(content), measure)
    }

    pub(super) fn upstream(body: ForwardedBody, measure: Measure) -> Self {
        Self::new(Content::Upstream(body), measure)
    }

    fn new(content: Content, measure: Measure) -> Self {
        Self {
            content,
            measure: Some(measure),
            taken: None,
            hides_length: false,
        }
    }

    /// Returns the connection to the upstream, if that switched protocols (101), and the request's
    /// measurement, which goes on with it.
    pub(super) fn take_tunnel(&mut self) -> Option<(Tunnel, Measure)> {
        let Content::Upstream(body) = &mut self.content else {
            return None;
        };
        Some((body.take_tunnel()?, self.measure.take()?))
    }

    /// Whether the response is Cupbearer's own.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.content, Content::Own(_))
    }

    /// For the answer to HEAD: what is left is the measurement. The upstream's body ends by itself.
    pub(super) fn drop_content(&mut self) {
        match &mut self.content {
            Content::Own(bytes) => *bytes = None,
            Content::Upstream(_) => self.hides_length = true,
        }
    }

    /// Keeps hyper from stating how long the content is.
    pub(super) fn hide_length(&mut self) {
        self.hides_length = true;
    }

    /// Notes in `taken` when the app takes a part of the body.
    pub(super) fn must_be_taken(&mut self, taken: Arc<Taken>) {
        self.taken = Some(taken);
    }

    fn poll_content(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = match &mut self.content {
            Content::Own(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Content::Upstream(body) => body,
        };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let Some(measure) = &mut self.measure else {
            return polled;
        };
        if let Poll::Ready(Some(Err(error))) = &polled {
            measure.broke_off(error);
        }
        if let (Some(access), Poll::Ready(frame)) = (&mut measure.access, &polled) {
            count(access, frame.as_ref(), body.is_end_stream());
        }
        polled
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(taken) = &this.taken {
            taken.took();
        }
        let polled = this.poll_content(cx);
        if let (Some(taken), Poll::Ready(Some(Ok(_)))) = (&this.taken, &polled) {
            taken.gave();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_none(),
            Content::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.hides_length {
            return SizeHint::new();
        }
        match &self.content {
            Content::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Content::Upstream(body) => body.size_hint(),
        }
    }
}

fn count(access: &mut Access, frame: Option<&Result<Frame<Bytes>, BodyError>>, end: bool) {
    match frame {
        None => access.sent(0, true),
        Some(Ok(frame)) => access.sent(frame.data_ref().map_or(0, Bytes::len), end),
        Some(Err(_)) => {}
    }
}
