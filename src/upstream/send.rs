//! One request on a connection from the pool.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::request::Parts;

use super::body::{RequestBody, UpstreamBody};
use super::pool::Shared;
use super::stall::Stalled;
use super::{http1, http2};

/// Interim responses before the final one. They are not forwarded: hyper's server has no way to send
/// one, and RFC 9110 §15.2 lets a proxy drop them.
pub(super) const MAX_INTERIM: u32 = 64;

/// What is sent besides the body, and how it is waited for. Borrowed: a retry needs no copy.
pub struct Ask<'a> {
    pub head: &'a Parts,
    /// For the head of the answer, counted from the end of the upload.
    pub wait: Duration,
}

/// A connection or stream for one request. Dropped unused, it goes back to the pool.
pub struct Checkout {
    inner: Option<Inner>,
    pool: Arc<Shared>,
}

enum Inner {
    Http1(Box<http1::Connection>),
    Http2(http2::Slot),
}

/// Why a request got no response.
#[derive(Debug)]
pub struct SendError {
    pub failure: SendFailure,
    /// The connection had carried requests before, so that the peer may just have closed it for being idle.
    pub reused: bool,
    /// Nothing of the request was written: it may be sent again whatever its method.
    pub unsent: bool,
}

/// What is behind a failure.
pub type Cause = Box<dyn Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// The upstream closed the connection, or reset the stream, before its answer was complete.
    #[error("the upstream closed the connection: {0}")]
    Closed(Cause),
    /// What the upstream sent is not HTTP.
    #[error("the upstream's answer is not valid HTTP: {0}")]
    Protocol(Cause),
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The app's body ended in the middle, or is not as long as it said.
    #[error("the app's request body broke off: {0}")]
    App(Cause),
}

impl Checkout {
    pub(super) fn http1(connection: Box<http1::Connection>, pool: Arc<Shared>) -> Self {
        Self {
            inner: Some(Inner::Http1(connection)),
            pool,
        }
    }

    pub(super) fn http2(slot: http2::Slot, pool: Arc<Shared>) -> Self {
        Self {
            inner: Some(Inner::Http2(slot)),
            pool,
        }
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.inner, Some(Inner::Http2(_)))
    }

    /// Whether it has carried requests before.
    pub fn is_reused(&self) -> bool {
        match &self.inner {
            Some(Inner::Http1(connection)) => connection.reused,
            Some(Inner::Http2(slot)) => slot.reused,
            None => false,
        }
    }

    /// To be called by a task that sleeps between [`super::Pool::ready`] and [`Self::send`].
    pub fn unwatch(&mut self) {
        if let Some(Inner::Http1(connection)) = &mut self.inner {
            connection.unwatch();
        }
    }

    /// Sends and waits for the head of the answer.
    ///
    /// Dropping the future aborts the request: an HTTP/1.1 connection is closed, an HTTP/2 stream is reset.
    pub async fn send(
        mut self,
        ask: &Ask<'_>,
        body: RequestBody,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let pool = Arc::clone(&self.pool);
        match self.inner.take() {
            Some(Inner::Http1(connection)) => connection.send(ask, body, pool).await,
            Some(Inner::Http2(slot)) => slot.send(ask, body).await,
            None => unreachable!(
                "`inner` is only taken here and in drop, and `self` is gone after both"
            ),
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(Inner::Http1(connection)) = self.inner.take() {
            self.pool.put(connection);
        }
    }
}

impl SendFailure {
    /// Whether the app stood still in the middle of its body.
    pub fn app_stalled(&self) -> bool {
        let Self::App(cause) = self else {
            return false;
        };
        let source = cause.source();
        cause.is::<Stalled>() || source.is_some_and(<dyn Error>::is::<Stalled>)
    }
}
