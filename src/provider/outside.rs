//! A provider's token, for a process that is not the proxy (`cupbearer token`).

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::config::{Provider, TokenSource};
use crate::provider::chain::Tokens;
use crate::provider::exchange::Fetch;
use crate::provider::login::LoginError;
use crate::provider::schedule::Life;
use crate::provider::source::{Source, resumed_life};
use crate::provider::store::{MemoryStore, StateKey, Store, StoreError};
use crate::secret::Secret;

/// What the store has of a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub access: Option<StoredToken>,
    pub has_refresh_token: bool,
    /// How many one-time inputs were sent.
    pub spent: usize,
}

/// An access token of the store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredToken {
    pub token: Secret,
    pub fetched_at: SystemTime,
    pub expires_at: Option<SystemTime>,
    pub usable: bool,
}

/// What harm a fetch by another process than the running proxy would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    None,
    /// The vendor kills the token that the proxy is using.
    KillsToken,
    /// A refresh token may be good for one use, and the proxy's would be the one that is dead.
    SpendsRefreshToken,
    /// A one-time input is the proxy's to send, once.
    SpendsOneTimeInput,
}

/// Looks; changes nothing. `None`: the store knows nothing of this provider.
pub async fn stored(
    provider: &Provider,
    store: &dyn Store,
    clock: &Clock,
) -> Result<Option<Stored>, StoreError> {
    let TokenSource::Endpoint(endpoint) = &provider.source else {
        return Ok(None);
    };
    let Some(saved) = store.load(&StateKey::new(&endpoint.identity)).await? else {
        return Ok(None);
    };
    let now = clock.now();
    let access = saved.access.map(|access| StoredToken {
        usable: resumed_life(&access, provider, now, 0.0).usable(now),
        token: access.token,
        fetched_at: access.fetched_at,
        expires_at: access.expires_at,
    });
    Ok(Some(Stored {
        access,
        has_refresh_token: saved.refresh_token.is_some(),
        spent: saved.spent.len(),
    }))
}

/// What [`fetch`] without a store would do to a proxy that has the same provider.
pub fn harm(provider: &Provider) -> Harm {
    let TokenSource::Endpoint(endpoint) = &provider.source else {
        return Harm::None;
    };
    if !endpoint.plan.one_time.is_empty() {
        Harm::SpendsOneTimeInput
    } else if provider.life.single_active {
        Harm::KillsToken
    } else if endpoint.plan.required_variables().contains("refresh_token") {
        Harm::SpendsRefreshToken
    } else {
        Harm::None
    }
}

/// Fetches a token as the proxy would and keeps in `store` what it would keep; without a store nothing of it lasts.
/// Not cancel safe.
pub async fn fetch(
    provider: Arc<Provider>,
    store: Option<Arc<dyn Store>>,
    fetcher: Arc<dyn Fetch>,
    clock: Clock,
    tokens: Tokens,
) -> Result<Secret, LoginError> {
    let rules = provider.life.clone();
    let store = store.unwrap_or_else(|| Arc::new(MemoryStore::default()));
    let mut source = Source::new(provider, store, fetcher, clock, tokens);
    source.load().await?;
    let fetched = source.fetch().await?;
    let life = Life::new(fetched.issued.expiry, &rules, fetched.sent, 0.0);
    source
        .keep(&fetched, &life)
        .await
        .map_err(LoginError::NotKept)?;
    Ok(fetched.issued.access_token)
}
