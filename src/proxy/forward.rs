//! Forward: connection first, token last, then the head goes out.

use std::sync::Arc;

use http::header::{HOST, TE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use tokio::time::Instant;

use super::access::Tally;
use super::error::ProxyError;
use super::headers::{self, Scan};
use super::reject::{self, ForwardedBody};
use super::respond::Received;
use super::route::Routed;
use super::worker::Worker;
use super::{AppBody, Snapshot, authorize, clean, rewrite, upgrade};
use crate::provider::cell::{Entry, OnWire, Traveller, Unavailable};
use crate::upstream::{
    Ask, Checkout, Pool, Replay, RequestBody, SendError, SendFailure, UpstreamBody,
};

/// Attempts to get past a rejection, the first one included (DESIGN.md §6.4).
const ATTEMPTS: u32 = 3;

/// How often a request of which nothing was written is tried on another connection.
const UNSENT_RESENDS: u32 = 3;

/// Takes a request that has passed all checks, sends it and returns the upstream's answer.
pub(super) async fn forward(
    worker: &Worker,
    snapshot: &Snapshot,
    scan: Scan,
    request: Request<AppBody>,
    routed: Routed<'_>,
) -> Result<Response<ForwardedBody>, ProxyError> {
    let mut exchange = Exchange::new(worker, snapshot, scan, request, routed)?;
    let mut response = if exchange.upgrades {
        Box::pin(exchange.run_upgrade()).await?
    } else {
        exchange.run().await?
    };
    if routed.target.config.rewrite_redirects && rewrite::concerns(response.headers()) {
        rewrite::response(response.headers_mut(), &exchange.view());
    }
    Ok(response.map(ForwardedBody::detach_upload))
}

/// One request on its way, over as many attempts as it takes.
struct Exchange<'a> {
    routed: Routed<'a>,
    worker: &'a Worker,
    pool: &'a Pool,
    /// The app's own credential goes out instead of ours.
    keep: bool,
    te_trailers: bool,
    /// The app asks for another protocol.
    upgrades: bool,
    /// As the app asked.
    uri: Uri,
    /// As the app asked, once the head has been addressed to the upstream.
    host: Option<HeaderValue>,
    addressed: bool,
    /// As the upstream is asked; addressed and stamped anew for each attempt.
    head: Parts,
    replay: Replay,
    /// The newest generation that was rejected: every attempt must be of a newer one.
    rejected: u64,
    /// What the gate of a single-active provider takes it for.
    traveller: Traveller,
}

/// What a request went out with.
struct Stamped {
    /// 0 for none.
    generation: u64,
    /// Until the head of the answer is there.
    on_wire: Option<OnWire>,
}

impl<'a> Exchange<'a> {
    fn new(
        worker: &'a Worker,
        snapshot: &Snapshot,
        scan: Scan,
        request: Request<AppBody>,
        routed: Routed<'a>,
    ) -> Result<Self, ProxyError> {
        let target = routed.target;
        clean::refuse_credential(&request, target)?;
        let te_trailers = scan.te && headers::te_trailers(request.headers());
        let (mut head, body) = request.into_parts();
        let switch = upgrade::Wanted::of(&head, &body, &scan);
        let keep = clean::clean(&mut head, &scan, snapshot, target);
        if let Some(wanted) = &switch {
            wanted.ask(&mut head.headers);
        }
        let config = &target.config;
        let replay = Replay::new(
            body,
            Arc::clone(&target.not_in_trailers),
            config.replay_limit,
        );
        let upgrades = switch.is_some();
        // A body of unknown length may turn out to be too long, so that its request waits, rather than that it fails.
        let traveller = match upgrades || config.replay_limit == 0 || !replay.will_stay_whole() {
            true => Traveller::Unrepeatable,
            false => Traveller::Replayable,
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
            traveller,
        })
    }

    async fn run(&mut self) -> Result<Response<ForwardedBody>, ProxyError> {
        let target = self.routed.target;
        for attempt in 1.. {
            let (response, generation) = self.send().await?;
            if self.keep {
                self.replay.settle();
                return Ok(response.map(ForwardedBody::Live));
            }
            let rejected = reject::rejects(&response, target);
            let (rejected, response) = if !rejected && reject::must_peek(&response, target) {
                Box::pin(reject::examine(response, target)).await
            } else {
                (rejected, response.map(ForwardedBody::Live))
            };
            if !rejected {
                self.replay.settle();
                target.record.accepted(generation);
                if attempt > 1 {
                    target.metrics.replayed.inc();
                    self.tally(Tally::replayed);
                }
                return Ok(response);
            }
            self.rejected = generation;
            target.metrics.rejections.inc();
            if !Box::pin(self.renewed(attempt)).await || !self.replay.rewind() {
                self.replay.settle();
                return Ok(received(response));
            }
            Box::pin(reject::drain(response)).await;
        }
        Err(ProxyError::Internal("attempts without end"))
    }

    /// An upgrade goes out once: what the app sends after its head belongs to the new protocol.
    async fn run_upgrade(&mut self) -> Result<Response<ForwardedBody>, ProxyError> {
        let target = self.routed.target;
        self.wait_for_turn().await?;
        let checkout = self.pool.dial_http1().await?;
        let Stamped {
            generation,
            on_wire,
        } = self.stamp(&checkout).await?;
        let mut response = checkout
            .send(&self.ask(), RequestBody::Empty)
            .await
            .map_err(|error| error.failure)?;
        drop(on_wire);
        let patience = target.config.body_timeout;
        let body = response.body_mut();
        body.stalls_after(patience.known, patience.unknown);
        if self.keep {
            return Ok(response.map(ForwardedBody::Live));
        }
        if reject::rejects(&response, target) {
            target.metrics.rejections.inc();
            target.metrics.not_replayed.inc();
            target.record.renew(generation, &target.token);
            return Ok(received(response.map(ForwardedBody::Live)));
        }
        target.record.accepted(generation);
        Ok(response.map(ForwardedBody::Live))
    }

    /// Sends the request with the newest token, on a pooled connection, and once more on a fresh one if the pooled one turns out to
    /// be dead. Returns the generation that went out, 0 for none.
    async fn send(&mut self) -> Result<(Response<UpstreamBody>, u64), ProxyError> {
        let mut checkout = match self.ready() {
            Some(checkout) => checkout,
            None => Box::pin(self.checkout()).await?,
        };
        let mut resent = 0;
        loop {
            let Stamped {
                generation,
                on_wire,
            } = match self.try_stamp(&checkout)? {
                Ok(stamped) => stamped,
                Err(_) => Box::pin(self.stamp(&checkout)).await?,
            };
            let Some(mut body) = self.replay.body() else {
                return Err(ProxyError::Internal("a second attempt without its body"));
            };
            if !body.is_empty() {
                let patience = self.worker.proxy.snapshot.load().settings.body_timeout;
                body.stalls_after(patience.known, patience.unknown);
            }
            let answer = checkout.send(&self.ask(), body).await;
            drop(on_wire);
            match answer {
                Ok(mut response) => {
                    let patience = self.routed.target.config.body_timeout;
                    let body = response.body_mut();
                    body.stalls_after(patience.known, patience.unknown);
                    return Ok((response, generation));
                }
                Err(error) if self.may_resend(&error, resent) && self.replay.rewind() => {
                    resent += 1;
                    self.tally(Tally::resent);
                    checkout = Box::pin(self.dial()).await?;
                }
                Err(error) => return Err(error.failure.into()),
            }
        }
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            head: &self.head,
            wait: self.routed.target.config.response_timeout,
        }
    }

    /// For the access log, if there is one.
    fn tally(&self, count: fn(&Tally)) {
        if let Some(tally) = self.head.extensions.get::<Arc<Tally>>() {
            count(tally);
        }
    }

    /// Whether a request has to wait before it may hold a connection: for a token that could go out on it, or at the gate.
    fn must_wait(&self) -> bool {
        let token = &self.routed.target.token;
        !self.keep && (token.is_empty() || token.is_closed(self.traveller))
    }

    /// A connection that is there, for a token that is there: what almost always happens.
    fn ready(&self) -> Option<Checkout> {
        match self.must_wait() {
            true => None,
            false => self.pool.ready(),
        }
    }

    async fn checkout(&self) -> Result<Checkout, ProxyError> {
        self.wait_for_turn().await?;
        Ok(self.pool.checkout().await?)
    }

    async fn dial(&self) -> Result<Checkout, ProxyError> {
        self.wait_for_turn().await?;
        Ok(self.pool.dial().await?)
    }

    /// A request that has to wait for a token holds no connection meanwhile.
    async fn wait_for_turn(&self) -> Result<(), ProxyError> {
        let target = self.routed.target;
        if !self.keep && target.token.is_empty() {
            self.wait_for_token(self.deadline()).await?;
        }
        if !self.keep && target.token.is_closed(self.traveller) {
            self.wait_at_gate(self.deadline()).await?;
        }
        Ok(())
    }

    /// Addresses the head and puts the token on it. The token is read when the connection is in hand, right before the head is
    /// written. `Ok(Err)`: why there is none that may go out now.
    fn try_stamp(&mut self, checkout: &Checkout) -> Result<Result<Stamped, Entry>, ProxyError> {
        if self.keep {
            self.address(checkout, "")?;
            return Ok(Ok(Stamped {
                generation: 0,
                on_wire: None,
            }));
        }
        let target = self.routed.target;
        match target.token.enter(self.traveller, self.rejected) {
            Entry::Pass(token, on_wire) => {
                let injection = target.token.injection(&token);
                authorize::stamp(&mut self.head.headers, injection);
                self.address(checkout, &injection.query)?;
                Ok(Ok(Stamped {
                    generation: token.generation,
                    on_wire,
                }))
            }
            entry => Ok(Err(entry)),
        }
    }

    /// The same, when there is one: it expired while the connection was made, or the gate was closed.
    async fn stamp(&mut self, checkout: &Checkout) -> Result<Stamped, ProxyError> {
        // One limit for all the waits.
        let deadline = self.deadline();
        loop {
            match self.try_stamp(checkout)? {
                Ok(stamped) => return Ok(stamped),
                Err(Entry::Closed) => self.wait_at_gate(deadline).await?,
                Err(_) => self.wait_for_token(deadline).await?,
            }
        }
    }

    /// When a wait that begins now must end.
    fn deadline(&self) -> Instant {
        Instant::now() + self.routed.target.config.token_wait
    }

    /// Waits for a token newer than the rejected one, as long as `deadline` and the end of the process allow.
    async fn wait_for_token(&self, deadline: Instant) -> Result<(), ProxyError> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let newer = self.routed.target.token.newer(self.rejected, limit);
        self.unless_closing(newer).await.map(drop)
    }

    /// Waits for the end of an exchange that this request must not be overtaken by.
    async fn wait_at_gate(&self, deadline: Instant) -> Result<(), ProxyError> {
        let opening = self.routed.target.token.opening(self.traveller, deadline);
        self.unless_closing(opening).await
    }

    async fn unless_closing<T>(
        &self,
        wait: impl Future<Output = Result<T, Unavailable>>,
    ) -> Result<T, ProxyError> {
        let mut closing = self.worker.closing.subscribe();
        // In a box: rare, and every byte of a request's future is copied for every request.
        let wait = Box::pin(wait);
        tokio::select! {
            waited = wait => waited.map_err(ProxyError::token),
            _ = closing.wait_for(|closing| *closing) => Err(ProxyError::ShuttingDown),
        }
    }

    /// RFC 9110 §9.2.2, RFC 9112 §9.3.1: again only if nothing was written, or, once, if the request is safe and the connection
    /// was a reused one that broke before it answered.
    fn may_resend(&self, error: &SendError, resent: u32) -> bool {
        if error.unsent {
            return resent < UNSENT_RESENDS;
        }
        let stale = error.reused && matches!(error.failure, SendFailure::Closed(_));
        resent == 0 && stale && self.replay.is_empty() && is_safe(&self.head.method)
    }

    /// After a rejection: whether there is a newer token to try again with. Asks for one in any case.
    async fn renewed(&self, attempt: u32) -> bool {
        let target = self.routed.target;
        let current = target.token.current();
        let newer = current.is_some_and(|token| token.generation > self.rejected);
        if !newer && target.record.is_news(self.rejected) {
            let upstream = target.config.name.as_str();
            tracing::info!(
                upstream,
                generation = self.rejected,
                "the API rejected the token"
            );
        }
        let asked = newer || target.record.renew(self.rejected, &target.token);
        if target.config.replay_limit == 0 || !self.replay.is_whole() {
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
        // This upstream's rejections are not trusted to start a fetch. One that is under way may help all the same.
        let target = self.routed.target;
        let came = target
            .token
            .after_fetch(self.rejected, target.config.token_wait);
        self.unless_closing(async { Ok(came.await) })
            .await
            .unwrap_or(false)
    }

    /// What the app calls the upstream, and what the upstream calls itself.
    fn view(&self) -> rewrite::View<'_> {
        let authority = match self.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => self.host.as_ref().and_then(|host| host.to_str().ok()),
        };
        let prefix = &self.uri.path()[..self.routed.prefix];
        rewrite::View::new(&self.routed.target.config, authority, prefix)
    }

    /// Names the upstream the way the connection's HTTP version does.
    fn address(&mut self, checkout: &Checkout, injected: &str) -> Result<(), ProxyError> {
        let path = authorize::path_and_query(&self.uri, &self.routed, injected, self.keep)?;
        let host = match checkout.is_http2() {
            false => self.address_http1(path),
            true => self.address_http2(path)?,
        };
        if !std::mem::replace(&mut self.addressed, true) {
            self.host = host;
        }
        Ok(())
    }

    /// Returns the `Host` that was there.
    fn address_http1(&mut self, path: PathAndQuery) -> Option<HeaderValue> {
        let head = &mut self.head;
        head.version = Version::HTTP_11;
        head.uri = Uri::from(path);
        let own = self.routed.target.host.clone();
        // `insert` makes room for one more field even where it replaces one, at the cost of all of them.
        match head.headers.get_mut(HOST) {
            Some(host) => Some(std::mem::replace(host, own)),
            None => head.headers.insert(HOST, own),
        }
    }

    /// Returns the `Host` that was there.
    fn address_http2(&mut self, path: PathAndQuery) -> Result<Option<HeaderValue>, ProxyError> {
        let (head, target) = (&mut self.head, self.routed.target);
        head.version = Version::HTTP_2;
        let host = head.headers.remove(HOST);
        if self.te_trailers {
            head.headers
                .insert(TE, HeaderValue::from_static("trailers"));
        }
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(target.scheme.clone());
        uri.authority = Some(target.authority.clone());
        uri.path_and_query = Some(path);
        head.uri = Uri::from_parts(uri)
            .map_err(|_| ProxyError::BadRequest("the path cannot be forwarded"))?;
        Ok(host)
    }
}

/// A rejection that is passed on says so (RFC 9209 §2.3.32): a renewal was tried, or could not be used for this request.
fn received<B>(mut response: Response<B>) -> Response<B> {
    response.extensions_mut().insert(Received);
    response
}

fn is_safe(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    )
}
