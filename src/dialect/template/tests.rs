use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::dialect::Var;

fn frozen() -> Frozen {
    Frozen {
        token_url: "https://auth.example/token".to_owned(),
        now: UNIX_EPOCH + Duration::from_millis(1_700_000_000_789),
        nonce: "n0nce".into(),
        uuid: "0b0b".into(),
    }
}

fn variables() -> Variables {
    [
        ("client_id", Var::Integer(19)),
        ("secret", Var::Text("{client_id}".into())),
        ("yes", Var::Boolean(true)),
        ("empty", Var::Text("".into())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn fill(text: &str) -> Result<Option<String>, String> {
    let (variables, frozen) = (variables(), frozen());
    let scope = Scope {
        variables: &variables,
        frozen: Some(&frozen),
        access_token: None,
        computed: None,
    };
    let filled = Template::parse(text, Place::Exchange)?.fill(scope)?;
    Ok(filled.map(|text| text.to_string()))
}

#[test]
fn templates_are_filled_in() {
    for (text, filled) in [
        ("", Some("")),
        ("plain", Some("plain")),
        ("{client_id}", Some("19")),
        ("a{client_id}b{yes}c", Some("a19btruec")),
        // A value that looks like a template is not filled again.
        ("{secret}", Some("{client_id}")),
        ("{{client_id}}", Some("{client_id}")),
        ("{{{client_id}}}", Some("{19}")),
        ("{scope?}", None),
        ("x {client_id} {scope?}", None),
        // An empty value counts as set.
        ("{empty?}", Some("")),
        ("{scope|or:}", Some("")),
        ("{scope|or:all|upper}", Some("ALL")),
        ("{client_id|or:7}", Some("19")),
        ("{client_id|md5}", Some("1f0e3dad99908345f7439f8ffabdffc4")),
        ("{unix} {unix_ms}", Some("1700000000 1700000000789")),
        ("{now}", Some("2023-11-14T22:13:20Z")),
        ("{nonce}{uuid}", Some("n0nce0b0b")),
        ("测试{client_id}", Some("测试19")),
    ] {
        assert_eq!(fill(text), Ok(filled.map(str::to_owned)), "{text}");
    }
}

#[test]
fn errors_name_the_position_but_never_quote_the_text() {
    for (text, message) in [
        (
            "hunter2{",
            "`{` at character 8 is never closed; write `{{` for a brace",
        ),
        (
            "测}",
            "`}` without `{` at character 2; write `}}` for a brace",
        ),
        (
            "{}",
            "a variable's name is made of letters, digits, `_`, `-` and `.` (character 1)",
        ),
        (
            "{a b}",
            "a variable's name is made of letters, digits, `_`, `-` and `.` (character 1)",
        ),
        (
            "{a|sha265}",
            "unknown filter; did you mean `sha256`? (character 1)",
        ),
        (
            "{a?|or:b}",
            "`?` and `or:` exclude each other (character 1)",
        ),
        (
            "{a|md5|or:b}",
            "`or:` must be the first filter (character 1)",
        ),
        (
            "{access_token}",
            "`{access_token}` is known only in [inject] and [refresh] (character 1)",
        ),
        (
            "{clientid}",
            "variable `clientid` has no value; did you mean `client_id`?",
        ),
        ("{zzz}", "variable `zzz` has no value"),
        ("{secret|hmac_sha1:zzz}", "variable `zzz` has no value"),
        ("{secret|int}", "variable `secret`: `int` needs an integer"),
    ] {
        assert_eq!(fill(text), Err(message.to_owned()), "{text}");
    }
}

#[test]
fn inject_knows_the_access_token_but_no_exchange_variables() {
    for (text, ok) in [
        ("{access_token}", true),
        ("{client_id}", true),
        ("{unix}", true),
        ("{token_url}", false),
        ("{refresh_token}", false),
        ("{access_token|hmac_sha1:refresh_token}", false),
    ] {
        assert_eq!(Template::parse(text, Place::Inject).is_ok(), ok, "{text}");
    }
}

#[test]
fn a_single_placeholder_keeps_its_type() {
    let (variables, frozen) = (variables(), frozen());
    let scope = Scope {
        variables: &variables,
        frozen: Some(&frozen),
        access_token: None,
        computed: None,
    };
    let typed = |text: &str| {
        let template = Template::parse(text, Place::Exchange).unwrap();
        template.fill_typed(scope).unwrap()
    };
    assert!(matches!(typed("{client_id}"), Some(Value::Integer(19))));
    assert!(matches!(typed("{yes?}"), Some(Value::Boolean(true))));
    assert!(matches!(
        typed("{unix_ms}"),
        Some(Value::Integer(1_700_000_000_789))
    ));
    assert!(matches!(&typed("{client_id} "), Some(Value::Text(text)) if text == "19 "));
    assert!(typed("{scope?}").is_none());
}

#[test]
fn variables_are_listed_with_whether_they_are_required() {
    let needs = |text: &str| -> Vec<(String, bool)> {
        let template = Template::parse(text, Place::Exchange).unwrap();
        let names = template.variables();
        names
            .map(|(name, required)| (name.to_owned(), required))
            .collect()
    };
    assert_eq!(
        needs("{a}{unix}{b|or:x}"),
        [("a".into(), true), ("b".into(), false)]
    );
    assert_eq!(needs("{a}{b?}"), [("a".into(), false), ("b".into(), false)]);
    assert_eq!(
        needs("{a|hmac_sha1:k}"),
        [("a".into(), true), ("k".into(), true)]
    );
}

#[test]
fn debug_shows_names_only() {
    let template = Template::parse("hunter2 {client_secret|md5}", Place::Exchange).unwrap();
    assert_eq!(format!("{template:?}"), r#"["…", "{client_secret|md5}"]"#);
}

proptest! {
    #[test]
    fn the_parser_never_panics(text in any::<String>()) {
        let _ = Template::parse(&text, Place::Exchange);
    }

    #[test]
    fn the_parser_never_panics_near_templates(text in "[{}|:?a测.]{0,24}") {
        let _ = Template::parse(&text, Place::Exchange);
    }

    #[test]
    fn an_escaped_literal_is_restored(text in any::<String>()) {
        let escaped = text.replace('{', "{{").replace('}', "}}");
        prop_assert_eq!(fill(&escaped), Ok(Some(text)));
    }

    #[test]
    fn a_value_is_inserted_verbatim(value in any::<String>()) {
        let variables = Variables::from([("v".to_owned(), Var::Text(value.as_str().into()))]);
        let scope = Scope::of(&variables);
        let template = Template::parse("<{v}>", Place::Exchange).unwrap();
        let filled = template.fill(scope).unwrap().unwrap();
        prop_assert_eq!(filled.as_str(), format!("<{value}>"));
    }
}
