//! A token request: the merged tables, filled in.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as JsonValue;
use zeroize::Zeroizing;

use super::computed::Values;
use super::json::{json_object, json_scalar, wipe};
use super::layer::{Basic, Body, Field, HeaderField, TextField, join};
use super::schema::Encoding;
use super::template::{Scope, Template};
use super::{Frozen, Problem, RequestPlan, TokenRequest, Variables};
use crate::secret::Secret;

/// Everything but the unreserved characters of RFC 3986 §2.3.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

const FORM_TYPE: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON_TYPE: HeaderValue = HeaderValue::from_static("application/json");
const TEXT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

impl RequestPlan {
    /// Fills the templates in. Fails on a missing variable, or a value that cannot stand where it is put
    /// (a line break in a header); the problem names the place and the variable, never the value.
    pub fn render(&self, variables: &Variables, frozen: &Frozen) -> Result<TokenRequest, Problem> {
        let values = self.computed.values(scope(variables, frozen, None))?;
        let scope = scope(variables, frozen, Some(&values));
        let mut headers = HeaderMap::new();
        for field in &self.headers {
            if let Some(text) = field.fill(scope)? {
                headers.insert(field.name.clone(), header_value(field, &text)?);
            }
        }
        if let Some(basic) = &self.basic {
            headers.insert(header::AUTHORIZATION, basic.render(scope)?);
        }
        if let Some(content_type) = self.content_type()
            && !headers.contains_key(header::CONTENT_TYPE)
        {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        Ok(TokenRequest {
            method: self.method.clone(),
            path: self
                .path
                .as_ref()
                .map(|path| render_path(path, scope))
                .transpose()?,
            query: render_query(&self.query, scope)?,
            headers,
            body: self.body.render(scope)?,
        })
    }

    /// For `check --online`: method, header names and body with every variable's value masked.
    pub fn redacted(&self, variables: &Variables, frozen: &Frozen) -> Result<String, Problem> {
        let values = self.computed.values(scope(variables, frozen, None))?;
        let scope = scope(variables, frozen, Some(&values));
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
            let content_type = String::from_utf8_lossy(content_type.as_bytes()).into_owned();
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

    /// What filters make of the variables (a digest of the secret, say): to be masked like the secrets
    /// themselves wherever a vendor echoes it.
    pub fn derived_secrets(&self, variables: &Variables, frozen: &Frozen) -> Vec<Secret> {
        // What cannot be made is not sent, and so not echoed.
        let values = self.computed.values(scope(variables, frozen, None));
        let values = values.unwrap_or_default();
        let scope = scope(variables, frozen, Some(&values));
        let mut secrets = Vec::new();
        for template in self.templates() {
            template.derived(scope, &mut secrets);
        }
        let computed = self.computed.made_of_variables();
        secrets.extend(
            computed
                .filter_map(|name| values.get(name))
                .map(|value| Secret::new(value.text().as_str())),
        );
        secrets
    }

    /// The variables that it is made of, and whether it cannot be made without them.
    pub(super) fn needs(&self, given: &dyn Fn(&str) -> bool) -> BTreeMap<&str, bool> {
        self.computed.needs(&self.templates(), given)
    }

    /// Every template that a request is made from.
    pub(super) fn templates(&self) -> Vec<&Template> {
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
                for field in fields {
                    field.value.templates(&mut templates);
                }
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
            let text = template
                .fill(scope)
                .map_err(|message| self.problem(name, message))?;
            Ok(text.unwrap_or_default())
        };
        let username = part("username", &self.username)?;
        let password = part("password", &self.password)?;
        let pair = match self.encoding {
            Encoding::Raw if username.contains(':') => {
                let message = "a colon cannot stand in the user name (RFC 7617); \
                               use `encoding = \"form\"` if the vendor decodes it";
                return Err(self.problem("username", message.to_owned()));
            }
            Encoding::Raw => format!("{}:{}", *username, *password),
            Encoding::Form => format!("{}:{}", *form_encode(&username), *form_encode(&password)),
        };
        let pair = Zeroizing::new(pair);
        let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut value = HeaderValue::from_str(&text).expect("base64 can stand in a header");
        value.set_sensitive(true);
        Ok(value)
    }

    fn redacted(&self, scope: Scope<'_>) -> Result<(String, String), Problem> {
        let part = |name: &str, template: &Template| {
            let text = template.redacted(scope);
            let text = text.map_err(|message| self.problem(name, message))?;
            Ok(text.unwrap_or_default())
        };
        Ok((
            part("username", &self.username)?,
            part("password", &self.password)?,
        ))
    }

    fn problem(&self, name: &str, message: String) -> Problem {
        Problem {
            path: join(&self.path, name),
            message,
        }
    }
}

impl<N> Field<N, Template> {
    pub(super) fn fill(&self, scope: Scope<'_>) -> Result<Option<Zeroizing<String>>, Problem> {
        self.value
            .fill(scope)
            .map_err(|message| self.problem(message))
    }

    fn redacted(&self, scope: Scope<'_>) -> Result<Option<String>, Problem> {
        self.value
            .redacted(scope)
            .map_err(|message| self.problem(message))
    }
}

impl<N, V> Field<N, V> {
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            path: self.path.clone(),
            message: message.into(),
        }
    }
}

fn header_value(field: &HeaderField, text: &str) -> Result<HeaderValue, Problem> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| field.problem(cannot_stand_in_a_header(&field.value)))?;
    value.set_sensitive(field.value.has_holes());
    Ok(value)
}

/// Names the variables, one of which must be at fault.
pub(super) fn cannot_stand_in_a_header(template: &Template) -> String {
    let names: Vec<_> = template
        .variables()
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    format!(
        "{} holds a character that cannot stand in a header",
        names.join(" or ")
    )
}

fn render_query(
    fields: &[TextField],
    scope: Scope<'_>,
) -> Result<Option<Zeroizing<String>>, Problem> {
    let mut query = Zeroizing::new(String::new());
    for field in fields {
        if let Some(value) = field.fill(scope)? {
            push_query_pair(&mut query, &field.name, &value);
        }
    }
    Ok((!query.is_empty()).then_some(query))
}

/// What a value keeps in a path, or in a host: as in a query, and the colon before a port (RFC 3986 §3.3).
const SEGMENT: &AsciiSet = &QUERY.remove(b':');

/// Of a URL's path. One that would climb out of its place is refused.
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

pub(super) fn push_query_pair(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    query.extend(utf8_percent_encode(name, QUERY));
    query.push('=');
    query.extend(utf8_percent_encode(value, QUERY));
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

fn scope<'a>(
    variables: &'a Variables,
    frozen: &'a Frozen,
    computed: Option<&'a Values>,
) -> Scope<'a> {
    Scope {
        variables,
        frozen: Some(frozen),
        access_token: None,
        computed,
    }
}
