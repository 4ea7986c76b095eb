//! Sends one request on a connection from the pool.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;

use super::body::{Content, UpstreamBody};
use super::error::SendError;
use super::http1::Received;
use super::pool::{Checkout, Inner};
use super::request::{RequestBody, RequestHead};

impl Checkout {
    pub fn is_http2(&self) -> bool {
        matches!(self.inner, Some(Inner::Http2(_)))
    }

    /// Sends the request and waits for the response head.
    ///
    /// Dropping the future closes the HTTP/1.1 connection, or resets the HTTP/2 stream.
    pub async fn send(
        mut self,
        head: &RequestHead<'_>,
        body: RequestBody,
    ) -> Result<Response<UpstreamBody>, SendError> {
        match self.inner.take() {
            Some(Inner::Http1(connection)) => {
                let (response, received) = connection.send(head.parts, head.wait, body).await?;
                Ok(response.map(|()| self.body_of(received)))
            }
            Some(Inner::Http2(permit)) => {
                let response = permit.send(head, body).await?;
                Ok(response.map(|exchange| {
                    let whole = || Content::Whole(Bytes::new());
                    UpstreamBody::new(exchange.map_or_else(whole, Content::Http2))
                }))
            }
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
