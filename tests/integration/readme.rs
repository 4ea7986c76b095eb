//! The README is true: its configurations load, and what it lists is what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use cupbearer::cli::Cli;
use cupbearer::config::{Config, Environment};
use cupbearer::dialect;

const README: &str = include_str!("../../README.md");

/// The reference of keys and defaults, which the tests of `config` hold against the code.
const EXAMPLE: &str = include_str!("../../config.example.toml");

/// The kinds of table whose keys the README lists.
const KINDS: [&str; 4] = ["server", "store", "providers", "upstreams"];

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
fn lists_every_key_with_its_default() {
    let there = keys_of_the_example();
    assert!(there.len() > 50, "{there:?}");
    let listed = keys_of_the_readme();
    for (key, default) in &there {
        let row = listed.get(key);
        assert_eq!(row, Some(default), "the row of {key:?}");
    }
    for key in listed.keys() {
        assert!(there.contains_key(key), "there is no key {key:?}");
    }
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
fn lists_admin_endpoints_that_there_are() {
    let source = source("src/admin/routes.rs");
    let endpoints = first_column("## Admin port");
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

/// Kind of table and key, with the default as it is written in TOML, if there is one.
type Keys = BTreeMap<(String, String), Option<String>>;

/// Tables of one kind are taken together. Settings are commented out with `#` and no space; what ends in a remark, or is
/// not commented out, states no default.
fn keys_of_the_example() -> Keys {
    let mut keys = Keys::new();
    let mut table = Vec::new();
    for line in EXAMPLE.lines().filter(|line| !line.starts_with("# ")) {
        let (setting, remark) = line.split_once(" # ").unwrap_or((line, ""));
        let commented = setting.strip_prefix('#');
        let setting = commented.unwrap_or(setting);
        let header = setting
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(header) = header {
            table = header.split('.').collect();
        }
        let Some(kind) = table.first().filter(|kind| KINDS.contains(kind)) else {
            continue;
        };
        let at = |key: &str| ((*kind).to_owned(), key.to_owned());
        match (header, &table[..]) {
            (Some(_), [_, _, part]) => {
                keys.entry(at(part)).or_default();
            }
            (None, [_] | [_, _]) => {
                let Some((key, value)) = setting.split_once('=') else {
                    continue;
                };
                let default = keys.entry(at(key.trim())).or_default();
                if commented.is_some() && remark.is_empty() && default.is_none() {
                    *default = Some(value.trim().to_owned());
                }
            }
            _ => {}
        }
    }
    keys
}

/// The rows below a line such as "`[providers.NAME]`": keys, default, meaning.
fn keys_of_the_readme() -> Keys {
    let mut keys = Keys::new();
    let mut kind = "";
    for line in section("### Every key").lines() {
        if let Some(header) = line.strip_prefix("`[") {
            kind = header.split(['.', ']']).next().unwrap_or_default();
            continue;
        }
        if !line.starts_with("| `") {
            continue;
        }
        let [_, names, default, meaning, _] = line.split('|').collect::<Vec<_>>()[..] else {
            panic!("not three columns: {line}");
        };
        assert!(!meaning.trim().is_empty(), "{line}");
        let default = default.split('`').nth(1).map(str::to_owned);
        for name in names.split('`').skip(1).step_by(2) {
            let key = (kind.to_owned(), name.to_owned());
            let before = keys.insert(key, default.clone());
            assert!(before.is_none(), "two rows for {name} of [{kind}]");
        }
    }
    keys
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
