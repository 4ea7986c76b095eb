//! The running proxy as the admin port sees it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::reload::Reloader;
use super::view::View;
use crate::admin::{Control, ProviderReport, Readiness, Report, UpstreamReport, Work};
use crate::config::TokenSource;
use crate::metrics::{Metrics, latency_bounds};
use crate::provider::Handle;
use crate::proxy::Proxy;
use crate::status::RefreshError;

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

impl AppControl {
    fn provider_reports(&self) -> Vec<ProviderReport> {
        let now = SystemTime::now();
        let report = |handle: &Handle| {
            let provider = handle.provider();
            let endpoint = match &provider.source {
                TokenSource::Endpoint(endpoint) => Some(endpoint.token_url.authority.as_str()),
                TokenSource::Static { .. } | TokenSource::SelfSigned(_) => None,
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
