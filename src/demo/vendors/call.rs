//! A token request as a vendor checks it, and the response.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, PRAGMA, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

pub(super) struct Call {
    pub(super) parts: Parts,
    pub(super) body: Bytes,
}

/// A token request that the vendor grants.
pub(super) struct Grant {
    pub(super) name: String,
    pub(super) refresh_token: Option<String>,
    pub(super) id_token: bool,
}

/// A refused request: the response for the client, and the exact reason for testers.
pub(super) struct Refusal {
    pub(super) reply: Reply,
    pub(super) reason: String,
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

/// Decoded fields of a form or query. Each is taken once; fields left over are an error.
pub(super) struct Fields(BTreeMap<String, String>);

impl Call {
    /// Checks for a POST to `path` without a query and with a body of known length.
    pub(super) fn is_post(&self, path: &str) -> Result<(), String> {
        self.is(&Method::POST, path)?;
        if self.parts.uri.query().is_some() {
            return Err("a query on the token URL".to_owned());
        }
        // Some vendors' servers respond with 411.
        if self.parts.headers.contains_key(TRANSFER_ENCODING) {
            return Err("a chunked body instead of Content-Length".to_owned());
        }
        Ok(())
    }

    /// Checks for a GET of `path` without a body.
    pub(super) fn is_get(&self, path: &str) -> Result<(), String> {
        self.is(&Method::GET, path)?;
        if !self.body.is_empty() || self.parts.headers.contains_key(CONTENT_TYPE) {
            return Err("a body or Content-Type on a GET".to_owned());
        }
        Ok(())
    }

    pub(super) fn accepts_json(&self) -> Result<(), String> {
        match self.single(&ACCEPT)? {
            Some(JSON) => Ok(()),
            Some(_) => Err("Accept is not application/json".to_owned()),
            None => Err("no Accept header".to_owned()),
        }
    }

    pub(super) fn has_no_authorization(&self) -> Result<(), String> {
        if self.parts.headers.contains_key(AUTHORIZATION) {
            return Err("an Authorization header, which this vendor does not know".to_owned());
        }
        Ok(())
    }

    /// Returns user name and password of `Authorization: Basic` as sent; `None` without the header.
    pub(super) fn basic(&self) -> Result<Option<(String, String)>, String> {
        let Some(header) = self.single(&AUTHORIZATION)? else {
            return Ok(None);
        };
        let encoded = header
            .strip_prefix("Basic ")
            .ok_or("Authorization is not Basic")?;
        let decoded = STANDARD
            .decode(encoded)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or("Basic credentials are not base64 of text")?;
        let (user, password) = decoded
            .split_once(':')
            .ok_or("Basic credentials without a colon")?;
        Ok(Some((user.to_owned(), password.to_owned())))
    }

    pub(super) fn form(&self) -> Result<Fields, String> {
        self.has_media_type(FORM)?;
        Fields::parse(&self.body)
    }

    pub(super) fn query(&self) -> Result<Fields, String> {
        Fields::parse(self.parts.uri.query().unwrap_or_default().as_bytes())
    }

    pub(super) fn json(&self) -> Result<serde_json::Map<String, Value>, String> {
        self.has_media_type(JSON)?;
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(fields)) => Ok(fields),
            Ok(_) => Err("the body is JSON but no object".to_owned()),
            Err(_) => Err("the body is no JSON".to_owned()),
        }
    }

    fn is(&self, wanted: &Method, path: &str) -> Result<(), String> {
        let Parts { method, uri, .. } = &self.parts;
        if method != wanted {
            return Err(format!("{method} instead of {wanted}"));
        }
        if uri.path() != path {
            return Err(format!("path {} instead of {path}", uri.path()));
        }
        Ok(())
    }

    fn has_media_type(&self, wanted: &str) -> Result<(), String> {
        let given = self.single(&CONTENT_TYPE)?.unwrap_or_default();
        let media_type = given.split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case(wanted) {
            return Ok(());
        }
        Err(format!(
            "Content-Type is '{media_type}' instead of {wanted}"
        ))
    }

    fn single(&self, name: &HeaderName) -> Result<Option<&str>, String> {
        let mut values = self.parts.headers.get_all(name).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(format!("more than one {name} header"));
        }
        value
            .to_str()
            .map(Some)
            .map_err(|_| format!("the {name} header is not ASCII"))
    }
}

impl Grant {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            refresh_token: None,
            id_token: false,
        }
    }
}

impl Refusal {
    pub(super) fn new(reply: Reply, reason: String) -> Self {
        Self { reply, reason }
    }
}

impl Reply {
    pub(super) fn new(
        status: StatusCode,
        media_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Self {
        Self {
            status,
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static(media_type))],
            body: body.into(),
        }
    }

    pub(super) fn json(status: StatusCode, body: &Value) -> Self {
        Self::new(status, JSON, body.to_string())
    }

    pub(super) fn text(status: StatusCode, body: &'static str) -> Self {
        Self::new(status, "text/plain", body)
    }

    #[must_use]
    pub(super) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// Forbids caching, as RFC 6749 §5.1 requires for responses with a token.
    #[must_use]
    pub(super) fn uncached(self) -> Self {
        self.with(CACHE_CONTROL, "no-store")
            .with(PRAGMA, "no-cache")
    }
}

impl Fields {
    fn parse(text: &[u8]) -> Result<Self, String> {
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(text) {
            if fields.contains_key(&*name) {
                return Err(format!("field {name} is given twice"));
            }
            fields.insert(name.into_owned(), value.into_owned());
        }
        Ok(Self(fields))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Takes a field that must be present and not empty.
    pub(super) fn need(&mut self, name: &str) -> Result<String, String> {
        match self.take(name) {
            Some(value) if !value.is_empty() => Ok(value),
            Some(_) => Err(format!("field {name} is empty")),
            None => Err(format!("field {name} is missing")),
        }
    }

    /// Refuses fields left over, as a strictly validating vendor does.
    pub(super) fn finish(self) -> Result<(), String> {
        match self.0.into_keys().next() {
            Some(name) => Err(format!("field {name} is not in the document")),
            None => Ok(()),
        }
    }
}

/// Checks a credential.
pub(super) fn matches(what: &str, given: &str, wanted: &str) -> Result<(), String> {
    if given == wanted {
        return Ok(());
    }
    // Lengths hint at a missing transformation; the values stay out of the log.
    Err(format!(
        "{what} is wrong ({} characters instead of {})",
        given.chars().count(),
        wanted.chars().count()
    ))
}
