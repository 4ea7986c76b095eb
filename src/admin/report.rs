//! What `/status` says. The command line reads it back into the same types.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::{Listen, Route, Scheme, Upstream};
use crate::metrics::UpstreamMetrics;
use crate::provider::Status;

/// The document. Times are RFC 3339 in UTC; spans are whole seconds, negative for the past.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub version: String,
    pub uptime_seconds: u64,
    pub ready: bool,
    /// What stands in the way of being ready.
    pub pending: Vec<String>,
    /// What the last reload found wrong: an older configuration is running. Empty when all is well.
    pub config_problems: Vec<String>,
    /// Addresses of the proxy port, as bound.
    pub listeners: Vec<String>,
    pub providers: Vec<ProviderReport>,
    pub upstreams: Vec<UpstreamReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderReport {
    pub name: String,
    pub required: bool,
    /// Host and port of the token endpoint; `null` for a static token.
    pub token_endpoint: Option<String>,
    /// `valid`, `stale`, `expired`, `missing` or `login_required`.
    pub state: String,
    pub generation: u64,
    /// `null`: the token does not expire, or there is none.
    pub expires_at: Option<String>,
    pub expires_in_seconds: Option<i64>,
    pub fetched_at: Option<String>,
    /// `null`: a fetch is under way, or none will come.
    pub next_fetch_at: Option<String>,
    pub next_fetch_in_seconds: Option<i64>,
    /// Failures in a row.
    pub failures: u32,
    pub last_error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpstreamReport {
    pub name: String,
    pub url: String,
    pub provider: String,
    /// `path /cncn`, `host api.test`, `listen 127.0.0.1:8081` or `everything else`.
    pub route: String,
    pub requests: u64,
    /// Answers that were errors of our own.
    pub errors: u64,
    pub token_rejections: u64,
    pub in_flight: i64,
    pub connections: i64,
}

impl ProviderReport {
    pub fn new(
        name: &str,
        required: bool,
        token_endpoint: Option<&str>,
        status: &Status,
        now: SystemTime,
    ) -> Self {
        Self {
            name: name.to_owned(),
            required,
            token_endpoint: token_endpoint.map(str::to_owned),
            state: status.state.name().to_owned(),
            generation: status.generation,
            expires_at: status.expires_at.and_then(rfc3339),
            expires_in_seconds: status.expires_at.map(|at| seconds_until(at, now)),
            fetched_at: status.fetched_at.and_then(rfc3339),
            next_fetch_at: status.next_fetch_at.and_then(rfc3339),
            next_fetch_in_seconds: status.next_fetch_at.map(|at| seconds_until(at, now)),
            failures: status.failures,
            last_error: status.last_error.clone(),
        }
    }
}

impl UpstreamReport {
    /// `errors` are [`Metrics::errors_by_upstream`](crate::metrics::Metrics::errors_by_upstream).
    pub fn new(
        upstream: &Upstream,
        metrics: &UpstreamMetrics,
        errors: &HashMap<String, u64>,
    ) -> Self {
        let scheme = match upstream.origin.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        Self {
            name: upstream.name.clone(),
            url: format!(
                "{scheme}://{}{}",
                upstream.origin.authority, upstream.base_path
            ),
            provider: upstream.provider.clone(),
            route: route(&upstream.route),
            requests: metrics.duration.get_sample_count(),
            errors: errors.get(&upstream.name).copied().unwrap_or_default(),
            token_rejections: metrics.rejections.get(),
            in_flight: metrics.in_flight.get(),
            connections: metrics.connections.get(),
        }
    }
}

fn route(route: &Route) -> String {
    match route {
        Route::PathPrefix(prefix) => format!("path {prefix}"),
        Route::Host(host) => format!("host {host}"),
        Route::Listen(Listen::Tcp(address)) => format!("listen {address}"),
        Route::Listen(Listen::Unix(path)) => format!("listen unix:{}", path.display()),
        Route::CatchAll => "everything else".to_owned(),
    }
}

/// To the second; `None` beyond the year 9999.
fn rfc3339(at: SystemTime) -> Option<String> {
    let seconds = Timestamp::try_from(at).ok()?.as_second();
    Some(Timestamp::from_second(seconds).ok()?.to_string())
}

fn seconds_until(at: SystemTime, now: SystemTime) -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match at.duration_since(now) {
        Ok(ahead) => seconds(ahead),
        Err(past) => -seconds(past.duration()),
    }
}
