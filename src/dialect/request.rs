//! Merging the tables of a token request, and filling the request in.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde_json::Value as JsonValue;
use zeroize::Zeroizing;

use super::computed::{Computed, Recipe, Recipes};
use super::field::{Field, HeaderField, Problem, TextField, join};
use super::filter::RESERVED;
use super::json::{json_object, json_scalar};
use super::layer::{Basic, Body, Kind, Layer};
use super::schema::Encoding;
use super::template::{Place, Scope, Template};
use super::value::{Frozen, Variables, wipe};
use crate::secret::Secret;

const FORM_TYPE: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON_TYPE: HeaderValue = HeaderValue::from_static("application/json");
const TEXT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A token request before its variables are known.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestPlan {
    method: Method,
    /// Replaces the URL's path and query.
    path: Option<Field<(), Template>>,
    basic: Option<Basic>,
    query: Vec<TextField>,
    headers: Vec<HeaderField>,
    body: Body,
    pub(super) computed: Computed,
}

/// A token request, ready to be sent to the provider's `token_url`.
pub struct TokenRequest {
    pub method: Method,
    /// Percent-encoded path and query that replace those of `token_url`.
    pub path: Option<Zeroizing<String>>,
    /// Percent-encoded query to append to that of `token_url`.
    pub query: Option<Zeroizing<String>>,
    /// `Accept`, `Content-Type`, `Authorization`, … without `Host` and framing fields. Credentials
    /// are marked sensitive.
    pub headers: HeaderMap,
    /// Empty for requests without a body; the exchange then sends `Content-Length: 0` for a POST.
    pub body: Zeroizing<Vec<u8>>,
}

impl RequestPlan {
    /// Merges request tables; earlier layers win.
    pub(super) fn merge(layers: &[(Kind, Layer)], problems: &mut Vec<Problem>) -> Self {
        fn first<T: Clone>(layers: &[(Kind, Layer)], get: fn(&Layer) -> &Option<T>) -> Option<T> {
            layers.iter().find_map(|(_, layer)| get(layer).clone())
        }
        let plan = Self {
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
                field.problem(
                    "`basic` writes Authorization already; remove it with `basic = false`",
                ),
            );
        }
        plan
    }

    /// Adds the recipes of the computed variables that the templates use.
    pub(super) fn with_recipes(
        mut self,
        recipes: &Recipes,
        place: Place,
        problems: &mut Vec<Problem>,
    ) -> Self {
        self.computed = recipes.for_templates(self.templates(), place, problems);
        self
    }

    /// Fills the templates in.
    ///
    /// Fails on a missing variable or an unsendable value (a line break in a header); the problem
    /// names the path and the variable, never the value.
    pub fn render(&self, variables: &Variables, frozen: &Frozen) -> Result<TokenRequest, Problem> {
        let scope = Scope::of_request(variables, frozen);
        let values = self.computed.values(scope)?;
        let scope = scope.with(&values);
        let mut headers = HeaderMap::new();
        for field in &self.headers {
            if let Some(text) = field.fill(scope)? {
                let value = header_value(field, &text, field.value.has_placeholders())?;
                headers.insert(field.name.clone(), value);
            }
        }
        if let Some(basic) = &self.basic {
            headers.insert(header::AUTHORIZATION, basic.render(scope)?);
        }
        if let Some(content_type) = self.content_type() {
            headers.entry(header::CONTENT_TYPE).or_insert(content_type);
        }
        let path = self.path.as_ref().map(|path| render_path(path, scope));
        let query = render_query(&self.query, scope)?;
        Ok(TokenRequest {
            method: self.method.clone(),
            path: path.transpose()?,
            query: (!query.is_empty()).then_some(query),
            headers,
            body: self.body.render(scope)?,
        })
    }

    /// The request for `check --online`, with `<name>` in place of each value.
    pub fn redacted(&self, variables: &Variables, frozen: &Frozen) -> Result<String, Problem> {
        let scope = Scope::of_request(variables, frozen);
        let values = self.computed.values(scope)?;
        let scope = scope.with(&values);
        let mut text = self.method.to_string();
        if let Some(path) = &self.path {
            text.push_str(&format!(" {}", path.redacted(scope)?.unwrap_or_default()));
        }
        let query = redacted_pairs(&self.query, scope)?;
        if !query.is_empty() {
            text.push_str(&format!(" ?{query}"));
        }
        for field in &self.headers {
            if let Some(value) = field.redacted(scope)? {
                text.push_str(&format!("\n{}: {value}", field.name));
            }
        }
        if let Some(basic) = &self.basic {
            let (username, password) = basic.redacted(scope)?;
            text.push_str(&format!("\nauthorization: Basic {username}:{password}"));
        }
        let names_type = |field: &HeaderField| field.name == header::CONTENT_TYPE;
        if let Some(content_type) = self.content_type()
            && !self.headers.iter().any(names_type)
        {
            let content_type = String::from_utf8_lossy(content_type.as_bytes());
            text.push_str(&format!("\ncontent-type: {content_type}"));
        }
        let body = match &self.body {
            Body::Empty => return Ok(text),
            Body::Form(fields) => redacted_pairs(fields, scope)?,
            Body::Json(fields) => json_object(fields, &|template| {
                Ok(template.redacted(scope)?.map(JsonValue::from))
            })?
            .to_string(),
            Body::Raw(field) => field.redacted(scope)?.unwrap_or_default(),
        };
        text.push_str(&format!("\n\n{body}"));
        Ok(text)
    }

    /// Values derived from the variables (such as a digest of the secret), to be masked in answers
    /// like the secrets themselves.
    pub fn derived_secrets(&self, variables: &Variables, frozen: &Frozen) -> Vec<Secret> {
        // Values that cannot be computed are not sent, and so not echoed.
        let scope = Scope::of_request(variables, frozen);
        let values = self.computed.values(scope).unwrap_or_default();
        let scope = scope.with(&values);
        let mut secrets = Vec::new();
        for template in self.templates() {
            template.derived(scope, &mut secrets);
        }
        let computed = self.computed.made_of_variables();
        let computed = computed.filter_map(|name| values.get(name));
        secrets.extend(computed.map(|value| Secret::new(value.text().as_str())));
        secrets
    }

    /// Variables of the request, each with whether the request requires it.
    pub(super) fn needs(&self, given: &dyn Fn(&str) -> bool) -> BTreeMap<&str, bool> {
        self.computed.needs(&self.templates(), given)
    }

    /// Whether the request sends the current access token, to renew that token.
    pub fn names_access_token(&self) -> bool {
        let computed = self.computed.recipes().flat_map(Recipe::templates);
        let mut all = self.templates().into_iter().chain(computed);
        all.any(Template::names_access_token)
    }

    fn templates(&self) -> Vec<&Template> {
        let mut templates: Vec<_> = self.query.iter().map(|field| &field.value).collect();
        templates.extend(self.headers.iter().map(|field| &field.value));
        templates.extend(self.path.iter().map(|field| &field.value));
        if let Some(basic) = &self.basic {
            templates.extend([&basic.username, &basic.password]);
        }
        match &self.body {
            Body::Empty => {}
            Body::Form(fields) => templates.extend(fields.iter().map(|field| &field.value)),
            Body::Json(fields) => {
                fields
                    .iter()
                    .for_each(|field| field.value.templates(&mut templates));
            }
            Body::Raw(field) => templates.push(&field.value),
        }
        templates
    }

    fn content_type(&self) -> Option<HeaderValue> {
        match &self.body {
            Body::Empty => None,
            Body::Form(_) => Some(FORM_TYPE),
            Body::Json(_) => Some(JSON_TYPE),
            Body::Raw(_) => Some(TEXT_TYPE),
        }
    }
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

/// Puts the auth method's entries first, as in the vendors' samples; a name in both is sent from one
/// of them.
fn join_fields<V>(
    auth: Vec<Field<String, V>>,
    mut body: Vec<Field<String, V>>,
    auth_wins: bool,
) -> Vec<Field<String, V>> {
    if auth_wins {
        body.retain(|field| auth.iter().all(|entry| entry.name != field.name));
    }
    let mut joined = Vec::new();
    for entry in auth {
        let replaced = body.extract_if(.., |field| field.name == entry.name);
        let before = joined.len();
        joined.extend(replaced);
        if joined.len() == before {
            joined.push(entry);
        }
    }
    joined.extend(body);
    joined
}

impl Body {
    fn render(&self, scope: Scope<'_>) -> Result<Zeroizing<Vec<u8>>, Problem> {
        match self {
            Self::Empty => Ok(Zeroizing::default()),
            Self::Form(fields) => render_form(fields, scope),
            Self::Json(fields) => {
                let mut object = json_object(fields, &|template| {
                    Ok(template.fill_typed(scope)?.map(|value| json_scalar(&value)))
                })?;
                let bytes = serde_json::to_vec(&object).expect("a JSON value without odd keys");
                wipe(&mut object);
                Ok(Zeroizing::new(bytes))
            }
            Self::Raw(field) => {
                let text = field.fill(scope)?.unwrap_or_default();
                Ok(Zeroizing::new(text.as_bytes().to_vec()))
            }
        }
    }
}

impl Basic {
    fn render(&self, scope: Scope<'_>) -> Result<HeaderValue, Problem> {
        let part = |name: &str, template: &Template| {
            let text = template.fill(scope);
            Ok(text
                .map_err(|message| self.problem(name, message))?
                .unwrap_or_default())
        };
        let username = part("username", &self.username)?;
        let password = part("password", &self.password)?;
        let pair = match self.encoding {
            Encoding::Raw if username.contains(':') => {
                let message = "a user name cannot contain a colon (RFC 7617); \
                               use `encoding = \"form\"` if the vendor decodes it";
                return Err(self.problem("username", message));
            }
            Encoding::Raw => format!("{}:{}", *username, *password),
            Encoding::Form => format!("{}:{}", *form_encode(&username), *form_encode(&password)),
        };
        let pair = Zeroizing::new(pair);
        let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut value = HeaderValue::from_str(&text).expect("base64 is a valid header value");
        value.set_sensitive(true);
        Ok(value)
    }

    fn redacted(&self, scope: Scope<'_>) -> Result<(String, String), Problem> {
        let part = |name: &str, template: &Template| {
            let text = template.redacted(scope);
            Ok(text
                .map_err(|message| self.problem(name, message))?
                .unwrap_or_default())
        };
        Ok((
            part("username", &self.username)?,
            part("password", &self.password)?,
        ))
    }

    fn problem(&self, name: &str, message: impl Into<String>) -> Problem {
        Problem::new(join(&self.path, name), message)
    }
}

/// The error names the variables, one of which must be at fault.
pub(super) fn header_value(
    field: &HeaderField,
    text: &str,
    sensitive: bool,
) -> Result<HeaderValue, Problem> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        let names = field.value.variables().map(|(name, _)| format!("`{name}`"));
        let names = names.collect::<Vec<_>>().join(" or ");
        field.problem(format!(
            "{names} contains a character that a header cannot carry"
        ))
    })?;
    value.set_sensitive(sensitive);
    Ok(value)
}

/// `name=value&name=value`, percent-encoded.
pub(super) fn render_query(
    fields: &[TextField],
    scope: Scope<'_>,
) -> Result<Zeroizing<String>, Problem> {
    let mut query = Zeroizing::new(String::new());
    for field in fields {
        if let Some(value) = field.fill(scope)? {
            if !query.is_empty() {
                query.push('&');
            }
            query.extend(utf8_percent_encode(&field.name, RESERVED));
            query.push('=');
            query.extend(utf8_percent_encode(&value, RESERVED));
        }
    }
    Ok(query)
}

/// As in a query, except the colon, which a host needs before a port (RFC 3986 §3.3).
const SEGMENT: &AsciiSet = &RESERVED.remove(b':');

/// Percent-encodes a path segment; refuses segments that would change the path's structure.
pub(super) fn encode_segment(text: &str) -> Result<String, String> {
    match text {
        "" | "." | ".." => Err("a part of the path would be empty, `.` or `..`".to_owned()),
        text => Ok(utf8_percent_encode(text, SEGMENT).to_string()),
    }
}

fn render_path(path: &Field<(), Template>, scope: Scope<'_>) -> Result<Zeroizing<String>, Problem> {
    let text = path.value.fill_with(scope, &encode_segment);
    let text = text.map_err(|message| path.problem(message))?;
    text.ok_or_else(|| path.problem("a variable of the path has no value"))
}

fn render_form(fields: &[TextField], scope: Scope<'_>) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut body = Zeroizing::new(Vec::new());
    for field in fields {
        if let Some(value) = field.fill(scope)? {
            if !body.is_empty() {
                body.push(b'&');
            }
            body.extend_from_slice(form_encode(&field.name).as_bytes());
            body.push(b'=');
            body.extend_from_slice(form_encode(&value).as_bytes());
        }
    }
    Ok(body)
}

/// `application/x-www-form-urlencoded` of the WHATWG URL standard: a space is `+`.
fn form_encode(text: &str) -> Zeroizing<String> {
    Zeroizing::new(form_urlencoded::byte_serialize(text.as_bytes()).collect())
}

fn redacted_pairs(fields: &[TextField], scope: Scope<'_>) -> Result<String, Problem> {
    let mut pairs = Vec::new();
    for field in fields {
        if let Some(value) = field.redacted(scope)? {
            pairs.push(format!("{}={value}", field.name));
        }
    }
    Ok(pairs.join("&"))
}
