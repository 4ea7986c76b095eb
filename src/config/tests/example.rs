//! `config.example.toml` is complete, loads, and states the real defaults.

use std::collections::BTreeSet;
use std::fmt;

use proptest::prelude::*;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use tempfile::TempDir;

use super::*;
use crate::config::file::{
    ClientAuthToml, HeadersToml, ProviderToml, RouteToml, SECTIONS, ServerToml, StoreToml,
    TimeoutsToml, TlsToml, UpstreamToml,
};
use crate::config::value::SourceToml;
use crate::dialect::schema::{
    CredentialsToml, DialectToml, GrantToml, InjectToml, Overrides, RejectToml, RequestToml,
    ResponseToml,
};

const EXAMPLE: &str = include_str!("../../../config.example.toml");

/// The variables that the example names.
pub(super) const VARIABLES: [(&str, &str); 6] = [
    ("CNCN_CLIENT_SECRET", "s"),
    ("PORTAL_CLIENT_SECRET", "s"),
    ("PORTAL_CODE", "c"),
    ("APP_KEY", "k"),
    ("EGRESS_PROXY_URL", "http://proxy.example.com:3128"),
    (
        "CUPBEARER_STORE_KEY",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ),
];

/// Returns the example, with its files in a temporary directory.
fn example() -> (String, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("ca.pem", "-----BEGIN CERTIFICATE-----\n"),
        ("client.pem", "-----BEGIN CERTIFICATE-----\n"),
        ("client.key", "-----BEGIN PRIVATE KEY-----\n"),
        ("acme", "secret\n"),
        ("token", "secret\n"),
        ("portal-refresh", "secret\n"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let here = format!("{}/", folder.path().display());
    let text = EXAMPLE
        .replace("/etc/cupbearer/", &here)
        .replace("/run/secrets/", &here);
    (text, folder)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    Default,
    Example,
}

/// Parses a commented-out setting: the line without its `#` and remark.
fn setting(line: &str) -> Option<(Setting, &str)> {
    let line = line
        .strip_prefix('#')
        .filter(|line| !line.starts_with([' ', '#']) && !line.is_empty())?;
    match line.rsplit_once(" # ") {
        Some((line, "example")) => Some((Setting::Example, line)),
        Some((_, "later")) => None,
        Some((_, remark)) => panic!("what is {remark:?}?"),
        None => Some((Setting::Default, line)),
    }
}

fn key(line: &str) -> Option<&str> {
    line.split_once('=').map(|(key, _)| key.trim())
}

/// Returns the example with every setting uncommented; a later line replaces an earlier one.
pub(super) fn all_settings() -> (String, TempDir) {
    let (text, folder) = example();
    let mut lines: Vec<&str> = Vec::new();
    let mut table_starts = 0;
    for line in text.lines() {
        let line = setting(line).map_or(line, |(_, line)| line);
        if line.starts_with('[') {
            table_starts = lines.len();
        }
        if let Some(name) = key(line).filter(|_| !line.starts_with('#')) {
            let twice = lines[table_starts..]
                .iter()
                .position(|line| key(line) == Some(name) && !line.starts_with('#'));
            twice.map(|at| lines.remove(table_starts + at));
        }
        lines.push(line);
    }
    (lines.join("\n"), folder)
}

#[test]
fn the_example_loads_as_it_is() {
    let (text, _folder) = example();
    let problems = Config::from_toml(&text, &VARIABLES).map(|config| config.warnings);
    assert_eq!(problems, Ok(vec![]));
}

#[test]
fn the_example_loads_with_everything_uncommented() {
    let (text, _folder) = all_settings();
    let config = Config::from_toml(&text, &VARIABLES);
    let config = config.unwrap_or_else(|problems| panic!("{text}\n{problems:#?}"));
    assert_eq!(config.warnings, []);
    assert!(matches!(config.store.kind, StoreKind::File { .. }));
}

#[test]
fn commented_out_defaults_are_the_real_defaults() {
    let (text, _folder) = example();
    let shown = |text: &str| format!("{:?}", Config::from_toml(text, &VARIABLES).unwrap());
    let plain = shown(&text);
    let lines: Vec<&str> = text.lines().collect();
    let uncommented = |at: usize, line: &str| {
        let mut lines = lines.clone();
        lines[at] = line;
        shown(&lines.join("\n"))
    };
    let mut defaults = 0;
    for (at, line) in lines.iter().enumerate() {
        if let Some((Setting::Default, line)) = setting(line) {
            defaults += 1;
            assert_eq!(uncommented(at, line), plain, "{line}");
        }
    }
    assert!(defaults >= 25, "only {defaults} defaults");
    // Control: another value changes the result.
    for (line, other) in [
        ("#token_wait = \"10s\"", "token_wait = \"11s\""),
        ("#workers = 1", "workers = 2"),
        ("#quitquitquit = false", "quitquitquit = true"),
        ("#required = true", "required = false"),
    ] {
        let at = lines.iter().position(|known| *known == line).unwrap();
        assert_ne!(uncommented(at, other), plain, "{other}");
    }
}

#[test]
fn no_key_is_missing_from_the_example() {
    for name in SECTIONS {
        assert!(EXAMPLE.contains(&format!("[{name}")), "[{name}]");
    }
    // Each struct with the table of the example that shows its keys.
    for (table, keys) in [
        ("server", keys::<ServerToml>()),
        ("server", keys::<ClientAuthToml>()),
        ("store", keys::<StoreToml>()),
        ("providers", keys::<ProviderToml>()),
        ("providers", keys::<TlsToml>()),
        ("providers", keys::<Overrides>()),
        ("", keys::<SourceToml>()),
        ("upstreams", keys::<UpstreamToml>()),
        ("upstreams", keys::<RouteToml>()),
        ("upstreams", keys::<TimeoutsToml>()),
        ("upstreams", keys::<HeadersToml>()),
        ("dialects", keys::<DialectToml>()),
        ("dialects", keys::<RequestToml>()),
        ("dialects", keys::<GrantToml>()),
        ("dialects", keys::<CredentialsToml>()),
        ("dialects", keys::<ResponseToml>()),
        ("dialects", keys::<InjectToml>()),
        ("dialects", keys::<RejectToml>()),
    ] {
        assert!(!keys.is_empty(), "{table}");
        let shown = shown_keys(table);
        for key in keys {
            assert!(
                shown.contains(*key),
                "`{key}` of [{table}] is not in config.example.toml"
            );
        }
    }
}

/// Returns every key of the tables `[name]` and `[name.…]`, remarks included.
fn shown_keys(table: &str) -> BTreeSet<String> {
    let mut inside = table.is_empty();
    let mut shown = BTreeSet::new();
    for line in EXAMPLE.lines() {
        let line = setting(line).map_or(line, |(_, line)| line);
        if let Some(header) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            inside = table.is_empty() || header.split('.').next() == Some(table);
            if inside {
                shown.extend(header.split('.').map(str::to_owned));
            }
        }
        if inside {
            let mut parts: Vec<_> = line.split('=').collect();
            parts.pop();
            let words = parts.iter().filter_map(|part| {
                part.trim_end()
                    .rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .next()
            });
            shown.extend(words.map(str::to_owned));
        }
    }
    shown
}

/// Returns the keys that a struct's derived `Deserialize` accepts.
fn keys<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    match T::deserialize(FieldProbe) {
        Ok(_) => panic!("the probe holds no value"),
        Err(Fields(fields)) => fields,
    }
}

struct FieldProbe;

#[derive(Debug)]
struct Fields(&'static [&'static str]);

impl fmt::Display for Fields {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Fields {}

impl de::Error for Fields {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for FieldProbe {
    type Error = Fields;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fields> {
        Err(Fields(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Fields> {
        Err(Fields(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Replaces, removes and inserts characters of the example.
    #[test]
    fn a_broken_example_is_read_without_a_panic(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), "\\PC{0,3}", 0..30_usize),
            1..6,
        )
    ) {
        let (text, _folder) = all_settings();
        let mut text: Vec<char> = text.chars().collect();
        for (at, insert, remove) in edits {
            let at = at.index(text.len());
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(problems) = Config::from_toml(&text, &VARIABLES) {
            prop_assert!(!problems.is_empty());
        }
    }
}
