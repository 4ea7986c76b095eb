//! One request on a connection from the pool.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::request::Parts;

use super::body::{RequestBody, UpstreamBody};
use super::error::SendError;
use super::pool::{Http1, Shared};
use super::{http1, http2};

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
    Http1(Box<Http1>),
    Http2(http2::Slot),
}

impl Checkout {
    pub(super) fn http1(connection: Box<Http1>, pool: Arc<Shared>) -> Self {
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

    /// Sends and waits for the head of the answer.
    ///
    /// Dropping the future aborts the request: an HTTP/1.1 connection is closed, an HTTP/2 stream is reset.
    pub async fn send(
        mut self,
        ask: &Ask<'_>,
        body: RequestBody,
    ) -> Result<Response<UpstreamBody>, SendError> {
        match self.inner.take() {
            Some(Inner::Http1(connection)) => {
                let (head, received) = connection.send(ask.head, ask.wait, body).await?;
                Ok(head.map(|()| self.body_of(received)))
            }
            Some(Inner::Http2(slot)) => slot.send(ask, body).await,
            None => unreachable!(
                "`inner` is only taken here and in drop, and `self` is gone after both"
            ),
        }
    }
}

impl Checkout {
    fn body_of(&self, received: http1::Received<RequestBody>) -> UpstreamBody {
        match received {
            http1::Received::Whole(content, connection) => {
                if let Some(connection) = connection {
                    self.pool.put(connection);
                }
                UpstreamBody::whole(content)
            }
            http1::Received::Partly(connection) => {
                UpstreamBody::http1(connection, Arc::clone(&self.pool))
            }
            http1::Received::Tunnel(tunnel) => UpstreamBody::tunnel(tunnel),
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
