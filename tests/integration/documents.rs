//! The documents are true: their configurations load, and what they list exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use cupbearer::cli::Cli;
use cupbearer::config::Config;
use cupbearer::dialect;

const README: &str = include_str!("../../README.md");
const DEPLOY: &str = include_str!("../../deploy/README.md");

/// Each document with the folder that its links start from.
const DOCUMENTS: [(&str, &str); 6] = [
    ("", README),
    ("deploy", DEPLOY),
    ("src/dialect", include_str!("../../src/dialect/README.md")),
    ("tests/bench", include_str!("../../tests/bench/README.md")),
    (".github", include_str!("../../.github/CONTRIBUTING.md")),
    (".github", include_str!("../../.github/SECURITY.md")),
];

/// Where the documents' configurations have their secrets.
const SECRETS: &str = "\"/run/secrets/";

#[test]
fn readme_is_short_and_says_first_what_the_program_is() {
    let mut lines = README.lines();
    assert_eq!(lines.next(), Some("# Cupbearer"));
    assert!(lines.nth(1).unwrap().starts_with("Cupbearer is a "));
    assert!(README.lines().count() <= 250);
}

/// `.ci/run` takes the commands from here.
#[test]
fn the_two_commands_are_marked_for_ci() {
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
fn all_five_vendors_have_a_configuration() {
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
fn lists_the_dialects_that_there_are() {
    let there = dialect::builtin()
        .iter()
        .map(|(name, _)| (*name).to_owned());
    assert_eq!(first_column(README, "## Dialects"), there.collect());
}

#[test]
fn lists_the_verbs_that_there_are() {
    let cli = Cli::command();
    let there = cli.get_subcommands().map(|verb| verb.get_name().to_owned());
    let there: BTreeSet<_> = there.filter(|verb| verb != "help").collect();
    assert_eq!(first_column(README, "## Command line"), there);
}

#[test]
fn lists_admin_endpoints_that_there_are() {
    let source = source("src/admin/routes.rs");
    let endpoints = first_column(DEPLOY, "## Admin port");
    assert!(endpoints.len() > 10, "{endpoints:?}");
    for endpoint in endpoints {
        let path = endpoint.trim_start_matches("POST ");
        let fixed = path.trim_end_matches(|c: char| c.is_ascii_uppercase());
        assert!(
            source.contains(&format!("\"{fixed}\"")),
            "there is no {path}"
        );
    }
}

#[test]
fn names_metrics_that_there_are() {
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
        assert!(
            source.contains(&format!("\"{name}\"")),
            "no metric is called {name}"
        );
    }
}

#[test]
fn links_lead_to_files_that_there_are() {
    for (folder, text) in DOCUMENTS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            let there = target.contains("://") || folder.join(target).exists();
            assert!(there, "{target} does not exist in {}", folder.display());
        }
    }
}

/// Writes the files that `block` names into `folder`, and returns `block` with their new paths.
fn with_secrets_in(folder: &Path, block: &str) -> String {
    for rest in block.split(SECRETS).skip(1) {
        let name = rest.split('"').next().unwrap_or_default();
        fs::write(folder.join(name), "secret\n").expect("a new folder takes files");
    }
    let folder = folder.to_str().expect("temporary folders have plain names");
    block.replace(SECRETS, &format!("\"{folder}/"))
}

/// Returns the fenced blocks of a language.
fn blocks(text: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("\n```{language}\n");
    let starts = text.split(fence.as_str()).skip(1);
    starts
        .map(|rest| rest.split_once("\n```").expect("fences are closed").0)
        .collect()
}

/// Returns the text from a heading to the next one.
fn section(text: &'static str, heading: &str) -> &'static str {
    let start = format!("\n{heading}\n");
    let (_, rest) = text.split_once(&start).expect("the heading is there");
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
