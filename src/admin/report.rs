//! The JSON document of `/status`. The command line parses it into the same types.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::{Route, Scheme, Upstream};
use crate::metrics::UpstreamMetrics;
use crate::status::Status;

/// The document. Times are RFC 3339 in UTC; spans are whole seconds, negative for the past.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub version: String,
    pub uptime_seconds: u64,
    pub ready: bool,
    /// Reasons for not being ready.
    pub pending: Vec<String>,
    /// Problems of the last reload, so that an older configuration is running; empty if it
    /// succeeded.
    pub config_problems: Vec<String>,
    /// Addresses of the proxy's listeners, as bound.
    pub listeners: Vec<String>,
    pub providers: Vec<ProviderReport>,
    pub upstreams: Vec<UpstreamReport>,
    /// Upper bounds, in seconds, of the buckets in each upstream's `latency`; one more bucket
    /// follows without a bound.
    pub latency_bounds: Vec<f64>,
    /// The latest reloads, newest first.
    pub reloads: Vec<ReloadReport>,
}

/// One attempt to apply a new configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReloadReport {
    pub at: Option<String>,
    pub seconds_ago: u64,
    pub ok: bool,
    /// The changes, or the problems.
    pub detail: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderReport {
    pub name: String,
    pub required: bool,
    /// Host and port of the token endpoint; `null` for a static token.
    pub token_endpoint: Option<String>,
    /// A new token invalidates the previous one.
    pub single_active: bool,
    /// `valid`, `stale`, `expired`, `missing` or `login_required`.
    pub state: String,
    pub generation: u64,
    /// `null` if the token does not expire or there is none.
    pub expires_at: Option<String>,
    pub expires_in_seconds: Option<i64>,
    pub fetched_at: Option<String>,
    /// From the fetch to the expiry; `null` where either is unknown.
    pub life_seconds: Option<i64>,
    /// `null` during a fetch, or if none is planned.
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
    /// Responses that were Cupbearer's own errors.
    pub errors: u64,
    pub token_rejections: u64,
    pub replays: ReplayReport,
    pub in_flight: i64,
    pub connections: i64,
    /// Responses by class, `2xx` to `5xx`, including Cupbearer's own errors.
    pub answers: BTreeMap<String, u64>,
    /// Requests by duration, in the buckets of [`Report::latency_bounds`]; empty before the first
    /// request.
    pub latency: Vec<u64>,
}

/// Requests that were repeated because the API rejected their token, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayReport {
    /// Accepted with a newer token.
    pub ok: u64,
    /// Rejected again.
    pub rejected: u64,
    /// Not repeated, because too much of the request body was gone: the app got the rejection.
    pub not_replayable: u64,
}

impl ProviderReport {
    pub fn new(
        name: &str,
        required: bool,
        token_endpoint: Option<&str>,
        single_active: bool,
        status: &Status,
        now: SystemTime,
    ) -> Self {
        let life = status.expires_at.zip(status.fetched_at);
        Self {
            name: name.to_owned(),
            required,
            token_endpoint: token_endpoint.map(str::to_owned),
            single_active,
            state: status.state.name().to_owned(),
            generation: status.generation,
            expires_at: status.expires_at.and_then(rfc3339),
            expires_in_seconds: status.expires_at.map(|at| seconds_until(at, now)),
            fetched_at: status.fetched_at.and_then(rfc3339),
            life_seconds: life.map(|(expires, fetched)| seconds_until(expires, fetched)),
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
        let origin = &upstream.origin;
        let scheme = match origin.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let answers = metrics.answers().into_iter();
        Self {
            name: upstream.name.clone(),
            url: format!("{scheme}://{}{}", origin.authority, upstream.base_path),
            provider: upstream.provider.clone(),
            route: route(&upstream.route),
            requests: metrics.duration.get_sample_count(),
            errors: errors.get(&upstream.name).copied().unwrap_or_default(),
            token_rejections: metrics.rejections.get(),
            replays: ReplayReport {
                ok: metrics.replayed.get(),
                rejected: metrics.replay_rejected.get(),
                not_replayable: metrics.not_replayed.get(),
            },
            in_flight: metrics.in_flight.get(),
            connections: metrics.connections.get(),
            answers: answers
                .map(|(class, count)| (format!("{class}xx"), count))
                .collect(),
            latency: metrics.latency(),
        }
    }
}

impl ReloadReport {
    pub fn new(at: SystemTime, now: SystemTime, ok: bool, detail: String) -> Self {
        Self {
            at: rfc3339(at),
            seconds_ago: seconds_until(at, now).min(0).unsigned_abs(),
            ok,
            detail,
        }
    }
}

fn route(route: &Route) -> String {
    match route {
        Route::PathPrefix(prefix) => format!("path {prefix}"),
        Route::Host(host) => format!("host {host}"),
        Route::Listen(listen) => format!("listen {listen}"),
        Route::CatchAll => "everything else".to_owned(),
    }
}

/// Rounds down to the second; `None` beyond the year 9999.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listen;
    use crate::status::State;

    fn status(expires_at: Option<SystemTime>) -> Status {
        Status {
            state: State::Valid,
            generation: 1,
            expires_at,
            fetched_at: None,
            next_fetch_at: None,
            failures: 0,
            last_error: None,
        }
    }

    #[test]
    fn routes_are_described_in_words() {
        let tcp = "127.0.0.1:8081".parse().unwrap();
        for (given, words) in [
            (Route::PathPrefix("/cncn".to_owned()), "path /cncn"),
            (Route::Host("api.test".to_owned()), "host api.test"),
            (Route::Listen(Listen::Tcp(tcp)), "listen 127.0.0.1:8081"),
            (
                Route::Listen(Listen::Unix("/run/x.sock".into())),
                "listen unix:/run/x.sock",
            ),
            (Route::CatchAll, "everything else"),
        ] {
            assert_eq!(route(&given), words);
        }
    }

    #[test]
    fn times_beyond_the_calendar_still_have_a_span() {
        let now = SystemTime::UNIX_EPOCH;
        let life = Duration::from_secs(400_000_000_000);
        let report = ProviderReport::new("x", true, None, false, &status(Some(now + life)), now);
        assert_eq!(report.expires_at, None);
        assert_eq!(report.expires_in_seconds, Some(400_000_000_000));
    }

    #[test]
    fn a_token_without_expiry_has_null_times() {
        let now = SystemTime::UNIX_EPOCH;
        let report = ProviderReport::new("x", true, None, false, &status(None), now);
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["expires_at"].is_null() && json["expires_in_seconds"].is_null());
    }
}
