//! Control flow: chained tokens, where the token of one provider is a variable of another
//! (`{provider.NAME}`).
//!
//! A refresher publishes its token here as well as in its cell. A provider that buys its token with
//! another one waits for that token, buys again when that token changes, and reports when the
//! vendor refuses it. The configuration has no cycles.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock::Now;
use crate::config::{Provider, Value};
use crate::dialect::{Var, Variables};
use crate::provider::exchange::FetchError;
use crate::secret::Secret;
use crate::store::StateKey;
use crate::token::schedule::Life;

/// The tokens of all refreshers of this process, by identity.
#[derive(Clone, Default)]
pub struct Tokens(Arc<Mutex<HashMap<String, Link>>>);

/// Link between one provider and the buyers that use its token.
#[derive(Clone, Default)]
pub(super) struct Link {
    token: watch::Sender<Option<ChainedToken>>,
    /// Newest generation that a vendor refused for a buyer.
    refused: watch::Sender<u64>,
    /// The token never changes.
    fixed: bool,
}

/// A token that other providers may use.
#[derive(Clone)]
struct ChainedToken {
    token: Secret,
    generation: u64,
    /// `None`: usable while published.
    life: Option<Life>,
}

/// The token that bought another one.
struct Used {
    /// Digest as in the store. Empty, which matches no token, if unknown.
    digest: String,
    /// 0: published before this process started.
    generation: u64,
}

/// The inner tokens of one provider: those that buy its own token.
pub(super) struct InnerTokens {
    links: BTreeMap<String, Link>,
    /// Record of the buyer; salts the digests.
    key: StateKey,
    /// Inner tokens of the last purchase.
    used: BTreeMap<String, Used>,
    /// Inner tokens that were awaited in vain, with their unusable generation.
    missed: BTreeMap<String, Option<u64>>,
    /// Whether the inner tokens were blamed since the last success. Blamed only once: otherwise a
    /// vendor that refuses the outer request for another reason would renew them forever.
    blamed: bool,
    /// Whether the blame was reported and no new inner token has come since.
    reported: bool,
}

impl Tokens {
    pub(super) fn link(&self, identity: &str) -> Link {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Drops links whose provider and buyers are gone.
        links.retain(|_, link| link.is_used());
        links.entry(identity.to_owned()).or_default().clone()
    }

    /// Publishes a token that never changes, for processes without refreshers.
    pub fn tell(&self, identity: &str, token: Secret) {
        let token = ChainedToken {
            token,
            generation: 1,
            life: None,
        };
        let link = Link {
            token: watch::Sender::new(Some(token)),
            fixed: true,
            ..Link::default()
        };
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert(identity.to_owned(), link);
    }
}

impl Link {
    /// The map holds one sender.
    fn is_used(&self) -> bool {
        self.fixed || self.token.sender_count() > 1
    }

    pub(super) fn tell(&self, token: &Secret, generation: u64, life: &Life) {
        self.token.send_replace(Some(ChainedToken {
            token: token.clone(),
            generation,
            life: Some(*life),
        }));
    }

    pub(super) fn tell_none(&self) {
        self.token.send_replace(None);
    }

    /// Waits until a buyer was refused, and returns the refused generation. Cancel safe.
    pub(super) async fn refused(&self, seen: &mut watch::Receiver<u64>) -> u64 {
        match seen.changed().await {
            Ok(()) => *seen.borrow_and_update(),
            // Unreachable: `self` holds a sender.
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) fn refusals(&self) -> watch::Receiver<u64> {
        self.refused.subscribe()
    }

    fn generation(&self) -> Option<u64> {
        self.token.borrow().as_ref().map(|token| token.generation)
    }

    fn usable(&self, now: Now) -> Option<ChainedToken> {
        let token = self.token.borrow();
        let usable = |token: &&ChainedToken| token.life.is_none_or(|life| life.usable(now));
        token.as_ref().filter(usable).cloned()
    }
}

impl InnerTokens {
    pub(super) fn new(provider: &Provider, key: StateKey, tokens: &Tokens) -> Self {
        let links = provider.variables.values().filter_map(|value| match value {
            Value::Provider { name, identity } => Some((name.clone(), tokens.link(identity))),
            _ => None,
        });
        Self {
            links: links.collect(),
            key,
            used: BTreeMap::new(),
            missed: BTreeMap::new(),
            blamed: false,
            reported: false,
        }
    }

    /// Applies another configuration of the same provider; keeps the last purchase.
    pub(super) fn replace(&mut self, provider: &Provider, tokens: &Tokens) {
        let used = std::mem::take(&mut self.used);
        *self = Self::new(provider, self.key.clone(), tokens);
        self.used = used;
    }

    /// Waits until all inner tokens are usable, each for at most `patience`.
    ///
    /// The error is the name of a provider without a usable token. Cancel safe.
    pub(super) async fn wait(
        &mut self,
        patience: Duration,
        now: impl Fn() -> Now,
    ) -> Result<(), String> {
        for (name, link) in &self.links {
            let mut changes = link.token.subscribe();
            // `changed` cannot fail: `link` holds a sender.
            let usable =
                async { while link.usable(now()).is_none() && changes.changed().await.is_ok() {} };
            if timeout(patience, usable).await.is_err() {
                self.missed.insert(name.clone(), link.generation());
                return Err(name.clone());
            }
        }
        Ok(())
    }

    /// Sets the variables that name inner tokens, and records those tokens as used.
    pub(super) fn fill(
        &mut self,
        values: &BTreeMap<String, Value>,
        now: Now,
        into: &mut Variables,
    ) -> Result<(), String> {
        self.missed.clear();
        for (variable, value) in values {
            let Value::Provider { name, .. } = value else {
                continue;
            };
            let token = self.links.get(name).and_then(|link| link.usable(now));
            let chained = token.ok_or_else(|| name.clone())?;
            let used = Used {
                digest: digest(&self.key, name, &chained.token),
                generation: chained.generation,
            };
            self.used.insert(name.clone(), used);
            into.insert(variable.clone(), Var::Text(chained.token));
        }
        Ok(())
    }

    /// Returns the digests of the last purchase, for the store.
    pub(super) fn bought_with(&self) -> BTreeMap<String, String> {
        let digest = |(name, used): (&String, &Used)| (name.clone(), used.digest.clone());
        self.used.iter().map(digest).collect()
    }

    /// Records a purchase of another process or an earlier one. Unknown digests cause one new
    /// purchase.
    pub(super) fn resume(&mut self, bought_with: &BTreeMap<String, String>) {
        for name in self.links.keys() {
            let digest = bought_with.get(name).cloned().unwrap_or_default();
            let generation = 0;
            self.used.insert(name.clone(), Used { digest, generation });
        }
    }

    /// Waits until an inner token differs from the used or unusable one; forever if none was used
    /// or missed. Cancel safe.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + use<> {
        let mut changes: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
        for (name, link) in &self.links {
            let mut tokens = link.token.subscribe();
            let used = self.used.get(name).map(|used| used.digest.clone());
            let missed = self.missed.get(name).copied();
            let (key, name) = (self.key.clone(), name.clone());
            changes.push(Box::pin(async move {
                let differs = |token: &ChainedToken| match (missed, &used) {
                    (Some(missed), _) => Some(token.generation) != missed,
                    (None, Some(used)) => digest(&key, &name, &token.token) != *used,
                    (None, None) => false,
                };
                if (tokens
                    .wait_for(|token| token.as_ref().is_some_and(differs))
                    .await)
                    .is_err()
                {
                    std::future::pending::<()>().await;
                }
            }));
        }
        poll_fn(move |context| {
            let mut changes = changes.iter_mut();
            match changes.any(|change| change.as_mut().poll(context).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
    }

    /// Acknowledges the change of [`Self::changed`]. Returns whether it follows a report of
    /// [`Self::blame`].
    pub(super) fn seen(&mut self) -> bool {
        self.used.clear();
        self.missed.clear();
        std::mem::take(&mut self.reported)
    }

    /// Returns whether the provider has no inner tokens.
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Called after a successful purchase.
    pub(super) fn succeeded(&mut self) {
        self.blamed = false;
        self.reported = false;
    }

    /// Called when the vendor refused a purchase: an inner token may have been revoked.
    pub(super) fn blame(&mut self) {
        if std::mem::replace(&mut self.blamed, true) {
            return;
        }
        for (name, link) in &self.links {
            if let Some(used) = self.used.get(name) {
                link.refused.send_replace(used.generation);
                self.reported = true;
            }
        }
    }
}

/// Identifies a token. Salted with the identity and the name, as every digest in a record.
pub(super) fn digest(key: &StateKey, name: &str, token: &Secret) -> String {
    key.digest([(name, token.expose())])
}

/// Sets the variables that name tokens of other providers, for processes without refreshers.
pub fn fill(
    provider: &Provider,
    tokens: &Tokens,
    now: Now,
    variables: &mut Variables,
) -> Result<(), FetchError> {
    InnerTokens::new(provider, StateKey::new(&provider.identity()), tokens)
        .fill(&provider.variables, now, variables)
        .map_err(|provider| FetchError::Chained { provider })
}
