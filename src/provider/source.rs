//! Control flow: the source of one identity's tokens. Chooses the request to send and what to keep.
//!
//! - [`state`]: the configuration, the issuer's metadata and the inner tokens, which all parts use;
//! - [`grant`]: the grant or the refresh token, by the rules of one-time inputs;
//! - [`login`]: requests of an interactive login;
//! - [`send`]: the steps before a request is sent, and sending;
//! - [`keep`]: what outlives a token, and updates of other processes.

mod grant;
mod keep;
mod login;
mod send;
mod state;

use std::sync::Arc;

use crate::config::TokenSource;
use crate::provider::exchange::{FetchError, Fetched, frozen};
use crate::provider::{inputs, static_token};

pub(super) use keep::{renews_by_itself, resumed_life};
pub(super) use state::ShutdownState;
pub(crate) use state::{Failure, Source};

impl Source {
    /// Obtains a new token. Not cancel safe.
    pub(crate) async fn fetch(&mut self) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        match &provider.source {
            TokenSource::Static { access_token } => {
                let now = self.clock.now();
                Ok(static_token::read(&provider.name, access_token, now).await?)
            }
            TokenSource::SelfSigned(plan) => {
                let variables = inputs::resolve(&provider.name, &provider.variables).await?;
                let sent = self.clock.now();
                let issued = plan.make(&variables, &frozen(sent, String::new()));
                let issued = issued.map_err(FetchError::Request)?;
                Ok(Fetched { issued, sent })
            }
            TokenSource::Endpoint(endpoint) => {
                let result = match self.endpoint(endpoint).await {
                    Ok(endpoint) => self.exchange(&endpoint).await,
                    Err(error) => Err(error.into()),
                };
                match &result {
                    Ok(_) => self.inner.succeeded(),
                    Err(Failure::Fetch(error)) => {
                        if error.doubts_address() {
                            self.found = None;
                        }
                        if error.refuses_credentials() {
                            self.inner.blame();
                        }
                    }
                    Err(Failure::LoginRequired(_)) => {}
                }
                result
            }
        }
    }
}
