use std::collections::BTreeMap;

use super::*;
use crate::config::problems::{KeyPath, Problems};
use crate::config::read::{parse, section};

const VARIABLES: [(&str, &str); 4] = [
    ("GOOD", "\u{feff}from env\n\n"),
    ("EMPTY", ""),
    ("NEWLINE", "\r\n"),
    ("PEM", "-----BEGIN X-----\\nMIIE\\n-----END X-----\\n"),
];

fn resolve(toml: &str, empty: EmptyLiteral) -> Result<Value, Vec<String>> {
    let mut problems = Problems::default();
    let at = KeyPath::root();
    let mut tree = parse(&format!("v = {toml}")).unwrap();
    let mut values: BTreeMap<String, ValueToml> = section(&mut tree, &at, &mut problems).unwrap();
    let value = values.remove("v").and_then(|value| {
        let resolved = value.resolve(empty, &VARIABLES);
        problems.keep(&at.key("v"), resolved)
    });
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => Err(problems
            .into_sorted()
            .iter()
            .map(ToString::to_string)
            .collect()),
    }
}

#[test]
fn literals_and_sources_resolve() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "from file\n").unwrap();
    for (toml, expected) in [
        (
            "'text'".to_owned(),
            Value::Literal(Var::Text("text".into())),
        ),
        ("42".to_owned(), Value::Literal(Var::Integer(42))),
        ("true".to_owned(), Value::Literal(Var::Boolean(true))),
        (
            "{ env = 'GOOD' }".to_owned(),
            Value::Env {
                name: "GOOD".into(),
                value: "from env".into(),
            },
        ),
        (
            format!("{{ file = '{}' }}", path.display()),
            Value::File(path.clone()),
        ),
        (
            "{ command = ['pass', 'x'] }".to_owned(),
            Value::Command(vec!["pass".into(), "x".into()]),
        ),
    ] {
        assert_eq!(
            resolve(&toml, EmptyLiteral::Refused),
            Ok(expected),
            "{toml}"
        );
    }
    assert_eq!(
        known_text(&Value::File(path)).unwrap().expose(),
        "from file"
    );
}

#[test]
fn mistakes_name_the_key_and_never_the_value() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("empty", ""), ("newline", "\n"), ("binary", "")] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    std::fs::write(folder.path().join("binary"), [0xff, 0xfe]).unwrap();
    let file = |name: &str| format!("{{ file = '{}' }}", folder.path().join(name).display());
    let named = |name: &str, state: &str| {
        format!("v: file `{}` {state}", folder.path().join(name).display())
    };
    for (toml, expected) in [
        ("''".to_owned(), "v: is empty"),
        (
            "1.5".to_owned(),
            "v: expected text, an integer, true or false",
        ),
        (
            "['hunter2']".to_owned(),
            "v: expected text, an integer, true or false",
        ),
        (
            "{}".to_owned(),
            "v: needs exactly one of `env`, `file` and `command`",
        ),
        (
            "{ env = 'GOOD', file = 'hunter2' }".to_owned(),
            "v: needs exactly one",
        ),
        (
            "{ enf = 'hunter2' }".to_owned(),
            "v.enf: unknown key (did you mean `env`?)",
        ),
        (
            "{ env = 'hunter2' }".to_owned(),
            "v: names an environment variable that is not set",
        ),
        (
            "{ env = 'EMPTY' }".to_owned(),
            "v: environment variable `EMPTY` is empty",
        ),
        (
            "{ env = 'NEWLINE' }".to_owned(),
            "v: environment variable `NEWLINE` is empty",
        ),
        (
            "{ env = 'CNCN_SECRET_2' }".to_owned(),
            "v: environment variable `CNCN_SECRET_2` is not set",
        ),
        (
            "{ env = 'hunter2-CNCN' }".to_owned(),
            "v: names an environment variable that is not set",
        ),
        (
            "{ file = 'hunter2' }".to_owned(),
            "v: the file does not exist",
        ),
        (
            "{ file = 'hunter2/K7MDENG+bPxRfiCYEXAMPLEKEY' }".to_owned(),
            "v: the file does not exist",
        ),
        ("'${hunter2}'".to_owned(), "v: looks like a placeholder"),
        ("'<hunter2>'".to_owned(), "v: looks like a placeholder"),
        ("{ env = 5 }".to_owned(), "v.env: expected text in quotes"),
        (
            "{ file = '' }".to_owned(),
            "v.file: expected the path of a file",
        ),
        (
            "{ command = [] }".to_owned(),
            "v: `command` names no program",
        ),
        (
            "{ command = [''] }".to_owned(),
            "v: `command` names no program",
        ),
        (
            "{ command = 'hunter2' }".to_owned(),
            "v.command: expected a list",
        ),
        (file("none"), &*named("none", "does not exist")),
        (file("empty"), &*named("empty", "holds nothing")),
        (file("newline"), &*named("newline", "holds nothing")),
        (file("binary"), &*named("binary", "holds UTF-16 text")),
        (file(""), &*named("", "is no regular file")),
    ] {
        let problems = resolve(&toml, EmptyLiteral::Refused).unwrap_err();
        assert_eq!(problems.len(), 1, "{toml}: {problems:?}");
        assert!(problems[0].starts_with(expected), "{toml}: {problems:?}");
        assert!(!problems[0].contains("hunter2"), "{problems:?}");
    }
}

#[test]
fn only_a_literal_may_be_empty_and_only_if_allowed() {
    assert!(resolve("''", EmptyLiteral::Allowed).is_ok());
    assert!(resolve("{ env = 'EMPTY' }", EmptyLiteral::Allowed).is_err());
}

#[test]
fn relative_paths_are_named() {
    for path in ["none/secret.txt", "./none", "none.txt"] {
        let problems = resolve(&format!("{{ file = '{path}' }}"), EmptyLiteral::Refused);
        let expected = format!("v: file `{path}` does not exist");
        assert!(problems.unwrap_err()[0].starts_with(&expected), "{path}");
    }
}

#[test]
fn a_pem_may_be_on_one_line() {
    let pem = "-----BEGIN X-----\nMIIE\n-----END X-----";
    for toml in [
        "{ env = 'PEM' }",
        r"'-----BEGIN X-----\nMIIE\n-----END X-----'",
    ] {
        let value = resolve(toml, EmptyLiteral::Refused).unwrap();
        let text = known_text(&value).unwrap();
        assert_eq!(text.expose().trim_end(), pem, "{toml}");
    }
}

#[test]
fn line_ends_at_the_end_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    for (written, read_back) in [
        ("a", "a"),
        ("a\n", "a"),
        ("a\r\n", "a"),
        ("a\n\n", "a"),
        ("\u{feff}a\r\n", "a"),
        (" a ", " a "),
    ] {
        std::fs::write(&path, written).unwrap();
        assert_eq!(read(&path).unwrap().expose(), read_back, "{written:?}");
    }
}

#[test]
fn keys_are_32_bytes() {
    let key = |bytes: usize| {
        let text = BASE64_STANDARD.encode(vec![7; bytes]);
        check_key(&Value::Literal(Var::Text(text.into())))
    };
    assert_eq!(key(32), Ok(()));
    assert!(key(31).is_err());
    assert!(key(33).is_err());
    assert!(check_key(&Value::Literal(Var::Text("hunter2 is no base64!".into()))).is_err());
    assert_eq!(check_key(&Value::Command(vec!["x".into()])), Ok(()));
}

#[test]
fn fixed_values_take_no_command() {
    let literal = ValueToml::Literal(Var::Integer(7));
    assert_eq!(literal.resolve_fixed(&VARIABLES).unwrap().expose(), "7");
    let command = ValueToml::Source(SourceToml {
        command: Some(vec!["x".into()]),
        ..SourceToml::default()
    });
    assert!(command.resolve_fixed(&VARIABLES).is_err());
}
