//! For a verb that asks a vendor itself: the tokens that a provider's own is bought with.

use std::sync::Arc;

use super::failure::Failure;
use crate::clock::Clock;
use crate::config::{Config, Provider, StoreKind};
use crate::provider::chain::Tokens;
use crate::provider::exchange::{Fetch, HttpFetch};
use crate::provider::outside::{self, Harm};
use crate::provider::store;
use crate::secret::Secret;
use crate::upstream::tls::TlsProfiles;

/// From the store where it has a good one; else fetched, unless that could do harm to a proxy that runs.
pub(super) async fn tokens(config: &Config, provider: &Provider) -> Result<Tokens, Failure> {
    let tokens = Tokens::default();
    for name in provider.bought_with() {
        let mut all = config.providers.iter();
        let Some(inner) = all.find(|provider| provider.name == name) else {
            continue;
        };
        // Boxed: a chain may have several links. The configuration has checked that it ends.
        let token = Box::pin(token(config, Arc::clone(inner))).await?;
        tokens.tell(&inner.identity(), token);
    }
    Ok(tokens)
}

async fn token(config: &Config, provider: Arc<Provider>) -> Result<Secret, Failure> {
    let clock = Clock::System;
    let failed = |reason: String| Failure::Runtime(format!("provider {}: {reason}", provider.name));
    if config.store.kind != StoreKind::Memory {
        let store = store::visit(&config.store)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let stored = outside::stored(&provider, &store, &clock)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let access = stored.and_then(|stored| stored.access);
        if let Some(access) = access.filter(|access| access.usable) {
            return Ok(access.token);
        }
    }
    if outside::harm(&provider) != Harm::None {
        return Err(failed(
            "its token is needed, the store has none that is good, and fetching one here could harm a proxy that runs"
                .to_owned(),
        ));
    }
    let tokens = tokens(config, &provider).await?;
    let fetcher: Arc<dyn Fetch> = Arc::new(HttpFetch::new(TlsProfiles::new(), clock.clone()));
    let fetched = outside::fetch(Arc::clone(&provider), None, fetcher, clock, tokens).await;
    fetched.map_err(|error| failed(error.to_string()))
}
