//! The documents match the program: configurations load, and listed names exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use cupbearer::cli::Cli;
use cupbearer::config::Config;
use cupbearer::dialect;

const README: &str = include_str!("../../README.md");
const DEPLOY: &str = include_str!("../../deploy/README.md");

/// Documents, each with the folder that its links are relative to.
const DOCUMENTS: [(&str, &str); 6] = [
    ("", README),
    ("deploy", DEPLOY),
    ("src/dialect", include_str!("../../src/dialect/README.md")),
    ("tests/bench", include_str!("../../tests/bench/README.md")),
    (".github", include_str!("../../.github/CONTRIBUTING.md")),
    (".github", include_str!("../../.github/SECURITY.md")),
];

/// The path of secret files in configurations of documents.
const SECRETS: &str = "\"/run/secrets/";

#[test]
fn readme_has_at_most_250_lines_and_starts_with_a_definition() {
    let mut lines = README.lines();
    assert_eq!(lines.next(), Some("# Cupbearer"));
    assert!(lines.nth(1).unwrap().starts_with("Cupbearer is a "));
    assert!(README.lines().count() <= 250);
}

/// `.ci/run` reads the marked commands from the README.
#[test]
fn the_commands_to_run_and_test_are_marked_for_ci() {
    for (mark, command) in [
        ("<!-- ci: run -->", "cargo run --release -- demo"),
        ("<!-- ci: test -->", "cargo test"),
    ] {
        let block = format!("\n{mark}\n```sh\n{command}\n```\n");
        assert_eq!(README.matches(&block).count(), 1, "{block}");
        assert_eq!(README.matches(mark).count(), 1, "{mark}");
    }
}

#[test]
fn every_toml_block_is_a_valid_configuration() {
    let blocks: Vec<_> = DOCUMENTS
        .iter()
        .flat_map(|(_, text)| blocks(text, "toml"))
        .collect();
    assert!(blocks.len() >= 6, "only {} blocks of TOML", blocks.len());
    for block in blocks {
        let folder = tempfile::tempdir().unwrap();
        let text = with_secrets_in(folder.path(), block);
        let named_in_block = |name: &str| {
            let named = block.contains(&format!("env = \"{name}\""));
            named.then(|| format!("value of {name}"))
        };
        let config = Config::from_toml(&text, &named_in_block);
        assert!(config.is_ok(), "{:#?}\n{block}", config.unwrap_err());
    }
}

#[test]
fn readme_has_a_configuration_for_each_of_the_five_vendors() {
    let mut shown = BTreeSet::new();
    for block in blocks(README, "toml") {
        let table: toml::Table = block.parse().unwrap();
        let providers = table.get("providers").and_then(toml::Value::as_table);
        let dialects = providers
            .into_iter()
            .flat_map(|providers| providers.values())
            .filter_map(|provider| provider.get("dialect")?.as_str().map(str::to_owned));
        shown.extend(dialects);
    }
    for vendor in ["cncn", "besender", "ctcfile", "identityserver", "passport"] {
        assert!(shown.contains(vendor), "{vendor} is not among {shown:?}");
    }
}

#[test]
fn readme_lists_all_dialects() {
    let dialects = dialect::builtin()
        .iter()
        .map(|(name, _)| (*name).to_owned());
    assert_eq!(first_column(README, "## Dialects"), dialects.collect());
}

#[test]
fn readme_lists_all_verbs() {
    let cli = Cli::command();
    let verbs = cli.get_subcommands().map(|verb| verb.get_name().to_owned());
    let verbs: BTreeSet<_> = verbs.filter(|verb| verb != "help").collect();
    assert_eq!(first_column(README, "## Command line"), verbs);
}

#[test]
fn listed_admin_endpoints_exist() {
    let source = source("src/admin/routes.rs");
    let endpoints = first_column(DEPLOY, "## Admin port");
    assert!(endpoints.len() > 10, "{endpoints:?}");
    for endpoint in endpoints {
        let path = endpoint.trim_start_matches("POST ");
        let fixed = path.trim_end_matches(|c: char| c.is_ascii_uppercase());
        assert!(
            source.contains(&format!("\"{fixed}\"")),
            "no admin endpoint {path}"
        );
    }
}

#[test]
fn named_metrics_exist() {
    let source = source("src/metrics.rs");
    let (_, metrics) = section(DEPLOY, "## Prometheus and Grafana")
        .split_once("\nMetrics have")
        .unwrap();
    let names: Vec<_> = metrics
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|text| text.split('{').next())
        .filter(|name| name.contains('_') && !name.ends_with('_'))
        .collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        assert!(source.contains(&format!("\"{name}\"")), "no metric {name}");
    }
}

#[test]
fn links_point_to_existing_files() {
    for (folder, text) in DOCUMENTS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            let exists = target.contains("://") || folder.join(target).exists();
            assert!(exists, "{target} does not exist in {}", folder.display());
        }
    }
}

/// Creates the secret files that `block` names in `folder`. Returns `block` with the new paths.
fn with_secrets_in(folder: &Path, block: &str) -> String {
    for rest in block.split(SECRETS).skip(1) {
        let name = rest.split('"').next().unwrap_or_default();
        fs::write(folder.join(name), "secret\n").expect("the new folder is writable");
    }
    let folder = folder
        .to_str()
        .expect("the path of the temporary folder is UTF-8");
    block.replace(SECRETS, &format!("\"{folder}/"))
}

/// Returns the fenced blocks of a language.
fn blocks(text: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("\n```{language}\n");
    let starts = text.split(fence.as_str()).skip(1);
    starts
        .map(|rest| rest.split_once("\n```").expect("every fence is closed").0)
        .collect()
}

/// Returns the text from a heading to the next one.
fn section(text: &'static str, heading: &str) -> &'static str {
    let start = format!("\n{heading}\n");
    let (_, rest) = text
        .split_once(&start)
        .expect("the document has the heading");
    rest.split("\n#").next().unwrap_or(rest)
}

/// Returns the words in code style in the first column of a section's table.
fn first_column(text: &'static str, heading: &str) -> BTreeSet<String> {
    let rows = section(text, heading)
        .lines()
        .filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).expect("the sources are readable")
}
