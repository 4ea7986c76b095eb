//! The lenient reader for everything that vendors answer: token endpoints, APIs, device
//! authorization endpoints and issuers' metadata.
//!
//! A body is JSON, a form, or plain text. The body is trusted more than the header fields: vendors
//! send JSON as text/plain, HTML as application/json, gzip although identity was requested, and
//! texts in GBK without saying so.

use std::borrow::Cow;

use http::{HeaderMap, header};
use serde::de::IgnoredAny;
use serde_json::Value as JsonValue;

use super::decode::{decompressed, texts};

/// Limit of a token endpoint's answer in bytes, decompressed.
const TOKEN_ANSWER: usize = 1024 * 1024;

/// Limit of an API's answer that is inspected in bytes, decompressed.
const API_ANSWER: usize = 64 * 1024;

pub(super) struct Document {
    /// An object or array; a form becomes a flat object.
    pub(super) json: Option<JsonValue>,
    /// Without a byte order mark and surrounding whitespace. Empty if the body is too large.
    pub(super) text: String,
    /// Whether raw line breaks were dropped from JSON strings.
    pub(super) mended: bool,
    /// Whether the decompressed body is longer than the limit.
    pub(super) too_large: bool,
}

impl Document {
    /// Reads a token endpoint's answer. A form is recognized by the key `token_key`.
    pub(super) fn read(body: &[u8], headers: &HeaderMap, token_key: Option<&str>) -> Self {
        Self::read_up_to(TOKEN_ANSWER, body, headers, token_key)
    }

    /// Reads an API's answer.
    pub(super) fn read_api(body: &[u8], headers: &HeaderMap) -> Self {
        Self::read_up_to(API_ANSWER, body, headers, None)
    }

    fn read_up_to(limit: usize, body: &[u8], headers: &HeaderMap, token_key: Option<&str>) -> Self {
        let decompressed = decompressed(body, headers, limit);
        let too_large = decompressed.is_none();
        let body = decompressed.unwrap_or_default();
        let (text, json) = read_json(&body, headers);
        let (json, mended) = match json {
            Some((json, mended)) => (Some(json), mended),
            None => (read_form(&text, headers, token_key), false),
        };
        Self {
            json,
            text,
            mended,
            too_large,
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

/// Returns the text in the first charset in which it is JSON, or else in the likeliest charset.
fn read_json(body: &[u8], headers: &HeaderMap) -> (String, Option<(JsonValue, bool)>) {
    let trimmed = |text: Cow<'_, str>| -> String {
        let outside = |c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '\0');
        text.trim_matches(outside).to_owned()
    };
    let mut likeliest = None;
    for text in texts(body, headers).map(trimmed) {
        if let Some(json) = parse_json(&text) {
            return (text, Some(json));
        }
        likeliest.get_or_insert(text);
    }
    (likeliest.unwrap_or_default(), None)
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
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
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
    fn a_charset_that_is_not_stated_does_not_hide_the_code() {
        // GBK, Latin-1 before a quotation mark and an escape, and GBK with `\\` as a trail byte.
        for message in [
            &b"\xd3\xc3"[..],
            b"\xe9",
            b"\xe9\\\"",
            b"\xd5\x5c",
            b"\x95\x5c\xff",
        ] {
            let body = [b"{\"error\":\"bad\",\"message\":\"", message, b"\"}"].concat();
            for content_type in ["application/json", "text/plain; charset=utf-8"] {
                let json = read(&body, content_type).json;
                assert_eq!(json.unwrap()["error"], "bad", "{message:?}");
            }
        }
        let gbk = b"{\"message\":\"\xb9\xfd\xc6\xda\"}";
        let json = read(gbk, "text/plain").json.unwrap();
        assert_eq!(json["message"], "\u{8fc7}\u{671f}");
    }

    #[test]
    fn an_api_answer_that_decompresses_to_more_than_64_kib_is_not_read() {
        let gzip = |length: usize| {
            let body = format!("{{\"a\":\"{}\"}}", "x".repeat(length));
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(body.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let headers = HeaderMap::new();
        assert!(
            Document::read_api(&gzip(60 * 1024), &headers)
                .json
                .is_some()
        );
        let large = Document::read_api(&gzip(65 * 1024), &headers);
        assert!(large.too_large && large.json.is_none() && large.text.is_empty());
        let token = Document::read(&gzip(65 * 1024), &headers, None);
        assert!(token.json.is_some() && !token.too_large);
    }

    proptest! {
        #[test]
        fn any_body_is_read(body: Vec<u8>, content_type in "[ -~]{0,40}") {
            let document = read(&body, &content_type);
            prop_assert!(document.json.is_none() || !document.too_large);
        }

        #[test]
        fn json_is_read_in_every_charset_that_can_hold_it(
            text in "[a-z\u{4e00}-\u{9fa5}\\\\\"]{0,20}",
            charset in "gb18030|utf-8|utf-16le|utf-16be",
        ) {
            let json = json!({ "text": text }).to_string();
            let body: Vec<u8> = match &*charset {
                "utf-16le" => json.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                "utf-16be" => json.encode_utf16().flat_map(u16::to_be_bytes).collect(),
                label => {
                    let encoding = encoding_rs::Encoding::for_label(label.as_bytes());
                    encoding.unwrap().encode(&json).0.into_owned()
                }
            };
            let stated = format!("text/plain; charset={charset}");
            for content_type in [&*stated, "text/plain"] {
                // Without a charset, GB18030 that is valid UTF-8 reads as UTF-8.
                if content_type == stated || std::str::from_utf8(&body).is_err() {
                    let read = read(&body, content_type).json.unwrap();
                    prop_assert_eq!(&read["text"], &json!(text));
                }
            }
        }

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
