//! Control flow: config → [`inputs`] → [`exchange`] → [`schedule`](crate::token::schedule) →
//! refresher → [`cell`](crate::token::cell).
//!
//! Each provider identity has one refresher task on the control thread. Only that task sends token
//! requests, and only that task writes the cell that the data plane reads.

pub mod chain;
mod deps;
pub mod discovery;
pub mod exchange;
pub mod inputs;
pub mod offline;
mod refresher;
pub(crate) mod source;
pub mod static_token;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::config::{Provider, TokenSource};
use crate::provider::exchange::FetchError;
use crate::provider::refresher::{Command, Members, Reconfigure, Refresher};
use crate::provider::source::{ShutdownState, Source};
use crate::secret::Secret;
use crate::status::{RefreshError, State, Status};
use crate::token;
use crate::token::cell::CellReader;
use crate::token::schedule::Schedule;

pub use deps::Deps;

/// Handle of one provider. Cheap to clone. The refresher ends when the last handle of its identity
/// is dropped.
#[derive(Clone)]
pub struct Handle {
    provider: Arc<Provider>,
    reader: CellReader,
    pub(crate) status: watch::Receiver<Status>,
    commands: mpsc::UnboundedSender<Command>,
    shutdown: Arc<ShutdownState>,
}

/// Starts the refresher of one identity on the current runtime and returns a handle for each
/// provider of `group`, in order. The credentials and life-cycle keys of the first provider apply.
pub fn spawn(group: Vec<Arc<Provider>>, deps: Deps) -> Vec<Handle> {
    let Some(lead) = group.first().map(Arc::clone) else {
        return Vec::new();
    };
    let (writer, _) = token::cell::cell(deps.clock.clone());
    writer.set_gated(lead.life.single_active);
    let (status, watch) = watch::channel(Status::default());
    // Unbounded: each caller waits for its answer, so there are no more commands than callers.
    let (sender, commands) = mpsc::unbounded_channel();
    let (members, indexes) = Members::new(group.clone(), Arc::clone(&deps.metrics));
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
        .zip(indexes)
        .map(|(provider, index)| Handle {
            provider,
            reader: writer.reader(index),
            status: watch.clone(),
            commands: sender.clone(),
            shutdown: source.shutdown(),
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

/// Applies another configuration of the same identity to the refresher of `running`, and returns a
/// handle for each provider of `group`, in order. Waits for a fetch in flight. The token stays; the
/// backoff after a refusal starts over.
///
/// Readers of unchanged injections stay the same, and readers of `running` stay valid. Returns
/// `None` if the refresher has ended. Cancel safe: the change is applied completely or not at all.
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
        let old = || running.iter().find(|old| old.name() == provider.name);
        Some(Handle {
            reader: reader.or_else(|| old().map(Handle::reader))?,
            provider,
            status: one.status.clone(),
            commands: one.commands.clone(),
            shutdown: Arc::clone(&one.shutdown),
        })
    };
    group.into_iter().zip(readers).map(handle).collect()
}

/// Stops the refreshers of all `handles` concurrently, as [`Handle::stop_within`] does. Cancel
/// safe.
pub async fn stop_all(handles: Vec<Handle>, patience: Duration) {
    let mut stopping = JoinSet::new();
    for handle in handles {
        stopping.spawn(async move { handle.stop_within(patience).await });
    }
    stopping.join_all().await;
}

/// Checks that the `[inject]` of `provider` can be rendered, which may lack variables.
pub async fn check_injection(provider: &Provider) -> Result<(), FetchError> {
    let token = Secret::new("token");
    refresher::injection(provider, &token).await.map(drop)
}

/// Returns the identity, equal for providers that share a token. Unique for a static provider.
pub fn identity(provider: &Provider) -> String {
    provider.identity()
}

/// Groups providers by identity, each group sorted by name; a static provider is alone.
pub fn groups(providers: &[Arc<Provider>]) -> Vec<Vec<Arc<Provider>>> {
    let mut groups: Vec<Vec<Arc<Provider>>> = Vec::new();
    let mut indexes = HashMap::new();
    for provider in providers {
        let index = *indexes.entry(identity(provider)).or_insert(groups.len());
        match groups.get_mut(index) {
            Some(group) => group.push(Arc::clone(provider)),
            None => groups.push(vec![Arc::clone(provider)]),
        }
    }
    for group in &mut groups {
        group.sort_by(|a, b| a.name.cmp(&b.name));
    }
    groups
}

impl Handle {
    pub fn name(&self) -> &str {
        &self.provider.name
    }

    pub fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    /// Whether readiness of the process requires a token of this provider.
    pub fn required(&self) -> bool {
        self.provider.life.required
    }

    /// Returns the reader for the data plane.
    pub fn reader(&self) -> CellReader {
        self.reader.clone()
    }

    pub fn status(&self) -> Status {
        let mut status = self.status.borrow().clone();
        // The refresher reports an expiry only when it wakes; report it now.
        if matches!(status.state, State::Valid | State::Stale) && self.reader.current().is_none() {
            status.state = State::Expired;
        }
        status
    }

    /// Waits for the first token; `false` if the refresher ended without one. Cancel safe.
    pub async fn first_token(&self) -> bool {
        let mut status = self.status.clone();
        (status.wait_for(|status| status.generation > 0).await).is_ok()
    }

    /// Fetches a token, or joins the fetch in flight. Cancel safe: the fetch goes on.
    pub async fn refresh(&self) -> Result<(), RefreshError> {
        let (reply, answer) = oneshot::channel();
        // A failed send drops `reply`, which ends `answer`.
        let _ = self.commands.send(Command::Refresh(reply));
        let ended = |_| RefreshError::Failed("the provider is shutting down".to_owned());
        answer.await.map_err(ended)?
    }

    /// Stops the refresher and waits until it has ended. A fetch in flight may finish within
    /// `timeout`. Afterwards another refresher of the same identity may start.
    pub async fn stop(&self) {
        self.shutdown.end();
        // An error means that the refresher has ended.
        let _ = self.commands.send(Command::Stop);
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {}
    }

    /// Stops the refresher but waits at most `patience`, since an ordinary fetch can be repeated. A
    /// request that spends a refresh token or a one-time input cannot: this waits up to `timeout`
    /// for its response. Cancel safe.
    pub async fn stop_within(&self, patience: Duration) {
        if timeout(patience, self.stop()).await.is_err()
            && self.shutdown.spends()
            && let TokenSource::Endpoint(endpoint) = &self.provider.source
        {
            let _ = timeout(endpoint.timeout, self.stop()).await;
        }
    }
}
