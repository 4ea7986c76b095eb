//! A provider's variables: the well-known ones at the top of its table, and those of `vars`.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Value;
use crate::config::context::Context;
use crate::config::file::ProviderToml;
use crate::config::problems::{KeyPath, complaint, did_you_mean};
use crate::config::value::{EmptyLiteral, ValueToml, known_text};
use crate::dialect::{self, BUILT_INS, CHAINED, ExchangePlan, InjectPlan, Var, WELL_KNOWN};

/// A provider's variables, resolved; `None` where that failed.
pub(super) struct Variables(BTreeMap<String, (KeyPath, Option<Value>)>);

/// The token of that provider. Its identity is not known yet.
fn chained(name: &str) -> Value {
    Value::Provider {
        name: name.to_owned(),
        identity: String::new(),
    }
}

impl Variables {
    /// The tokens of other providers that a plan names itself: `{provider.NAME}`.
    pub(super) fn add_chained(&mut self, plan: &ExchangePlan, at: &KeyPath) {
        for name in plan.known_variables() {
            if let Some(provider) = name.strip_prefix(CHAINED) {
                let value = chained(provider);
                self.0.insert(name, (at.clone(), Some(value)));
            }
        }
    }

    /// Whether it is the token of another provider.
    pub(super) fn is_chained(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some((_, Some(Value::Provider { .. }))))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Where it is written.
    pub(super) fn at(&self, name: &str) -> Option<KeyPath> {
        self.0.get(name).map(|(at, _)| at.clone())
    }

    /// Those that cannot change while the program runs.
    pub(super) fn fixed(&self) -> dialect::Variables {
        self.known(|value| matches!(value, Value::Literal(_) | Value::Env { .. }))
    }

    /// Signing keys that can be looked at now and cannot sign: told here, not by the first fetch.
    pub(super) fn check_keys(&self, plan: &ExchangePlan, cx: &mut Context<'_>) {
        let known = self.known(|_| true);
        for (name, message) in plan.unusable_keys(&known) {
            if let Some(at) = self.at(&name) {
                cx.problem(
                    &at,
                    complaint(message)
                        .hint("the dialect signs with it; keys are read again at every fetch"),
                );
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
        // What a vendor wants to be sent empty can be written so; a credential is never empty.
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
            cx.problem(
                &in_vars,
                complaint("is a well-known variable").hint(format!(
                    "write it as `{}`, outside of `vars`",
                    at.key(&name)
                )),
            );
            continue;
        }
        if name.starts_with(CHAINED) || BUILT_INS.contains(&name.as_str()) {
            cx.problem(
                &in_vars,
                complaint("has a meaning already").hint("choose another name"),
            );
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

/// Variables that forwarded requests hold besides the token.
pub(super) fn injected(inject: &InjectPlan, required_only: bool) -> BTreeSet<String> {
    let variables = inject.variables();
    variables
        .filter(|(_, required)| *required || !required_only)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// A variable that is never sent is a typo, or a setting that does not do what its author believes.
pub(super) fn check_unused(
    variables: &Variables,
    known: &BTreeSet<String>,
    used_by: &str,
    cx: &mut Context<'_>,
) {
    for (name, (at, _)) in &variables.0 {
        // A refresh token may be kept for the day when the grant is changed.
        if known.contains(name) || name == "refresh_token" {
            continue;
        }
        let others = known.iter().filter(|known| !variables.has(known));
        let hint = did_you_mean(name, others.map(String::as_str), || {
            let all: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
            match &all[..] {
                [] => "it uses no variables".to_owned(),
                all => format!("it uses {}", all.join(", ")),
            }
        });
        let unused = complaint(format!("is used by nothing: not by {used_by}"));
        cx.problem(at, unused.hint(hint));
    }
}
