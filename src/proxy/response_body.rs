//! A response's body on its way to the app, and the measurement of its request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::access::Access;
use super::reject::ForwardedBody;
use super::target::Target;
use super::watch::{BodyProgress, Watch};
use crate::upstream::{BodyError, PollFrame, Tunnel};

/// A response's body. Its drop ends the request and the measurement.
pub(super) struct ResponseBody {
    content: Content,
    /// `None` once a tunnel has taken the measurement over.
    measure: Option<Measure>,
    /// Set for HTTP/2 only.
    progress: Option<Arc<BodyProgress>>,
    hides_length: bool,
}

enum Content {
    Own(Option<Bytes>),
    Upstream(ForwardedBody),
}

/// Times and counts a request, from its head to the end of its response.
pub(super) struct Measure {
    /// `None` once the duration was recorded.
    started: Option<Instant>,
    pub(super) target: Option<Arc<Target>>,
    /// One of the upstream's `max_in_flight`, if that is limited.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    watch: Arc<Watch>,
    pub(super) access: Option<Box<Access>>,
}

impl Measure {
    /// Starts to time a request on the connection that `watch` belongs to.
    pub(super) fn start(watch: &Arc<Watch>) -> Self {
        watch.request_started();
        Self {
            started: Some(Instant::now()),
            target: None,
            permit: None,
            watch: Arc::clone(watch),
            access: None,
        }
    }

    pub(super) fn routed(&mut self, target: &Arc<Target>) {
        target.metrics.in_flight.inc();
        self.target = Some(Arc::clone(target));
    }

    pub(super) fn upstream(&self) -> Option<&str> {
        self.target.as_ref().map(|target| &*target.config.name)
    }

    /// Notes the status of the response; `error` is the code of one of Cupbearer's errors.
    pub(super) fn answered(&mut self, status: StatusCode, error: Option<&'static str>) {
        if let Some(target) = &self.target {
            target.metrics.count(status);
        }
        if let Some(access) = &mut self.access {
            access.answered(status, error);
        }
    }

    /// Records the duration. An upgrade calls this early: its connection lasts much longer.
    pub(super) fn take_time(&mut self) {
        if let (Some(started), Some(target)) = (self.started.take(), &self.target) {
            let time = started.elapsed().as_secs_f64();
            target.metrics.duration.observe(time);
        }
    }

    fn sent(&mut self, length: usize, end: bool) {
        if let Some(access) = &mut self.access {
            access.sent(length, end);
        }
    }

    fn log_broken_body(&self, error: &BodyError) {
        let upstream = self.upstream().unwrap_or("-");
        if matches!(error, BodyError::App(_)) {
            tracing::debug!(upstream, %error, "response cut off");
        } else {
            tracing::warn!(upstream, %error, "response cut off");
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
            access.log(self.upstream());
        }
    }
}

impl ResponseBody {
    /// Returns the body of a response that Cupbearer itself gives.
    pub(super) fn own(content: Option<Bytes>, mut measure: Measure) -> Self {
        measure.sent(content.as_ref().map_or(0, Bytes::len), true);
        Self::new(Content::Own(content), measure)
    }

    pub(super) fn upstream(body: ForwardedBody, mut measure: Measure) -> Self {
        measure.sent(0, body.is_end_stream());
        Self::new(Content::Upstream(body), measure)
    }

    fn new(content: Content, measure: Measure) -> Self {
        Self {
            content,
            measure: Some(measure),
            progress: None,
            hides_length: false,
        }
    }

    /// Returns the connection to an upstream that switched protocols (101), and the measurement,
    /// which lasts as long as the tunnel.
    pub(super) fn take_tunnel(&mut self) -> Option<(Tunnel, Measure)> {
        let Content::Upstream(body) = &mut self.content else {
            return None;
        };
        Some((body.take_tunnel()?, self.measure.take()?))
    }

    pub(super) fn is_own(&self) -> bool {
        matches!(self.content, Content::Own(_))
    }

    /// Drops the content of a response to HEAD. The upstream's body is empty already.
    pub(super) fn drop_content(&mut self) {
        match &mut self.content {
            Content::Own(bytes) => *bytes = None,
            Content::Upstream(_) => self.hides_length = true,
        }
    }

    /// Keeps hyper from adding a `Content-Length`.
    pub(super) fn hide_length(&mut self) {
        self.hides_length = true;
    }

    /// Notes in `progress` when the app takes a part of the body.
    pub(super) fn note_progress(&mut self, progress: Arc<BodyProgress>) {
        self.progress = Some(progress);
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> PollFrame<BodyError> {
        let body = match &mut self.content {
            Content::Own(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Content::Upstream(body) => body,
        };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if let (Some(measure), Poll::Ready(frame)) = (&mut self.measure, &polled) {
            match frame {
                None => measure.sent(0, true),
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    measure.sent(length, body.is_end_stream());
                }
                Some(Err(error)) => measure.log_broken_body(error),
            }
        }
        polled
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<BodyError> {
        let this = self.get_mut();
        if let Some(progress) = &this.progress {
            progress.frame_requested();
        }
        let polled = this.poll_content(cx);
        if let (Some(progress), Poll::Ready(Some(Ok(_)))) = (&this.progress, &polled) {
            progress.frame_handed_out();
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
