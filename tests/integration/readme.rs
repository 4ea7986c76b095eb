//! The README is true: its configurations load, and what it lists is what there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use cupbearer::cli::Cli;
use cupbearer::config::{Config, Environment};
use cupbearer::dialect;

const README: &str = include_str!("../../README.md");

/// Where the README's configurations have their secrets.
const SECRETS: &str = "\"/run/secrets/";

#[test]
fn says_first_what_it_is() {
    let first = README.lines().next().unwrap();
    assert!(
        first.contains("opposite direction of oauth2-proxy"),
        "{first}"
    );
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
    let blocks = blocks("toml");
    assert!(blocks.len() >= 3, "only {} blocks of TOML", blocks.len());
    for block in blocks {
        let folder = tempfile::tempdir().unwrap();
        let text = with_secrets_in(folder.path(), block);
        let config = Config::from_toml(&text, &Named(block));
        assert!(config.is_ok(), "{:#?}\n{block}", config.unwrap_err());
    }
}

#[test]
fn all_five_vendors_have_a_configuration() {
    let mut shown = BTreeSet::new();
    for block in blocks("toml") {
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
    assert_eq!(first_column("### Dialects"), there.collect());
}

#[test]
fn lists_the_verbs_that_there_are() {
    let cli = Cli::command();
    let there = cli.get_subcommands().map(|verb| verb.get_name().to_owned());
    let there: BTreeSet<_> = there.filter(|verb| verb != "help").collect();
    assert_eq!(first_column("## Command line"), there);
}

#[test]
fn lists_errors_that_there_are() {
    let source = source("src/proxy/respond.rs");
    let codes = first_column("## Errors you will meet, and what to do");
    assert!(codes.len() > 10, "{codes:?}");
    for code in codes {
        assert!(
            source.contains(&format!("\"{code}\"")),
            "no error is called {code}"
        );
    }
}

#[test]
fn names_metrics_that_there_are() {
    let source = source("src/metrics.rs");
    let metrics = section("## Admin port")
        .split_once("\nMetrics have")
        .unwrap()
        .1;
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for link in README.split("](").skip(1) {
        let target = link.split(')').next().unwrap();
        let there = target.contains("://") || root.join(target).exists();
        assert!(there, "{target} does not exist");
    }
}

/// The environment that a configuration asks for, and nothing of the machine's.
struct Named<'a>(&'a str);

impl Environment for Named<'_> {
    fn var(&self, name: &str) -> Option<String> {
        let asked_for = self.0.contains(&format!("env = \"{name}\""));
        asked_for.then(|| format!("value of {name}"))
    }
}

/// The configuration with its secrets in `folder`, and the files that it names there.
fn with_secrets_in(folder: &Path, block: &str) -> String {
    for rest in block.split(SECRETS).skip(1) {
        let name = rest.split('"').next().unwrap_or_default();
        fs::write(folder.join(name), "secret\n").expect("a new folder takes files");
    }
    let folder = folder.to_str().expect("temporary folders have plain names");
    block.replace(SECRETS, &format!("\"{folder}/"))
}

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("\n```{language}\n");
    let starts = README.split(fence.as_str()).skip(1);
    starts
        .map(|rest| rest.split_once("\n```").expect("fences are closed").0)
        .collect()
}

/// From a heading to the next one.
fn section(heading: &str) -> &'static str {
    let start = format!("\n{heading}\n");
    let (_, rest) = README.split_once(&start).expect("the heading is there");
    rest.split("\n#").next().unwrap_or(rest)
}

/// What stands in code style in the first column of a section's table.
fn first_column(heading: &str) -> BTreeSet<String> {
    let rows = section(heading)
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
