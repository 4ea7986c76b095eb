//! Prometheus metrics.
//!
//! Handles are resolved when an upstream or provider is set up; the request path only touches
//! atomics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Once, OnceLock};

use prometheus::core::{Collector, Metric as _, MetricVec, MetricVecBuilder};
use prometheus::proto::{self, MetricFamily, MetricType};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::status::State;

/// In seconds: proxied requests take a tenth of a millisecond to minutes.
const REQUEST_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

const FETCH_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds of the request duration buckets, in seconds.
pub fn latency_bounds() -> &'static [f64] {
    REQUEST_BUCKETS
}

/// Defines [`Metrics`] and registers each row as a family of the name `cupbearer_…`. A histogram
/// names its buckets.
macro_rules! metrics {
    ($($field:ident: $kind:ident$(($buckets:ident))? $name:literal $labels:tt $help:literal)*) => {
        /// All metrics of one process.
        pub struct Metrics {
            $($field: $kind,)*
            registry: Registry,
            /// Registers the process metrics at the first scrape, since registration reads a dozen
            /// files of /proc.
            process: Once,
        }

        impl Metrics {
            fn registered() -> Self {
                let registry = Registry::new();
                Self {
                    $($field: {
                        let opts = Opts::new(concat!("cupbearer_", $name), $help);
                        $(let opts = HistogramOpts {
                            common_opts: opts,
                            buckets: $buckets.to_vec(),
                        };)?
                        register(&registry, $kind::new(opts, &$labels))
                    },)*
                    registry,
                    process: Once::new(),
                }
            }

            /// Removes the series whose `label` is one of the `names`.
            fn forget(&self, label: &str, names: &BTreeSet<String>) {
                if !names.is_empty() {
                    $(forget(&self.$field, label, names);)*
                }
            }
        }
    };
}

metrics! {
    requests: IntCounterVec "requests_total" ["upstream", "code"]
        "Requests answered, by status code."
    request_duration: HistogramVec(REQUEST_BUCKETS) "request_duration_seconds" ["upstream"]
        "Time from the head of a request to the end of its response."
    in_flight: IntGaugeVec "requests_in_flight" ["upstream"]
        "Requests being answered now, and open tunnels (WebSockets)."
    request_errors: IntCounterVec "request_errors_total" ["upstream", "error"]
        "Requests answered with one of Cupbearer's errors."
    replays: IntCounterVec "replays_total" ["upstream", "result"]
        "Requests sent again with a newer token after the API rejected the first."
    rejections: IntCounterVec "token_rejections_total" ["upstream"]
        "Responses that rejected the token."
    connections: IntGaugeVec "upstream_connections" ["upstream"]
        "Open connections to the upstream."
    connects: IntCounterVec "upstream_connects_total" ["upstream", "result"]
        "Attempts to connect to the upstream."
    fetches: IntCounterVec "token_fetches_total" ["provider", "result"]
        "Token requests."
    fetch_duration: HistogramVec(FETCH_BUCKETS) "token_fetch_duration_seconds" ["provider"]
        "Duration of token requests."
    token_expiry: GaugeVec "token_expiry_timestamp_seconds" ["provider"]
        "Expiry of the current token; +Inf if unknown, 0 without a token."
    token_fetched: GaugeVec "token_fetched_timestamp_seconds" ["provider"]
        "Fetch time of the current token; 0 without a token."
    token_state: IntGaugeVec "token_state" ["provider", "state"]
        "1 for the current state of the token, 0 for all other states."
    config_reloads: IntCounterVec "config_reloads_total" ["result"]
        "Reloads of the configuration."
    build_info: IntGaugeVec "build_info" ["version"]
        "The running version; always 1."
}

impl Metrics {
    pub fn new() -> Self {
        let metrics = Self::registered();
        let version = metrics
            .build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")]);
        version.set(1);
        for result in ["ok", "error"] {
            metrics.config_reloads.with_label_values(&[result]);
        }
        metrics
    }

    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            name: name.into(),
            requests: self.requests.clone(),
            by_code: Arc::default(),
            duration: self.request_duration.with_label_values(&[name]),
            in_flight: self.in_flight.with_label_values(&[name]),
            replayed: self.replays.with_label_values(&[name, "ok"]),
            replay_rejected: self.replays.with_label_values(&[name, "rejected"]),
            not_replayed: self.replays.with_label_values(&[name, "not_replayable"]),
            rejections: self.rejections.with_label_values(&[name]),
            connections: self.connections.with_label_values(&[name]),
            connected: self.connects.with_label_values(&[name, "ok"]),
            connect_failed: self.connects.with_label_values(&[name, "error"]),
        }
    }

    pub fn provider(&self, name: &str) -> ProviderMetrics {
        let metrics = ProviderMetrics {
            fetched: self.fetches.with_label_values(&[name, "ok"]),
            fetch_transient: self.fetches.with_label_values(&[name, "transient"]),
            fetch_permanent: self.fetches.with_label_values(&[name, "permanent"]),
            fetch_duration: self.fetch_duration.with_label_values(&[name]),
            expiry: self.token_expiry.with_label_values(&[name]),
            fetched_at: self.token_fetched.with_label_values(&[name]),
            states: State::ALL
                .map(|state| self.token_state.with_label_values(&[name, state.name()])),
        };
        metrics.set_state(State::Missing);
        // An earlier provider may have had this name.
        metrics.expiry.set(0.0);
        metrics.fetched_at.set(0.0);
        metrics
    }

    /// Removes the series of removed upstreams. Remaining handles have no effect.
    pub fn forget_upstreams(&self, names: &BTreeSet<String>) {
        self.forget("upstream", names);
    }

    pub fn forget_providers(&self, names: &BTreeSet<String>) {
        self.forget("provider", names);
    }

    /// Counts one of Cupbearer's errors by code; `upstream` is empty if none was matched. Off the
    /// fast path.
    pub fn count_error(&self, upstream: &str, error: &str) {
        let labels = [upstream, error];
        self.request_errors.with_label_values(&labels).inc();
    }

    pub fn count_reload(&self, ok: bool) {
        let result = if ok { "ok" } else { "error" };
        self.config_reloads.with_label_values(&[result]).inc();
    }

    /// Returns the exposition text and its content type.
    pub fn render(&self) -> (String, &'static str) {
        self.process.call_once(|| {
            #[cfg(target_os = "linux")]
            let process = prometheus::process_collector::ProcessCollector::for_self();
            let registered = self.registry.register(Box::new(process));
            registered.expect("metric names are distinct");
        });
        let mut text = String::new();
        let families = self.registry.gather();
        // Writing to a String cannot fail, and registered families always encode.
        let _ = TextEncoder::new().encode_utf8(&families, &mut text);
        (text, prometheus::TEXT_FORMAT)
    }

    /// Returns the number of Cupbearer's errors by upstream, for pages.
    pub fn errors_by_upstream(&self) -> HashMap<String, u64> {
        let mut sums = HashMap::new();
        let families = self.request_errors.collect();
        for metric in families.iter().flat_map(MetricFamily::get_metric) {
            if let Some(upstream) = label(metric, "upstream") {
                let errors = metric.get_counter().get_value() as u64;
                *sums.entry(upstream.to_owned()).or_default() += errors;
            }
        }
        sums
    }

    /// Returns the value of one sample, for tests.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name)?;
        let metric = family.get_metric().iter().find(|metric| {
            (labels.iter()).all(|(name, value)| label(metric, name) == Some(value))
        })?;
        match family.get_field_type() {
            MetricType::COUNTER => Some(metric.get_counter().get_value()),
            MetricType::GAUGE => Some(metric.get_gauge().get_value()),
            MetricType::HISTOGRAM => Some(metric.get_histogram().get_sample_count() as f64),
            MetricType::SUMMARY | MetricType::UNTYPED => None,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Counters of one status class, by the last two digits of the code.
type ClassCounters = [OnceLock<IntCounter>; 100];

#[derive(Clone)]
pub struct UpstreamMetrics {
    name: Arc<str>,
    requests: IntCounterVec,
    /// Boxed, since most upstreams use one or two classes.
    by_code: Arc<[OnceLock<Box<ClassCounters>>; 5]>,
    pub duration: Histogram,
    pub in_flight: IntGauge,
    pub replayed: IntCounter,
    pub replay_rejected: IntCounter,
    pub not_replayed: IntCounter,
    pub rejections: IntCounter,
    pub connections: IntGauge,
    pub connected: IntCounter,
    pub connect_failed: IntCounter,
}

impl UpstreamMetrics {
    /// Counts a response. Resolves the counter of a status code at its first use.
    pub fn count(&self, status: http::StatusCode) {
        let code = status.as_u16();
        let (class, rest) = (usize::from(code / 100), usize::from(code % 100));
        let Some(class) = class.checked_sub(1).and_then(|it| self.by_code.get(it)) else {
            return self.resolve(code).inc();
        };
        let codes = class.get_or_init(|| Box::new([const { OnceLock::new() }; 100]));
        codes[rest].get_or_init(|| self.resolve(code)).inc();
    }

    /// Returns responses by the first digit of their status, without unused classes.
    pub fn answers(&self) -> BTreeMap<u16, u64> {
        let classes = (1..).zip(self.by_code.iter());
        let seen = classes.filter_map(|(class, codes)| {
            let codes = codes.get()?.iter().filter_map(OnceLock::get);
            Some((class, codes.map(IntCounter::get).sum()))
        });
        seen.collect()
    }

    /// Returns the number of requests in each bucket of [`latency_bounds`] and beyond; empty
    /// without requests.
    pub fn latency(&self) -> Vec<u64> {
        let sample = self.duration.metric();
        let histogram = sample.get_histogram();
        let total = histogram.get_sample_count();
        if total == 0 {
            return Vec::new();
        }
        let buckets = histogram.get_bucket().iter();
        let mut below = 0;
        // Buckets are counted one by one during requests, so a sum can lag behind its parts.
        (buckets.map(proto::Bucket::cumulative_count).chain([total]))
            .map(|count| {
                let own = count.saturating_sub(below);
                below = below.max(count);
                own
            })
            .collect()
    }

    fn resolve(&self, code: u16) -> IntCounter {
        self.requests
            .with_label_values(&[&*self.name, itoa::Buffer::new().format(code)])
    }
}

#[derive(Clone)]
pub struct ProviderMetrics {
    pub fetched: IntCounter,
    pub fetch_transient: IntCounter,
    pub fetch_permanent: IntCounter,
    pub fetch_duration: Histogram,
    pub expiry: Gauge,
    pub fetched_at: Gauge,
    states: [IntGauge; State::ALL.len()],
}

impl ProviderMetrics {
    pub fn set_state(&self, state: State) {
        for (other, gauge) in State::ALL.iter().zip(&self.states) {
            gauge.set(i64::from(*other == state));
        }
    }
}

fn forget<T: MetricVecBuilder>(vector: &MetricVec<T>, label: &str, names: &BTreeSet<String>) {
    for metric in vector.collect().iter().flat_map(MetricFamily::get_metric) {
        let pairs = metric.get_label().iter();
        let labels: HashMap<_, _> = pairs.map(|pair| (pair.name(), pair.value())).collect();
        if labels.get(label).is_some_and(|name| names.contains(*name)) {
            // Just collected with these labels.
            let _ = vector.remove(&labels);
        }
    }
}

fn label<'a>(metric: &'a proto::Metric, name: &str) -> Option<&'a str> {
    let mut pairs = metric.get_label().iter();
    let pair = pairs.find(|pair| pair.name() == name);
    pair.map(proto::LabelPair::value)
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    // Names and labels are literals of the table, each registered once.
    let collector = collector.expect("metric names are valid");
    let registered = registry.register(Box::new(collector.clone()));
    registered.expect("metric names are distinct");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_class_and_by_duration() {
        let upstream = Metrics::new().upstream("api");
        assert!(upstream.latency().is_empty() && upstream.answers().is_empty());
        for (status, seconds) in [(200, 0.0004), (204, 0.003), (404, 0.003), (503, 1000.0)] {
            upstream.count(http::StatusCode::from_u16(status).unwrap());
            upstream.duration.observe(seconds);
        }
        assert_eq!(upstream.answers(), BTreeMap::from([(2, 2), (4, 1), (5, 1)]));
        let counts = upstream.latency();
        assert_eq!(counts.len(), latency_bounds().len() + 1);
        let filled: Vec<_> = counts.iter().enumerate().filter(|it| *it.1 > 0).collect();
        // Up to 0.5 ms, up to 5 ms, beyond a minute.
        assert_eq!(filled, [(0, &1), (3, &2), (16, &1)]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn every_scrape_has_the_process_metrics_once() {
        let metrics = Metrics::new();
        for _ in 0..2 {
            let (text, _) = metrics.render();
            assert_eq!(text.matches("\nprocess_start_time_seconds ").count(), 1);
        }
    }
}
