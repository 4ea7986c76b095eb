//! Access log: one event of the target `cupbearer::access` per request, if `server.access_log` is
//! on. Paths have no query, which may hold secrets.

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

/// The most characters of an id or a path in the log: a client must not fill the log with one.
const LONGEST: usize = 256;

/// A request that is logged when it ends.
pub(super) struct Access {
    started: Instant,
    method: Method,
    path: Box<str>,
    version: Version,
    request_id: Box<str>,
    /// W3C Trace Context, forwarded as it is.
    traceparent: Option<Box<str>>,
    tally: Arc<Tally>,
    sent: u64,
    status: Option<StatusCode>,
    /// Code of one of Cupbearer's errors.
    error: Option<&'static str>,
    complete: bool,
}

/// Counters in the request's extensions.
#[derive(Default)]
pub(super) struct Tally {
    received: AtomicU64,
    replays: AtomicU32,
    resends: AtomicU32,
}

/// A body that counts its bytes in `tally`.
pub(super) struct Counted {
    body: AppBody,
    tally: Arc<Tally>,
}

impl Access {
    /// Must be called before any field is removed from the request.
    pub(super) fn start(request: &mut Request<AppBody>) -> Box<Self> {
        let tally = Arc::<Tally>::default();
        request.extensions_mut().insert(Arc::clone(&tally));
        if !request.body().is_end_stream() {
            let body = std::mem::take(request.body_mut());
            let tally = Arc::clone(&tally);
            *request.body_mut() = AppBody::Counted(Box::new(Counted { body, tally }));
        }
        let headers = request.headers();
        let new_id = || format!("{:016x}", fastrand::u64(..)).into();
        Box::new(Self {
            started: Instant::now(),
            method: request.method().clone(),
            path: shortened(request.uri().path()),
            version: request.version(),
            request_id: text(headers, "x-request-id").unwrap_or_else(new_id),
            traceparent: text(headers, "traceparent"),
            tally,
            sent: 0,
            status: None,
            error: None,
            complete: false,
        })
    }

    /// `error` is the code of one of Cupbearer's errors.
    pub(super) fn answered(&mut self, status: StatusCode, error: Option<&'static str>) {
        self.status = Some(status);
        self.error = error;
    }

    /// Notes a part of the response's body, and whether that is the `end`.
    pub(super) fn sent(&mut self, length: usize, end: bool) {
        self.sent += length as u64;
        self.complete |= end;
    }

    /// Logs the request. It has no status if the app gave up before the response.
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
    /// The request was sent again with a newer token.
    pub(super) fn replayed(&self) {
        self.replays.fetch_add(1, Relaxed);
    }

    /// The request was sent again because its connection was dead.
    pub(super) fn resent(&self) {
        self.resends.fetch_add(1, Relaxed);
    }
}

/// Returns a field if its value is visible ASCII.
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
