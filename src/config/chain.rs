//! Providers whose token is bought with the token of another (`{provider.NAME}`): who needs whom, and no circles.

use std::collections::{BTreeMap, BTreeSet};

use super::context::Context;
use super::identity::of_chain;
use super::problems::{KeyPath, complaint, did_you_mean};
use super::provider::Checked;
use super::{Provider, TokenSource, Value};

/// Checks that those named exist, and makes the identity of what is bought depend on what it is bought with. `names` are
/// all providers of the file, those with mistakes included.
pub(super) fn link(
    checked: &mut [Checked],
    names: &BTreeSet<String>,
    at: &KeyPath,
    cx: &mut Context<'_>,
) {
    let needs: BTreeMap<String, Vec<String>> = (checked.iter())
        .map(|checked| (checked.provider.name.clone(), needed(&checked.provider)))
        .filter(|(_, needed)| !needed.is_empty())
        .collect();
    for (name, needed) in &needs {
        for other in needed.iter().filter(|other| !names.contains(*other)) {
            let hint = did_you_mean(other, names.iter().map(String::as_str), || {
                "{provider.NAME} is the token of [providers.NAME]".to_owned()
            });
            let unknown = complaint("uses the token of a provider that does not exist");
            cx.problem(&at.key(name), unknown.hint(hint));
        }
    }
    let mut order = Order::default();
    for name in needs.keys() {
        order.visit(name, &needs, &mut Vec::new());
    }
    for (name, circle) in &order.circles {
        cx.problem(
            &at.key(name),
            complaint(format!(
                "each token would be bought with the other: {}",
                circle.join(" → ")
            ))
            .hint("one of them must be had without the others"),
        );
    }
    if order.circles.is_empty() {
        set_identities(checked, &order.done);
    }
}

/// The providers whose tokens this one needs, each once.
pub(super) fn needed(provider: &Provider) -> Vec<String> {
    let values = provider.variables.values();
    let names: BTreeSet<_> = values
        .filter_map(|value| match value {
            Value::Provider { name, .. } => Some(name.clone()),
            _ => None,
        })
        .collect();
    names.into_iter().collect()
}

/// The needed before those who need them.
#[derive(Default)]
struct Order {
    done: Vec<String>,
    /// By the first of each circle.
    circles: BTreeMap<String, Vec<String>>,
}

impl Order {
    fn visit(
        &mut self,
        name: &str,
        needs: &BTreeMap<String, Vec<String>>,
        trail: &mut Vec<String>,
    ) {
        if self.done.iter().any(|done| done == name) {
            return;
        }
        if let Some(start) = trail.iter().position(|known| known == name) {
            let mut circle = trail[start..].to_vec();
            let first = circle.iter().min().cloned().unwrap_or_default();
            circle.push(name.to_owned());
            self.circles.entry(first).or_insert(circle);
            return;
        }
        trail.push(name.to_owned());
        for other in needs.get(name).into_iter().flatten() {
            self.visit(other, needs, trail);
        }
        trail.pop();
        self.done.push(name.to_owned());
    }
}

fn set_identities(checked: &mut [Checked], order: &[String]) {
    let mut identities: BTreeMap<String, String> = (checked.iter())
        .map(|checked| (checked.provider.name.clone(), checked.provider.identity()))
        .collect();
    for name in order {
        let found = checked.iter_mut().find(|it| it.provider.name == *name);
        let Some(Checked { provider, .. }) = found else {
            continue;
        };
        let mut inner = BTreeMap::new();
        for (variable, value) in &mut provider.variables {
            if let Value::Provider { name, identity } = value
                && let Some(known) = identities.get(name)
            {
                identity.clone_from(known);
                inner.insert(variable.clone(), known.clone());
            }
        }
        if let TokenSource::Endpoint(endpoint) = &mut provider.source
            && !inner.is_empty()
        {
            endpoint.identity = of_chain(&endpoint.identity, &inner);
        }
        identities.insert(name.clone(), provider.identity());
    }
}
