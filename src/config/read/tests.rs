use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::config::units::{Count, Text};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    number: Option<u32>,
    flag: Option<bool>,
    text: Option<String>,
    list: Vec<String>,
    counts: Vec<Text<Count>>,
    word: Option<Word>,
    inner: Option<Box<Self>>,
    many: BTreeMap<String, Inner>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Word {
    Apple,
    Pear,
}

#[derive(Debug, Deserialize)]
struct Inner {
    #[serde(rename = "needed")]
    _needed: i64,
}

fn read(text: &str) -> (Option<Sample>, Vec<String>) {
    let mut problems = Problems::default();
    let at = KeyPath::root().key("top");
    let sample = section(&mut parse(text).unwrap(), &at, &mut problems);
    let problems = problems.into_sorted();
    (sample, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_valid_section_is_read_completely() {
    let (sample, problems) = read(
        "number = 1\nflag = true\ntext = 'x'\nlist = ['a', 'b']\ncounts = [1]\nword = 'pear'\n\
         inner = { number = 2 }\nmany = { a = { needed = 1 } }",
    );
    assert_eq!(problems, Vec::<String>::new());
    let sample = sample.unwrap();
    assert_eq!(sample.word, Some(Word::Pear));
    assert_eq!(sample.list, ["a", "b"]);
    assert_eq!(sample.inner.unwrap().number, Some(2));
    assert_eq!(sample.many.len(), 1);
}

#[test]
fn one_run_reports_every_mistake() {
    let (sample, problems) = read(
        "number = 'hunter2'\nflag = 'hunter2'\ntext = 1\nlist = ['a', 1, 'b', { x = 'hunter2' }]\n\
         counts = [0, 1, 'hunter2']\nword = 'hunter2'\nnumbr = 1\n\
         inner = { text = 5, other = 'hunter2', inner = { number = -1 } }\n\
         many = { a = {}, b = { needed = 1 } }",
    );
    assert_eq!(
        problems,
        [
            "top.counts[0]: expected an integer, 1 or greater (digits without quotes)",
            "top.counts[2]: expected an integer, 1 or greater (digits without quotes)",
            "top.flag: expected true or false (without quotes: key = true)",
            "top.inner.inner.number: expected an integer, 0 or greater \
             (digits without quotes: key = 1)",
            "top.inner.other: unknown key \
             (known keys: `number`, `flag`, `text`, `list`, `counts`, `word`, `inner`, `many`)",
            "top.inner.text: expected text in quotes (key = \"text\")",
            "top.list[1]: expected text in quotes (key = \"text\")",
            "top.list[3]: expected text in quotes (key = \"text\")",
            "top.many.a: `needed` is missing",
            "top.number: expected an integer, 0 or greater (digits without quotes: key = 1)",
            "top.numbr: unknown key (did you mean `number`?)",
            "top.text: expected text in quotes (key = \"text\")",
            "top.word: is not a known value (one of `apple`, `pear`)",
        ]
    );
    // Valid values are kept.
    let sample = sample.unwrap();
    assert_eq!(sample.list, ["a", "b"]);
    assert_eq!(sample.many.len(), 1);
}

#[test]
fn dates_are_refused() {
    let (_, problems) = read("text = 2020-01-01\nlist = [07:32:00]");
    assert_eq!(problems.len(), 2);
    assert!(
        problems[0].starts_with("top.list[0]: dates and times"),
        "{problems:?}"
    );
    assert!(
        problems[1].starts_with("top.text: dates and times"),
        "{problems:?}"
    );
}

#[test]
fn a_section_must_be_a_table() {
    let mut problems = Problems::default();
    let mut tree = Tree(Value::String("hunter2".into()));
    let sample: Option<Sample> = section(&mut tree, &KeyPath::root().key("top"), &mut problems);
    assert!(sample.is_none());
    assert_eq!(
        problems.into_sorted()[0].to_string(),
        "top: expected a table (in braces: key = { … })"
    );
}

#[test]
fn syntax_errors_name_a_position_and_quote_nothing() {
    for (text, place) in [
        ("a = 1\nsecret = hunter2", "line 2, column "),
        ("a = \"hunter2", "line 1, column "),
        ("[hunter2\n", "line 1, column "),
        ("a = 1\na = 'hunter2'", "line 2, column "),
        ("hunter2", "line 1, column "),
        ("é = 1\n路 = hunter2", "line "),
        ("a = 'hunter2' 'hunter2'", "line 1, column "),
        ("a = 99999999999999999999", "line 1, column "),
        ("a = \"\\hunter2\"", "line 1, column "),
    ] {
        let problems = parse(text).unwrap_err();
        let shown = problems[0].to_string();
        assert!(shown.starts_with(place), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("not valid TOML: "), "{shown}");
    }
}

#[test]
fn positions_count_characters_from_one() {
    assert_eq!(position("", 0), (1, 1));
    assert_eq!(position("ab\n路c", 3), (2, 1));
    assert_eq!(position("ab\n路c", 6), (2, 2));
    assert_eq!(position("ab", 9), (1, 3));
}

#[test]
fn trees_are_wiped() {
    let mut value = parse("a = 'hunter2'\nb = [{ c = 'hunter2' }]").unwrap();
    wipe(&mut value.0);
    assert_eq!(value.0.to_string().matches("hunter2").count(), 0);
}
