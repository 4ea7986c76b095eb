//! CONTROL, send: one request on its way, and what must have happened before it goes.
//!
//! The order is that of DESIGN.md §6.5 and §6.8: dial, mark what will be spent, close the gate of a single-active token, send.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;
use tracing::info;

use super::{REFRESH_TOKEN, Source};
use crate::config::{Endpoint, TokenSource};
use crate::dialect::{RequestPlan, Variables};
use crate::provider::cell::Gatekeeper;
use crate::provider::exchange::{Call, FetchError, Fetched, Line, Turn};

/// What whoever ends a [`Source`] and the source itself know of each other.
#[derive(Debug, Default)]
pub(in crate::provider) struct Errand {
    /// Nothing is to be sent any more.
    ending: AtomicBool,
    /// What was sent last cannot be sent again, and what it brings is not kept yet.
    spends: AtomicBool,
}

impl Source {
    pub(in crate::provider) fn errand(&self) -> Arc<Errand> {
        Arc::clone(&self.errand)
    }

    /// What was sent last has ended, and what came of it is kept.
    pub(in crate::provider) fn settled(&self) {
        self.errand.spends.store(false, Ordering::SeqCst);
    }

    /// Whether this waits for its turns by itself, each request for that of the host that it goes to: the refresher takes the
    /// turn of all others. Whoever waits for another's token must not hold the turn that the other waits for, and where an
    /// issuer is asked first, only that one's words say whose the next turn is.
    pub(in crate::provider) fn takes_turns(&self) -> bool {
        let by_issuer = || match &self.provider.source {
            TokenSource::Endpoint(endpoint) => endpoint.issuer.is_some(),
            TokenSource::Static { .. } | TokenSource::Made(_) => false,
        };
        !self.inner.is_none() || by_issuer()
    }

    /// Whatever it waits for, no other turn is held meanwhile.
    pub(super) async fn turn(&self, endpoint: &Endpoint) -> Turn {
        match self.takes_turns() {
            true => self.fetcher.turn(endpoint).await,
            false => Turn::default(),
        }
    }

    /// Dials, marks what will be spent, sends.
    pub(super) async fn send(
        &mut self,
        endpoint: &Endpoint,
        request: &RequestPlan,
        variables: &Variables,
        spends: Option<String>,
    ) -> Result<Fetched, FetchError> {
        let fetcher = Arc::clone(&self.fetcher);
        let _turn = self.turn(endpoint).await;
        let deadline = Instant::now() + endpoint.timeout;
        let line = fetcher.dial(endpoint, deadline).await?;
        // In this order: whoever ends this sees that it spends, or is seen here.
        let uses_up = spends.is_some() || variables.contains_key(REFRESH_TOKEN);
        self.errand.spends.store(uses_up, Ordering::SeqCst);
        if self.errand.ending.load(Ordering::SeqCst) {
            self.errand.spends.store(false, Ordering::SeqCst);
            return Err(FetchError::Ending);
        }
        let repeatable = spends.is_none();
        if let Some(digest) = spends {
            let mut saved = self.saved.clone();
            saved.spent.insert(digest);
            self.save_before_sending(saved).await?;
        }
        let call = Call {
            endpoint,
            request,
            variables,
        };
        match &self.gate {
            Some(gate) if self.provider.life.single_active => {
                self.send_alone(gate, line, call, deadline, repeatable)
                    .await
            }
            _ => line.send(call, deadline).await,
        }
    }

    /// Sends while no request is on its way with the token that this kills. After a success the gate is still closed.
    async fn send_alone(
        &self,
        gate: &Gatekeeper,
        line: Box<dyn Line>,
        call: Call<'_>,
        deadline: Instant,
        repeatable: bool,
    ) -> Result<Fetched, FetchError> {
        let began = Instant::now();
        gate.close().await;
        // The time-out is the vendor's; for how long our requests keep it waiting is not its matter.
        let deadline = deadline + began.elapsed();
        let mut result = line.send(call, deadline).await;
        let mut suspect = result.as_ref().is_err_and(FetchError::may_have_issued);
        if suspect && repeatable {
            info!(
                provider = self.provider.name,
                "the token request was sent and its answer lost: sending it once more"
            );
            let deadline = Instant::now() + call.endpoint.timeout;
            result = match self.fetcher.dial(call.endpoint, deadline).await {
                Ok(line) => line.send(call, deadline).await,
                Err(error) => Err(error),
            };
        }
        if let Err(error) = &result {
            suspect |= error.may_have_issued();
            gate.open(suspect);
        }
        result
    }
}

impl Errand {
    pub(in crate::provider) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    pub(in crate::provider) fn spends(&self) -> bool {
        self.spends.load(Ordering::SeqCst)
    }
}
