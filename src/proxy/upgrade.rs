//! Upgrades (RFC 9110 §7.8), WebSocket above all: the handshake is forwarded with the token on it, then bytes are.

use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::headers::{Scan, connection_upgrade};
use super::reject::ForwardedBody;
use crate::upstream::UpstreamBody;

/// A switch of protocols that the app asks for.
pub(super) struct Wanted {
    protocol: HeaderValue,
    app: OnUpgrade,
}

impl Wanted {
    /// Takes the app's half out of the request. `h2c` is not passed on: it would be about this hop (RFC 9113 §3.1).
    pub(super) fn take(parts: &mut Parts, scan: &Scan) -> Option<Self> {
        if !scan.upgrade || parts.version != Version::HTTP_11 || !connection_upgrade(&parts.headers)
        {
            return None;
        }
        let protocol = parts.headers.get(UPGRADE)?.clone();
        if protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
            return None;
        }
        let app = parts.extensions.remove::<OnUpgrade>()?;
        Some(Self { protocol, app })
    }

    /// Asks the upstream for the same.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
    }

    /// Joins both sides if the upstream switched. The tunnel ends when either side closes, or with the worker.
    pub(super) fn finish(self, mut response: Response<UpstreamBody>) -> Response<ForwardedBody> {
        let Some(mut upstream) = response.body_mut().take_tunnel() else {
            return response.map(ForwardedBody::Live);
        };
        tokio::spawn(async move {
            let Ok(app) = self.app.await else {
                return;
            };
            let mut app = TokioIo::new(app);
            if let Err(error) = copy_bidirectional(&mut app, &mut upstream).await {
                tracing::debug!(%error, "upgraded connection ended");
            }
        });
        response.map(ForwardedBody::Live)
    }
}
