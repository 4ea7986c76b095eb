//! Sends one request on a connection from the pool.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::request::Parts;

use super::body::{Content, RequestBody, UpstreamBody};
use super::error::SendError;
use super::http1::Received;
use super::http2;
use super::pool::{Http1, PoolShared};

/// A request without its body. Borrowed, so that a retry needs no copy.
pub struct Ask<'a> {
    pub head: &'a Parts,
    /// Time limit for the response head, counted from the last progress of the upload.
    pub wait: Duration,
}

/// A connection or stream for one request. Dropping an unused checkout returns it to the pool.
pub struct Checkout {
    pub(super) inner: Option<Inner>,
    pool: Arc<PoolShared>,
}

pub(super) enum Inner {
    Http1(Box<Http1>),
    Http2(http2::StreamPermit),
}

impl Checkout {
    pub(super) fn new(inner: Inner, pool: Arc<PoolShared>) -> Self {
        Self {
            inner: Some(inner),
            pool,
        }
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.inner, Some(Inner::Http2(_)))
    }

    /// Sends the request and waits for the response head.
    ///
    /// Dropping the future closes the HTTP/1.1 connection, or resets the HTTP/2 stream.
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
            Some(Inner::Http2(permit)) => permit.send(ask, body).await,
            None => unreachable!("only `send` and `drop` take `inner`, and both consume `self`"),
        }
    }

    fn body_of(&self, received: Received<RequestBody>) -> UpstreamBody {
        UpstreamBody::new(match received {
            Received::Whole(content, connection) => {
                if let Some(connection) = connection {
                    self.pool.put(connection);
                }
                Content::Whole(content)
            }
            Received::Partly(connection) => Content::Http1(connection, Arc::clone(&self.pool)),
            Received::Tunnel(tunnel) => Content::Tunnel(tunnel),
        })
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(Inner::Http1(connection)) = self.inner.take() {
            self.pool.put(connection);
        }
    }
}
