//! A provider's token, for a process that is not the proxy (`cupbearer token`).

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::config::{Provider, TokenSource};
use crate::provider::chain::{Tokens, digest};
use crate::provider::exchange::Fetch;
use crate::provider::identity;
use crate::provider::login::LoginError;
use crate::provider::schedule::Life;
use crate::provider::source::{Source, renews_by_itself, resumed_life};
use crate::provider::store::{MemoryStore, SavedAccess, StateKey, Store, StoreError};
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
    /// The store has another token by now of a provider that this one was bought with: the proxy would buy it anew.
    pub outdated: bool,
    /// Neither that nor at its end.
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

/// Looks; changes nothing. `all`: the providers of the configuration, for those that `provider` buys its token with.
/// `None`: the store knows nothing of this provider.
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

/// Whether the store knows that `access` was bought with a token that is another by now. What is not in it is not asked for:
/// where a proxy runs, the record is as new as that one's token.
async fn is_outdated(
    provider: &Provider,
    access: &SavedAccess,
    all: &[Arc<Provider>],
    store: &dyn Store,
    clock: &Clock,
) -> Result<bool, StoreError> {
    let key = StateKey::new(&identity(provider));
    for name in provider.bought_with() {
        let Some(inner) = all.iter().find(|inner| inner.name == name) else {
            continue;
        };
        // Boxed: a chain may have several links. The configuration has checked that it ends.
        let stored = Box::pin(stored(inner, all, store, clock)).await?;
        let Some(inner) = stored.and_then(|stored| stored.access) else {
            continue;
        };
        let known = access.bought_with.get(&name);
        let same = known.is_some_and(|known| *known == digest(&key, &name, &inner.token));
        if inner.outdated || (inner.usable && !same) {
            return Ok(true);
        }
    }
    Ok(false)
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
