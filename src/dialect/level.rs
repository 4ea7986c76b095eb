//! One dialect's own tables, parsed but not yet merged with the dialects that it extends.

use std::collections::BTreeMap;

use super::computed::parse_var;
use super::field::{Field, Problem, field, join};
use super::layer::{Assertions, Layer};
use super::schema::DialectToml;
use super::template::{Place, Template};

/// One dialect of the chain of `extends`. All request tables are parsed, so that errors in unused
/// grants are reported, too.
pub(super) struct Level<'a> {
    pub(super) toml: &'a DialectToml,
    pub(super) request: Layer,
    pub(super) auth: BTreeMap<&'a str, Layer>,
    pub(super) grants: BTreeMap<&'a str, Layer>,
    pub(super) refresh: Option<Layer>,
    pub(super) device: Option<Layer>,
    pub(super) vars: Vec<(&'a str, Field<(), Template>)>,
    /// `[grants.NAME] token`
    pub(super) tokens: BTreeMap<&'a str, Field<(), Template>>,
}

impl<'a> Level<'a> {
    pub(super) fn parse(name: &str, toml: &'a DialectToml, problems: &mut Vec<Problem>) -> Self {
        let mut found = Vec::new();
        let assertions = Assertions::parse(&toml.assertion, &toml.client_assertion, "", &mut found);
        let level = Self {
            toml,
            request: Layer::parse(&toml.request, "request", Place::Exchange, &mut found)
                .with_assertions(&assertions),
            auth: (toml.auth.iter())
                .map(|(name, table)| {
                    (
                        name,
                        Layer::parse(table, &join("auth", name), Place::Exchange, &mut found),
                    )
                })
                .collect(),
            grants: (toml.grants.iter())
                .map(|(name, table)| {
                    let path = join("grants", name);
                    (
                        name,
                        Layer::parse(&table.request(), &path, Place::Exchange, &mut found),
                    )
                })
                .collect(),
            refresh: (toml.refresh.as_ref())
                .map(|table| Layer::parse(table, "refresh", Place::Refresh, &mut found)),
            device: (toml.device.as_ref())
                .map(|table| Layer::parse(table, "device", Place::Exchange, &mut found)),
            vars: (toml.vars.iter())
                .filter_map(|(name, value)| Some((name, parse_var(name, value, &mut found)?)))
                .collect(),
            tokens: (toml.grants.iter())
                .filter_map(|(name, grant)| {
                    let at = join(&join("grants", name), "token");
                    let token = grant.token.as_deref()?;
                    Some((name, field(token, at, Place::Exchange, &mut found)?))
                })
                .collect(),
        };
        problems.extend(found.into_iter().map(|problem| Problem {
            message: format!("{} (dialect `{name}`)", problem.message),
            ..problem
        }));
        level
    }
}

/// Copies `inherited` to `own` if `own` is not set.
pub(super) fn inherit<T: Clone>(own: &mut Option<T>, inherited: &Option<T>) {
    if own.is_none() {
        own.clone_from(inherited);
    }
}
