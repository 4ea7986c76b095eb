//! Access log: a line for each request, where `server.access_log` asks for it; where not, none of this is made.
//!
//! Events of the target `cupbearer::access`. Paths are told without their query, which may hold what is nobody's business.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};

use super::AppBody;
use crate::upstream::error::Cause;

/// What is copied of an id or a path: whoever sends a long one must not fill the log.
const LONGEST: usize = 256;

/// A request that will be logged when it is over.
pub(super) struct Access {
    started: Instant,
    method: Method,
    path: Box<str>,
    version: Version,
    request_id: Box<str>,
    /// W3C Trace Context; passed on as it came.
    traceparent: Option<Box<str>>,
    tally: Arc<Tally>,
    sent: u64,
    status: Option<StatusCode>,
    /// Of an answer of our own.
    error: Option<&'static str>,
    complete: bool,
}

/// What is counted elsewhere while the request is under way; among its extensions.
#[derive(Default)]
pub(super) struct Tally {
    received: AtomicU64,
    replays: AtomicU32,
    resends: AtomicU32,
}

/// A body whose bytes are counted as they come in.
pub(super) struct Counted {
    body: AppBody,
    tally: Arc<Tally>,
}

impl Access {
    /// To be called before anything is taken out of the request.
    pub(super) fn start(request: &mut Request<AppBody>) -> Box<Self> {
        let tally = Arc::<Tally>::default();
        request.extensions_mut().insert(Arc::clone(&tally));
        if !request.body().is_end_stream() {
            let body = std::mem::take(request.body_mut());
            let tally = Arc::clone(&tally);
            *request.body_mut() = AppBody::Counted(Box::new(Counted { body, tally }));
        }
        let headers = request.headers();
        let traceparent = text(headers, "traceparent");
        Box::new(Self {
            started: Instant::now(),
            method: request.method().clone(),
            path: shortened(request.uri().path()),
            version: request.version(),
            request_id: text(headers, "x-request-id").unwrap_or_else(new_id),
            traceparent,
            tally,
            sent: 0,
            status: None,
            error: None,
            complete: false,
        })
    }

    /// `error` is the code of an answer of our own.
    pub(super) fn answered(&mut self, status: StatusCode, error: Option<&'static str>) {
        self.status = Some(status);
        self.error = error;
    }

    /// A part of the response's body, and whether nothing comes after it.
    pub(super) fn sent(&mut self, length: usize, end: bool) {
        self.sent += length as u64;
        self.complete |= end;
    }

    /// One line. A request without a status was given up by the app before there was an answer.
    pub(super) fn log(self, upstream: Option<&str>) {
        let elapsed = self.started.elapsed().as_micros();
        tracing::info!(
            target: "cupbearer::access",
            method = self.method.as_str(),
            path = &*self.path,
            version = ?self.version,
            status = self.status.map(|status| status.as_u16()),
            upstream,
            error = self.error,
            microseconds = u64::try_from(elapsed).unwrap_or(u64::MAX),
            received = self.tally.received.load(Relaxed),
            sent = self.sent,
            complete = self.complete,
            replays = self.tally.replays.load(Relaxed),
            resends = self.tally.resends.load(Relaxed),
            request_id = &*self.request_id,
            traceparent = self.traceparent.as_deref(),
            "request"
        );
    }
}

impl Tally {
    /// Sent again with a newer token.
    pub(super) fn replayed(&self) {
        self.replays.fetch_add(1, Relaxed);
    }

    /// Sent again because its connection was dead.
    pub(super) fn resent(&self) {
        self.resends.fetch_add(1, Relaxed);
    }
}

/// Only what a log can hold: visible ASCII.
fn text(headers: &HeaderMap, name: &str) -> Option<Box<str>> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty()).then(|| shortened(value))
}

fn shortened(text: &str) -> Box<str> {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

fn new_id() -> Box<str> {
    format!("{:016x}", fastrand::u64(..)).into()
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.tally.received.fetch_add(data.len() as u64, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
