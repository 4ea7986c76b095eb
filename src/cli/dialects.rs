//! `cupbearer dialects [NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;

use clap::Args;

use super::failure::Failure;
use super::table::Table;
use crate::dialect::{self, DialectToml, ExchangePlan, Overrides, Source};

/// These stand at the top of a provider's table; every other variable goes into `vars` (DESIGN.md §2).
const WELL_KNOWN: [&str; 10] = [
    "client_id",
    "client_secret",
    "username",
    "password",
    "scope",
    "audience",
    "resource",
    "code",
    "redirect_uri",
    "refresh_token",
];

#[derive(Debug, Args)]
pub(super) struct DialectsArgs {
    /// Explain this one: variables of each grant, an example, the dialect's own TOML
    name: Option<String>,
}

pub(super) fn run(args: &DialectsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let text = match &args.name {
        None => list(),
        Some(name) => explain(name)?,
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

/// All of them by group, a line each.
fn list() -> String {
    let mut table = Table::new(["DIALECT", "WHAT IT IS"]);
    let mut group = None;
    for (name, _) in dialect::builtin() {
        let Some(dialect) = dialect::find_builtin(name) else {
            continue;
        };
        if group != dialect.group.as_deref() {
            group = dialect.group.as_deref();
            table.row([String::new(), String::new()]);
            table.row([format!("{}:", group.unwrap_or_default()), String::new()]);
        }
        table.row([format!("  {name}"), about(dialect).to_owned()]);
    }
    format!(
        "{table}\n`cupbearer dialects NAME` explains one. Your own go into [dialects.NAME] of the configuration.\n"
    )
}

fn explain(name: &str) -> Result<String, Failure> {
    let (Some(toml), Some(dialect)) = (source(name), dialect::find_builtin(name)) else {
        let names: Vec<&str> = dialect::builtin().iter().map(|(name, _)| *name).collect();
        let hint = names
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, name), known))
            .min()
            .filter(|(distance, _)| *distance <= 2)
            .map_or_else(
                || format!("built in are: {}", names.join(", ")),
                |(_, known)| format!("did you mean {known}?"),
            );
        return Err(Failure::Usage(format!("no dialect '{name}'; {hint}")));
    };
    let described = Described::read(name);
    let mut text = format!(
        "{name}: {}\n\n{}\n{}",
        about(dialect),
        provenance(dialect),
        described.grants_table(name)
    );
    if !described.auth_methods.is_empty() {
        let _ = writeln!(
            text,
            "\nauth_method: {}",
            marked(&described.auth_methods, described.default_auth.as_deref()).join(", ")
        );
    }
    if let Some(example) = described.example(name) {
        let _ = write!(text, "\nIn cupbearer.toml:\n\n{example}");
    }
    let _ = write!(text, "\nThe dialect itself:\n\n{}", toml.trim_start());
    Ok(text)
}

/// What a dialect offers, together with what it extends.
#[derive(Default)]
struct Described {
    grants: Vec<String>,
    default_grant: Option<String>,
    auth_methods: Vec<String>,
    default_auth: Option<String>,
}

impl Described {
    fn read(name: &str) -> Self {
        let mut described = Self::default();
        let mut seen = BTreeSet::new();
        let mut next = Some(name.to_owned());
        while let Some(name) = next.filter(|name| seen.insert(name.clone())) {
            let table: toml::Table = source(&name)
                .and_then(|toml| toml.parse().ok())
                .unwrap_or_default();
            let text = |key: &str| table.get(key).and_then(|it| it.as_str()).map(str::to_owned);
            described.default_grant = described.default_grant.or_else(|| text("default_grant"));
            described.default_auth = described.default_auth.or_else(|| text("default_auth"));
            add_keys(&mut described.grants, table.get("grants"));
            add_keys(&mut described.auth_methods, table.get("auth"));
            next = text("extends");
        }
        described
    }

    fn grants_table(&self, dialect: &str) -> Table<3> {
        let mut table = Table::new(["GRANT", "NEEDS", "MAY TAKE"]);
        let shown = marked(&self.grants, self.default_grant.as_deref());
        for (grant, shown) in self.grants.iter().zip(shown) {
            let Some(plan) = plan(dialect, Some(grant)) else {
                continue;
            };
            let required = plan.required_variables();
            let optional: Vec<String> = plan
                .known_variables()
                .difference(&required)
                // What comes with a token is kept by itself; nobody needs to write it down.
                .filter(|name| *name != "refresh_token")
                .cloned()
                .collect();
            let needs = required
                .iter()
                .map(|name| described_variable(name, &plan))
                .collect::<Vec<_>>();
            table.row([shown, needs.join(", "), optional.join(", ")]);
        }
        table
    }

    fn example(&self, dialect: &str) -> Option<String> {
        let plan = plan(dialect, None)?;
        let mut top = String::new();
        let mut vars = Vec::new();
        for name in plan.required_variables() {
            let value = example_value(dialect, &name);
            if WELL_KNOWN.contains(&name.as_str()) {
                let _ = writeln!(top, "{name:<13} = {value}");
            } else {
                vars.push(format!("{name} = {value}"));
            }
        }
        if !vars.is_empty() {
            let _ = writeln!(top, "{:<13} = {{ {} }}", "vars", vars.join(", "));
        }
        Some(format!(
            "[providers.{dialect}]\n\
             dialect       = \"{dialect}\"\n\
             token_url     = \"https://…\"\n\
             {top}\n\
             [upstreams.{dialect}]\n\
             url      = \"https://…\"\n\
             provider = \"{dialect}\"\n\
             route    = {{ path_prefix = \"/{dialect}\" }}\n"
        ))
    }
}

fn source(name: &str) -> Option<&'static str> {
    dialect::builtin()
        .iter()
        .find_map(|(known, toml)| (*known == name).then_some(*toml))
}

fn about(dialect: &DialectToml) -> &str {
    dialect.about.as_deref().unwrap_or_default()
}

/// The document, when the dialect was compared with it, and what it does not say.
fn provenance(dialect: &DialectToml) -> String {
    let mut text = String::new();
    let lines = [
        ("Document", &dialect.document),
        ("Compared with it", &dialect.checked),
    ];
    for (what, value) in lines {
        if let Some(value) = value {
            // A String takes everything, here and below.
            let _ = writeln!(text, "{what}: {value}");
        }
    }
    if !dialect.unverified.is_empty() {
        text.push_str("Not verified:\n");
    }
    for fact in &dialect.unverified {
        let _ = writeln!(text, "- {fact}");
    }
    text
}

fn plan(dialect: &str, grant: Option<&str>) -> Option<ExchangePlan> {
    dialect::compile(&Source {
        dialect,
        user: &BTreeMap::new(),
        overrides: &Overrides::default(),
        grant,
        auth_method: None,
    })
    .ok()
    .map(|plan| plan.exchange)
}

fn add_keys(names: &mut Vec<String>, table: Option<&toml::Value>) {
    let keys = table.and_then(toml::Value::as_table).into_iter().flatten();
    for (name, _) in keys {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
}

fn marked(names: &[String], default: Option<&str>) -> Vec<String> {
    names
        .iter()
        .map(|name| match default {
            Some(default) if default == name => format!("{name} (default)"),
            _ => name.clone(),
        })
        .collect()
}

fn described_variable(name: &str, plan: &ExchangePlan) -> String {
    if plan.one_time.iter().any(|spent| spent == name) {
        format!("{name} (used once)")
    } else {
        name.to_owned()
    }
}

fn example_value(dialect: &str, name: &str) -> String {
    const SECRET: [&str; 5] = ["client_secret", "password", "refresh_token", "code", "sms"];
    if SECRET.contains(&name) {
        let variable = format!("{dialect}_{name}").replace('-', "_").to_uppercase();
        return format!("{{ env = \"{variable}\" }}");
    }
    "\"…\"".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_is_listed_in_its_group() {
        let text = list();
        for (name, _) in dialect::builtin() {
            let dialect = dialect::find_builtin(name).unwrap();
            let (before, _) = (text.split_once(&format!("\n  {name} ")))
                .unwrap_or_else(|| panic!("no {name} in {text}"));
            let group = before.lines().rfind(|line| line.ends_with(':'));
            assert_eq!(
                group.map(|line| line.trim_end_matches(':')),
                dialect.group.as_deref()
            );
            assert!(text.contains(about(dialect)));
        }
    }

    #[test]
    fn what_is_not_verified_is_told() {
        let text = explain("ctcfile").unwrap();
        assert!(
            text.contains("\nNot verified:\n- which codes and statuses"),
            "{text}"
        );
    }

    #[test]
    fn every_dialect_is_explained() {
        for (name, toml) in dialect::builtin() {
            let text = explain(name).unwrap();
            assert!(text.ends_with(toml.trim_start()), "{name}");
            assert!(text.contains(&format!("[providers.{name}]")), "{text}");
        }
    }

    #[test]
    fn grants_say_what_they_need() {
        let text = explain("identityserver").unwrap();
        let line = |grant: &str| {
            text.lines()
                .find(|line| line.split_whitespace().next() == Some(grant))
                .unwrap_or_else(|| panic!("no {grant} in {text}"))
        };
        assert!(line("sms").contains("sms (used once)") && line("sms").contains("phone"));
        assert!(line("wechat").contains("open_id"));
        assert!(
            explain("cncn")
                .unwrap()
                .contains("{ env = \"CNCN_CLIENT_SECRET\" }")
        );
    }

    #[test]
    fn a_typo_gets_a_hint() {
        let error = explain("cncm").err().unwrap().to_string();
        assert!(error.contains("did you mean cncn?"), "{error}");
        let error = explain("something-else").err().unwrap().to_string();
        assert!(error.contains("passport"), "{error}");
    }
}
