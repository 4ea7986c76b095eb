//! Control flow: sending one request. The order: dial, mark what will be spent, close the gate of a
//! single-active token, send.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tracing::info;

use super::state::{REFRESH_TOKEN, ShutdownState, Source};
use crate::config::{Endpoint, TokenSource};
use crate::dialect::{RequestPlan, Variables};
use crate::provider::exchange::{FetchError, Fetched, TokenCall, TokenConnection, Turn};
use crate::token::cell::Gatekeeper;

impl Source {
    pub(crate) fn shutdown(&self) -> Arc<ShutdownState> {
        Arc::clone(&self.shutdown)
    }

    /// Called when the result of the last request is saved.
    pub(crate) fn settled(&self) {
        self.shutdown.spends.store(false, Ordering::SeqCst);
    }

    /// Returns whether the source takes a turn for each request itself; otherwise the refresher
    /// does. A source that waits for an inner token must not hold the turn that the inner fetch
    /// needs, and an issuer's metadata decide which host the next turn is for.
    pub(crate) fn takes_turns(&self) -> bool {
        let source = &self.provider.source;
        let has_issuer = matches!(source, TokenSource::Endpoint(it) if it.issuer.is_some());
        has_issuer || !self.inner.is_empty()
    }

    /// Waits for a turn, while no other turn is held.
    pub(crate) async fn turn(&self, endpoint: &Endpoint) -> Turn {
        match self.takes_turns() {
            true => self.fetcher.turn(endpoint).await,
            false => Turn::default(),
        }
    }

    /// Dials, marks what will be spent and sends.
    pub(crate) async fn send(
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
        // In this order, so that the stopping task sees `spends` or this task sees `ending`.
        let uses_up = spends.is_some() || variables.contains_key(REFRESH_TOKEN);
        self.shutdown.spends.store(uses_up, Ordering::SeqCst);
        if self.shutdown.ending.load(Ordering::SeqCst) {
            self.shutdown.spends.store(false, Ordering::SeqCst);
            return Err(FetchError::Ending);
        }
        let repeatable = spends.is_none();
        if let Some(digest) = spends {
            let mut saved = self.saved.clone();
            saved.spent.insert(digest);
            self.save_before_sending(saved).await?;
        }
        let call = TokenCall {
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

    /// Sends while no request is in flight with the token that this exchange kills. After a success
    /// the gate stays closed.
    async fn send_alone(
        &self,
        gate: &Gatekeeper,
        line: Box<dyn TokenConnection>,
        call: TokenCall<'_>,
        deadline: Instant,
        repeatable: bool,
    ) -> Result<Fetched, FetchError> {
        let began = Instant::now();
        gate.close().await;
        // The time-out is for the vendor, without the wait for requests in flight.
        let deadline = deadline + began.elapsed();
        let mut result = line.send(call, deadline).await;
        let mut suspect = result.as_ref().is_err_and(FetchError::may_have_issued);
        if suspect && repeatable {
            info!(
                provider = self.provider.name,
                "the response to the token request was lost; sending the request again"
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
