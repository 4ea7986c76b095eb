//! Parsed request tables and how they are merged.

use http::{Method, header};

use super::RequestPlan;
use super::assertion::AssertionLayer;
use super::computed::Computed;
use super::field::{
    Field, HeaderField, Problem, TextField, field, header_fields, join, template, text_fields,
};
use super::json::{JsonField, json_fields};
use super::schema::{AssertionToml, BasicToml, Encoding, RequestToml};
use super::template::{Place, Template};

/// One request table; `None` is inherited.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    method: Option<Method>,
    /// `Some(None)` removes an inherited one.
    basic: Option<Option<Basic>>,
    query: Option<Vec<TextField>>,
    headers: Option<Vec<HeaderField>>,
    body: Option<Body>,
    path: Option<Field<(), Template>>,
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
    pub(super) fn parse(toml: &RequestToml, path: &str, problems: &mut Vec<Problem>) -> Self {
        Self {
            method: parse_method(toml, path, problems),
            basic: parse_basic(toml, path, problems),
            query: (toml.query.as_ref())
                .map(|table| text_fields(table, &join(path, "query"), Place::Exchange, problems)),
            headers: (toml.headers.as_ref()).map(|table| {
                header_fields(table, &join(path, "headers"), Place::Exchange, problems)
            }),
            body: parse_body(toml, path, problems),
            path: parse_path(toml, path, problems),
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

/// Merges request tables; earlier layers win.
pub(super) fn merge(layers: &[(Kind, Layer)], problems: &mut Vec<Problem>) -> RequestPlan {
    fn first<T: Clone>(layers: &[(Kind, Layer)], get: fn(&Layer) -> &Option<T>) -> Option<T> {
        layers.iter().find_map(|(_, layer)| get(layer).clone())
    }
    let plan = RequestPlan {
        method: first(layers, |layer| &layer.method).unwrap_or(Method::POST),
        basic: first(layers, |layer| &layer.basic).flatten(),
        query: first(layers, |layer| &layer.query).unwrap_or_default(),
        headers: first(layers, |layer| &layer.headers).unwrap_or_else(default_headers),
        body: merge_bodies(layers, problems),
        path: first(layers, |layer| &layer.path),
        computed: Computed::default(),
    };
    let authorization = |field: &&HeaderField| field.name == header::AUTHORIZATION;
    if let Some(field) = plan.headers.iter().find(authorization)
        && plan.basic.is_some()
    {
        problems.push(
            field.problem("`basic` writes Authorization already; remove it with `basic = false`"),
        );
    }
    plan
}

fn default_headers() -> Vec<HeaderField> {
    vec![Field {
        name: header::ACCEPT,
        value: Template::literal("application/json"),
        path: "request.headers.Accept".to_owned(),
    }]
}

fn merge_bodies(layers: &[(Kind, Layer)], problems: &mut Vec<Problem>) -> Body {
    let find = |auth: bool| {
        layers
            .iter()
            .position(|(kind, layer)| (*kind == Kind::Auth) == auth && layer.body.is_some())
    };
    let (stated, auth) = match (find(false), find(true)) {
        (Some(stated), Some(auth)) if layers[stated].0 != Kind::Provider => (stated, auth),
        (Some(only), _) | (None, Some(only)) => {
            return layers[only].1.body.clone().unwrap_or_default();
        }
        (None, None) => return Body::Empty,
    };
    let auth_wins = auth < stated;
    match (layers[auth].1.body.clone(), layers[stated].1.body.clone()) {
        (Some(Body::Form(entries)), Some(Body::Form(body))) => {
            Body::Form(join_fields(entries, body, auth_wins))
        }
        (Some(Body::Json(entries)), Some(Body::Json(body))) => {
            Body::Json(join_fields(entries, body, auth_wins))
        }
        (Some(entries), Some(body)) => {
            let message = format!(
                "the auth method's entries are for a {} body, but {} states a {} body",
                entries.kind(),
                body.path(),
                body.kind(),
            );
            problems.push(Problem::new(entries.path(), message));
            body
        }
        (None, _) | (_, None) => Body::Empty,
    }
}

/// Puts the auth method's entries first, as in the vendors' samples; a name in both is sent once.
fn join_fields<V>(
    auth: Vec<Field<String, V>>,
    body: Vec<Field<String, V>>,
    auth_wins: bool,
) -> Vec<Field<String, V>> {
    let mut joined = auth;
    for field in body {
        match joined.iter_mut().find(|known| known.name == field.name) {
            Some(known) if !auth_wins => *known = field,
            Some(_) => {}
            None => joined.push(field),
        }
    }
    joined
}

impl Body {
    fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "no",
            Self::Form(_) => "form",
            Self::Json(_) => "JSON",
            Self::Raw(_) => "raw",
        }
    }

    /// Path of the body's table: `grants.sms.form`.
    fn path(&self) -> &str {
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
            Some(text) => template(text, &path, Place::Exchange, problems),
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
    problems: &mut Vec<Problem>,
) -> Option<Field<(), Template>> {
    let at = join(path, "path");
    let text = toml.path.as_deref()?;
    if !text.starts_with('/') || text.starts_with("//") || text.contains('#') {
        problems.push(Problem::new(at, "must be a path: /like/this"));
        return None;
    }
    field(text, at, Place::Exchange, problems)
}

fn parse_body(toml: &RequestToml, path: &str, problems: &mut Vec<Problem>) -> Option<Body> {
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
    let form = (toml.form.as_ref())
        .map(|table| text_fields(table, &join(path, "form"), Place::Exchange, problems));
    let json = (toml.json.as_ref()).map(|table| json_fields(table, &join(path, "json"), problems));
    let raw = (toml.body.as_ref())
        .and_then(|text| field(text, join(path, "body"), Place::Exchange, problems));
    let mut bodies = [
        form.map(Body::Form),
        json.map(Body::Json),
        raw.map(Body::Raw),
    ];
    bodies.iter_mut().find_map(Option::take)
}
