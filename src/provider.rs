//! CONTROL: config → [`inputs`] → [`exchange`] → [`schedule`] → [`refresher`] → [`cell`].
//!
//! Every provider identity has one refresher task on the control thread. It alone asks the vendor for tokens
//! and it alone writes the cell that the data plane reads.

pub mod cell;
pub mod chain;
pub mod discovery;
pub mod exchange;
pub mod inputs;
pub mod login;
pub mod outside;
mod refresher;
pub mod schedule;
mod source;
pub mod static_token;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::config::{Provider, TokenSource};
use crate::metrics::Metrics;
use crate::provider::cell::CellReader;
use crate::provider::chain::Tokens;
use crate::provider::exchange::{Fetch, FetchError};
use crate::provider::refresher::{Command, Members, Reconfigure, Refresher};
use crate::provider::schedule::Schedule;
use crate::provider::source::{Errand, Source};
use crate::provider::store::Store;
use crate::secret::Secret;

/// What a refresher works with.
#[derive(Clone)]
pub struct Deps {
    pub store: Arc<dyn Store>,
    pub fetcher: Arc<dyn Fetch>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// For providers that buy their token with that of another.
    pub tokens: Tokens,
    /// A number in 0..1, for jitter.
    pub random: fn() -> f64,
}

/// One provider, seen from outside its refresher. Cheap to clone; when the last one of an identity is dropped, its
/// refresher ends.
#[derive(Clone)]
pub struct Handle {
    provider: Arc<Provider>,
    reader: CellReader,
    status: watch::Receiver<Status>,
    commands: mpsc::UnboundedSender<Command>,
    errand: Arc<Errand>,
}

/// Starts the refresher of one identity on the current runtime, and answers one handle for each of its providers, in
/// their order. The first provider leads: its credentials and life-cycle keys count.
pub fn spawn(group: Vec<Arc<Provider>>, deps: Deps) -> Vec<Handle> {
    let Some(lead) = group.first().map(Arc::clone) else {
        return Vec::new();
    };
    let (writer, _) = cell::cell(deps.clock.clone());
    writer.set_gated(lead.life.single_active);
    let (status, watch) = watch::channel(Status::default());
    // Unbounded: whoever asks waits for the answer, so there are no more commands than callers.
    let (sender, commands) = mpsc::unbounded_channel();
    let (members, places) = Members::new(group.clone(), Arc::clone(&deps.metrics));
    let source = Source::new(
        Arc::clone(&lead),
        Arc::clone(&deps.store),
        Arc::clone(&deps.fetcher),
        deps.clock.clone(),
        deps.tokens.clone(),
    )
    .with_gate(writer.gatekeeper());
    let handles = group
        .into_iter()
        .zip(places)
        .map(|(provider, place)| Handle {
            provider,
            reader: writer.reader(place),
            status: watch.clone(),
            commands: sender.clone(),
            errand: source.errand(),
        })
        .collect();
    let link = deps.tokens.link(&identity(&lead));
    let refresher = Refresher {
        refusals: link.refusals(),
        link,
        members,
        schedule: Schedule::new(lead.life.clone()),
        source,
        deps,
        writer,
        status,
        commands,
        held: None,
        askers: Vec::new(),
        credentials: [0; 32],
        looked: Instant::now(),
        last_error: None,
        reconfigure: None,
        stopping: false,
        adopt_from: Instant::now(),
        save_from: Instant::now(),
        hurried: 0,
    };
    tokio::spawn(refresher.run());
    handles
}

/// Gives the refresher of `running` another configuration of the same identity, and answers one handle for each provider
/// of `group`, in their order. A fetch under way is let finish first. The token stays, a refused one's pauses start over.
///
/// The readers of unchanged injections are the same as before; those of `running` stay good in any case. `None`: the
/// refresher has ended. Cancel safe: then it is done all the same, or not at all.
pub async fn reconfigure(running: &[Handle], group: Vec<Arc<Provider>>) -> Option<Vec<Handle>> {
    let one = running.first()?;
    let (reply, answer) = oneshot::channel();
    let asked = Reconfigure {
        group: group.clone(),
        reply,
    };
    one.commands.send(Command::Reconfigure(asked)).ok()?;
    let readers = answer.await.ok()?;
    let handle = |(provider, reader): (Arc<Provider>, Option<CellReader>)| {
        let same = || {
            let same = running.iter().find(|old| old.name() == provider.name);
            same.map(Handle::reader)
        };
        Some(Handle {
            reader: reader.or_else(same)?,
            provider,
            status: one.status.clone(),
            commands: one.commands.clone(),
            errand: Arc::clone(&one.errand),
        })
    };
    group.into_iter().zip(readers).map(handle).collect()
}

/// Ends the refreshers of all `handles` at once, and waits for each as [`Handle::stop_within`] does. Cancel safe.
pub async fn stop_all(handles: Vec<Handle>, patience: Duration) {
    let mut stopping = JoinSet::new();
    for handle in handles {
        stopping.spawn(async move { handle.stop_within(patience).await });
    }
    stopping.join_all().await;
}

/// Whether the token of `provider` could be sent as its `[inject]` says: variables of its own may be missing.
pub async fn check_injection(provider: &Provider) -> Result<(), FetchError> {
    refresher::injection(provider, &Secret::new("token"))
        .await
        .map(drop)
}

/// What providers have in common that share a token. A static provider shares its own with nobody.
pub fn identity(provider: &Provider) -> String {
    provider.identity()
}

/// Providers that share a token, by identity, each group in the order of the names; a static provider is alone.
pub fn groups(providers: &[Arc<Provider>]) -> Vec<Vec<Arc<Provider>>> {
    let mut groups: Vec<Vec<Arc<Provider>>> = Vec::new();
    let mut places = HashMap::new();
    for provider in providers {
        let place = *places.entry(identity(provider)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(Arc::clone(provider)),
            None => groups.push(vec![Arc::clone(provider)]),
        }
    }
    for group in &mut groups {
        group.sort_by(|a, b| a.name.cmp(&b.name));
    }
    groups
}

// === impl Deps ===

impl Deps {
    pub fn new(
        store: Arc<dyn Store>,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            fetcher,
            clock,
            metrics,
            tokens: Tokens::default(),
            random: fastrand::f64,
        }
    }
}

// === impl Handle ===

impl Handle {
    pub fn name(&self) -> &str {
        &self.provider.name
    }

    pub fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    /// Whether the process is ready only once this one has had a token.
    pub fn required(&self) -> bool {
        self.provider.life.required
    }

    /// For the data plane.
    pub fn reader(&self) -> CellReader {
        self.reader.clone()
    }

    pub fn status(&self) -> Status {
        let mut status = self.status.borrow().clone();
        // The refresher tells an expiry when it wakes; whoever asks in between gets the truth.
        if matches!(status.state, State::Valid | State::Stale) && self.reader.current().is_none() {
            status.state = State::Expired;
        }
        status
    }

    /// Waits for the first token. `false`: the refresher ended without one. Cancel safe.
    pub async fn first_token(&self) -> bool {
        let mut status = self.status.clone();
        let found = status.wait_for(|status| status.generation > 0).await;
        found.is_ok()
    }

    /// Fetches a token now, or waits for the fetch that is under way. Cancel safe: the fetch goes on.
    pub async fn refresh(&self) -> Result<(), RefreshError> {
        let ended = || RefreshError::Failed("the provider is shutting down".to_owned());
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Refresh(reply))
            .map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Ends the refresher of this handle's identity and waits until it has: a fetch under way is let finish, within
    /// the provider's `timeout`. From then on another refresher of the same identity may start.
    pub async fn stop(&self) {
        self.errand.end();
        // An error means that it has ended already.
        let _ = self.commands.send(Command::Stop);
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {}
    }

    /// The same, and waits no longer than `patience`: what is asked for can be asked for again. A request that spends a
    /// refresh token or a one-time input cannot, and what it brings may be all that there is: that one is waited for
    /// up to the provider's `timeout`. Cancel safe.
    pub async fn stop_within(&self, patience: Duration) {
        if timeout(patience, self.stop()).await.is_err()
            && self.errand.spends()
            && let TokenSource::Endpoint(endpoint) = &self.provider.source
        {
            let _ = timeout(endpoint.timeout, self.stop()).await;
        }
    }
}

/// What admin pages, metrics and the command line may know of a provider. Holds no secret.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub state: State,
    pub generation: u64,
    /// When the vendor's token stops being valid; `None` if the vendor does not say and no `ttl` is set.
    pub expires_at: Option<SystemTime>,
    pub fetched_at: Option<SystemTime>,
    /// When the next fetch is planned; `None` while one is under way, and for tokens that are never renewed.
    pub next_fetch_at: Option<SystemTime>,
    /// Failures in a row.
    pub failures: u32,
    /// The last failure in words, for people; cleared by success.
    pub last_error: Option<String>,
}

/// As in `token_state{state}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    Valid,
    /// Usable, but its refresh failed.
    Stale,
    Expired,
    #[default]
    Missing,
    LoginRequired,
}

/// Why `POST /-/refresh/NAME` did not bring a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshError {
    /// Inside `min_interval`.
    TooSoon { retry_after: Duration },
    /// In words, free of secrets.
    Failed(String),
}

impl State {
    pub const ALL: [Self; 5] = [
        Self::Valid,
        Self::Stale,
        Self::Expired,
        Self::Missing,
        Self::LoginRequired,
    ];

    /// As metrics and `/status` write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Missing => "missing",
            Self::LoginRequired => "login_required",
        }
    }
}
