//! Stored and inner tokens, for verbs that call a vendor themselves.

use std::collections::HashMap;
use std::sync::Arc;

use super::failure::Failure;
use crate::clock::Clock;
use crate::config::{Config, Provider, StoreKind};
use crate::provider::chain::Tokens;
use crate::provider::exchange::HttpFetch;
use crate::provider::offline::{self, Harm, Stored};
use crate::secret::Secret;
use crate::store;
use crate::upstream::tls::TlsProfiles;

/// Tokens that other providers' tokens are bought with, by identity. Each is fetched at most once;
/// a failed fetch is not repeated.
#[derive(Default)]
pub(super) struct InnerTokens {
    tokens: Tokens,
    known: HashMap<String, Result<(), String>>,
}

/// Reads the provider's record; `None` if there is none or the store is a process's memory.
pub(super) async fn stored(
    config: &Config,
    provider: &Provider,
) -> Result<Option<Stored>, Failure> {
    if config.store.kind == StoreKind::Memory {
        return Ok(None);
    }
    let store = store::visit(&config.store)
        .await
        .map_err(Failure::runtime)?;
    let stored = offline::stored(provider, &config.providers, &store, &Clock::System).await;
    stored.map_err(Failure::runtime)
}

/// Returns the stored access token if it is usable.
pub(super) async fn usable_token(
    config: &Config,
    provider: &Provider,
) -> Result<Option<Secret>, Failure> {
    let stored = stored(config, provider).await?;
    let access = stored.and_then(|stored| stored.access);
    Ok(access
        .filter(|access| access.usable)
        .map(|access| access.token))
}

impl InnerTokens {
    /// Records the result of fetching a provider's token. An error does not replace the token that
    /// another provider with the same identity got.
    pub(super) fn record(&mut self, provider: &Provider, token: Result<Secret, String>) {
        let identity = provider.identity();
        if token.is_err() && matches!(self.known.get(&identity), Some(Ok(()))) {
            return;
        }
        let known = token.map(|token| self.tokens.tell(&identity, token));
        self.known.insert(identity, known);
    }

    /// Returns the tokens that `provider` buys its own with: from the store if usable there, else
    /// fetched unless the fetch could harm a running proxy.
    pub(super) async fn of(
        &mut self,
        config: &Config,
        provider: &Provider,
    ) -> Result<Tokens, Failure> {
        for name in provider.chained_providers() {
            let Some(inner) = config.providers.iter().find(|it| it.name == name) else {
                continue;
            };
            if !self.known.contains_key(&inner.identity()) {
                // Boxed because chains nest. `Config` rejects cycles.
                let token = Box::pin(self.token(config, Arc::clone(inner))).await;
                self.record(inner, token.map_err(|failure| failure.to_string()));
            }
            if let Some(Err(reason)) = self.known.get(&inner.identity()) {
                return Err(Failure::Runtime(format!("provider {name}: {reason}")));
            }
        }
        Ok(self.tokens.clone())
    }

    async fn token(&mut self, config: &Config, provider: Arc<Provider>) -> Result<Secret, Failure> {
        if let Some(token) = usable_token(config, &provider).await? {
            return Ok(token);
        }
        if offline::harm(&provider) != Harm::None {
            return Err(Failure::runtime(
                "the store has no usable token, and fetching one here could harm a running proxy",
            ));
        }
        let tokens = self.of(config, &provider).await?;
        let fetcher = Arc::new(HttpFetch::new(TlsProfiles::new(), Clock::System));
        let fetched = offline::fetch(provider, None, fetcher, Clock::System, tokens).await;
        fetched.map_err(Failure::runtime)
    }
}
