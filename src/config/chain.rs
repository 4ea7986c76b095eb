//! Providers whose token is bought with the token of another (`{provider.NAME}`): who needs whom, and no circles.

use std::collections::{BTreeMap, BTreeSet};

use super::context::Context;
use super::identity::of_chain;
use super::problems::{KeyPath, complaint, did_you_mean};
use super::provider::Checked;
use super::{Provider, TokenSource, Value};
use crate::dialect::order;

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
    let order = order(needs.keys().map(String::as_str), |name| {
        let needed = needs.get(name).into_iter().flatten();
        needed.map(String::as_str)
    });
    // Each circle once, at its first name.
    let mut circles = BTreeMap::new();
    for circle in &order.circles {
        let first = circle.iter().copied().min().unwrap_or_default();
        circles.entry(first).or_insert(circle);
    }
    for (name, circle) in &circles {
        cx.problem(
            &at.key(name),
            complaint(format!(
                "each token would be bought with the other: {}",
                circle.join(" → ")
            ))
            .hint("one of them must be had without the others"),
        );
    }
    if circles.is_empty() {
        set_identities(checked, &order.names);
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

/// `order`: the needed providers before the providers that need them.
fn set_identities(checked: &mut [Checked], order: &[&str]) {
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
        identities.insert((*name).to_owned(), provider.identity());
    }
}
