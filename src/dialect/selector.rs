//! Selectors of values in an answer: `/json/pointer`, `header:Name`, `body`, `jwt:exp`,
//! `re:…(group)…`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName};
use regex_lite::Regex;
use serde_json::Value as JsonValue;

use super::document::Document;

/// One selector with its text for messages.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    source: String,
    target: Target,
}

#[derive(Clone, Debug)]
enum Target {
    /// RFC 6901.
    Pointer,
    Header(HeaderName),
    Body,
    /// `exp` of the token itself, read as a JWT (RFC 7519) without verifying it.
    JwtExp,
    Regex(Regex),
}

impl PartialEq for Selector {
    /// Compares the texts: a compiled pattern has no equality.
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Selector {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Ok(Self {
            source: text.to_owned(),
            target: parse_target(text)?,
        })
    }

    /// Like [`Self::parse`], but refuses everything except JSON pointers.
    pub(super) fn parse_pointer(text: &str) -> Result<Self, String> {
        let selector = Self::parse(text)?;
        match selector.target {
            Target::Pointer => Ok(selector),
            _ => Err("must be a JSON pointer: /like/this".to_owned()),
        }
    }

    pub(super) fn is_jwt_exp(&self) -> bool {
        matches!(self.target, Target::JwtExp)
    }

    /// The value as text; `None` for absent, null, "", objects and arrays.
    pub(super) fn text(&self, headers: &HeaderMap, document: &Document) -> Option<String> {
        let text = match &self.target {
            Target::Pointer => return scalar_text(document.json.as_ref()?.pointer(&self.source)?),
            Target::Header(name) => headers.get(name)?.to_str().ok()?.trim().to_owned(),
            Target::Body => document.bare_text()?,
            Target::JwtExp => return None,
            Target::Regex(regex) => regex.captures(&document.text)?.get(1)?.as_str().to_owned(),
        };
        (!text.is_empty()).then_some(text)
    }

    /// Like [`Self::text`], but an object or array counts, too: for `ok`, it is no success.
    pub(super) fn found(&self, headers: &HeaderMap, document: &Document) -> Option<String> {
        if let Target::Pointer = self.target {
            return match document.json.as_ref()?.pointer(&self.source)? {
                value @ (JsonValue::Array(_) | JsonValue::Object(_)) => Some(value.to_string()),
                value => scalar_text(value),
            };
        }
        self.text(headers, document)
    }

    /// A pointer's value in a JSON body.
    pub(super) fn in_json(&self, body: &JsonValue) -> Option<String> {
        scalar_text(body.pointer(&self.source)?)
    }

    /// A pointer's first key, by which a form-encoded answer is recognized.
    pub(super) fn first_key(&self) -> Option<&str> {
        match self.target {
            Target::Pointer => self.source[1..].split('/').next(),
            _ => None,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// `exp` of a JWT's payload in Unix seconds. The signature is not verified: only the API can.
pub(super) fn jwt_exp(token: &str) -> Option<f64> {
    let payload = token.split('.').nth(1)?.trim_end_matches('=');
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let payload: JsonValue = serde_json::from_slice(&payload).ok()?;
    payload.get("exp")?.as_f64()
}

/// A scalar as text, numbers as TOML writes them: 200.0 becomes 200.
pub(super) fn scalar_text(value: &JsonValue) -> Option<String> {
    match value {
        JsonValue::String(text) => (!text.is_empty()).then(|| text.clone()),
        JsonValue::Number(number) => Some(match (number.as_i64(), number.as_f64()) {
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < 1e15 => {
                format!("{float:.0}")
            }
            _ => number.to_string(),
        }),
        JsonValue::Bool(truth) => Some(truth.to_string()),
        JsonValue::Null | JsonValue::Array(_) | JsonValue::Object(_) => None,
    }
}

fn parse_target(text: &str) -> Result<Target, String> {
    if text.starts_with('/') {
        // RFC 6901 §3: `~` without 0 or 1 is no pointer.
        let mut escapes = text.split('~').skip(1);
        return match escapes.all(|rest| rest.starts_with(['0', '1'])) {
            true => Ok(Target::Pointer),
            false => Err("in a JSON pointer, `~` is written ~0 and a `/` in a name ~1".to_owned()),
        };
    }
    if let Some(name) = text.strip_prefix("header:") {
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map(Target::Header);
        return name.map_err(|_| "not a header name after `header:`".to_owned());
    }
    if let Some(pattern) = text.strip_prefix("re:") {
        let regex = Regex::new(pattern).map_err(|_| "not a regular expression after `re:`")?;
        if regex.captures_len() != 2 {
            return Err("`re:` needs exactly one (group)".to_owned());
        }
        return Ok(Target::Regex(regex));
    }
    match text {
        "body" => Ok(Target::Body),
        "jwt:exp" => Ok(Target::JwtExp),
        _ => Err(
            "a selector is /json/pointer, header:Name, body, jwt:exp or re:…(group)…".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(selector: &str, body: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("x-subject-token", "tok".parse().unwrap());
        let document = Document::read(body.as_bytes(), &headers, None);
        Selector::parse(selector).unwrap().text(&headers, &document)
    }

    #[test]
    fn selectors_find_scalars() {
        let json = r#"{"a":{"b":["x",{"c/d":1.0}]},"e":"","n":null,"t":true,"f":1.5,"big":1e300}"#;
        for (selector, body, expected) in [
            ("/a/b/0", json, Some("x")),
            ("/a/b/1/c~1d", json, Some("1")),
            ("/~01", r#"{"~1":"x"}"#, Some("x")),
            ("/a/b", json, None),
            ("/e", json, None),
            ("/n", json, None),
            ("/t", json, Some("true")),
            ("/f", json, Some("1.5")),
            ("/nope/x", json, None),
            ("header:X-Subject-Token", "", Some("tok")),
            ("header:X-Other", "", None),
            ("body", " tok\r\n", Some("tok")),
            ("body", "\"quoted\"", Some("quoted")),
            ("body", r#"{"error":"x"}"#, None),
            ("body", "<html>no</html>", None),
            ("re:<t>([^<]+)</t>", "<x><t>tok</t></x>", Some("tok")),
            ("re:<t>([^<]+)</t>", "<x/>", None),
        ] {
            assert_eq!(
                select(selector, body).as_deref(),
                expected,
                "{selector} in {body}"
            );
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for selector in [
            "",
            "token",
            "header:",
            "header:a b",
            "re:x",
            "re:(",
            "re:(a)(b)",
            "jwt:iat",
            "/a~",
            "/a~/b",
            "/a~2b",
            "/~01~",
        ] {
            assert!(Selector::parse(selector).is_err(), "{selector}");
        }
        assert!(Selector::parse_pointer("body").is_err());
    }

    #[test]
    fn jwt_exp_is_read_without_a_signature() {
        // {"alg":"none"} . {"exp":1570536216}
        assert_eq!(
            jwt_exp("eyJhbGciOiJub25lIn0.eyJleHAiOjE1NzA1MzYyMTZ9."),
            Some(1_570_536_216.0)
        );
        // Padding, which RFC 7515 forbids, is accepted.
        assert_eq!(jwt_exp("e30.eyJleHAiOjEyfQ==."), Some(12.0));
        for token in ["", "a", "a.b", "a.!!.c", "eyJ9.e30.x"] {
            assert_eq!(jwt_exp(token), None, "{token}");
        }
    }
}
