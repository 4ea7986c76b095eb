//! Which grant and which auth method a provider means.

use super::*;

/// The grant of a dialect that has none: its `[request]` is all there is.
const ONLY_REQUEST: &str = "default";

pub(super) fn choose_grant(
    source: &Source<'_>,
    levels: &[Level<'_>],
    extent: Extent,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let names = names(levels, |level| &level.toml.grants);
    let default = levels
        .iter()
        .find_map(|level| level.toml.default_grant.as_deref());
    let (path, chosen) = match (source.grant, default, &names[..]) {
        (Some(grant), _, _) => ("grant", grant),
        (None, Some(default), _) => ("default_grant", default),
        (None, None, [only]) => ("grant", *only),
        (None, None, []) => return Some(ONLY_REQUEST.to_owned()),
        (None, None, several) => {
            if extent == Extent::Whole {
                problems.push(Problem {
                    path: "grant".to_owned(),
                    message: format!("missing: choose one of {}", several.join(", ")),
                });
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
    let default = levels
        .iter()
        .find_map(|level| level.toml.default_auth.as_deref());
    let (path, chosen) = match (source.auth_method, default) {
        (Some(auth), _) => ("auth_method", auth),
        (None, Some(auth)) => ("default_auth", auth),
        (None, None) => return None,
    };
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
        format!(
            "the dialect has no such {what}{}",
            hint(chosen, names.iter().copied())
        )
    };
    problems.push(Problem {
        path: path.to_owned(),
        message,
    });
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
