//! Parsed request tables and how they are merged.

use http::Method;

use super::assertion::AssertionLayer;
use super::field::{
    Field, HeaderField, Problem, TextField, field, header_fields, join, template, text_fields,
};
use super::json::{JsonField, json_fields};
use super::schema::{AssertionToml, BasicToml, Encoding, RequestToml};
use super::template::{Place, Template};

/// One request table; `None` is inherited.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub(super) method: Option<Method>,
    /// `Some(None)` removes an inherited one.
    pub(super) basic: Option<Option<Basic>>,
    pub(super) query: Option<Vec<TextField>>,
    pub(super) headers: Option<Vec<HeaderField>>,
    pub(super) body: Option<Body>,
    pub(super) path: Option<Field<(), Template>>,
    assertions: Assertions,
}

/// `[assertion]` and `[client_assertion]` of one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Assertions {
    pub(super) grant: AssertionLayer,
    pub(super) client: AssertionLayer,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Basic {
    pub(super) username: Template,
    pub(super) password: Template,
    pub(super) encoding: Encoding,
    pub(super) path: String,
}

/// `form`, `json` or `body`: each replaces an inherited body of any kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Body {
    #[default]
    Empty,
    Form(Vec<TextField>),
    Json(Vec<JsonField>),
    Raw(Field<(), Template>),
}

/// Where a layer comes from, which decides how its body is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The provider's `[request]`: its body is sent without the auth method's entries.
    Provider,
    /// A grant, `[refresh]` or `[request]`.
    Table,
    /// An `[auth]` entry: its form or JSON entries are added to the body.
    Auth,
}

const METHODS: [Method; 4] = [Method::GET, Method::POST, Method::PUT, Method::PATCH];

impl Layer {
    pub(super) fn parse(
        toml: &RequestToml,
        path: &str,
        place: Place,
        problems: &mut Vec<Problem>,
    ) -> Self {
        Self {
            method: parse_method(toml, path, problems),
            basic: parse_basic(toml, path, place, problems),
            query: (toml.query.as_ref())
                .map(|table| text_fields(table, &join(path, "query"), place, problems)),
            headers: (toml.headers.as_ref())
                .map(|table| header_fields(table, &join(path, "headers"), place, problems)),
            body: parse_body(toml, path, place, problems),
            path: parse_path(toml, path, place, problems),
            assertions: Assertions::parse(&toml.assertion, &toml.client_assertion, path, problems),
        }
    }

    /// Inherits from the assertion tables at the same level as this request table.
    pub(super) fn with_assertions(mut self, beside: &Assertions) -> Self {
        self.assertions = self.assertions.over(beside);
        self
    }

    /// The part of a provider's `[request]` that a refresh shares: credentials, not parameters.
    pub(super) fn without_parameters(self) -> Self {
        Self {
            basic: self.basic,
            headers: self.headers,
            assertions: self.assertions,
            ..Self::default()
        }
    }
}

impl Assertions {
    pub(super) fn parse(
        grant: &Option<AssertionToml>,
        client: &Option<AssertionToml>,
        path: &str,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut parse = |toml: &Option<AssertionToml>, key: &str| {
            let parse = |toml| AssertionLayer::parse(toml, &join(path, key), problems);
            toml.as_ref().map(parse).unwrap_or_default()
        };
        Self {
            grant: parse(grant, "assertion"),
            client: parse(client, "client_assertion"),
        }
    }

    fn over(self, other: &Self) -> Self {
        Self {
            grant: self.grant.over(&other.grant),
            client: self.client.over(&other.client),
        }
    }

    /// Merges the tables of `layers`; earlier layers win.
    pub(super) fn merged(layers: &[(Kind, Layer)]) -> Self {
        let tables = layers.iter().map(|(_, layer)| &layer.assertions);
        tables.fold(Self::default(), Self::over)
    }
}

impl Body {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "no",
            Self::Form(_) => "form",
            Self::Json(_) => "JSON",
            Self::Raw(_) => "raw",
        }
    }

    /// Path of the body's table: `grants.sms.form`.
    pub(super) fn path(&self) -> &str {
        let path = match self {
            Self::Empty => None,
            Self::Form(fields) => fields.first().map(|field| field.path.as_str()),
            Self::Json(fields) => fields.first().map(|field| field.path.as_str()),
            Self::Raw(field) => return &field.path,
        };
        let table = path.and_then(|path| path.rsplit_once('.'));
        table.map_or("", |(table, _)| table)
    }
}

fn parse_method(toml: &RequestToml, path: &str, problems: &mut Vec<Problem>) -> Option<Method> {
    let written = toml.method.as_deref()?;
    let known = METHODS.iter().find(|method| method.as_str() == written);
    if known.is_none() {
        let message = "must be GET, POST, PUT or PATCH";
        problems.push(Problem::new(join(path, "method"), message));
    }
    known.cloned()
}

fn parse_basic(
    toml: &RequestToml,
    path: &str,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Option<Option<Basic>> {
    let credentials = match toml.basic.as_ref()? {
        BasicToml::Removed => return Some(None),
        BasicToml::Credentials(credentials) => credentials,
    };
    let path = join(path, "basic");
    let mut part = |name: &str, text: &Option<String>| {
        let path = join(&path, name);
        match text {
            Some(text) => template(text, &path, place, problems),
            None => {
                problems.push(Problem::new(
                    path,
                    format!("missing: `basic` needs a {name}"),
                ));
                None
            }
        }
    };
    let username = part("username", &credentials.username);
    let password = part("password", &credentials.password);
    Some(Some(Basic {
        username: username?,
        password: password?,
        encoding: credentials.encoding,
        path,
    }))
}

fn parse_path(
    toml: &RequestToml,
    path: &str,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Option<Field<(), Template>> {
    let at = join(path, "path");
    let text = toml.path.as_deref()?;
    if !text.starts_with('/') || text.starts_with("//") || text.contains('#') {
        problems.push(Problem::new(at, "must be a path: /like/this"));
        return None;
    }
    field(text, at, place, problems)
}

fn parse_body(
    toml: &RequestToml,
    path: &str,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Option<Body> {
    let written = [
        ("form", toml.form.is_some()),
        ("json", toml.json.is_some()),
        ("body", toml.body.is_some()),
    ];
    let mut written = written.iter().filter(|(_, written)| *written);
    if let (Some((first, _)), Some((second, _))) = (written.next(), written.next()) {
        let message = format!("at most one of form, json and body; there is `{first}` already");
        problems.push(Problem::new(join(path, second), message));
    }
    // All three are parsed, so that every problem shows.
    let form =
        (toml.form.as_ref()).map(|table| text_fields(table, &join(path, "form"), place, problems));
    let json =
        (toml.json.as_ref()).map(|table| json_fields(table, &join(path, "json"), place, problems));
    let raw =
        (toml.body.as_ref()).and_then(|text| field(text, join(path, "body"), place, problems));
    let mut bodies = [
        form.map(Body::Form),
        json.map(Body::Json),
        raw.map(Body::Raw),
    ];
    bodies.iter_mut().find_map(Option::take)
}
