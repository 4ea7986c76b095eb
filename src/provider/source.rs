//! CONTROL, source: which request to send now, with what, and what to keep of the answer.
//!
//! Here is what all of it needs: the configuration, the issuer's word, the tokens that this one is bought with. The parts:
//! - [`grant`]: which request, by the rules of one-time inputs and refresh tokens (DESIGN.md §6.8);
//! - [`login`]: the requests that a person stands behind;
//! - [`send`]: what has to be in order before a request goes (DESIGN.md §6.5), and one that is on its way;
//! - [`keep`]: what outlives a token, and what other processes leave.

mod grant;
mod keep;
mod login;
mod send;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::info;

use crate::clock::Clock;
use crate::config::{Endpoint, Provider, TokenSource, Value};
use crate::dialect::{MadePlan, Variables};
use crate::provider::cell::Gatekeeper;
use crate::provider::chain::{Inner, Tokens};
use crate::provider::discovery::discover;
use crate::provider::exchange::{Fetch, FetchError, Fetched, frozen};
use crate::provider::store::{Saved, StateKey, Store};
use crate::provider::{identity, inputs, static_token};

pub(super) use keep::{renews_by_itself, resumed_life};
pub(super) use send::Errand;

const REFRESH_TOKEN: &str = "refresh_token";

/// Where one identity's tokens come from, and what is remembered between two of them.
pub(super) struct Source {
    provider: Arc<Provider>,
    key: StateKey,
    store: Arc<dyn Store>,
    fetcher: Arc<dyn Fetch>,
    clock: Clock,
    saved: Saved,
    /// The last write to the store failed: the next one is due even if nothing changes.
    unsaved: bool,
    /// It holds something that only the memory has, such as the one refresh token that is good.
    owed: bool,
    /// What is closed while a single-active token is exchanged; none where no requests are served.
    gate: Option<Gatekeeper>,
    tokens: Tokens,
    /// The tokens that this one is bought with.
    inner: Inner,
    /// What the issuer said of itself, until something goes wrong with it.
    found: Option<Box<Endpoint>>,
    errand: Arc<Errand>,
}

/// Why there is no new token.
#[derive(Debug)]
pub(super) enum Failure {
    Fetch(FetchError),
    /// Nothing is left that could be sent; the reason, for people.
    LoginRequired(String),
}

impl<E: Into<FetchError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Fetch(error.into())
    }
}

impl Source {
    pub(super) fn new(
        provider: Arc<Provider>,
        store: Arc<dyn Store>,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        tokens: Tokens,
    ) -> Self {
        let key = StateKey::new(&identity(&provider));
        let inner = Inner::new(&provider, key.clone(), &tokens);
        Self {
            provider,
            key,
            store,
            fetcher,
            clock,
            saved: Saved::default(),
            unsaved: false,
            owed: false,
            gate: None,
            tokens,
            inner,
            found: None,
            errand: Arc::default(),
        }
    }

    /// Closes this cell's gate before each exchange that kills the token in it. It is opened by whoever publishes the
    /// result; a failure opens it at once.
    pub(super) fn with_gate(mut self, gate: Gatekeeper) -> Self {
        self.gate = Some(gate);
        self
    }

    /// What the issuer said of itself just now.
    pub(super) fn with_found(mut self, found: Option<Endpoint>) -> Self {
        self.found = found.map(Box::new);
        self
    }

    /// Another configuration of the same identity: what is remembered stays.
    pub(super) fn set_provider(&mut self, provider: Arc<Provider>) {
        self.inner.replace(&provider, &self.tokens);
        self.found = None;
        self.provider = provider;
    }

    /// Waits until a token that this one was bought with is another. Cancel safe.
    pub(super) fn inner_changed(&self) -> impl Future<Output = ()> + use<> {
        self.inner.changed()
    }

    /// Such a change is told once: what is bought next is bought with what is there then. Answers whether it is what came of
    /// our own report that the vendor refused it.
    pub(super) fn inner_seen(&mut self) -> bool {
        self.inner.seen()
    }

    /// By provider, what the last token was bought with, as the store keeps it.
    pub(super) fn bought_with(&self) -> BTreeMap<String, String> {
        self.inner.bought_with()
    }

    /// The token in use is one that another process bought with these.
    pub(super) fn took_up(&mut self, bought_with: &BTreeMap<String, String>) {
        self.inner.resume(bought_with);
    }

    /// A new token: whatever the source needs for it is sent now. Not cancel safe.
    pub(super) async fn fetch(&mut self) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        match &provider.source {
            TokenSource::Static { access_token } => {
                let now = self.clock.now();
                Ok(static_token::read(&provider.name, access_token, now).await?)
            }
            TokenSource::Made(plan) => self.make(plan).await,
            TokenSource::Endpoint(endpoint) => {
                let result = match self.endpoint(endpoint).await {
                    Ok(endpoint) => self.exchange(&endpoint).await,
                    Err(error) => Err(error.into()),
                };
                // A server that is in trouble is still where it was.
                if let Err(Failure::Fetch(error)) = &result
                    && error.doubts_address()
                {
                    self.found = None;
                }
                match &result {
                    Ok(_) => self.inner.succeeded(),
                    Err(Failure::Fetch(error)) if error.refuses_credentials() => self.inner.blame(),
                    Err(_) => {}
                }
                result
            }
        }
    }

    /// Changes when a credential file does.
    pub(super) async fn fingerprint(&self) -> [u8; 32] {
        match &self.provider.source {
            TokenSource::Static { access_token } => inputs::fingerprint([access_token]).await,
            TokenSource::Endpoint(_) | TokenSource::Made(_) => {
                inputs::fingerprint(self.provider.variables.values()).await
            }
        }
    }

    pub(super) fn is_static(&self) -> bool {
        matches!(self.provider.source, TokenSource::Static { .. })
    }

    /// Nothing is sent for it, and nothing kept.
    pub(super) fn asks_nobody(&self) -> bool {
        !matches!(self.provider.source, TokenSource::Endpoint(_))
    }

    async fn make(&self, plan: &MadePlan) -> Result<Fetched, Failure> {
        let variables = inputs::resolve(&self.provider.name, &self.provider.variables).await?;
        let sent = self.clock.now();
        let issued = plan.make(&variables, &frozen(sent, String::new()));
        let issued = issued.map_err(FetchError::Request)?;
        Ok(Fetched { issued, sent })
    }

    /// As configured, or as the issuer says.
    async fn endpoint<'a>(
        &mut self,
        endpoint: &'a Endpoint,
    ) -> Result<Cow<'a, Endpoint>, FetchError> {
        let Some(issuer) = &endpoint.issuer else {
            return Ok(Cow::Borrowed(endpoint));
        };
        if self.found.is_none() {
            let _turn = self.turn(endpoint).await;
            let found = discover(endpoint, issuer, &*self.fetcher, &self.clock).await?;
            info!(
                provider = self.provider.name,
                token_url = found.address(),
                auth_method = found.plan.auth_method,
                "the issuer's metadata were read"
            );
            self.found = Some(Box::new(found));
        }
        Ok(match &self.found {
            Some(found) => Cow::Owned((**found).clone()),
            None => Cow::Borrowed(endpoint),
        })
    }

    /// What is configured, and the tokens that it names; those are waited for.
    async fn variables(
        &mut self,
        endpoint: &Endpoint,
        configured: &BTreeMap<String, Value>,
    ) -> Result<Variables, FetchError> {
        let missing = |provider| FetchError::Chained { provider };
        let clock = self.clock.clone();
        self.inner
            .wait(endpoint.timeout, || clock.now())
            .await
            .map_err(missing)?;
        let mut variables = inputs::resolve(&self.provider.name, configured).await?;
        self.inner
            .fill(configured, self.clock.now(), &mut variables)
            .map_err(missing)?;
        Ok(variables)
    }
}
