//! No problem quotes a value, at any place of the file.

use std::sync::Arc;

use toml::Value as Toml;

use super::example::{VARIABLES, all_settings};
use super::*;

const SECRET: &str = "hunter2-hunter2";

/// Collects the path of every value, as keys and indexes.
fn places(value: &Toml, here: &[String], out: &mut Vec<Vec<String>>) {
    if !here.is_empty() {
        out.push(here.to_vec());
    }
    let mut down = |step: String, value: &Toml| places(value, &[here, &[step]].concat(), out);
    match value {
        Toml::Table(table) => table
            .iter()
            .for_each(|(key, value)| down(key.clone(), value)),
        Toml::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                down(index.to_string(), value);
            }
        }
        _ => {}
    }
}

fn place<'a>(root: &'a mut Toml, path: &[String]) -> &'a mut Toml {
    path.iter().fold(root, |value, step| match value {
        Toml::Array(items) => &mut items[step.parse::<usize>().unwrap()],
        value => value.get_mut(step).unwrap(),
    })
}

/// Returns the secret in every shape of a user's mistake. Template names such as `{name}` are keys,
/// which problems must name.
fn plants() -> Vec<Toml> {
    let text = Toml::String(SECRET.into());
    let table = |key: &str, value: &Toml| {
        Toml::Table([(key.to_owned(), value.clone())].into_iter().collect())
    };
    vec![
        text.clone(),
        Toml::Array(vec![text.clone()]),
        Toml::Array(vec![table("x", &text)]),
        table("no_such_key", &text),
        table("env", &text),
        table("file", &text),
        table("command", &text),
        Toml::String(format!("{{{SECRET}")),
        Toml::String(format!("{{client_id|{SECRET}}}")),
        Toml::String(format!("https://user:{SECRET}@example.com/?x={SECRET}")),
        Toml::String(format!("https://{SECRET} /")),
        Toml::String(format!("http://{SECRET}.example.com/")),
        Toml::String(format!("re:({SECRET}")),
        Toml::String(format!("{SECRET}\n")),
        Toml::String(format!("GET /{SECRET}?")),
        Toml::String(format!("unix:{SECRET}")),
    ]
}

#[test]
fn no_problem_quotes_a_misplaced_secret() {
    let (text, folder) = all_settings();
    let root: Toml = Toml::Table(text.parse().unwrap());
    let mut all = Vec::new();
    places(&root, &[], &mut all);
    assert!(all.len() > 150, "only {} places", all.len());
    let mut refused = 0;
    let mut leaks = Vec::new();
    for path in &all {
        for plant in plants() {
            let mut planted = root.clone();
            *place(&mut planted, path) = plant;
            let shown = match Config::from_toml(&toml::to_string(&planted).unwrap(), &VARIABLES) {
                Ok(config) => format!("{:?}", config.warnings),
                Err(problems) => {
                    let syntax = problems
                        .iter()
                        .any(|problem| problem.path.starts_with("line "));
                    assert!(!syntax, "the planted file must be read: {problems:?}");
                    refused += 1;
                    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
                    format!("{problems:?} {lines:?}")
                }
            };
            if shown.contains("hunter2") {
                leaks.push(format!("{}: {shown}", path.join(".")));
            }
        }
    }
    assert_eq!(leaks, Vec::<String>::new());
    // Control: most plants were mistakes.
    assert!(
        refused > all.len() * 8,
        "{refused} of {} refused",
        all.len() * plants().len()
    );
    drop(folder);
}

#[test]
fn no_syntax_error_quotes_a_secret() {
    let (text, _folder) = all_settings();
    let lines: Vec<&str> = text.lines().collect();
    for broken in [
        "hunter2",
        "x = hunter2",
        "x = \"hunter2",
        "[hunter2",
        "hunter2 = 'hunter2' x",
        "x = '''hunter2",
    ] {
        for at in (0..lines.len()).step_by(7) {
            let mut lines = lines.clone();
            lines.insert(at, broken);
            let problems = Config::from_toml(&lines.join("\n"), &VARIABLES).unwrap_err();
            let shown = format!("{problems:?} {}", problems[0]);
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

#[test]
fn a_loaded_configuration_shows_no_secret() {
    let env = VARIABLES.map(|(name, value)| {
        let has_a_format = value.ends_with('=') || value.contains("://");
        (name, if has_a_format { value } else { SECRET })
    });
    let (text, _folder) = all_settings();
    let text = text.replace("client_id = 4711", &format!("client_id = '{SECRET}'"));
    let text = text
        .replace("\"pass\", \"show\"", "\"pass\", \"hunter2\"")
        .replace("example.cn/v2/token", "example.cn/v2/token?key=hunter2")
        .replace("tenant = \"eu-1\"", "tenant = 918273645");
    let mut shown = Config::from_toml(&text, &env).unwrap();
    // The identity holds the client id as plain text, because it names the subject.
    for provider in &mut shown.providers {
        if let TokenSource::Endpoint(endpoint) = &mut Arc::make_mut(provider).source {
            endpoint.identity = endpoint.identity.replace(SECRET, "");
        }
    }
    let shown = format!("{shown:?} {shown:#?}");
    assert!(shown.contains("[redacted]"));
    assert!(
        !shown.contains("hunter2") && !shown.contains("918273645"),
        "{shown}"
    );
}

#[test]
fn an_identity_shows_no_argument_of_a_command() {
    let text = "[providers.p]\ntoken_url = 'https://h/t'\nclient_id = 'id'\nclient_secret = 's'\n\
                grant = 'password'\nusername = { command = ['show', 'hunter2'] }\npassword = 'p'";
    let config = Config::from_toml(text, &VARIABLES).unwrap();
    let shown = format!("{config:?}");
    assert!(
        shown.contains("identity") && !shown.contains("hunter2"),
        "{shown}"
    );
}
