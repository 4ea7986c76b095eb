//! Access log: one event of the target `cupbearer::access` per request, if `server.access_log` is
//! on. Paths have no query, which may hold secrets.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body::Body as _;

use super::app_body::{AppBody, Tally};

/// Limit of characters of an ID or a path, so that a client cannot fill the log.
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
    error: Option<&'static str>,
    complete: bool,
}

impl Access {
    /// Must be called before any field is removed from the request.
    pub(super) fn start(request: &mut Request<AppBody>) -> Box<Self> {
        let tally = Arc::<Tally>::default();
        request.extensions_mut().insert(Arc::clone(&tally));
        if !request.body().is_end_stream() {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = body.counted(Arc::clone(&tally));
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
