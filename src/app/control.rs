//! The running proxy as the admin port sees it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::live::Live;
use super::reload::Reloader;
use crate::admin::{
    Control, ProviderReport, Readiness, ReloadReport, Report, UpstreamReport, Work,
};
use crate::config::TokenSource;
use crate::metrics::{Metrics, latency_bounds};
use crate::provider::{Handle, RefreshError, State};
use crate::proxy::Proxy;

/// How many reloads are remembered.
const RELOADS: usize = 10;

pub(super) struct AppControl {
    pub(super) proxy: Arc<Proxy>,
    pub(super) view: Arc<View>,
    pub(super) reloader: Arc<Reloader>,
    pub(super) log: Option<Arc<dyn LogControl>>,
    pub(super) started: Instant,
}

/// Reads and changes what the process logs.
pub trait LogControl: Send + Sync {
    /// Returns the directives in the syntax of `--log`.
    fn directives(&self) -> String;

    /// Replaces the directives. The error says which part is invalid.
    fn set(&self, directives: &str) -> Result<(), String>;
}

/// What the admin port and the shutdown may read of the running configuration: the control plane's
/// counterpart of a [`Snapshot`](crate::proxy::Snapshot).
#[derive(Default)]
pub(super) struct View {
    shown: ArcSwap<Shown>,
    /// The latest reloads, newest first.
    reloads: Mutex<VecDeque<Reloaded>>,
    quit: Notify,
    /// All required providers have had a token. Never reset: providers that a reload adds do not
    /// make the process unready.
    was_ready: AtomicBool,
    ending: AtomicBool,
}

#[derive(Default)]
struct Shown {
    listeners: Vec<String>,
    providers: Vec<Handle>,
    allow_hosts: Vec<String>,
    shutdown_delay: Duration,
    quitquitquit: bool,
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

    fn reload_reports(&self) -> Vec<ReloadReport> {
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
    fn problems(&self) -> Vec<String> {
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

impl AppControl {
    fn provider_reports(&self) -> Vec<ProviderReport> {
        let now = SystemTime::now();
        let report = |handle: &Handle| {
            let provider = handle.provider();
            let endpoint = match &provider.source {
                TokenSource::Endpoint(endpoint) => Some(endpoint.token_url.authority.as_str()),
                TokenSource::Static { .. } | TokenSource::Made(_) => None,
            };
            ProviderReport::new(
                handle.name(),
                handle.required(),
                endpoint,
                provider.life.single_active,
                &handle.status(),
                now,
            )
        };
        let shown = self.view.shown.load();
        shown.providers.iter().map(report).collect()
    }

    fn upstream_reports(&self) -> Vec<UpstreamReport> {
        let errors = self.proxy.metrics.errors_by_upstream();
        let snapshot = self.proxy.snapshot.load();
        let targets = snapshot.routes.targets().iter();
        let mut reports: Vec<_> = targets
            .map(|target| UpstreamReport::new(&target.config, &target.metrics, &errors))
            .collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
    }
}

impl Control for AppControl {
    fn metrics(&self) -> &Metrics {
        &self.proxy.metrics
    }

    fn report(&self) -> Report {
        let readiness = self.readiness();
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: readiness.pending.is_empty(),
            pending: readiness.pending,
            config_problems: self.view.problems(),
            listeners: self.view.shown.load().listeners.clone(),
            providers: self.provider_reports(),
            upstreams: self.upstream_reports(),
            latency_bounds: latency_bounds().to_vec(),
            reloads: self.view.reload_reports(),
        }
    }

    fn readiness(&self) -> Readiness {
        self.view.readiness()
    }

    fn allow_hosts(&self) -> Vec<String> {
        self.view.shown.load().allow_hosts.clone()
    }

    fn refresh(&self, provider: &str) -> Option<Work<Result<(), RefreshError>>> {
        let shown = self.view.shown.load();
        let mut providers = shown.providers.iter();
        let handle = providers.find(|it| it.name() == provider)?.clone();
        Some(Box::pin(async move { handle.refresh().await }))
    }

    fn quit(&self) -> bool {
        let allowed = self.view.shown.load().quitquitquit;
        if allowed {
            self.view.quit.notify_one();
        }
        allowed
    }

    fn log(&self) -> Option<String> {
        Some(self.log.as_ref()?.directives())
    }

    fn set_log(&self, directives: &str) -> Result<(), String> {
        let log = self.log.as_ref().ok_or("there is no log to change")?;
        log.set(directives)
    }

    fn reload(&self) -> Work<Result<String, Vec<String>>> {
        let reloader = Arc::clone(&self.reloader);
        Box::pin(async move { reloader.reload().await })
    }
}
