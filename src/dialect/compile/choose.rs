//! Choosing a provider's grant and auth method.

use crate::dialect::field::Problem;
use crate::dialect::level::Level;
use crate::dialect::schema::Ordered;
use crate::dialect::source::{Extent, Source};
use crate::dialect::suggest::hint;

/// Name of the grant of a dialect that has only `[request]`.
const ONLY_REQUEST: &str = "default";

pub(super) fn choose_grant(
    source: &Source<'_>,
    levels: &[Level<'_>],
    extent: Extent,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let names = names(levels, |level| &level.toml.grants);
    let mut tomls = levels.iter().map(|level| level.toml);
    let default = tomls.find_map(|toml| toml.default_grant.as_deref());
    let (path, chosen) = match (source.grant, default, &names[..]) {
        (Some(grant), _, _) => ("grant", grant),
        (None, Some(default), _) => ("default_grant", default),
        (None, None, [only]) => ("grant", *only),
        (None, None, []) => return Some(ONLY_REQUEST.to_owned()),
        (None, None, several) => {
            if extent == Extent::Whole {
                let message = format!("missing: choose one of {}", several.join(", "));
                problems.push(Problem::new("grant", message));
            }
            return None;
        }
    };
    choose("grant", path, chosen, &names, extent, problems)
}

pub(super) fn choose_auth(
    source: &Source<'_>,
    levels: &[Level<'_>],
    extent: Extent,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let names = names(levels, |level| &level.toml.auth);
    let mut tomls = levels.iter().map(|level| level.toml);
    let default = tomls.find_map(|toml| toml.default_auth.as_deref());
    let chosen = source.auth_method.map(|auth| ("auth_method", auth));
    let (path, chosen) = chosen.or_else(|| Some(("default_auth", default?)))?;
    choose("auth method", path, chosen, &names, extent, problems)
}

fn choose(
    what: &str,
    path: &str,
    chosen: &str,
    names: &[&str],
    extent: Extent,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    if names.contains(&chosen) {
        return Some(chosen.to_owned());
    }
    if extent == Extent::Part {
        return None;
    }
    let message = if names.is_empty() {
        format!("the dialect offers no choice of {what}; leave this out")
    } else {
        let hint = hint(chosen, names.iter().copied());
        format!("the dialect has no such {what}{hint}")
    };
    problems.push(Problem::new(path, message));
    None
}

fn names<'a, T>(levels: &[Level<'a>], table: fn(&Level<'a>) -> &'a Ordered<T>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for name in levels.iter().flat_map(|level| table(level).names()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
