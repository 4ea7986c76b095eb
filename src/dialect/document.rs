//! An answer's body as JSON, a form, or plain text.

use http::{HeaderMap, header};
use serde::de::IgnoredAny;
use serde_json::Value as JsonValue;

pub(super) struct Document {
    /// An object or array; a form becomes a flat object.
    pub(super) json: Option<JsonValue>,
    pub(super) text: String,
    /// Whether raw line breaks were dropped from JSON strings.
    pub(super) mended: bool,
}

impl Document {
    /// Trusts the body more than `Content-Type`: vendors send JSON as text/plain and HTML as
    /// application/json. A form is recognized by the key `token_key`.
    pub(super) fn read(body: &[u8], headers: &HeaderMap, token_key: Option<&str>) -> Self {
        // Some vendors' error texts are GBK: the text is lost, but the code survives.
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        let (json, mended) = match parse_json(text) {
            Some((json, mended)) => (Some(json), mended),
            None => (read_form(text, headers, token_key), false),
        };
        Self {
            json,
            text: text.to_owned(),
            mended,
        }
    }

    /// Whether the body is JSON of any kind, including a bare `null` or number.
    pub(super) fn is_json(&self) -> bool {
        self.json.is_some() || serde_json::from_str::<IgnoredAny>(&self.text).is_ok()
    }

    /// The body as a bare value; `None` for JSON objects, arrays and `null`, HTML and XML.
    pub(super) fn bare_text(&self) -> Option<String> {
        if self.json.is_some() || self.text.starts_with('<') || self.text == "null" {
            return None;
        }
        let quoted = serde_json::from_str::<String>(&self.text);
        Some(quoted.unwrap_or_else(|_| self.text.clone()))
    }

    /// The names of the top-level members.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let object = self.json.as_ref().and_then(JsonValue::as_object);
        object
            .into_iter()
            .flat_map(|object| object.keys().map(String::as_str))
    }
}

/// Parses an object or array, if need be with [line breaks](drop_line_breaks_in_strings) mended.
/// Returns whether line breaks were mended.
fn parse_json(text: &str) -> Option<(JsonValue, bool)> {
    if !text.starts_with(['{', '[']) {
        return None;
    }
    if let Ok(json) = serde_json::from_str(text) {
        return Some((json, false));
    }
    let mended = drop_line_breaks_in_strings(text);
    Some((serde_json::from_str(&mended).ok()?, true))
}

/// Drops CR, LF and the indentation after them inside strings, where RFC 8259 §7 forbids them: a
/// vendor's documented sample breaks its tokens over lines.
fn drop_line_breaks_in_strings(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let (mut in_string, mut escaped, mut after_break) = (false, false, false);
    for c in text.chars() {
        if in_string && matches!(c, '\r' | '\n') {
            after_break = true;
            continue;
        }
        if after_break && matches!(c, ' ' | '\t') {
            continue;
        }
        after_break = false;
        in_string ^= c == '"' && !escaped;
        escaped = in_string && c == '\\' && !escaped;
        kept.push(c);
    }
    kept
}

fn read_form(text: &str, headers: &HeaderMap, token_key: Option<&str>) -> Option<JsonValue> {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let says_form = content_type.is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    let looks_like_form = || {
        !text.contains(char::is_whitespace)
            && (text.split('&').filter_map(|pair| pair.split_once('=')))
                .any(|(name, _)| Some(name) == token_key || name == "error")
    };
    // A trailing `=` may be the padding of a base64 token.
    if !text.trim_end_matches('=').contains('=')
        || text.starts_with('<')
        || !(says_form || looks_like_form())
    {
        return None;
    }
    let pairs = form_urlencoded::parse(text.as_bytes());
    let object = pairs.map(|(name, value)| (name.into_owned(), value.into_owned().into()));
    Some(JsonValue::Object(object.collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(body: &[u8], content_type: &str) -> Document {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        Document::read(body, &headers, Some("access_token"))
    }

    #[test]
    fn the_body_overrides_the_content_type() {
        for (body, content_type, json) in [
            (r#"{"a":1}"#, "text/plain", Some(json!({"a": 1}))),
            (
                "\u{feff} {\"a\":1}\r\n",
                "application/json",
                Some(json!({"a": 1})),
            ),
            ("<html>", "application/json", None),
            ("", "application/json", None),
            ("{\"a\":", "application/json", None),
            ("7", "application/json", None),
            (
                "access_token=a%20b&scope=x+y",
                "text/plain",
                Some(json!({"access_token": "a b", "scope": "x y"})),
            ),
            ("error=bad", "text/html", Some(json!({"error": "bad"}))),
            (
                "t=1",
                "application/x-www-form-urlencoded; charset=utf-8",
                Some(json!({"t": "1"})),
            ),
            ("t=1", "text/plain", None),
            ("dG9rZW4=", "application/x-www-form-urlencoded", None),
            ("dG9rZQ==", "application/x-www-form-urlencoded", None),
            (
                "t=1=",
                "application/x-www-form-urlencoded",
                Some(json!({"t": "1="})),
            ),
            ("please send access_token=1", "text/plain", None),
        ] {
            assert_eq!(read(body.as_bytes(), content_type).json, json, "{body}");
        }
    }

    #[test]
    fn line_breaks_in_strings_are_mended() {
        for (body, json, mended) in [
            (
                "{\"a\":\"x\r\n   y\",\n \"b\":1}",
                Some(json!({"a": "xy", "b": 1})),
                true,
            ),
            ("{\n \"a\": \"x y\"\n}", Some(json!({"a": "x y"})), false),
            ("{\"a\":\"q\\\"\n\tr\"}", Some(json!({"a": "q\"r"})), true),
            ("{\"a\":\"q\\\\\"\n}", Some(json!({"a": "q\\"})), false),
            ("{\"a\":\"tab\tis not a break\"}", None, false),
        ] {
            let document = read(body.as_bytes(), "application/json");
            assert_eq!((document.json, document.mended), (json, mended), "{body}");
        }
    }

    #[test]
    fn invalid_utf8_does_not_hide_the_code() {
        let document = read(
            b"{\"error\":\"bad\",\"message\":\"\xd3\xc3\"}",
            "application/json",
        );
        assert_eq!(document.json.unwrap()["error"], "bad");
    }

    proptest! {
        #[test]
        fn mending_never_panics(text in any::<String>()) {
            let _ = parse_json(&text);
        }

        #[test]
        fn mending_never_panics_near_json(text in "[{\\[][\"\\\\\r\n\t :,a测{}\\[\\]]{0,32}") {
            let _ = parse_json(&text);
        }

        #[test]
        fn valid_json_is_not_changed(text in any::<String>()) {
            let json = json!({ "text": text });
            prop_assert_eq!(parse_json(&json.to_string()), Some((json.clone(), false)));
            let pretty = serde_json::to_string_pretty(&json).unwrap();
            prop_assert_eq!(parse_json(&pretty), Some((json, false)));
        }
    }
}
