//! CONTROL, chain: the token of one provider as a variable of another (`{provider.NAME}`).
//!
//! A refresher tells its token here as well as in its cell. Whoever buys another token with it waits for the first one, buys
//! anew when it changes, and says so when the vendor refuses it. The configuration has checked that no chain is a circle.

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
use crate::provider::identity;
use crate::provider::schedule::Life;
use crate::provider::store::StateKey;
use crate::secret::Secret;

/// The tokens of all refreshers of this process, by identity.
#[derive(Clone, Default)]
pub struct Tokens(Arc<Mutex<HashMap<String, Link>>>);

/// Between one provider and those that use its token.
#[derive(Clone)]
pub(super) struct Link {
    token: watch::Sender<Option<Told>>,
    /// The newest generation that a buyer was refused with.
    refused: watch::Sender<u64>,
    /// Nobody tells another one.
    fixed: bool,
}

/// A token as others may use it.
#[derive(Clone)]
struct Told {
    token: Secret,
    generation: u64,
    /// `None`: for as long as it is told.
    life: Option<Life>,
}

/// A token that something was bought with.
struct Used {
    /// As the store keeps it, so that a restart makes no difference. Empty, which is no token's: not known.
    digest: String,
    /// 0: before this process.
    generation: u64,
}

/// The tokens that one provider buys with.
pub(super) struct Inner {
    links: Vec<(String, Link)>,
    /// Whose purchases these are: their record's digests are made with it.
    key: StateKey,
    /// What the last purchase was made with.
    used: BTreeMap<String, Used>,
    /// What was waited for in vain, with the generation that was there and of no use.
    missed: BTreeMap<String, Option<u64>>,
    /// The inner token was said to be refused since the last purchase. Only once: else a vendor that refuses the outer
    /// request for another reason would have the inner token renewed for ever.
    blamed: bool,
    /// That was said, and no other token has come since.
    reported: bool,
}

// === impl Tokens ===

impl Tokens {
    pub(super) fn link(&self, identity: &str) -> Link {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Of what is no more, nobody holds the other end.
        links.retain(|_, link| link.is_used());
        links
            .entry(identity.to_owned())
            .or_insert_with(Link::new)
            .clone()
    }

    /// Tells a token that was fetched by other means: for processes without refreshers.
    pub fn tell(&self, identity: &str, token: Secret) {
        let link = Link {
            fixed: true,
            ..Link::new()
        };
        link.token.send_replace(Some(Told {
            token,
            generation: 1,
            life: None,
        }));
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert(identity.to_owned(), link);
    }
}

// === impl Link ===

impl Link {
    fn new() -> Self {
        Self {
            token: watch::Sender::new(None),
            refused: watch::Sender::new(0),
            fixed: false,
        }
    }

    /// The map itself holds one.
    fn is_used(&self) -> bool {
        self.fixed || self.token.sender_count() > 1
    }

    pub(super) fn tell(&self, token: &Secret, generation: u64, life: &Life) {
        self.token.send_replace(Some(Told {
            token: token.clone(),
            generation,
            life: Some(*life),
        }));
    }

    pub(super) fn tell_none(&self) {
        self.token.send_replace(None);
    }

    /// Waits until a buyer was refused with a generation, and answers that. Cancel safe.
    pub(super) async fn refused(&self, seen: &mut watch::Receiver<u64>) -> u64 {
        match seen.changed().await {
            Ok(()) => *seen.borrow_and_update(),
            // It cannot end: this holds a sender.
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) fn refusals(&self) -> watch::Receiver<u64> {
        self.refused.subscribe()
    }

    fn generation(&self) -> Option<u64> {
        self.token.borrow().as_ref().map(|told| told.generation)
    }

    fn usable(&self, now: Now) -> Option<Told> {
        let told = self.token.borrow();
        let told = told.as_ref()?;
        let usable = told.life.is_none_or(|life| life.usable(now));
        usable.then(|| told.clone())
    }
}

// === impl Inner ===

impl Inner {
    pub(super) fn new(provider: &Provider, key: StateKey, tokens: &Tokens) -> Self {
        let names = provider.variables.values().filter_map(|value| match value {
            Value::Provider { name, identity } => Some((name.clone(), identity)),
            _ => None,
        });
        let links: BTreeMap<_, _> = names
            .map(|(name, identity)| (name, tokens.link(identity)))
            .collect();
        Self {
            links: links.into_iter().collect(),
            key,
            used: BTreeMap::new(),
            missed: BTreeMap::new(),
            blamed: false,
            reported: false,
        }
    }

    /// Another configuration of the same provider: what was bought stays bought.
    pub(super) fn replace(&mut self, provider: &Provider, tokens: &Tokens) {
        let used = std::mem::take(&mut self.used);
        *self = Self::new(provider, self.key.clone(), tokens);
        self.used = used;
    }

    /// Waits until all of them are there, each at most `patience`. The error is the name of one that is not. Cancel safe.
    pub(super) async fn wait(
        &mut self,
        patience: Duration,
        now: impl Fn() -> Now,
    ) -> Result<(), String> {
        for (name, link) in &self.links {
            let mut told = link.token.subscribe();
            let there = async {
                while link.usable(now()).is_none() {
                    if told.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                }
            };
            if timeout(patience, there).await.is_err() {
                self.missed.insert(name.clone(), link.generation());
                return Err(name.clone());
            }
        }
        Ok(())
    }

    /// Puts their tokens in the place of the variables that name them, and remembers them as used.
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
            let link = self.links.iter().find(|(known, _)| known == name);
            let told = link.and_then(|(_, link)| link.usable(now));
            let told = told.ok_or_else(|| name.clone())?;
            let used = Used {
                digest: digest(&self.key, name, &told.token),
                generation: told.generation,
            };
            self.used.insert(name.clone(), used);
            into.insert(variable.clone(), Var::Text(told.token));
        }
        Ok(())
    }

    /// What the last purchase was made with, for the store.
    pub(super) fn bought_with(&self) -> BTreeMap<String, String> {
        let used = self.used.iter();
        used.map(|(name, used)| (name.clone(), used.digest.clone()))
            .collect()
    }

    /// What is there was bought by another process, with these. One that is not among them may be any: what was bought with
    /// it is bought anew, once.
    pub(super) fn resume(&mut self, bought_with: &BTreeMap<String, String>) {
        for (name, _) in &self.links {
            let digest = bought_with.get(name).cloned().unwrap_or_default();
            let used = Used {
                digest,
                generation: 0,
            };
            self.used.insert(name.clone(), used);
        }
    }

    /// Waits until one of them is another than the one that was used, or than what was of no use. Nothing was used: nothing
    /// changes. Cancel safe.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + use<> {
        let mut changes: Vec<Change> = Vec::new();
        for (name, link) in &self.links {
            let mut told = link.token.subscribe();
            let used = self.used.get(name).map(|used| used.digest.clone());
            let missed = self.missed.get(name).copied();
            if used.is_none() && missed.is_none() {
                continue;
            }
            let (key, name) = (self.key.clone(), name.clone());
            changes.push(Box::pin(async move {
                let other = |told: &Option<Told>| {
                    told.as_ref().is_some_and(|told| match (&used, missed) {
                        (_, Some(missed)) => Some(told.generation) != missed,
                        (Some(used), None) => digest(&key, &name, &told.token) != *used,
                        (None, None) => false,
                    })
                };
                if told.wait_for(other).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }));
        }
        any(changes)
    }

    /// The change that [`Self::changed`] told of need not be told again. Answers whether it answers [`Self::blame`].
    pub(super) fn seen(&mut self) -> bool {
        self.used.clear();
        self.missed.clear();
        std::mem::take(&mut self.reported)
    }

    /// Nothing is bought with anything.
    pub(super) fn is_none(&self) -> bool {
        self.links.is_empty()
    }

    /// What was bought with them is good.
    pub(super) fn succeeded(&mut self) {
        self.blamed = false;
        self.reported = false;
    }

    /// The vendor refused what was asked for with them: one of them may be dead before its time.
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

/// By which a token is known again. Salted with the identity and the name, as all that is in a record.
pub(super) fn digest(key: &StateKey, name: &str, token: &Secret) -> String {
    key.digest([(name, token.expose())])
}

type Change = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The first of them that ends; of none, never.
async fn any(mut changes: Vec<Change>) {
    poll_fn(|context| {
        let ready = |change: &mut Change| change.as_mut().poll(context).is_ready();
        match changes.iter_mut().any(ready) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// For a process without refreshers: the tokens of other providers in the place of the variables that name them.
pub fn fill(
    provider: &Provider,
    tokens: &Tokens,
    now: Now,
    variables: &mut Variables,
) -> Result<(), FetchError> {
    Inner::new(provider, StateKey::new(&identity(provider)), tokens)
        .fill(&provider.variables, now, variables)
        .map_err(|provider| FetchError::Chained { provider })
}
