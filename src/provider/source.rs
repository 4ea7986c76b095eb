//! CONTROL, source: which request to send now, with what, and what to keep of the answer.
//!
//! The rules of one-time inputs and refresh tokens live here (DESIGN.md §6.8):
//! - a one-time input is marked as spent, durably, before it is sent, and never sent again whatever happens;
//! - a refresh token is used only where the dialect has `[refresh]`, or the grant itself takes one;
//! - a dead refresh token falls back to the grant where that is repeatable.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::clock::{Clock, Now};
use crate::config::{Endpoint, Provider, TokenSource};
use crate::dialect::{RequestPlan, Var, Variables};
use crate::provider::exchange::{Call, Fetch, FetchError, Fetched};
use crate::provider::schedule::Life;
use crate::provider::store::{Saved, SavedAccess, StateKey, Store, StoreError};
use crate::provider::{identity, inputs, static_token};
use crate::secret::Secret;

/// Access tokens that live longer are kept over restarts.
const LONG_LIVED: Duration = Duration::from_secs(24 * 3600);

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

/// The request that is to be sent.
enum Ask<'a> {
    Grant {
        request: &'a RequestPlan,
        /// What its one-time inputs leave behind in the store.
        spends: Option<String>,
    },
    Refresh {
        request: &'a RequestPlan,
        token: Secret,
    },
}

impl Source {
    pub(super) fn new(
        provider: Arc<Provider>,
        store: Arc<dyn Store>,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
    ) -> Self {
        let key = StateKey::new(&identity(&provider));
        Self {
            provider,
            key,
            store,
            fetcher,
            clock,
            saved: Saved::default(),
            unsaved: false,
        }
    }

    /// Another configuration of the same identity: what is remembered stays.
    pub(super) fn set_provider(&mut self, provider: Arc<Provider>) {
        self.provider = provider;
    }

    /// Reads what an earlier process left. Must succeed before anything is sent: without it, a spent input might be
    /// sent again.
    pub(super) async fn load(&mut self) -> Result<Option<SavedAccess>, StoreError> {
        if self.is_static() {
            return Ok(None);
        }
        self.saved = self.store.load(&self.key).await?.unwrap_or_default();
        Ok(self.saved.access.clone())
    }

    /// A new token: whatever the source needs for it is sent now. Not cancel safe.
    pub(super) async fn fetch(&mut self) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        match &provider.source {
            TokenSource::Static { access_token } => {
                let now = self.clock.now();
                Ok(static_token::read(&provider.name, access_token, now).await?)
            }
            TokenSource::Endpoint(endpoint) => self.exchange(endpoint).await,
        }
    }

    /// Keeps what must outlive the token, durably: a new refresh token is on disk before it is first used.
    /// The error is for the status; the token is good without it.
    pub(super) async fn keep(&mut self, fetched: &Fetched, life: &Life) -> Result<(), StoreError> {
        let provider = Arc::clone(&self.provider);
        let TokenSource::Endpoint(endpoint) = &provider.source else {
            return Ok(());
        };
        let mut saved = self.saved.clone();
        if let Some(token) = &fetched.issued.refresh_token
            && (endpoint.plan.refresh.is_some() || self.grant_takes_refresh_token(endpoint))
        {
            saved.refresh_token = Some(token.clone());
        }
        saved.access = self
            .is_worth_keeping(endpoint, fetched, life)
            .then(|| SavedAccess {
                token: fetched.issued.access_token.clone(),
                fetched_at: fetched.sent.wall,
                expires_at: life.expires_at,
            });
        self.save(saved).await
    }

    /// Changes when a credential file does.
    pub(super) async fn fingerprint(&self) -> [u8; 32] {
        match &self.provider.source {
            TokenSource::Static { access_token } => inputs::fingerprint([access_token]).await,
            TokenSource::Endpoint(_) => inputs::fingerprint(self.provider.variables.values()).await,
        }
    }

    pub(super) fn is_static(&self) -> bool {
        matches!(self.provider.source, TokenSource::Static { .. })
    }

    async fn exchange(&mut self, endpoint: &Endpoint) -> Result<Fetched, Failure> {
        let variables = inputs::resolve(&self.provider.name, &self.provider.variables).await?;
        self.note_seed(endpoint, &variables);
        let dead = match self.choose(endpoint, &variables)? {
            Ask::Grant { request, spends } => {
                return self.grant(endpoint, request, variables, spends).await;
            }
            Ask::Refresh { request, token } => {
                let mut variables = variables.clone();
                variables.insert(REFRESH_TOKEN.to_owned(), Var::Text(token));
                match self.send(endpoint, request, &variables, None).await {
                    Err(error) if error.kills_refresh_token() => error,
                    result => return Ok(result?),
                }
            }
        };
        if !endpoint.plan.one_time.is_empty() {
            // It stays in the store: should the vendor be wrong, a restart or a refresh by hand tries it once more.
            return Err(Failure::LoginRequired(format!(
                "the refresh token was refused: {dead}"
            )));
        }
        info!(
            provider = self.provider.name,
            "the refresh token was refused ({dead}): starting over with the grant"
        );
        let mut saved = self.saved.clone();
        saved.refresh_token = None;
        // A failure is already logged, and would only bring the dead token back after a restart.
        let _ = self.save(saved).await;
        self.grant(endpoint, &endpoint.plan.request, variables, None)
            .await
    }

    async fn grant(
        &mut self,
        endpoint: &Endpoint,
        request: &RequestPlan,
        mut variables: Variables,
        spends: Option<String>,
    ) -> Result<Fetched, Failure> {
        let takes_refresh_token = self.grant_takes_refresh_token(endpoint);
        if takes_refresh_token && let Some(stored) = &self.saved.refresh_token {
            variables.insert(REFRESH_TOKEN.to_owned(), Var::Text(stored.clone()));
        }
        let one_time = spends.is_some();
        match self
            .send(endpoint, request, &variables, spends.clone())
            .await
        {
            Ok(fetched) => Ok(fetched),
            // RFC 6749 §5.2: the refresh token is the grant here, and only a new one can help.
            Err(error) if takes_refresh_token && error.is_invalid_grant() => Err(
                Failure::LoginRequired(format!("the refresh token was refused: {error}")),
            ),
            Err(error) if one_time && self.is_spent(spends.as_deref()) => {
                if endpoint.plan.refresh.is_some() && self.saved.refresh_token.is_some() {
                    return Err(Failure::Fetch(error));
                }
                Err(Failure::LoginRequired(format!(
                    "the one-time input was sent and is spent, but brought no token: {error}"
                )))
            }
            Err(error) => Err(Failure::Fetch(error)),
        }
    }

    /// Dials, marks what will be spent, sends.
    async fn send(
        &mut self,
        endpoint: &Endpoint,
        request: &RequestPlan,
        variables: &Variables,
        spends: Option<String>,
    ) -> Result<Fetched, FetchError> {
        let deadline = Instant::now() + endpoint.timeout;
        let fetcher = Arc::clone(&self.fetcher);
        let line = fetcher.dial(endpoint, deadline).await?;
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
        line.send(call, deadline).await
    }

    fn choose<'a>(
        &self,
        endpoint: &'a Endpoint,
        variables: &Variables,
    ) -> Result<Ask<'a>, Failure> {
        let plan = &endpoint.plan;
        let grant = |spends| Ask::Grant {
            request: &plan.request,
            spends,
        };
        let input = self.one_time_digest(endpoint, variables);
        if let Some(digest) = input
            .as_ref()
            .filter(|digest| !self.saved.spent.contains(*digest))
        {
            return Ok(grant(Some(digest.clone())));
        }
        if let (Some(request), Some(token)) = (&plan.refresh, &self.saved.refresh_token) {
            return Ok(Ask::Refresh {
                request,
                token: token.clone(),
            });
        }
        if plan.one_time.is_empty() {
            return Ok(grant(None));
        }
        let inputs = plan.one_time.join(", ");
        Err(Failure::LoginRequired(match input {
            Some(_) => format!("the one-time input ({inputs}) is already spent"),
            None => format!("a one-time input is missing: {inputs}"),
        }))
    }

    /// `None` for a grant without one-time inputs, and while one of them is not there.
    fn one_time_digest(&self, endpoint: &Endpoint, variables: &Variables) -> Option<String> {
        let names = &endpoint.plan.one_time;
        if names.is_empty() {
            return None;
        }
        let texts: Vec<(&str, Zeroizing<String>)> = names
            .iter()
            .map(|name| Some((name.as_str(), var_text(variables.get(name)?))))
            .collect::<Option<_>>()?;
        let pairs = texts.iter().map(|(name, text)| (*name, text.as_str()));
        Some(self.key.digest(pairs))
    }

    /// A configured refresh token that is not the one the stored chain began with is newer than the chain.
    fn note_seed(&mut self, endpoint: &Endpoint, variables: &Variables) {
        if !self.grant_takes_refresh_token(endpoint) {
            return;
        }
        let seed = variables
            .get(REFRESH_TOKEN)
            .map(|var| self.key.digest([(REFRESH_TOKEN, var_text(var).as_str())]));
        if seed.is_some() && seed != self.saved.seed {
            self.saved.seed = seed;
            self.saved.refresh_token = None;
            self.unsaved = true;
        }
    }

    fn grant_takes_refresh_token(&self, endpoint: &Endpoint) -> bool {
        endpoint.plan.required_variables().contains(REFRESH_TOKEN)
    }

    fn is_spent(&self, digest: Option<&str>) -> bool {
        digest.is_some_and(|digest| self.saved.spent.contains(digest))
    }

    fn is_worth_keeping(&self, endpoint: &Endpoint, fetched: &Fetched, life: &Life) -> bool {
        let long_lived = life
            .expires_at
            .and_then(|at| at.duration_since(fetched.sent.wall).ok())
            .is_some_and(|life| life > LONG_LIVED);
        long_lived || self.provider.life.single_active || !endpoint.plan.one_time.is_empty()
    }

    async fn save(&mut self, saved: Saved) -> Result<(), StoreError> {
        if saved == self.saved && !self.unsaved {
            return Ok(());
        }
        self.saved = saved;
        let written = self.store.save(&self.key, &self.saved).await;
        self.unsaved = written.is_err();
        if let Err(failure) = &written {
            error!(provider = self.provider.name, "{failure}");
        }
        written
    }

    /// On failure nothing was sent, so nothing counts as spent.
    async fn save_before_sending(&mut self, saved: Saved) -> Result<(), FetchError> {
        let written = self.store.save(&self.key, &saved).await;
        written.map_err(|failure| FetchError::Store(failure.to_string()))?;
        self.saved = saved;
        self.unsaved = false;
        Ok(())
    }
}

/// What of a stored access token is still good.
pub(super) fn resumed_life(
    access: &SavedAccess,
    provider: &Provider,
    now: Now,
    random: f64,
) -> Life {
    Life::resumed(
        access.fetched_at,
        access.expires_at,
        &provider.life,
        now,
        random,
    )
}

fn var_text(var: &Var) -> Zeroizing<String> {
    Zeroizing::new(match var {
        Var::Text(secret) => secret.expose().to_owned(),
        Var::Integer(number) => number.to_string(),
        Var::Boolean(truth) => truth.to_string(),
    })
}
