//! What stands in `deploy/` fits the program: the metrics that alerts and panels ask for exist, and the configurations load.
//! `deploy/check` does what needs other people's tools.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cupbearer::config::{Config, NoEnvironment};
use cupbearer::metrics::Metrics;
use http::StatusCode;
use regex_lite::Regex;

const ASKING: [&str; 3] = [
    "deploy/prometheus/cupbearer.rules.yml",
    "deploy/prometheus/cupbearer.rules.test.yml",
    "deploy/grafana/cupbearer.json",
];

#[test]
fn alerts_and_panels_ask_for_metrics_that_there_are() {
    let exposed = exposed();
    let name = Regex::new(r"(?m)^[a-z_]+").unwrap();
    let there: BTreeSet<_> = name.find_iter(&exposed).map(|name| name.as_str()).collect();
    let asked = Regex::new(r"\b(cupbearer|process)_[a-z_]+").unwrap();
    for path in ASKING {
        let text = file(path);
        let names: BTreeSet<_> = asked.find_iter(&text).map(|name| name.as_str()).collect();
        assert!(names.len() > 10, "{path}: {names:?}");
        let unknown: Vec<_> = names.difference(&there).collect();
        assert!(unknown.is_empty(), "{path} asks for {unknown:?}");
    }
}

#[test]
fn alerts_and_panels_ask_for_states_and_results_that_there_are() {
    let exposed = exposed();
    let label = Regex::new(r#"\b(state|result)=~?\\?"([a-z_|]+)\\?""#).unwrap();
    for path in ASKING {
        let text = file(path);
        let mut seen = 0;
        for found in label.captures_iter(&text) {
            for value in found[2].split('|') {
                let pair = format!("{}=\"{value}\"", &found[1]);
                assert!(exposed.contains(&pair), "{path}: nothing has {pair}");
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

/// What `/metrics` says once everything has happened.
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
    fs::read_to_string(&path).expect("deploy/ is there")
}
