//! Tests of whole files; the tests of single values are next to their parsers.

mod dialect;
mod endpoints;
mod example;
mod file;
mod identity;
mod provider;
mod secrecy;
mod server;
mod upstream;

use super::*;

/// A valid provider and upstream.
const PLAIN: &str = r#"
[providers.p]
token_url = "https://auth.example.com/token"
client_id = "id"
client_secret = "s3cret"
[upstreams.u]
url = "https://api.example.com/v1/"
provider = "p"
"#;

fn load(text: &str) -> Result<Config, Vec<String>> {
    load_in(text, &NoEnvironment)
}

fn load_in(text: &str, env: &dyn Environment) -> Result<Config, Vec<String>> {
    let lines = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    Config::from_toml(text, env).map_err(lines)
}

#[track_caller]
fn good(text: &str) -> Config {
    load(text).unwrap_or_else(|problems| panic!("{text}\n{problems:#?}"))
}

/// Asserts that the file has exactly the problems that start with `expected`, in this order.
#[track_caller]
fn bad(text: &str, expected: &[&str]) {
    let Err(problems) = Config::from_toml(text, &NoEnvironment) else {
        panic!("no problem found in:\n{text}");
    };
    for problem in &problems {
        assert!(
            problem.hint.is_some() || shows_how(&problem.message) || is_of_a_dialect(problem),
            "no hint: {problem:?}"
        );
    }
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    let same = problems.len() == expected.len()
        && problems
            .iter()
            .zip(expected)
            .all(|(problem, start)| problem.starts_with(start));
    assert!(same, "{text}\nexpected {expected:#?}\nfound {problems:#?}");
}

fn shows_how(message: &str) -> bool {
    ["such as", "one of"]
        .iter()
        .any(|words| message.contains(words))
}

/// Messages of the dialect compiler contain their advice.
fn is_of_a_dialect(problem: &Problem) -> bool {
    let tables = [
        ".request",
        ".response",
        ".inject",
        ".reject",
        ".dialect",
        ".grant",
        ".auth_method",
    ];
    problem.path.starts_with("dialects.") || tables.iter().any(|table| problem.path.contains(table))
}

/// [`PLAIN`] with lines added to its provider.
fn with_provider(lines: &str) -> String {
    PLAIN.replace(
        "client_id = \"id\"",
        &format!("client_id = \"id\"\n{lines}"),
    )
}

/// [`PLAIN`] with lines added to its upstream.
fn with_upstream(lines: &str) -> String {
    format!("{PLAIN}{lines}\n")
}

fn endpoint(config: &Config, index: usize) -> &Endpoint {
    match &config.providers[index].source {
        TokenSource::Endpoint(endpoint) => endpoint,
        _ => panic!("no endpoint"),
    }
}
