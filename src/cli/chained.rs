//! For a verb that asks a vendor itself: the tokens that a provider's own is bought with.

use std::collections::HashMap;
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

/// The tokens that there were so far, by identity: each is got once, whoever needs it, and one that cannot be had is not asked
/// for again.
#[derive(Default)]
pub(super) struct Purse {
    tokens: Tokens,
    known: HashMap<String, Result<(), String>>,
}

/// For one provider. From the store where it has a good one; else fetched, unless that could do harm to a proxy that runs.
pub(super) async fn tokens(config: &Config, provider: &Provider) -> Result<Tokens, Failure> {
    Purse::default().of(config, provider).await
}

impl Purse {
    /// What came of asking for a provider's own token. One that is there is not lost by another provider of its identity.
    pub(super) fn put(&mut self, provider: &Provider, token: Result<Secret, String>) {
        let identity = provider.identity();
        if token.is_err() && matches!(self.known.get(&identity), Some(Ok(()))) {
            return;
        }
        let known = token.map(|token| self.tokens.tell(&identity, token));
        self.known.insert(identity, known);
    }

    /// As [`tokens`].
    pub(super) async fn of(
        &mut self,
        config: &Config,
        provider: &Provider,
    ) -> Result<Tokens, Failure> {
        for name in provider.bought_with() {
            let mut all = config.providers.iter();
            let Some(inner) = all.find(|provider| provider.name == name) else {
                continue;
            };
            if !self.known.contains_key(&inner.identity()) {
                // Boxed: a chain may have several links. The configuration has checked that it ends.
                let token = Box::pin(self.token(config, Arc::clone(inner))).await;
                self.put(inner, token);
            }
            if let Some(Err(reason)) = self.known.get(&inner.identity()) {
                return Err(Failure::Runtime(format!("provider {name}: {reason}")));
            }
        }
        Ok(self.tokens.clone())
    }

    async fn token(&mut self, config: &Config, provider: Arc<Provider>) -> Result<Secret, String> {
        let clock = Clock::System;
        if config.store.kind != StoreKind::Memory {
            let store = store::visit(&config.store).await;
            let store = store.map_err(|error| error.to_string())?;
            let stored = outside::stored(&provider, &config.providers, &store, &clock).await;
            let stored = stored.map_err(|error| error.to_string())?;
            let access = stored.and_then(|stored| stored.access);
            if let Some(access) = access.filter(|access| access.usable) {
                return Ok(access.token);
            }
        }
        if outside::harm(&provider) != Harm::None {
            return Err(
                "its token is needed, the store has none that is good, and fetching one here could harm a proxy that runs"
                    .to_owned(),
            );
        }
        let tokens = self.of(config, &provider).await;
        let tokens = tokens.map_err(|failure| failure.to_string())?;
        let fetcher: Arc<dyn Fetch> = Arc::new(HttpFetch::new(TlsProfiles::new(), clock.clone()));
        let fetched = outside::fetch(provider, None, fetcher, clock, tokens).await;
        fetched.map_err(|error| error.to_string())
    }
}
