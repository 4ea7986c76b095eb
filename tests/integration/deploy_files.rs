//! Files of `deploy/`: alerts and panels query existing metrics, and the configurations load.
//! `deploy/check` runs the checks that need other tools.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cupbearer::config::{Config, NoEnvironment};
use cupbearer::metrics::Metrics;
use http::StatusCode;
use regex_lite::Regex;

/// Files with PromQL queries.
const QUERIES: [&str; 3] = [
    "deploy/prometheus/cupbearer.rules.yml",
    "deploy/prometheus/cupbearer.rules.test.yml",
    "deploy/grafana/cupbearer.json",
];

#[test]
fn alerts_and_panels_query_existing_metrics() {
    let exposed = exposed();
    let name = Regex::new(r"(?m)^[a-z_]+").unwrap();
    let existing: BTreeSet<_> = name.find_iter(&exposed).map(|name| name.as_str()).collect();
    let queried = Regex::new(r"\b(cupbearer|process)_[a-z_]+").unwrap();
    for path in QUERIES {
        let text = file(path);
        let names: BTreeSet<_> = queried.find_iter(&text).map(|name| name.as_str()).collect();
        assert!(names.len() > 10, "{path}: {names:?}");
        let unknown: Vec<_> = names.difference(&existing).collect();
        assert!(
            unknown.is_empty(),
            "{path} queries unknown metrics {unknown:?}"
        );
    }
}

#[test]
fn alerts_and_panels_query_existing_states_and_results() {
    let exposed = exposed();
    let label = Regex::new(r#"\b(state|result)=~?\\?"([a-z_|]+)\\?""#).unwrap();
    for path in QUERIES {
        let text = file(path);
        let mut seen = 0;
        for found in label.captures_iter(&text) {
            for value in found[2].split('|') {
                let pair = format!("{}=\"{value}\"", &found[1]);
                assert!(exposed.contains(&pair), "{path}: no metric has {pair}");
                seen += 1;
            }
        }
        assert!(seen > 3, "{path}");
    }
}

#[test]
fn configurations_of_the_overlays_load() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("acme"), "secret\n").unwrap();
    let folder = folder.path().to_str().unwrap();
    for overlay in ["native-sidecar", "plain-sidecar"] {
        let text = file(&format!(
            "deploy/kubernetes/overlays/{overlay}/cupbearer.toml"
        ));
        let text = text.replace("/run/secrets/vendors", folder);
        let config = Config::from_toml(&text, &NoEnvironment);
        assert!(config.is_ok(), "{overlay}: {:#?}", config.unwrap_err());
    }
}

/// Returns `/metrics` after every metric has been used.
fn exposed() -> String {
    let metrics = Metrics::new();
    let upstream = metrics.upstream("u");
    upstream.count(StatusCode::OK);
    let provider = metrics.provider("p");
    provider.fetched.inc();
    metrics.count_error("u", "internal");
    metrics.render().0
}

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).expect("the files of deploy/ are readable")
}
