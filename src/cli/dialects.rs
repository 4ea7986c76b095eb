//! `cupbearer dialects [NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;

use clap::Args;

use super::failure::Failure;
use super::table::Table;
use crate::dialect::{self, DialectToml, ExchangePlan, Overrides, Plan, Source};

#[derive(Debug, Args)]
pub(super) struct DialectsArgs {
    /// Explain this dialect: variables of each grant, an example, the dialect's TOML
    name: Option<String>,

    /// Grant of the example [default: the dialect's default grant]
    grant: Option<String>,
}

pub(super) fn run(args: &DialectsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let text = match &args.name {
        None => list(),
        Some(name) => explain(name, args.grant.as_deref())?,
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

/// Lists all dialects by group.
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
        "{table}\n`cupbearer dialects NAME` explains one. \
         Your own dialects go into [dialects.NAME] of the configuration.\n"
    )
}

fn explain(name: &str, grant: Option<&str>) -> Result<String, Failure> {
    let (Some(toml), Some(dialect)) = (source(name), dialect::find_builtin(name)) else {
        let hint = hint(name);
        return Err(Failure::Usage(format!("no dialect '{name}'; {hint}")));
    };
    let described = Description::read(name);
    let Some(example) = described.example(name, grant) else {
        return Err(Failure::Usage(format!(
            "dialect '{name}' has no grant '{}'; it has {}",
            grant.unwrap_or_default(),
            described.grants.join(", ")
        )));
    };
    let mut text = format!(
        "{name}: {}\n\n{}\n{}",
        about(dialect),
        provenance(dialect),
        described.grants_table(name)
    );
    if !described.auth_methods.is_empty() {
        let methods = marked(&described.auth_methods, described.default_auth.as_ref());
        let _ = writeln!(text, "\nauth_method: {}", methods.join(", "));
    }
    let toml = toml.trim_start();
    let _ = write!(
        text,
        "\nIn cupbearer.toml:\n\n{example}\nThe dialect itself:\n\n{toml}"
    );
    Ok(text)
}

fn hint(name: &str) -> String {
    let names: Vec<&str> = dialect::builtin().iter().map(|(name, _)| *name).collect();
    match dialect::nearest(name, names.iter().copied()) {
        Some(known) => format!("did you mean {known}?"),
        None => format!("built-in dialects: {}", names.join(", ")),
    }
}

/// Grants and auth methods of a dialect and of the dialects it extends.
#[derive(Default)]
struct Description {
    grants: Vec<String>,
    default_grant: Option<String>,
    auth_methods: Vec<String>,
    default_auth: Option<String>,
}

impl Description {
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
        let shown = marked(&self.grants, self.default_grant.as_ref());
        for (grant, shown) in self.grants.iter().zip(shown) {
            let Some(plan) = plan(dialect, Some(grant)) else {
                continue;
            };
            let required = required(&plan);
            let optional: Vec<String> = known(&plan)
                .difference(&required)
                // Taken from token responses and stored automatically.
                .filter(|name| *name != "refresh_token")
                .cloned()
                .collect();
            let once = |name| plan.exchange.one_time.iter().any(|it| it == name);
            let needs: Vec<_> = (required.iter())
                .map(|name| format!("{name}{}", if once(name) { " (used once)" } else { "" }))
                .collect();
            table.row([shown, needs.join(", "), optional.join(", ")]);
        }
        table
    }

    /// Returns a configuration with one provider of this dialect; `None` for an unknown grant.
    fn example(&self, dialect: &str, grant: Option<&str>) -> Option<String> {
        let plan = plan(dialect, grant)?;
        let mut provider = format!("[providers.{dialect}]\n");
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(provider, "{key:<13} = {value}");
        };
        line("dialect", &format!("\"{dialect}\""));
        if let Some(grant) = grant.filter(|grant| self.default_grant.as_deref() != Some(*grant)) {
            line("grant", &format!("\"{grant}\""));
        }
        let by_login = by_login(&plan.exchange);
        match &plan.defaults.token_url {
            _ if plan.exchange.local_token.is_some() => {}
            Some(url) if url.is_plain_http() => line("allow_http", "true"),
            Some(_) => {}
            None => line("token_url", "\"https://login.example.com/token\""),
        }
        if by_login.contains("code") && plan.defaults.authorization_url.is_none() {
            let url = "\"https://login.example.com/authorize\"";
            line("authorization_url", url);
        }
        let (top, vars): (Vec<_>, Vec<_>) = (required(&plan).into_iter())
            .filter(|name| !by_login.contains(name.as_str()))
            .partition(|name| dialect::WELL_KNOWN.contains(&name.as_str()));
        for name in top {
            line(&name, &example_value(dialect, &name));
        }
        if !vars.is_empty() {
            let entry = |name: &String| format!("{name} = {}", example_value(dialect, name));
            let entries: Vec<_> = vars.iter().map(entry).collect();
            line("vars", &format!("{{ {} }}", entries.join(", ")));
        }
        let store = match by_login.is_empty() {
            true => String::new(),
            false => format!(
                "[store]                     # `cupbearer login {dialect}` stores its token here\n\
                 kind = \"file\"\n\
                 path = \"/var/lib/cupbearer\"\n\n"
            ),
        };
        Some(format!(
            "{store}{provider}\n\
             [upstreams.{dialect}]\n\
             url      = \"https://api.example.com\"\n\
             provider = \"{dialect}\"\n\
             route    = {{ path_prefix = \"/{dialect}\" }}\n"
        ))
    }
}

/// Returns the variables that a provider must state for its requests, token URL and injection.
fn required(plan: &Plan) -> BTreeSet<String> {
    let mut names = plan.exchange.required_variables();
    if let (None, Some(url)) = (&plan.exchange.local_token, &plan.defaults.token_url) {
        names.extend(url.required_variables().map(str::to_owned));
    }
    let inject = plan.inject.variables().filter(|(_, required)| *required);
    names.extend(inject.map(|(name, _)| name.to_owned()));
    names
}

/// Returns the variables that a provider may state.
fn known(plan: &Plan) -> BTreeSet<String> {
    let mut names = plan.exchange.known_variables();
    names.extend(plan.defaults.variables().map(str::to_owned));
    names.extend(plan.inject.variables().map(|(name, _)| name.to_owned()));
    names
}

/// Returns the variables that `cupbearer login` provides.
fn by_login(plan: &ExchangePlan) -> BTreeSet<&str> {
    let mut names: BTreeSet<_> = plan.one_time.iter().map(String::as_str).collect();
    if names.contains("code") {
        names.extend(["redirect_uri", "code_verifier"]);
    }
    names
}

fn source(name: &str) -> Option<&'static str> {
    let mut builtin = dialect::builtin().iter();
    builtin.find_map(|(known, toml)| (*known == name).then_some(*toml))
}

fn about(dialect: &DialectToml) -> &str {
    dialect.about.as_deref().unwrap_or_default()
}

/// Describes the vendor's document, when the dialect was checked against it, and unverified facts.
fn provenance(dialect: &DialectToml) -> String {
    let mut text = String::new();
    if let Some(document) = &dialect.document {
        let _ = writeln!(text, "Document: {document}");
    }
    if let Some(checked) = &dialect.checked {
        let _ = writeln!(text, "Compared with it: {checked}");
    }
    if !dialect.unverified.is_empty() {
        text.push_str("Not verified:\n");
    }
    for fact in &dialect.unverified {
        let _ = writeln!(text, "- {fact}");
    }
    text
}

fn plan(dialect: &str, grant: Option<&str>) -> Option<Plan> {
    let source = Source {
        dialect,
        user: &BTreeMap::new(),
        overrides: &Overrides::default(),
        grant,
        auth_method: None,
    };
    dialect::compile(&source).ok()
}

fn add_keys(names: &mut Vec<String>, table: Option<&toml::Value>) {
    let keys = table.and_then(toml::Value::as_table).into_iter().flatten();
    for (name, _) in keys {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
}

fn marked(names: &[String], default: Option<&String>) -> Vec<String> {
    let mark = |name: &String| match default {
        Some(default) if default == name => format!("{name} (default)"),
        _ => name.clone(),
    };
    names.iter().map(mark).collect()
}

fn example_value(dialect: &str, name: &str) -> String {
    const SECRETS: &str = "secret password token private_key certificate sms";
    if SECRETS.split(' ').any(|word| name.contains(word)) {
        let variable = format!("{dialect}_{name}").replace(['-', '.'], "_");
        return format!("{{ env = \"{}\" }}", variable.to_uppercase());
    }
    format!("\"my-{}\"", name.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn every_dialect_is_listed_in_its_group() {
        let text = list();
        for (name, _) in dialect::builtin() {
            let dialect = dialect::find_builtin(name).unwrap();
            let (before, _) = (text.split_once(&format!("\n  {name} ")))
                .unwrap_or_else(|| panic!("no {name} in {text}"));
            let group = before.lines().rfind(|line| line.ends_with(':'));
            let group = group.map(|line| line.trim_end_matches(':'));
            assert_eq!(group, dialect.group.as_deref());
            assert!(text.contains(about(dialect)));
        }
    }

    #[test]
    fn every_dialect_is_explained() {
        for (name, toml) in dialect::builtin() {
            let text = explain(name, None).unwrap();
            assert!(text.ends_with(toml.trim_start()), "{name}");
            let dialect = dialect::find_builtin(name).unwrap();
            for fact in &dialect.unverified {
                assert!(text.contains(&format!("\n- {fact}\n")), "{text}");
            }
            let document = dialect.document.as_deref().unwrap();
            assert!(text.contains(&format!("Document: {document}\n")), "{text}");
        }
    }

    /// An environment in which every variable is set; private keys are real keys.
    fn all_set(name: &str) -> Option<String> {
        let key = include_str!("../dialect/tests/samples/rfc7515-a2.json");
        let is_key = name.ends_with("PRIVATE_KEY");
        Some(if is_key { key } else { "given" }.to_owned())
    }

    #[test]
    fn every_example_is_a_configuration_that_check_accepts() {
        for (name, _) in dialect::builtin() {
            let described = Description::read(name);
            let grants = described.grants.iter().map(|grant| Some(grant.as_str()));
            for grant in grants.chain([None]) {
                let example = described.example(name, grant);
                let example = example.unwrap_or_else(|| panic!("{name} {grant:?}"));
                let config = Config::from_toml(&example, &all_set);
                let config = config.unwrap_or_else(|problems| panic!("{example}\n{problems:#?}"));
                assert_eq!(config.warnings, [], "{example}");
            }
        }
    }

    #[test]
    fn every_variable_listed_as_needed_is_required() {
        for (name, _) in dialect::builtin() {
            let described = Description::read(name);
            let example = described.example(name, None).unwrap();
            let plan = plan(name, None).unwrap();
            let by_login = by_login(&plan.exchange);
            for needed in required(&plan)
                .iter()
                .filter(|name| !by_login.contains(name.as_str()))
            {
                // Renaming the key leaves the variable without a value.
                let without = example.replace(&format!("{needed} "), &format!("x{needed} "));
                assert_ne!(without, example, "{name}: {needed}");
                let config = Config::from_toml(&without, &all_set);
                assert!(config.is_err(), "{name} does without {needed}:\n{without}");
            }
        }
    }

    #[test]
    fn grants_list_their_variables() {
        let text = explain("identityserver", None).unwrap();
        let line = |grant: &str| {
            text.lines()
                .find(|line| line.split_whitespace().next() == Some(grant))
                .unwrap_or_else(|| panic!("no {grant} in {text}"))
        };
        assert!(line("sms").contains("sms (used once)") && line("sms").contains("phone"));
        assert!(line("wechat").contains("open_id"));
        let text = explain("cncn", None).unwrap();
        assert!(text.contains("{ env = \"CNCN_CLIENT_SECRET\" }"), "{text}");
    }

    #[test]
    fn the_example_uses_the_chosen_grant() {
        let text = explain("salesforce", Some("jwt_bearer")).unwrap();
        assert!(text.contains("grant         = \"jwt_bearer\""), "{text}");
        assert!(
            text.contains("{ env = \"SALESFORCE_PRIVATE_KEY\" }"),
            "{text}"
        );
        let error = explain("salesforce", Some("sms")).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("it has client_credentials, jwt_bearer")
        );
    }

    #[test]
    fn a_typo_gets_a_hint() {
        let error = explain("cncm", None).err().unwrap().to_string();
        assert!(error.contains("did you mean cncn?"), "{error}");
        let error = explain("something-else", None).err().unwrap().to_string();
        assert!(error.contains("passport"), "{error}");
    }
}
