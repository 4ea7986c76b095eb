//! What the admin port sees of the running proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use super::live::Live;
use super::reload::Reloader;
use crate::admin::{Control, ProviderReport, Readiness, Report, UpstreamReport, Work};
use crate::config::{Listen, TokenSource};
use crate::metrics::Metrics;
use crate::provider::{Handle, RefreshError, State};
use crate::proxy::Proxy;

pub(super) struct AppControl {
    proxy: Arc<Proxy>,
    view: Arc<View>,
    reloader: Arc<Reloader>,
    listeners: Vec<Listen>,
    started: Instant,
}

/// The control flow's counterpart of a [`Snapshot`](crate::proxy::Snapshot): what others may know of the running
/// configuration.
#[derive(Default)]
pub(super) struct View {
    shown: ArcSwap<Shown>,
    /// What the last reload found wrong.
    problems: ArcSwap<Vec<String>>,
    /// All required providers have had a token. Never taken back: providers that a reload adds do not count.
    was_ready: AtomicBool,
    ending: AtomicBool,
}

#[derive(Default)]
struct Shown {
    providers: Vec<Handle>,
    allow_hosts: Vec<String>,
    shutdown_delay: Duration,
}

impl View {
    pub(super) fn show(&self, live: &Live) {
        let server = &live.config().server;
        self.shown.store(Arc::new(Shown {
            providers: live.providers(),
            allow_hosts: server.allow_hosts.clone(),
            shutdown_delay: server.shutdown_delay,
        }));
    }

    pub(super) fn providers(&self) -> Vec<Handle> {
        self.shown.load().providers.clone()
    }

    pub(super) fn shutdown_delay(&self) -> Duration {
        self.shown.load().shutdown_delay
    }

    pub(super) fn set_problems(&self, problems: Vec<String>) {
        self.problems.store(Arc::new(problems));
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
        listeners: Vec<Listen>,
    ) -> Self {
        Self {
            proxy,
            view,
            reloader,
            listeners,
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
            listeners: self.listeners.iter().map(address).collect(),
            providers: self.provider_reports(),
            upstreams: self.upstream_reports(),
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

    fn reload(&self) -> Work<Result<String, Vec<String>>> {
        let reloader = Arc::clone(&self.reloader);
        Box::pin(async move { reloader.reload().await })
    }
}

fn address(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}
