//! Checks `{provider.NAME}`, the token of another provider: every name exists, without cycles.

use std::collections::{BTreeMap, BTreeSet};

use super::context::Context;
use super::identity::of_chain;
use super::model::{TokenSource, Value};
use super::problems::{KeyPath, complaint, did_you_mean};
use super::provider::Checked;
use crate::dialect::order;

/// Checks the references and adds the identities of referenced providers to each identity. `names`
/// also holds the providers with mistakes.
pub(super) fn link(
    checked: &mut [Checked],
    names: &BTreeSet<String>,
    at: &KeyPath,
    cx: &mut Context<'_>,
) {
    let providers = checked.iter().map(|checked| &checked.provider);
    let needs: BTreeMap<String, Vec<String>> = providers
        .map(|provider| (provider.name.clone(), provider.chained_providers()))
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
    // Report each cycle once, at its first name.
    let mut cycles = BTreeMap::new();
    for cycle in &order.cycles {
        let first = cycle.iter().copied().min().unwrap_or_default();
        cycles.entry(first).or_insert(cycle);
    }
    for (name, cycle) in &cycles {
        let path = cycle.join(" → ");
        let cyclic = complaint(format!("each of these tokens needs the next one: {path}"));
        cx.problem(&at.key(name), cyclic.hint("remove one of the references"));
    }
    if cycles.is_empty() {
        set_identities(checked, &order.names);
    }
}

/// `order` lists the needed providers before the providers that need them.
fn set_identities(checked: &mut [Checked], order: &[&str]) {
    let mut identities: BTreeMap<String, String> = (checked.iter())
        .map(|checked| (checked.provider.name.clone(), checked.provider.identity()))
        .collect();
    for name in order {
        let mut providers = checked.iter_mut().map(|checked| &mut checked.provider);
        let Some(provider) = providers.find(|provider| provider.name == *name) else {
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
