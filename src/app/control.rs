//! What the admin port sees of the running proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use crate::admin::{Control, ProviderReport, Readiness, Report, UpstreamReport, Work};
use crate::config::{Listen, TokenSource};
use crate::metrics::Metrics;
use crate::provider::{Handle, RefreshError, State};
use crate::proxy::Proxy;

pub(super) struct AppControl {
    proxy: Arc<Proxy>,
    providers: Vec<Handle>,
    listeners: Vec<Listen>,
    allow_hosts: Vec<String>,
    started: Instant,
    ending: AtomicBool,
}

impl AppControl {
    pub(super) fn new(
        proxy: Arc<Proxy>,
        providers: Vec<Handle>,
        listeners: Vec<Listen>,
        allow_hosts: Vec<String>,
    ) -> Self {
        Self {
            proxy,
            providers,
            listeners,
            allow_hosts,
            started: Instant::now(),
            ending: AtomicBool::new(false),
        }
    }

    /// From now on `/readyz` says no.
    pub(super) fn not_ready(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    fn provider_reports(&self) -> Vec<ProviderReport> {
        let now = SystemTime::now();
        let report = |handle: &Handle| {
            let endpoint = match &handle.provider().source {
                TokenSource::Endpoint(endpoint) => Some(endpoint.token_url.authority.as_str()),
                TokenSource::Static { .. } => None,
            };
            ProviderReport::new(
                handle.name(),
                handle.required(),
                endpoint,
                &handle.status(),
                now,
            )
        };
        let mut reports: Vec<_> = self.providers.iter().map(report).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
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
            config_problems: Vec::new(),
            listeners: self.listeners.iter().map(address).collect(),
            providers: self.provider_reports(),
            upstreams: self.upstream_reports(),
        }
    }

    fn readiness(&self) -> Readiness {
        if self.ending.load(Ordering::Relaxed) {
            let pending = vec!["shutting down".to_owned()];
            return Readiness {
                pending_now: pending.clone(),
                pending,
            };
        }
        let mut readiness = Readiness::default();
        for handle in self.providers.iter().filter(|handle| handle.required()) {
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
        readiness
    }

    fn allow_hosts(&self) -> Vec<String> {
        self.allow_hosts.clone()
    }

    fn refresh(&self, provider: &str) -> Option<Work<Result<(), RefreshError>>> {
        let handle = self
            .providers
            .iter()
            .find(|handle| handle.name() == provider)?
            .clone();
        Some(Box::pin(async move { handle.refresh().await }))
    }

    fn reload(&self) -> Work<Result<String, Vec<String>>> {
        let problem = "reloading is not supported by this version: restart the process".to_owned();
        Box::pin(async { Err(vec![problem]) })
    }
}

fn address(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}
