//! CONTROL, login: the requests that a person stands behind, with what they give for them.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Failure, REFRESH_TOKEN, Source};
use crate::config::TokenSource;
use crate::dialect::{Problem, Variables};
use crate::provider::exchange::{Answered, FetchError, Fetched, frozen, prepare};

const NO_LOGIN: &str = "a provider that is given its token has no login";

impl Source {
    /// The grant with what a person has just given for it, and nothing else: the store's refresh token stays untouched,
    /// for a running proxy may be using it. Not cancel safe.
    pub(in crate::provider) async fn login(
        &mut self,
        given: Variables,
    ) -> Result<Fetched, Failure> {
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
            // From here on it is the head of the chain; saved with the answer, whether that holds a newer one or not.
            self.saved.refresh_token = Some(token.to_text());
            self.unsaved = true;
        }
        variables.extend(given);
        let spends = self.one_time_digest(endpoint, &variables);
        if self.is_spent(spends.as_deref()) {
            let inputs = endpoint.plan.one_time.join(", ");
            return Err(Failure::LoginRequired(format!(
                "the one-time input ({inputs}) was sent before, and is never sent twice: get a new one"
            )));
        }
        self.grant(endpoint, &endpoint.plan.request, variables, spends)
            .await
    }

    /// The grant with what a person has given for it elsewhere (RFC 8628 §3.4): asked again and again until they have, so
    /// that nothing of it is spent by asking.
    pub(in crate::provider) async fn poll(&mut self, given: Variables) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        let TokenSource::Endpoint(endpoint) = &provider.source else {
            return Err(Failure::LoginRequired(NO_LOGIN.to_owned()));
        };
        let endpoint = &*self.endpoint(endpoint).await?;
        let mut variables = self.variables(endpoint, &provider.variables).await?;
        variables.extend(given);
        let fetched = self.send(endpoint, &endpoint.plan.request, &variables, None);
        Ok(fetched.await?)
    }

    /// The device authorization request (RFC 8628 §3.1), and its answer if that is a good one.
    pub(in crate::provider) async fn ask_for_device(&mut self) -> Result<Answered, Failure> {
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
                "is missing: the grant begins with a device code, and neither the provider nor its issuer says where to \
                 ask for one",
            )
            .into());
        };
        // From where the user's own host is known: the token endpoint may be on another one.
        let at = configured.at(url).map_err(unusable)?;
        // An assertion is for the authorization server, whichever of its endpoints it is sent to.
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
