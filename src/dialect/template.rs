//! Templates: `Bearer {access_token}`, `{scope?}`, `{client_secret|md5|upper}`, `{scope|or:}`.
//!
//! A template is parsed once, when the configuration is read. Filled-in values are never parsed
//! again, so a secret may contain braces.

use std::fmt;

use zeroize::Zeroizing;

use super::filter::Filter;
use super::suggest;
use super::value::{Frozen, Value, Values, Variables, is_name};
use crate::secret::Secret;

/// Variables that every token request defines.
pub const BUILT_INS: [&str; 6] = ["unix", "unix_ms", "now", "nonce", "uuid", "token_url"];

/// Prefix of a variable that stands for another provider's token: `{provider.NAME}`.
pub const CHAINED: &str = "provider.";

/// Variables that are keys of a provider's table, under their RFC names.
pub const WELL_KNOWN: [&str; 10] = [
    "client_id",
    "client_secret",
    "username",
    "password",
    "scope",
    "audience",
    "resource",
    "code",
    "redirect_uri",
    "refresh_token",
];

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Placeholder(Placeholder),
}

#[derive(Clone, PartialEq, Eq)]
struct Placeholder {
    name: String,
    unset: Unset,
    filters: Vec<Filter>,
}

/// What to do if a placeholder's variable has no value.
#[derive(Clone, PartialEq, Eq)]
enum Unset {
    /// `{name}`: the request fails.
    Fail,
    /// `{name?}`: the key is left out.
    DropKey,
    /// `{name|or:text}`: the text is used.
    Or(String),
}

/// Where a template is used, which decides the variables that it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Exchange,
    /// `[refresh]`, which may send the token that it renews.
    Refresh,
    Inject,
    /// A computed variable, checked again where it is used.
    Computed,
    /// Filled in when the configuration is read.
    Fixed,
}

/// The values that a template is filled from.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) variables: &'a Variables,
    /// For token requests, and for injections that are made per request.
    pub(super) frozen: Option<&'a Frozen>,
    /// Only for injection.
    pub(super) access_token: Option<&'a Secret>,
    /// Computed variables; `variables` override them.
    pub(super) computed: Option<&'a Values>,
}

impl Template {
    /// Errors give the position in characters and never quote the text.
    pub(super) fn parse(text: &str, place: Place) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let position = text[..text.len() - rest.len() + at].chars().count() + 1;
            let brace = &rest[at..=at];
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(format!(
                    "`}}` without `{{` at character {position}; write `}}}}` for a brace"
                ));
            }
            let Some(end) = rest.find('}') else {
                return Err(format!(
                    "`{{` at character {position} is never closed; write `{{{{` for a brace"
                ));
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            let placeholder = Placeholder::parse(&rest[..end], place)
                .map_err(|message| format!("{message} (character {position})"))?;
            pieces.push(Piece::Placeholder(placeholder));
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// A text that is not a template.
    pub(super) fn literal(text: impl Into<String>) -> Self {
        Self(vec![Piece::Literal(text.into())])
    }

    /// `None`: the key is dropped.
    pub(super) fn fill(&self, scope: Scope<'_>) -> Result<Option<Zeroizing<String>>, String> {
        self.fill_with(scope, &|text| Ok(text.to_owned()))
    }

    /// Like [`Self::fill`], with each value encoded by `encode`.
    pub(super) fn fill_with(
        &self,
        scope: Scope<'_>,
        encode: &dyn Fn(&str) -> Result<String, String>,
    ) -> Result<Option<Zeroizing<String>>, String> {
        if self.is_dropped(scope) {
            return Ok(None);
        }
        let mut text = Zeroizing::new(String::new());
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Placeholder(placeholder) => {
                    let value = Zeroizing::new(encode(&placeholder.value(scope)?.text())?);
                    text.push_str(&value);
                }
            }
        }
        Ok(Some(text))
    }

    /// Like [`Self::fill`], but a template of a single placeholder keeps its value's type.
    pub(super) fn fill_typed(&self, scope: Scope<'_>) -> Result<Option<Value>, String> {
        if let [Piece::Placeholder(placeholder)] = &self.0[..]
            && !self.is_dropped(scope)
        {
            return placeholder.value(scope).map(Some);
        }
        let filled = self.fill(scope)?;
        Ok(filled.map(|text| Value::Text(text.as_str().to_owned())))
    }

    /// Like [`Self::fill`], with `<name>` in place of every value.
    pub(super) fn redacted(&self, scope: Scope<'_>) -> Result<Option<String>, String> {
        // Filled first, so that a template that cannot be sent fails here, too.
        if self.fill(scope)?.is_none() {
            return Ok(None);
        }
        let shown = self.0.iter().map(|piece| match piece {
            Piece::Literal(literal) => literal.clone(),
            Piece::Placeholder(placeholder) => placeholder.redacted(scope),
        });
        Ok(Some(shown.collect()))
    }

    /// Adds the filtered values: as secret as their variables, but different from them.
    pub(super) fn derived(&self, scope: Scope<'_>, into: &mut Vec<Secret>) {
        let placeholders = self
            .placeholders()
            .filter(|placeholder| !placeholder.filters.is_empty());
        let values = placeholders.filter_map(|placeholder| placeholder.value(scope).ok());
        into.extend(values.map(|value| Secret::new(value.text().as_str())));
    }

    /// Its variables except built-in ones, each with whether the template requires it.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, bool)> {
        let droppable = self
            .placeholders()
            .any(|placeholder| placeholder.unset == Unset::DropKey);
        self.placeholders()
            .flat_map(move |placeholder| {
                let own = (
                    placeholder.name.as_str(),
                    !droppable && placeholder.unset == Unset::Fail,
                );
                let keys = placeholder.filters.iter().filter_map(Filter::key);
                std::iter::once(own).chain(keys.map(move |key| (key, !droppable)))
            })
            .filter(|(name, _)| !BUILT_INS.contains(name) && *name != "access_token")
    }

    pub(super) fn has_placeholders(&self) -> bool {
        self.placeholders().next().is_some()
    }

    /// Whether the template begins with this literal text.
    pub(super) fn starts_with(&self, text: &str) -> bool {
        matches!(self.0.first(), Some(Piece::Literal(literal)) if literal.starts_with(text))
    }

    /// The whole text of a template without placeholders.
    pub(super) fn as_literal(&self) -> Option<&str> {
        match &self.0[..] {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    pub(super) fn names_access_token(&self) -> bool {
        self.placeholders()
            .any(|placeholder| placeholder.name == "access_token")
    }

    /// Whether the value differs from use to use.
    pub(super) fn names_built_in(&self) -> bool {
        (self.placeholders()).any(|placeholder| BUILT_INS.contains(&placeholder.name.as_str()))
    }

    fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Placeholder(placeholder) => Some(placeholder),
            Piece::Literal(_) => None,
        })
    }

    fn is_dropped(&self, scope: Scope<'_>) -> bool {
        self.placeholders().any(|placeholder| {
            placeholder.unset == Unset::DropKey && scope.get(&placeholder.name).is_none()
        })
    }
}

/// Omits literal text: a user may have written a secret where a variable belongs.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|piece| match piece {
                Piece::Literal(_) => "…".to_owned(),
                Piece::Placeholder(placeholder) => format!("{{{}}}", placeholder.source()),
            }))
            .finish()
    }
}

impl Placeholder {
    fn parse(text: &str, place: Place) -> Result<Self, String> {
        let mut parts = text.split('|').peekable();
        let name = parts.next().unwrap_or_default();
        let (name, mut unset) = match name.strip_suffix('?') {
            Some(name) => (name, Unset::DropKey),
            None => (name, Unset::Fail),
        };
        if !is_name(name) {
            return Err(
                "a variable's name is made of letters, digits, `_`, `-` and `.`".to_owned(),
            );
        }
        if let Some(default) = parts.peek().and_then(|part| part.strip_prefix("or:")) {
            if unset == Unset::DropKey {
                return Err("`?` and `or:` exclude each other".to_owned());
            }
            unset = Unset::Or(default.to_owned());
            parts.next();
        }
        let filters = parts.map(Filter::parse).collect::<Result<Vec<_>, _>>()?;
        let placeholder = Self {
            name: name.to_owned(),
            unset,
            filters,
        };
        placeholder.check(place)?;
        Ok(placeholder)
    }

    fn check(&self, place: Place) -> Result<(), String> {
        check_name(&self.name, place)?;
        let mut keys = self.filters.iter().filter_map(Filter::key);
        keys.try_for_each(|key| check_name(key, place))
    }

    fn value(&self, scope: Scope<'_>) -> Result<Value, String> {
        let mut value = match (scope.get(&self.name), &self.unset) {
            (Some(value), _) => value,
            (None, Unset::Or(default)) => Value::Text(default.clone()),
            (None, Unset::Fail | Unset::DropKey) => return Err(scope.missing(&self.name)),
        };
        for filter in &self.filters {
            let key = match filter.key() {
                None => None,
                Some(name) => Some(scope.get(name).ok_or_else(|| scope.missing(name))?.hashed()),
            };
            let key = key.as_ref().map_or(&b""[..], |key| key.as_slice());
            value = filter
                .apply(&value, key)
                .map_err(|message| format!("variable `{}`: {message}", self.name))?;
        }
        Ok(value)
    }

    /// `<name>`; an empty value and the text of `or:` are not secret and appear verbatim.
    fn redacted(&self, scope: Scope<'_>) -> String {
        let value = scope.get(&self.name);
        match (&self.unset, value) {
            (Unset::Or(default), None) if self.filters.is_empty() => default.clone(),
            (_, Some(value)) if self.filters.is_empty() && value.text().is_empty() => String::new(),
            _ => format!("<{}>", self.source()),
        }
    }

    /// The text between the braces without `?` and `or:`.
    fn source(&self) -> String {
        let mut source = self.name.clone();
        for filter in &self.filters {
            source.push('|');
            source.push_str(&filter.source());
        }
        source
    }
}

impl<'a> Scope<'a> {
    /// A provider's variables alone.
    pub(super) fn of(variables: &'a Variables) -> Self {
        Self {
            variables,
            frozen: None,
            access_token: None,
            computed: None,
        }
    }

    /// The scope of a token request.
    pub(super) fn of_request(variables: &'a Variables, frozen: &'a Frozen) -> Self {
        Self {
            frozen: Some(frozen),
            ..Self::of(variables)
        }
    }

    pub(super) fn with(self, computed: &'a Values) -> Self {
        Self {
            computed: Some(computed),
            ..self
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn get(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.frozen.and_then(|frozen| frozen.get(name)) {
            return Some(value);
        }
        if name == "access_token"
            && let Some(token) = self.access_token
        {
            return Some(Value::Text(token.expose().to_owned()));
        }
        let given = self.variables.get(name).map(Value::from);
        given.or_else(|| self.computed?.get(name).cloned())
    }

    fn missing(&self, name: &str) -> String {
        let set = self.variables.keys().map(String::as_str);
        let known = set.chain(BUILT_INS).chain(WELL_KNOWN);
        let nearest = suggest::nearest(name, known.filter(|&known| known != name));
        let hint = nearest.map(|nearest| format!("; did you mean `{nearest}`?"));
        format!("variable `{name}` has no value{}", hint.unwrap_or_default())
    }
}

/// Checks that every variable of the template is defined at `place`.
pub(super) fn check_use(template: &Template, place: Place) -> Result<(), String> {
    template
        .placeholders()
        .try_for_each(|placeholder| placeholder.check(place))
}

fn check_name(name: &str, place: Place) -> Result<(), String> {
    match (place, name) {
        (_, name) if name == CHAINED => {
            Err("write {provider.NAME}, NAME being a provider of this configuration".to_owned())
        }
        (Place::Computed, _) => Ok(()),
        (Place::Fixed, name) if !is_fixed(name) => {
            Err("can use only variables that are known from the start".to_owned())
        }
        (Place::Exchange, "access_token") => {
            Err("`{access_token}` is known only in [inject] and [refresh]".to_owned())
        }
        (Place::Inject, "refresh_token" | "assertion" | "client_assertion") => {
            Err(format!("`{{{name}}}` is known only in token requests"))
        }
        (Place::Inject, name) if name.starts_with(CHAINED) => {
            Err("tokens of other providers are known only in token requests".to_owned())
        }
        (Place::Inject, "token_url") => {
            Err("`{token_url}` is known only in token requests".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether the variable can have a value before the first fetch.
fn is_fixed(name: &str) -> bool {
    const LATER: [&str; 4] = [
        "access_token",
        "refresh_token",
        "assertion",
        "client_assertion",
    ];
    !BUILT_INS.contains(&name) && !LATER.contains(&name) && !name.starts_with(CHAINED)
}

#[cfg(test)]
mod tests;
