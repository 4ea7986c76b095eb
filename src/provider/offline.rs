//! Tokens for processes other than the proxy (`cupbearer token`).

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::config::{Provider, TokenSource};
use crate::login::LoginError;
use crate::provider::chain::{Tokens, digest};
use crate::provider::exchange::Fetch;
use crate::provider::source::{Source, renews_by_itself, resumed_life};
use crate::secret::Secret;
use crate::store::{MemoryStore, SavedAccess, StateKey, Store, StoreError};
use crate::token::schedule::Life;

/// Stored state of a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub access: Option<StoredToken>,
    pub has_refresh_token: bool,
    /// Number of one-time inputs that were sent.
    pub spent: usize,
}

/// A stored access token.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredToken {
    pub token: Secret,
    pub fetched_at: SystemTime,
    pub expires_at: Option<SystemTime>,
    /// Whether an inner token has changed since: the proxy would buy a new one.
    pub outdated: bool,
    /// Whether the token is valid and not outdated.
    pub usable: bool,
}

/// Harm that a fetch beside the running proxy would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    None,
    /// The vendor invalidates the token that the proxy uses.
    KillsToken,
    /// The refresh token may be single-use, and the proxy's would be invalid.
    SpendsRefreshToken,
    /// Only the proxy may send its one-time input.
    SpendsOneTimeInput,
}

/// Reads the stored state of `provider`; `None` if there is none. `all` holds all providers of the
/// configuration.
pub async fn stored(
    provider: &Provider,
    all: &[Arc<Provider>],
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
    let outdated = match &saved.access {
        Some(access) if renews_by_itself(endpoint, &saved) => {
            is_outdated(provider, access, all, store, clock).await?
        }
        _ => false,
    };
    let access = saved.access.map(|access| StoredToken {
        outdated,
        usable: !outdated && resumed_life(&access, provider, now, 0.0).usable(now),
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

/// Returns whether an inner token in the store differs from the one that bought `access`. Inner
/// tokens that are not stored are ignored: a running proxy keeps the record up to date.
async fn is_outdated(
    provider: &Provider,
    access: &SavedAccess,
    all: &[Arc<Provider>],
    store: &dyn Store,
    clock: &Clock,
) -> Result<bool, StoreError> {
    let key = StateKey::new(&provider.identity());
    for name in provider.chained_providers() {
        let Some(inner) = all.iter().find(|inner| inner.name == name) else {
            continue;
        };
        // Boxed, since a chain may have several links. The configuration has no cycles.
        let stored = Box::pin(stored(inner, all, store, clock)).await?;
        let Some(inner) = stored.and_then(|stored| stored.access) else {
            continue;
        };
        let same = access.bought_with.get(&name) == Some(&digest(&key, &name, &inner.token));
        if inner.outdated || (inner.usable && !same) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the harm that [`fetch`] without a store would do to a proxy with the same provider.
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

/// Fetches a token as the proxy would, and saves it in `store`; without a store nothing is saved.
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
    let kept = source.keep(&fetched, &life);
    kept.await.map_err(LoginError::NotSaved)?;
    Ok(fetched.issued.access_token)
}
