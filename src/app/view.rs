//! What the admin port and the shutdown read of the running configuration.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::live::Live;
use crate::admin::{Readiness, ReloadReport};
use crate::provider::Handle;
use crate::status::State;

/// How many reloads are remembered.
const RELOADS: usize = 10;

/// What the admin port and the shutdown may read of the running configuration: the control plane's
/// counterpart of a [`Snapshot`](crate::proxy::Snapshot).
#[derive(Default)]
pub(super) struct View {
    pub(super) shown: ArcSwap<Shown>,
    /// The latest reloads, newest first.
    reloads: Mutex<VecDeque<Reloaded>>,
    pub(super) quit: Notify,
    /// All required providers have had a token. Never reset: providers that a reload adds do not
    /// make the process unready.
    was_ready: AtomicBool,
    ending: AtomicBool,
}

#[derive(Default)]
pub(super) struct Shown {
    pub(super) listeners: Vec<String>,
    pub(super) providers: Vec<Handle>,
    pub(super) allow_hosts: Vec<String>,
    shutdown_delay: Duration,
    pub(super) quitquitquit: bool,
}

struct Reloaded {
    at: SystemTime,
    /// What changed, or all problems of the new configuration.
    result: Result<String, Vec<String>>,
}

impl View {
    pub(super) fn show(&self, live: &Live) {
        let server = &live.config().server;
        let addresses = live.listeners.addresses();
        self.shown.store(Arc::new(Shown {
            listeners: addresses.iter().map(ToString::to_string).collect(),
            providers: live.providers(),
            allow_hosts: server.allow_hosts.clone(),
            shutdown_delay: server.shutdown_delay,
            quitquitquit: server.quitquitquit,
        }));
    }

    pub(super) fn providers(&self) -> Vec<Handle> {
        self.shown.load().providers.clone()
    }

    pub(super) fn shutdown_delay(&self) -> Duration {
        self.shown.load().shutdown_delay
    }

    /// Waits for `POST /quitquitquit`.
    pub(super) async fn asked_to_quit(&self) {
        self.quit.notified().await;
    }

    /// Remembers the result of a reload.
    pub(super) fn reloaded(&self, result: &Result<String, Vec<String>>) {
        let mut reloads = self.reloads();
        reloads.truncate(RELOADS - 1);
        reloads.push_front(Reloaded {
            at: SystemTime::now(),
            result: result.clone(),
        });
    }

    pub(super) fn reload_reports(&self) -> Vec<ReloadReport> {
        let now = SystemTime::now();
        let report = |Reloaded { at, result }: &Reloaded| {
            let detail = result
                .clone()
                .unwrap_or_else(|problems| problems.join("; "));
            ReloadReport::new(*at, now, result.is_ok(), detail)
        };
        self.reloads().iter().map(report).collect()
    }

    /// Returns the problems of the latest reload.
    pub(super) fn problems(&self) -> Vec<String> {
        let latest = self.reloads().front().map(|it| it.result.clone());
        latest.and_then(Result::err).unwrap_or_default()
    }

    fn reloads(&self) -> MutexGuard<'_, VecDeque<Reloaded>> {
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `/readyz` fail from now on.
    pub(super) fn not_ready(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Also remembers that the process was ready.
    pub(super) fn readiness(&self) -> Readiness {
        if self.is_ending() {
            let pending = vec!["shutting down".to_owned()];
            return Readiness {
                pending_now: pending.clone(),
                pending,
            };
        }
        let mut readiness = Readiness::default();
        let shown = self.shown.load();
        for handle in shown.providers.iter().filter(|it| it.required()) {
            let status = handle.status();
            if matches!(status.state, State::Valid | State::Stale) {
                continue;
            }
            let line = format!("provider {}: {}", handle.name(), status.state.name());
            // A generation is never reset: a provider with one has had its first token.
            if status.generation == 0 {
                readiness.pending.push(line.clone());
            }
            readiness.pending_now.push(line);
        }
        if self.was_ready.load(Ordering::Relaxed) {
            readiness.pending.clear();
        } else if readiness.pending.is_empty() {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        readiness
    }
}
