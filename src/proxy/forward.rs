//! Forward: connection first, token last, then the head goes out.

use std::sync::Arc;

use http::header::{AUTHORIZATION, EXPECT, HOST, TE, VIA};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;

use super::accept::Worker;
use super::error::ProxyError;
use super::headers::{self, Scan};
use super::route::Routed;
use super::target::Target;
use super::{Snapshot, authorize, upgrade};
use crate::config::ExistingCredential;
use crate::upstream::{Checkout, Pool, RequestBody, SendError, SendFailure, UpstreamBody};

/// What comes back from the upstream.
pub(super) type ForwardedBody = UpstreamBody;

/// Sends a request that has passed all checks and returns the upstream's answer.
pub(super) async fn forward(
    worker: &Worker,
    snapshot: &Snapshot,
    scan: Scan,
    request: Request<Incoming>,
    routed: Routed<'_>,
) -> Result<Response<ForwardedBody>, ProxyError> {
    let target = routed.target;
    let keep = keeps_credential(&request, target)?;
    let te_trailers = scan.te && headers::te_trailers(request.headers());
    let (mut parts, body) = request.into_parts();
    let switch = upgrade::Wanted::take(&mut parts, &scan);
    clean(&mut parts.headers, &scan, snapshot, target, keep);
    if let Some(wanted) = &switch {
        wanted.ask(&mut parts.headers);
    }
    let exchange = Exchange {
        routed,
        keep,
        te_trailers,
        uri: parts.uri.clone(),
    };
    let pool = &target.pools[worker.index];
    let body = RequestBody::new(body, Arc::clone(&target.credentials.headers));
    let response = match switch {
        None => exchange.send(pool, &mut parts, body).await?,
        Some(wanted) => {
            let checkout = exchange.checkout(pool.dial_http1()).await?;
            let response = exchange
                .attempt(checkout, &mut parts, body)
                .await
                .map_err(|error| error.failure)?;
            wanted.finish(response)
        }
    };
    Ok(response)
}

/// One request on its way.
struct Exchange<'a> {
    routed: Routed<'a>,
    /// The app's own credential goes out instead of ours.
    keep: bool,
    te_trailers: bool,
    /// As the app asked.
    uri: Uri,
}

impl Exchange<'_> {
    /// On a pooled connection, and once more on a fresh one if the pooled one turns out to be dead.
    async fn send(
        &self,
        pool: &Pool,
        parts: &mut Parts,
        body: RequestBody,
    ) -> Result<Response<UpstreamBody>, ProxyError> {
        let checkout = self.checkout(pool.checkout()).await?;
        let repeatable = body.is_empty() && is_safe(&parts.method);
        let error = match self.attempt(checkout, parts, body).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let body = retry(error, repeatable)?;
        let checkout = self.checkout(pool.dial()).await?;
        self.attempt(checkout, parts, body)
            .await
            .map_err(|error| error.failure.into())
    }

    /// A connection, once there is a token that could go out on it: a request that has to wait for a token holds none.
    async fn checkout(
        &self,
        connection: impl Future<Output = Result<Checkout, crate::upstream::connect::ConnectError>>,
    ) -> Result<Checkout, ProxyError> {
        if !self.keep && self.target().token.is_empty() {
            self.wait_for_token().await?;
        }
        Ok(connection.await?)
    }

    /// Stamps and sends. The token is read when the connection is in hand, right before the head is written.
    async fn attempt(
        &self,
        checkout: Checkout,
        parts: &mut Parts,
        body: RequestBody,
    ) -> Result<Response<UpstreamBody>, Failed> {
        loop {
            if self.keep {
                self.address(parts, &checkout, "")?;
                break;
            }
            let target = self.target();
            if let Some(token) = target.token.current() {
                let injection = target.token.injection(&token);
                authorize::stamp(&mut parts.headers, injection);
                self.address(parts, &checkout, &injection.query)?;
                break;
            }
            // Expired while the connection was made.
            self.wait_for_token().await?;
        }
        let wait = self.target().config.response_timeout;
        checkout.send(parts, body, wait).await.map_err(Failed::from)
    }

    async fn wait_for_token(&self) -> Result<(), ProxyError> {
        let limit = self.target().config.token_wait;
        match self.target().token.newer(0, limit).await {
            Ok(_) => Ok(()),
            Err(reason) => Err(ProxyError::token(reason, limit)),
        }
    }

    /// Names the upstream the way the connection's HTTP version does.
    fn address(
        &self,
        parts: &mut Parts,
        checkout: &Checkout,
        injected: &str,
    ) -> Result<(), ProxyError> {
        let target = self.target();
        let path = authorize::path_and_query(&self.uri, &self.routed, injected, self.keep)?;
        if !checkout.is_http2() {
            parts.version = Version::HTTP_11;
            parts.headers.insert(HOST, target.host.clone());
            parts.uri = Uri::from(path);
            return Ok(());
        }
        parts.version = Version::HTTP_2;
        parts.headers.remove(HOST);
        if self.te_trailers {
            parts
                .headers
                .insert(TE, HeaderValue::from_static("trailers"));
        }
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(target.scheme.clone());
        uri.authority = Some(target.authority.clone());
        uri.path_and_query = Some(path);
        parts.uri = Uri::from_parts(uri)
            .map_err(|_| ProxyError::BadRequest("the path cannot be forwarded"))?;
        Ok(())
    }

    fn target(&self) -> &Arc<Target> {
        self.routed.target
    }
}

/// Why an attempt brought no response, with what a retry needs.
struct Failed {
    failure: ProxyError,
    reused: bool,
    /// If nothing of the request was written.
    body: Option<RequestBody>,
}

impl From<ProxyError> for Failed {
    fn from(failure: ProxyError) -> Self {
        Self {
            failure,
            reused: false,
            body: None,
        }
    }
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        Self {
            failure: error.failure.into(),
            reused: error.reused,
            body: error.body,
        }
    }
}

/// The body to send once more. RFC 9110 §9.2.2, RFC 9112 §9.3.1: only if nothing was written, or if the request is safe, has no body
/// and met a connection that the upstream has just closed for being idle.
fn retry(error: Failed, repeatable: bool) -> Result<RequestBody, ProxyError> {
    if let Some(body) = error.body {
        return Ok(body);
    }
    let stale = error.reused && matches!(error.failure, ProxyError::Send(SendFailure::Closed(_)));
    if repeatable && stale {
        Ok(RequestBody::Empty)
    } else {
        Err(error.failure)
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    )
}

/// `existing_credential`: whether the app's own credential is kept.
fn keeps_credential<B>(request: &Request<B>, target: &Target) -> Result<bool, ProxyError> {
    match target.config.existing_credential {
        ExistingCredential::Replace => Ok(false),
        ExistingCredential::Keep => Ok(authorize::has_credential(
            request.headers(),
            request.uri(),
            target,
        )),
        ExistingCredential::Reject
            if authorize::has_credential(request.headers(), request.uri(), target) =>
        {
            Err(ProxyError::RequestNotAllowed(
                "the request has a credential of its own",
            ))
        }
        ExistingCredential::Reject => Ok(false),
    }
}

/// Everything that the upstream must not get goes, and what it always gets comes in.
fn clean(headers: &mut HeaderMap, scan: &Scan, snapshot: &Snapshot, target: &Target, keep: bool) {
    if scan.hop_by_hop {
        headers::strip_hop_by_hop(headers);
    }
    if scan.expect {
        headers.remove(EXPECT);
    }
    // Where the token goes it replaces whatever is there; this is for dialects that put it elsewhere.
    if scan.authorization && !keep {
        headers.remove(AUTHORIZATION);
    }
    if let Some(via) = &snapshot.settings.via {
        headers.append(VIA, via.clone());
    }
    for name in &target.config.remove_headers {
        headers.remove(name);
    }
    for (name, value) in &target.config.set_headers {
        headers.insert(name, value.clone());
    }
}
