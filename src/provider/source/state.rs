//! The configuration and state of one identity's token source, with the issuer's metadata and the
//! inner tokens.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tracing::info;

use crate::clock::Clock;
use crate::config::{Endpoint, Provider, TokenSource, Value};
use crate::dialect::Variables;
use crate::provider::chain::{InnerTokens, Tokens};
use crate::provider::discovery::discover;
use crate::provider::exchange::{Fetch, FetchError};
use crate::provider::inputs;
use crate::secret::Secret;
use crate::store::{Saved, StateKey, Store};
use crate::token::cell::Gatekeeper;

pub(super) const REFRESH_TOKEN: &str = "refresh_token";
pub(super) const ACCESS_TOKEN: &str = "access_token";

/// Source of one identity's tokens, with the state between two fetches.
pub(crate) struct Source {
    pub(super) provider: Arc<Provider>,
    pub(super) key: StateKey,
    pub(super) store: Arc<dyn Store>,
    pub(super) fetcher: Arc<dyn Fetch>,
    pub(super) clock: Clock,
    pub(super) saved: Saved,
    /// The access token that a dialect's `[refresh]` may renew.
    pub(super) renewable: Option<Renewable>,
    /// Whether `saved` differs from the store: the next save must write.
    pub(super) unsaved: bool,
    /// Whether a write failed, so that `saved` holds state that only memory has.
    pub(super) owed: bool,
    /// Gate to close while a single-active token is exchanged; `None` without requests to hold
    /// back.
    pub(super) gate: Option<Gatekeeper>,
    pub(super) tokens: Tokens,
    /// Inner tokens, which buy this one.
    pub(super) inner: InnerTokens,
    /// Endpoint from the issuer's metadata, until a failure puts it in doubt.
    pub(super) found: Option<Box<Endpoint>>,
    pub(super) shutdown: Arc<ShutdownState>,
}

/// An access token that can be sent once more, to prolong its life.
#[derive(Clone)]
pub(super) struct Renewable {
    pub(super) token: Secret,
    pub(super) expires_at: Option<SystemTime>,
}

/// Shutdown state shared by a [`Source`] and the task that stops it.
#[derive(Debug, Default)]
pub(crate) struct ShutdownState {
    /// Nothing may be sent any more.
    pub(super) ending: AtomicBool,
    /// The last request cannot be repeated, and its result is not saved yet.
    pub(super) spends: AtomicBool,
}

/// Failure to obtain a new token.
#[derive(Debug)]
pub(crate) enum Failure {
    Fetch(FetchError),
    /// Nothing can be sent without a login; the reason, for people.
    LoginRequired(String),
}

impl<E: Into<FetchError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Fetch(error.into())
    }
}

impl Source {
    pub(crate) fn new(
        provider: Arc<Provider>,
        store: Arc<dyn Store>,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        tokens: Tokens,
    ) -> Self {
        let key = StateKey::new(&provider.identity());
        let inner = InnerTokens::new(&provider, key.clone(), &tokens);
        Self {
            provider,
            key,
            store,
            fetcher,
            clock,
            saved: Saved::default(),
            renewable: None,
            unsaved: false,
            owed: false,
            gate: None,
            tokens,
            inner,
            found: None,
            shutdown: Arc::default(),
        }
    }

    /// Closes the gate before each exchange that kills the current token. Publishing the result
    /// opens it, a failure opens it at once.
    pub(crate) fn with_gate(mut self, gate: Gatekeeper) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Sets the endpoint that the issuer's metadata named.
    pub(crate) fn with_found(mut self, found: Option<Endpoint>) -> Self {
        self.found = found.map(Box::new);
        self
    }

    /// Applies another configuration of the same identity; keeps the stored state.
    pub(crate) fn set_provider(&mut self, provider: Arc<Provider>) {
        self.inner.replace(&provider, &self.tokens);
        self.found = None;
        self.provider = provider;
    }

    /// Waits until an inner token has changed. Cancel safe.
    pub(crate) fn inner_changed(&self) -> impl Future<Output = ()> + use<> {
        self.inner.changed()
    }

    /// Acknowledges that change, which is then reported no more. Returns whether it follows this
    /// source's report that the vendor refused the inner token.
    pub(crate) fn inner_seen(&mut self) -> bool {
        self.inner.seen()
    }

    /// Returns the digests of the inner tokens that bought the last token, by provider.
    pub(crate) fn bought_with(&self) -> BTreeMap<String, String> {
        self.inner.bought_with()
    }

    /// Sets the digests of a token that another process or an earlier one bought.
    pub(crate) fn took_up(&mut self, bought_with: &BTreeMap<String, String>) {
        self.inner.resume(bought_with);
    }

    /// Returns a digest that changes with any credential file.
    pub(crate) async fn fingerprint(&self) -> [u8; 32] {
        match &self.provider.source {
            TokenSource::Static { access_token } => inputs::fingerprint([access_token]).await,
            TokenSource::Endpoint(_) | TokenSource::SelfSigned(_) => {
                inputs::fingerprint(self.provider.variables.values()).await
            }
        }
    }

    pub(crate) fn is_static(&self) -> bool {
        matches!(self.provider.source, TokenSource::Static { .. })
    }

    /// Returns whether tokens need neither a request nor the store.
    pub(crate) fn is_offline(&self) -> bool {
        !matches!(self.provider.source, TokenSource::Endpoint(_))
    }

    /// Returns the endpoint as configured or as named by the issuer.
    pub(super) async fn endpoint<'a>(
        &mut self,
        endpoint: &'a Endpoint,
    ) -> Result<Cow<'a, Endpoint>, FetchError> {
        let Some(issuer) = &endpoint.issuer else {
            return Ok(Cow::Borrowed(endpoint));
        };
        if let Some(found) = &self.found {
            return Ok(Cow::Owned((**found).clone()));
        }
        let _turn = self.turn(endpoint).await;
        let found = discover(endpoint, issuer, &*self.fetcher, &self.clock).await?;
        info!(
            provider = self.provider.name,
            token_url = found.address(),
            auth_method = found.plan.auth_method,
            "read the issuer's metadata"
        );
        self.found = Some(Box::new(found.clone()));
        Ok(Cow::Owned(found))
    }

    /// Resolves the configured variables; waits for inner tokens.
    pub(super) async fn variables(
        &mut self,
        endpoint: &Endpoint,
        configured: &BTreeMap<String, Value>,
    ) -> Result<Variables, FetchError> {
        let missing = |provider| FetchError::Chained { provider };
        let (inner, clock) = (&mut self.inner, &self.clock);
        let wait = inner.wait(endpoint.timeout, || clock.now());
        wait.await.map_err(missing)?;
        let mut variables = inputs::resolve(&self.provider.name, configured).await?;
        let filled = inner.fill(configured, clock.now(), &mut variables);
        filled.map_err(missing)?;
        Ok(variables)
    }
}

impl ShutdownState {
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    pub(crate) fn spends(&self) -> bool {
        self.spends.load(Ordering::SeqCst)
    }
}
