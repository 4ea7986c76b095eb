//! Control flow: the requests of an interactive login.

use std::sync::Arc;

use tokio::time::Instant;

use super::state::{Failure, REFRESH_TOKEN, Source};
use crate::config::TokenSource;
use crate::dialect::{Problem, Variables};
use crate::provider::exchange::{FetchError, Fetched, RawResponse, frozen, prepare};

const NO_LOGIN: &str = "a provider with a configured token has no login";

impl Source {
    /// Sends the grant with `given` only: the stored refresh token stays unused, since a running
    /// proxy may use it. Not cancel safe.
    pub(crate) async fn login(&mut self, given: Variables) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        let TokenSource::Endpoint(endpoint) = &provider.source else {
            return Err(Failure::LoginRequired(NO_LOGIN.to_owned()));
        };
        let endpoint = &*self.endpoint(endpoint).await?;
        let mut configured = provider.variables.clone();
        configured.retain(|name, _| !given.contains_key(name));
        let mut variables = self.variables(endpoint, &configured).await?;
        self.note_seed(endpoint, &variables);
        if let Some(token) = given.get(REFRESH_TOKEN) {
            // Starts a new chain; saved with the response, even if that has no newer refresh token.
            self.saved.refresh_token = Some(token.to_text());
            self.unsaved = true;
        }
        variables.extend(given);
        let spends = self.one_time_digest(endpoint, &variables);
        if self.is_spent(spends.as_deref()) {
            let inputs = endpoint.plan.one_time.join(", ");
            return Err(Failure::LoginRequired(format!(
                "the one-time input ({inputs}) was already sent, and is never sent twice: \
                 get a new one"
            )));
        }
        self.grant(endpoint, &endpoint.plan.request, variables, spends)
            .await
    }

    /// Sends the grant of a device code (RFC 8628 §3.4), again and again until the person has
    /// entered the code. Polling spends nothing.
    pub(crate) async fn poll(&mut self, given: Variables) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        let TokenSource::Endpoint(endpoint) = &provider.source else {
            return Err(Failure::LoginRequired(NO_LOGIN.to_owned()));
        };
        let endpoint = &*self.endpoint(endpoint).await?;
        let mut variables = self.variables(endpoint, &provider.variables).await?;
        variables.extend(given);
        let sent = self.send(endpoint, &endpoint.plan.request, &variables, None);
        Ok(sent.await?)
    }

    /// Sends the device authorization request (RFC 8628 §3.1). An error status is an error.
    pub(crate) async fn ask_for_device(&mut self) -> Result<RawResponse, Failure> {
        let provider = Arc::clone(&self.provider);
        let TokenSource::Endpoint(configured) = &provider.source else {
            return Err(Failure::LoginRequired(NO_LOGIN.to_owned()));
        };
        let unusable = |message: &str| {
            FetchError::Request(Problem {
                path: format!("providers.{}.device_authorization_url", provider.name),
                message: message.to_owned(),
            })
        };
        let endpoint = &*self.endpoint(configured).await?;
        let variables = self.variables(endpoint, &provider.variables).await?;
        let (Some(plan), Some(url)) = (&endpoint.plan.device, &endpoint.device_authorization_url)
        else {
            return Err(unusable(
                "is missing: the grant begins with a device code, \
                 and the issuer's metadata name no endpoint for it",
            )
            .into());
        };
        // Checked against the configured endpoint: the token endpoint may be on another host.
        let at = configured.at(url).map_err(unusable)?;
        // The audience of an assertion is the authorization server, for each of its endpoints.
        let frozen = frozen(self.clock.now(), endpoint.address());
        let asked = prepare(&at, plan, &variables, &frozen)?;
        let deadline = Instant::now() + at.timeout;
        let line = self.fetcher.dial(&at, deadline).await?;
        let answered = line.ask(&at, asked.request, deadline).await?;
        if answered.status.is_success() {
            return Ok(answered);
        }
        let secrets: Vec<_> = asked.secrets.iter().collect();
        let answer = answered.answer(self.clock.now());
        let refusal = endpoint.plan.response.refused(answer, &secrets);
        Err(FetchError::Refused {
            host: at.token_url.authority,
            refusal,
        }
        .into())
    }
}
