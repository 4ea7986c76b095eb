//! What the admin port sees of the running proxy.

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

pub(super) struct AppControl {
    proxy: Arc<Proxy>,
    view: Arc<View>,
    reloader: Arc<Reloader>,
    log: Option<Arc<dyn LogControl>>,
    started: Instant,
}

/// What is logged, and how it is changed while the process runs.
pub trait LogControl: Send + Sync {
    /// As `--log` has it.
    fn directives(&self) -> String;

    /// The error says what is wrong with them.
    fn set(&self, directives: &str) -> Result<(), String>;
}

/// The control flow's counterpart of a [`Snapshot`](crate::proxy::Snapshot): what others may know of the running
/// configuration.
#[derive(Default)]
pub(super) struct View {
    shown: ArcSwap<Shown>,
    /// What the last reload found wrong.
    problems: ArcSwap<Vec<String>>,
    /// The latest reloads, newest first.
    reloads: Mutex<VecDeque<Reloaded>>,
    quit: Notify,
    /// All required providers have had a token. Never taken back: providers that a reload adds do not count.
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

/// How many reloads are remembered.
const RELOADS: usize = 10;

struct Reloaded {
    at: SystemTime,
    ok: bool,
    detail: String,
}

impl View {
    pub(super) fn show(&self, live: &Live) {
        let server = &live.config().server;
        self.shown.store(Arc::new(Shown {
            listeners: live.listeners(),
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

    /// Waits until the admin port is asked to end the process.
    pub(super) async fn asked_to_quit(&self) {
        self.quit.notified().await;
    }

    /// Remembers how a reload ended.
    pub(super) fn reloaded(&self, result: &Result<String, Vec<String>>) {
        let (detail, problems) = match result {
            Ok(changes) => (changes.clone(), Vec::new()),
            Err(problems) => (problems.join("; "), problems.clone()),
        };
        self.problems.store(Arc::new(problems));
        let mut reloads = self.reloads();
        reloads.truncate(RELOADS - 1);
        reloads.push_front(Reloaded {
            at: SystemTime::now(),
            ok: result.is_ok(),
            detail,
        });
    }

    fn reload_reports(&self) -> Vec<ReloadReport> {
        let now = SystemTime::now();
        self.reloads()
            .iter()
            .map(|it| ReloadReport::new(it.at, now, it.ok, it.detail.clone()))
            .collect()
    }

    fn reloads(&self) -> MutexGuard<'_, VecDeque<Reloaded>> {
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on `/readyz` says no.
    pub(super) fn not_ready(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub(super) fn remember_ready(&self) {
        self.readiness();
    }

    fn readiness(&self) -> Readiness {
        if self.is_ending() {
            let pending = vec!["shutting down".to_owned()];
            return Readiness {
                pending_now: pending.clone(),
                pending,
            };
        }
        let mut readiness = Readiness::default();
        for handle in self
            .shown
            .load()
            .providers
            .iter()
            .filter(|it| it.required())
        {
            let status = handle.status();
            if matches!(status.state, State::Valid | State::Stale) {
                continue;
            }
            let line = format!("provider {}: {}", handle.name(), status.state.name());
            // A generation is never taken back: this one has had its first token.
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
    pub(super) fn new(
        proxy: Arc<Proxy>,
        view: Arc<View>,
        reloader: Arc<Reloader>,
        log: Option<Arc<dyn LogControl>>,
    ) -> Self {
        Self {
            proxy,
            view,
            reloader,
            log,
            started: Instant::now(),
        }
    }

    fn provider_reports(&self) -> Vec<ProviderReport> {
        let now = SystemTime::now();
        let report = |handle: &Handle| {
            let endpoint = match &handle.provider().source {
                TokenSource::Endpoint(endpoint) => Some(endpoint.token_url.authority.as_str()),
                TokenSource::Static { .. } | TokenSource::Made(_) => None,
            };
            ProviderReport::new(
                handle.name(),
                handle.required(),
                endpoint,
                handle.provider().life.single_active,
                &handle.status(),
                now,
            )
        };
        self.view
            .shown
            .load()
            .providers
            .iter()
            .map(report)
            .collect()
    }

    fn upstream_reports(&self) -> Vec<UpstreamReport> {
        let errors = self.proxy.metrics.errors_by_upstream();
        let snapshot = self.proxy.snapshot.load();
        let mut reports: Vec<_> = snapshot
            .routes
            .targets()
            .iter()
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
            config_problems: self.view.problems.load().to_vec(),
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
        let handle = shown
            .providers
            .iter()
            .find(|handle| handle.name() == provider)?
            .clone();
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
        match &self.log {
            Some(log) => log.set(directives),
            None => Err("there is no log to change".to_owned()),
        }
    }

    fn reload(&self) -> Work<Result<String, Vec<String>>> {
        let reloader = Arc::clone(&self.reloader);
        Box::pin(async move { reloader.reload().await })
    }
}
