//! Forward: sends a request with the newest token, and again after a rejection.
//!
//! The connection comes first and the token last, right before the head is written. Each attempt
//! reads the token again. A request never fetches a token: it waits for the refresher, at most
//! `token_wait`.
//!
//! A rejected request is sent at most three times, each time with a newer generation, while all
//! body bytes that were read from the app are kept (`replay_limit`). Otherwise the app gets the
//! rejection, and a new token is requested all the same. Connection failures lead to a resend only
//! if no byte was written, or once for a safe request without a body on a reused connection.

use std::sync::Arc;

use http::header::{HOST, TE};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use tokio::time::Instant;

use super::app_body::{AppBody, Tally};
use super::error::ProxyError;
use super::headers::{self, Scan};
use super::reject::{self, ForwardedBody};
use super::respond::TokenRejected;
use super::route::Routed;
use super::snapshot::Snapshot;
use super::worker::Worker;
use super::{authorize, clean, rewrite, upgrade};
use crate::token::cell::{Entry, InFlightGuard, Replayability, Unavailable};
use crate::upstream::{
    Checkout, Pool, Replay, RequestBody, RequestHead, SendError, SendFailure, UpstreamBody,
};

/// How often a request is sent while its token is rejected.
const ATTEMPTS: u32 = 3;

/// How often a request of which no byte was written is tried on another connection.
const UNSENT_RESENDS: u32 = 3;

/// Sends a request that has passed all checks. Returns the upstream's response.
pub(super) async fn forward(
    worker: &Worker,
    snapshot: &Snapshot,
    scan: Scan,
    request: Request<AppBody>,
    routed: Routed<'_>,
) -> Result<Response<ForwardedBody>, ProxyError> {
    let mut request = ForwardedRequest::new(worker, snapshot, scan, request, routed)?;
    let mut response = if request.upgrades {
        Box::pin(request.run_upgrade()).await?
    } else {
        request.run().await?
    };
    if routed.target.config.rewrite_redirects && rewrite::concerns(response.headers()) {
        rewrite::response(response.headers_mut(), &request.view());
    }
    Ok(response.map(ForwardedBody::detach_upload))
}

struct ForwardedRequest<'a> {
    routed: Routed<'a>,
    worker: &'a Worker,
    pool: &'a Pool,
    /// The app's own credential is sent instead of the token.
    keep: bool,
    te_trailers: bool,
    /// The app asks for another protocol.
    upgrades: bool,
    uri: Uri,
    /// The app's `Host`, once [`Self::address`] has replaced it.
    host: Option<HeaderValue>,
    addressed: bool,
    /// The head for the upstream. Each attempt sets the target, `Host` and token.
    head: Parts,
    replay: Replay,
    /// The newest rejected generation: every attempt needs a newer token.
    rejected: u64,
    /// How the gate of a single-active provider treats the request.
    replayability: Replayability,
}

/// The token's generation, 0 for none, and the gate's guard, held until the response head is there.
type Stamp = (u64, Option<InFlightGuard>);

impl<'a> ForwardedRequest<'a> {
    fn new(
        worker: &'a Worker,
        snapshot: &Snapshot,
        scan: Scan,
        request: Request<AppBody>,
        routed: Routed<'a>,
    ) -> Result<Self, ProxyError> {
        let target = routed.target;
        let config = &target.config;
        clean::refuse_credential(&request, target)?;
        let te_trailers = scan.te && headers::te_trailers(request.headers());
        let (mut head, body) = request.into_parts();
        let protocol = upgrade::wanted(&head, &body, &scan);
        let keep = clean::clean(&mut head, &scan, snapshot, target);
        let upgrades = protocol.is_some();
        if let Some(protocol) = protocol {
            headers::set_upgrade(&mut head.headers, protocol);
        }
        let forbidden = Arc::clone(&target.not_in_trailers);
        let replay = Replay::new(body, forbidden, config.replay_limit);
        // A body of unknown length may exceed the limit. As unrepeatable, its request waits at the
        // gate, but does not fail.
        let replayability = match upgrades || config.replay_limit == 0 || !replay.stays_replayable()
        {
            true => Replayability::Unrepeatable,
            false => Replayability::Replayable,
        };
        Ok(Self {
            routed,
            worker,
            pool: &target.pools[worker.index],
            keep,
            te_trailers,
            upgrades,
            uri: std::mem::take(&mut head.uri),
            host: None,
            addressed: false,
            head,
            replay,
            rejected: 0,
            replayability,
        })
    }

    async fn run(&mut self) -> Result<Response<ForwardedBody>, ProxyError> {
        let target = self.routed.target;
        let mut attempt = 1;
        loop {
            let (response, generation) = self.send().await?;
            let head_rejects = !self.keep && reject::rejects(&response, target);
            let peeks = !self.keep && !head_rejects && reject::must_peek(&response, target);
            let (rejected, response) = match peeks {
                true => Box::pin(reject::examine(response, target)).await,
                false => (head_rejects, response.map(ForwardedBody::from)),
            };
            if !rejected {
                self.replay.stop_keeping();
                if !self.keep {
                    target.record.accepted(generation);
                }
                if attempt > 1 {
                    target.metrics.replayed.inc();
                    self.tally(Tally::replayed);
                }
                return Ok(response);
            }
            self.rejected = generation;
            target.metrics.rejections.inc();
            if !Box::pin(self.renewed(attempt)).await || !self.replay.rewind() {
                self.replay.stop_keeping();
                return Ok(mark_rejected(response));
            }
            Box::pin(reject::drain(response)).await;
            attempt += 1;
        }
    }

    /// Sends an upgrade once: bytes behind the head belong to the new protocol.
    async fn run_upgrade(&mut self) -> Result<Response<ForwardedBody>, ProxyError> {
        let target = self.routed.target;
        self.wait_for_turn().await?;
        let checkout = self.pool.dial_http1().await?;
        let (generation, on_wire) = self.stamp(&checkout).await?;
        let head = self.request_head();
        let sent = checkout.send(&head, RequestBody::Empty).await;
        drop(on_wire);
        let response = self.with_body_timeout(sent.map_err(|error| error.failure)?);
        let rejected = !self.keep && reject::rejects(&response, target);
        let response = response.map(ForwardedBody::from);
        if rejected {
            target.metrics.rejections.inc();
            target.metrics.not_replayed.inc();
            target.record.renew(generation, &target.token);
            return Ok(mark_rejected(response));
        }
        if !self.keep {
            target.record.accepted(generation);
        }
        Ok(response)
    }

    /// Sends the request with the newest token on a pooled connection, and on a fresh one if the
    /// pooled one turns out to be dead. Returns the token's generation, too, 0 for none.
    async fn send(&mut self) -> Result<(Response<UpstreamBody>, u64), ProxyError> {
        let mut checkout = match self.ready() {
            Some(checkout) => checkout,
            None => Box::pin(self.checkout()).await?,
        };
        let mut resent = 0;
        loop {
            let (generation, on_wire) = match self.try_stamp(&checkout)? {
                Ok(stamp) => stamp,
                Err(_) => Box::pin(self.stamp(&checkout)).await?,
            };
            let Some(mut body) = self.replay.body() else {
                return Err(ProxyError::Internal("a second attempt has no request body"));
            };
            if !body.is_empty() {
                let limits = self.worker.proxy.snapshot.load().settings.body_timeout;
                body.stalls_after(limits.announced, limits.streaming);
            }
            let sent = checkout.send(&self.request_head(), body).await;
            drop(on_wire);
            match sent {
                Ok(response) => return Ok((self.with_body_timeout(response), generation)),
                Err(error) if self.may_resend(&error, resent) && self.replay.rewind() => {
                    resent += 1;
                    self.tally(Tally::resent);
                    checkout = Box::pin(self.dial()).await?;
                }
                Err(error) => return Err(error.failure.into()),
            }
        }
    }

    fn request_head(&self) -> RequestHead<'_> {
        RequestHead {
            parts: &self.head,
            wait: self.routed.target.config.response_timeout,
        }
    }

    fn with_body_timeout(&self, mut response: Response<UpstreamBody>) -> Response<UpstreamBody> {
        let limits = self.routed.target.config.body_timeout;
        let body = response.body_mut();
        body.stalls_after(limits.announced, limits.streaming);
        response
    }

    /// Counts for the access log, if that is on.
    fn tally(&self, count: fn(&Tally)) {
        if let Some(tally) = self.head.extensions.get::<Arc<Tally>>() {
            count(tally);
        }
    }

    /// Returns an idle connection if a token may go out on it now: the common case.
    fn ready(&self) -> Option<Checkout> {
        let token = &self.routed.target.token;
        let waits = !self.keep && (token.is_empty() || token.is_closed(self.replayability));
        if waits { None } else { self.pool.ready() }
    }

    async fn checkout(&self) -> Result<Checkout, ProxyError> {
        self.wait_for_turn().await?;
        Ok(self.pool.checkout().await?)
    }

    async fn dial(&self) -> Result<Checkout, ProxyError> {
        self.wait_for_turn().await?;
        Ok(self.pool.dial().await?)
    }

    /// Waits for a token and the gate before the request takes a connection.
    async fn wait_for_turn(&self) -> Result<(), ProxyError> {
        let token = &self.routed.target.token;
        if !self.keep && token.is_empty() {
            self.wait_for_token(self.deadline()).await?;
        }
        if !self.keep && token.is_closed(self.replayability) {
            self.wait_at_gate(self.deadline()).await?;
        }
        Ok(())
    }

    /// Addresses the head and sets the token. `Ok(Err)` says why no token may go out now.
    fn try_stamp(&mut self, checkout: &Checkout) -> Result<Result<Stamp, Entry>, ProxyError> {
        if self.keep {
            self.address(checkout, "")?;
            return Ok(Ok((0, None)));
        }
        let target = self.routed.target;
        match target.token.enter(self.replayability, self.rejected) {
            Entry::Pass(token, on_wire) => {
                let injection = authorize::current(target.token.injection(&token));
                authorize::stamp(&mut self.head.headers, &injection);
                self.address(checkout, &injection.query)?;
                Ok(Ok((token.generation, on_wire)))
            }
            entry => Ok(Err(entry)),
        }
    }

    /// Like [`Self::try_stamp`], but waits if the token expired while the connection was made, or
    /// if the gate closed. One limit covers all waits.
    async fn stamp(&mut self, checkout: &Checkout) -> Result<Stamp, ProxyError> {
        let deadline = self.deadline();
        loop {
            match self.try_stamp(checkout)? {
                Ok(stamp) => return Ok(stamp),
                Err(Entry::Closed) => self.wait_at_gate(deadline).await?,
                Err(_) => self.wait_for_token(deadline).await?,
            }
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.routed.target.config.token_wait
    }

    /// Waits for a token newer than the rejected one.
    async fn wait_for_token(&self, deadline: Instant) -> Result<(), ProxyError> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let newer = self.routed.target.token.newer(self.rejected, limit);
        self.unless_closing(newer).await.map(drop)
    }

    /// Waits for the end of a token exchange that must not overtake this request.
    async fn wait_at_gate(&self, deadline: Instant) -> Result<(), ProxyError> {
        let token = &self.routed.target.token;
        let opening = token.opening(self.replayability, deadline);
        self.unless_closing(opening).await
    }

    /// Fails the wait when the worker closes.
    async fn unless_closing<T>(
        &self,
        wait: impl Future<Output = Result<T, Unavailable>>,
    ) -> Result<T, ProxyError> {
        let mut closing = self.worker.closing.subscribe();
        // Boxed because waits are rare: each request copies every byte of its future.
        let wait = Box::pin(wait);
        tokio::select! {
            waited = wait => waited.map_err(ProxyError::token),
            _ = closing.wait_for(|closing| *closing) => Err(ProxyError::ShuttingDown),
        }
    }

    /// RFC 9110 §9.2.2, RFC 9112 §9.3.1: a request is sent again if no byte was written, or, once,
    /// if the method is safe and a reused connection broke before the response.
    fn may_resend(&self, error: &SendError, resent: u32) -> bool {
        if error.unsent {
            return resent < UNSENT_RESENDS;
        }
        let stale = error.reused && matches!(error.failure, SendFailure::Closed(_));
        let is_safe = matches!(
            self.head.method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
        );
        resent == 0 && stale && self.replay.is_empty() && is_safe
    }

    /// Returns whether a rejected request can be sent with a newer token. Always asks for one.
    async fn renewed(&self, attempt: u32) -> bool {
        let (target, generation) = (self.routed.target, self.rejected);
        let current = target.token.current();
        let newer = current.is_some_and(|token| token.generation > generation);
        if !newer && target.record.is_first_rejection(generation) {
            let upstream = target.config.name.as_str();
            tracing::info!(upstream, generation, "the API rejected the token");
        }
        let asked = newer || target.record.renew(generation, &target.token);
        if target.config.replay_limit == 0 || !self.replay.is_replayable() {
            target.metrics.not_replayed.inc();
            return false;
        }
        let again = attempt < ATTEMPTS && (newer || self.newer_came(asked).await);
        if !again {
            target.metrics.replay_rejected.inc();
        }
        again
    }

    async fn newer_came(&self, asked: bool) -> bool {
        if asked {
            return self.wait_for_token(self.deadline()).await.is_ok();
        }
        // The upstream's backoff allows no new fetch, but a fetch under way may help.
        let target = self.routed.target;
        let limit = target.config.token_wait;
        let came = async { Ok(target.token.after_fetch(self.rejected, limit).await) };
        self.unless_closing(came).await.unwrap_or(false)
    }

    /// Returns the upstream's own address, and the app's address for the upstream.
    fn view(&self) -> rewrite::View<'_> {
        let host = || self.host.as_ref()?.to_str().ok();
        let authority = self.uri.authority().map(Authority::as_str).or_else(host);
        let prefix = &self.uri.path()[..self.routed.prefix];
        rewrite::View::new(&self.routed.target.config, authority, prefix)
    }

    /// Sets target and authority in the form of the connection's HTTP version.
    fn address(&mut self, checkout: &Checkout, injected: &str) -> Result<(), ProxyError> {
        let path = authorize::path_and_query(&self.uri, &self.routed, injected, self.keep)?;
        let (head, target) = (&mut self.head, self.routed.target);
        let host = if checkout.is_http2() {
            head.version = Version::HTTP_2;
            if self.te_trailers {
                let trailers = HeaderValue::from_static("trailers");
                head.headers.insert(TE, trailers);
            }
            head.uri = Uri::builder()
                .scheme(target.scheme.clone())
                .authority(target.authority.clone())
                .path_and_query(path)
                .build()
                .map_err(|_| ProxyError::BadRequest("the path cannot be forwarded"))?;
            head.headers.remove(HOST)
        } else {
            head.version = Version::HTTP_11;
            head.uri = Uri::from(path);
            let own = target.host.clone();
            // `insert` grows a full map even to replace a field, which moves all fields.
            match head.headers.get_mut(HOST) {
                Some(host) => Some(std::mem::replace(host, own)),
                None => head.headers.insert(HOST, own),
            }
        };
        if !std::mem::replace(&mut self.addressed, true) {
            self.host = host;
        }
        Ok(())
    }
}

/// Marks a forwarded rejection: a renewal failed, or could not be used for this request.
fn mark_rejected<B>(mut response: Response<B>) -> Response<B> {
    response.extensions_mut().insert(TokenRejected);
    response
}
