//! The input of [`compile`](super::compile()).

use std::collections::BTreeMap;

use super::schema::{DialectToml, Overrides};

/// The input of [`compile`](super::compile()).
#[derive(Debug)]
pub struct Source<'a> {
    /// A name in `user` or of a built-in dialect; `user` wins. "" is a provider without a dialect.
    pub dialect: &'a str,
    /// The configuration's `[dialects.*]`.
    pub user: &'a BTreeMap<String, DialectToml>,
    /// The provider's own `[request]`, `[response]`, `[inject]`, `[reject]`.
    pub overrides: &'a Overrides,
    /// The provider's `grant`; `None` selects the dialect's `default_grant`.
    pub grant: Option<&'a str>,
    /// The provider's `auth_method`; `None` selects the dialect's `default_auth`.
    pub auth_method: Option<&'a str>,
}

/// How complete the input of [`compile_as`](super::compile_as) is; only a complete input is checked
/// for missing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Everything that a provider needs.
    Whole,
    /// A dialect without a provider: providers and extending dialects may still name the token's
    /// selector and the grant.
    Base,
    /// Some tables could not be read: an unknown name may be a grant or variable of those tables.
    Part,
}
