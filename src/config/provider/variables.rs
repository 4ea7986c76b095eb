//! A provider's variables: well-known keys of its table, and the keys of `vars`.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::context::Context;
use crate::config::file::ProviderToml;
use crate::config::model::Value;
use crate::config::problems::{KeyPath, complaint, did_you_mean};
use crate::config::value::{EmptyLiteral, ValueToml, known_text};
use crate::dialect::{self, BUILT_INS, CHAINED, ExchangePlan, InjectPlan, Var, WELL_KNOWN};

/// Variables with their key paths; a value is `None` if it could not be resolved.
pub(super) struct Variables(BTreeMap<String, (KeyPath, Option<Value>)>);

/// `chain::link` sets the identity later.
fn chained(name: &str) -> Value {
    Value::Provider {
        name: name.to_owned(),
        identity: String::new(),
    }
}

impl Variables {
    /// Adds the variables `{provider.NAME}` that the plan's templates use.
    pub(super) fn add_chained(&mut self, plan: &ExchangePlan, at: &KeyPath) {
        for name in plan.known_variables() {
            if let Some(value) = name.strip_prefix(CHAINED).map(chained) {
                self.0.insert(name, (at.clone(), Some(value)));
            }
        }
    }

    /// Returns whether the value is the token of another provider.
    pub(super) fn is_chained(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some((_, Some(Value::Provider { .. }))))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn at(&self, name: &str) -> Option<KeyPath> {
        self.0.get(name).map(|(at, _)| at.clone())
    }

    /// Returns the values that cannot change while the program runs.
    pub(super) fn fixed(&self) -> dialect::Variables {
        self.known(|value| matches!(value, Value::Literal(_) | Value::Env { .. }))
    }

    /// Reports unusable signing keys now instead of at the first fetch.
    pub(super) fn check_keys(&self, plan: &ExchangePlan, cx: &mut Context<'_>) {
        let hint = "the dialect signs with this key and reads it again at every fetch";
        for (name, message) in plan.unusable_keys(&self.known(|_| true)) {
            if let Some(at) = self.at(&name) {
                cx.problem(&at, complaint(message).hint(hint));
            }
        }
    }

    fn known(&self, which: fn(&Value) -> bool) -> dialect::Variables {
        let all = self.0.iter();
        all.filter_map(|(name, (_, value))| {
            let value = value.as_ref().filter(|value| which(value))?;
            let var = match value {
                Value::Literal(var) => var.clone(),
                other => Var::Text(known_text(other)?),
            };
            Some((name.clone(), var))
        })
        .collect()
    }

    pub(super) fn into_values(self) -> BTreeMap<String, Value> {
        let all = self.0.into_iter();
        all.filter_map(|(name, (_, value))| Some((name, value?)))
            .collect()
    }
}

pub(super) fn variables(toml: &mut ProviderToml, at: &KeyPath, cx: &mut Context<'_>) -> Variables {
    let mut all = BTreeMap::new();
    for (name, value) in take_well_known(toml) {
        let Some(value) = value else { continue };
        // Some vendors expect an empty parameter; a credential is never empty.
        let empty = match name {
            "scope" | "audience" | "resource" => EmptyLiteral::Allowed,
            _ => EmptyLiteral::Refused,
        };
        let at = at.key(name);
        let value = read(&at, value, empty, cx);
        all.insert(name.to_owned(), (at, value));
    }
    for (name, value) in std::mem::take(&mut toml.vars) {
        let in_vars = at.key("vars").key(&name);
        if WELL_KNOWN.contains(&name.as_str()) {
            let hint = format!("write it as `{}`, outside of `vars`", at.key(&name));
            cx.problem(&in_vars, complaint("is a well-known variable").hint(hint));
            continue;
        }
        if name.starts_with(CHAINED) || BUILT_INS.contains(&name.as_str()) {
            let reserved = complaint("is a reserved name").hint("choose another name");
            cx.problem(&in_vars, reserved);
            continue;
        }
        let value = read(&in_vars, value, EmptyLiteral::Allowed, cx);
        all.insert(name, (in_vars, value));
    }
    Variables(all)
}

fn read(
    at: &KeyPath,
    written: ValueToml,
    empty: EmptyLiteral,
    cx: &mut Context<'_>,
) -> Option<Value> {
    match written.chained() {
        Some(provider) => Some(chained(provider)),
        None => cx.value(at, written, empty),
    }
}

fn take_well_known(toml: &mut ProviderToml) -> [(&'static str, Option<ValueToml>); 10] {
    [
        ("client_id", toml.client_id.take()),
        ("client_secret", toml.client_secret.take()),
        ("username", toml.username.take()),
        ("password", toml.password.take()),
        ("scope", toml.scope.take()),
        ("audience", toml.audience.take()),
        ("resource", toml.resource.take()),
        ("code", toml.code.take()),
        ("redirect_uri", toml.redirect_uri.take()),
        ("refresh_token", toml.refresh_token.take()),
    ]
}

/// Returns the variables that forwarded requests carry in addition to the token.
pub(super) fn injected(inject: &InjectPlan, required_only: bool) -> BTreeSet<String> {
    let wanted = |(_, required): &(&str, bool)| *required || !required_only;
    let variables = inject.variables().filter(wanted);
    variables.map(|(name, _)| name.to_owned()).collect()
}

/// Reports variables that are never sent: typos, or settings without the intended effect.
pub(super) fn check_unused(
    variables: &Variables,
    known: &BTreeSet<String>,
    used_by: &str,
    cx: &mut Context<'_>,
) {
    for (name, (at, _)) in &variables.0 {
        // A refresh token may stay in the file for a later change of the grant.
        if known.contains(name) || name == "refresh_token" {
            continue;
        }
        let others = known.iter().filter(|known| !variables.has(known));
        let hint = did_you_mean(name, others.map(String::as_str), || {
            let all: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
            match &all[..] {
                [] => "remove the variable".to_owned(),
                all => format!("variables in use: {}", all.join(", ")),
            }
        });
        let unused = complaint(format!("is not used by {used_by}"));
        cx.problem(at, unused.hint(hint));
    }
}
