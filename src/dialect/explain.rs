//! Explaining to the author of a dialect how an answer differs from the dialect's selectors.
//! Explanations contain names and JSON pointers, never values.

use serde_json::Value as JsonValue;

use super::answer::Answer;
use super::redact;
use super::response::{Reading, ResponseRules};
use super::selector::Selector;
use crate::secret::Secret;

/// Shortest text that counts as a token when no name suggests one.
const SHORTEST_TOKEN: usize = 16;

/// JSON pointers that are listed.
const LISTED: usize = 24;

/// Nesting depth down to which values are listed.
const DEPTH: usize = 5;

/// Whether a key's normalized name ([`last_name`]) suggests a kind of value.
type LooksLike = fn(&str) -> bool;

impl ResponseRules {
    /// One line each for the kind of answer, its contents, and every selector that found nothing,
    /// with a proposal. `secrets` are masked in keys.
    pub fn explain(&self, answer: Answer<'_>, secrets: &[&Secret]) -> Vec<String> {
        let content_type = match redact::content_type(answer.headers) {
            Some(content_type) => format!("content type {content_type}"),
            None => "no content type".to_owned(),
        };
        let coding = redact::content_coding(answer.headers)
            .map(|coding| format!(", unrequested content coding {coding}"));
        let status = answer.status.as_u16();
        let coding = coding.unwrap_or_default();
        let mut lines = vec![format!("HTTP {status}, {content_type}{coding}")];
        let mut seen = Seen {
            answer: self.reading(answer, secrets),
            places: Vec::new(),
        };
        match &seen.answer.document.json {
            Some(json) => places_in(json, &mut String::new(), DEPTH, &mut seen.places),
            None if seen.answer.document.text.is_empty() => {
                lines.push("the body is empty".to_owned());
            }
            None => lines.push(format!(
                "the body is neither JSON nor a form, but {} bytes of something else",
                answer.body.len()
            )),
        }
        if !seen.places.is_empty() {
            let shown = seen.places.iter().take(LISTED);
            let shown: Vec<_> = shown
                .map(|place| redact::redact_pointer(place, secrets).0)
                .collect();
            let more = match seen.places.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            lines.push(format!("it has {}{more}", shown.join(", ")));
        }
        seen.explain(&mut lines);
        lines
    }
}

/// An answer and the JSON pointers of its values.
struct Seen<'a> {
    answer: Reading<'a>,
    places: Vec<String>,
}

impl Seen<'_> {
    fn explain(&self, lines: &mut Vec<String>) {
        let rules = self.answer.rules;
        for (selector, values) in &rules.ok {
            if let Some(found) = selector.found(self.answer.headers, &self.answer.document)
                && !values.contains(&found)
            {
                lines.push(format!(
                    "response.ok: the value at {selector} is not one of those that mean success"
                ));
            }
        }
        let is_success = self.answer.status.is_success();
        if is_success {
            let token = self.place(looks_like_token);
            let token = token.or_else(|| self.token_by_value());
            self.explain_miss("token", &rules.token, token, lines);
            let expiry = self.place(looks_like_expiry);
            self.explain_miss("expires", &rules.expires, expiry, lines);
        }
        let code = self.place(looks_like_code);
        let description = self.place(looks_like_description);
        if self.misses(&rules.error)
            && is_success
            && rules.ok.is_empty()
            && let Some(code) = &code
        {
            lines.push(format!(
                "response.ok: missing; if {code} tells success from failure, \
                 write ok = {{ \"{code}\" = [0] }} with its value on success"
            ));
        }
        // A successful answer needs no error fields.
        for (key, selectors, proposal) in [
            ("error", &rules.error, code),
            ("error_description", &rules.error_description, description),
        ] {
            if proposal.is_some() || !is_success && !self.places.is_empty() {
                self.explain_miss(key, selectors, proposal, lines);
            }
        }
    }

    fn misses(&self, selectors: &[Selector]) -> bool {
        !selectors.is_empty()
            && !selectors.iter().any(Selector::is_jwt_exp)
            && self.answer.first(selectors).is_none()
    }

    fn explain_miss(
        &self,
        key: &str,
        selectors: &[Selector],
        proposal: Option<String>,
        lines: &mut Vec<String>,
    ) {
        if !self.misses(selectors) {
            return;
        }
        let looked: Vec<_> = selectors.iter().map(ToString::to_string).collect();
        // A selector that found an empty value or an object is no misspelling: propose nothing.
        let proposal = proposal.filter(|place| !looked.contains(place));
        let proposal = proposal.map(|place| format!("; perhaps {key} = \"{place}\""));
        lines.push(format!(
            "response.{key}: nothing at {}{}",
            looked.join(", "),
            proposal.unwrap_or_default()
        ));
    }

    /// The first place whose name matches and is safe to show in full.
    fn place(&self, looks_like: LooksLike) -> Option<String> {
        let mut places = self
            .places
            .iter()
            .filter(|place| looks_like(&last_name(place)));
        places.find_map(|place| self.shown(place))
    }

    fn shown(&self, place: &str) -> Option<String> {
        let (place, all) = redact::redact_pointer(place, self.answer.secrets);
        all.then_some(place)
    }

    /// Finds a token without the help of JSON keys: in a header field, as the whole body, or as the
    /// longest JSON value that could be one.
    fn token_by_value(&self) -> Option<String> {
        let field = redact::header_names(self.answer.headers)
            .find(|name| looks_like_token(&name.as_str().replace('-', "")));
        if let Some(name) = field {
            return Some(format!("header:{name}"));
        }
        let Some(json) = &self.answer.document.json else {
            let text = self.answer.document.bare_text()?;
            return could_be_token(&text).then(|| "body".to_owned());
        };
        let length = |place: &&String| match json.pointer(place) {
            Some(JsonValue::String(text)) if could_be_token(text) => text.len(),
            _ => 0,
        };
        let is_other = |name: &str| name.contains("refresh") || name.ends_with("id");
        let places = self
            .places
            .iter()
            .filter(|place| !is_other(&last_name(place)));
        let longest = places
            .max_by_key(length)
            .filter(|place| length(place) > 0)?;
        self.shown(longest)
    }
}

/// The pointer's last name, in lower case and without `_` and `-`.
fn last_name(place: &str) -> String {
    let name = place.rsplit('/').next().unwrap_or_default();
    name.to_ascii_lowercase().replace(['_', '-'], "")
}

/// Whether the text is a token68 (RFC 7235) of at least [`SHORTEST_TOKEN`] bytes.
fn could_be_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    text.len() >= SHORTEST_TOKEN && !body.starts_with('/') && body.bytes().all(allowed)
}

/// Collects the JSON pointers (RFC 6901) of every scalar; an array's first item stands for all.
fn places_in(json: &JsonValue, at: &mut String, depth: usize, places: &mut Vec<String>) {
    let mut inside = |name: &str, value: &JsonValue| {
        let length = at.len();
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        match depth {
            0 => places.push(at.clone()),
            _ => places_in(value, at, depth - 1, places),
        }
        at.truncate(length);
    };
    match json {
        JsonValue::Object(object) => object.iter().for_each(|(name, value)| inside(name, value)),
        JsonValue::Array(items) => items.iter().take(1).for_each(|first| inside("0", first)),
        _ if at.is_empty() => {}
        _ => places.push(at.clone()),
    }
}

fn looks_like_token(name: &str) -> bool {
    name.ends_with("token") && !name.contains("refresh") && !name.contains("id")
        || matches!(name, "jwt" | "ticket" | "sessionid")
}

fn looks_like_expiry(name: &str) -> bool {
    let spans = ["expir", "valid", "lifetime", "ttl", "leaseduration"];
    spans.iter().any(|span| name.contains(span)) && !name.contains("refresh")
}

fn looks_like_code(name: &str) -> bool {
    "error errcode errorcode code ret retcode resultcode status subcode"
        .split(' ')
        .any(|known| known == name)
}

fn looks_like_description(name: &str) -> bool {
    "errordescription errormessage errormsg errmsg msg message desc description detail reason"
        .split(' ')
        .any(|known| known == name)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::{HeaderMap, StatusCode, header};
    use proptest::prelude::*;

    use super::*;
    use crate::dialect::schema::ResponseToml;

    fn explain(rules: &str, body: &str) -> Vec<String> {
        let toml: ResponseToml = toml::from_str(rules).unwrap();
        let mut problems = Vec::new();
        let rules = ResponseRules::parse(&toml, &mut problems);
        assert_eq!(problems, []);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "text/json".parse().unwrap());
        let answer = Answer {
            status: StatusCode::OK,
            headers: &headers,
            body: body.as_bytes(),
            now: UNIX_EPOCH,
        };
        rules.explain(answer, &[&"hunter2".into()])
    }

    #[test]
    fn every_missed_selector_gets_a_proposal() {
        let lines = explain(
            "token = '/access_token'\nexpires = '/expires_in'\nok = { '/code' = [0] }",
            concat!(
                r#"{"code":17,"data":{"app-token":"hunter2","expireTime":"hunter2","#,
                r#""a/b":[{"x":1}]},"hunter2":1,"e":[]}"#
            ),
        );
        assert_eq!(
            lines,
            [
                "HTTP 200, content type text/json",
                "it has /code, /data/app-token, /data/expireTime, /data/a~1b/0/x, /[masked]",
                "response.ok: the value at /code is not one of those that mean success",
                "response.token: nothing at /access_token; perhaps token = \"/data/app-token\"",
                "response.expires: nothing at /expires_in; perhaps expires = \"/data/expireTime\"",
                "response.error: nothing at /error; perhaps error = \"/code\"",
            ]
        );
    }

    #[test]
    fn the_longest_token_like_value_is_proposed_if_no_name_fits() {
        let rules = "token = '/t'\nexpires = '/e'";
        let body = concat!(
            r#"{"tkn":"8f3k2jd9x0lq92zz","refresh":"8f3k2jd9x0lq92zz8f3k2jd9x0lq92zz","#,
            r#""link":"https://x.example/a?b","validFor":9}"#
        );
        let lines = explain(rules, body);
        assert_eq!(
            lines[2..],
            [
                "response.token: nothing at /t; perhaps token = \"/tkn\"",
                "response.expires: nothing at /e; perhaps expires = \"/validFor\"",
            ]
        );
        // A truncated answer is no token.
        let lines = explain(rules, "{\"access_token\":\"8f3k2jd9x0lq92zz");
        assert_eq!(lines[2], "response.token: nothing at /t");
    }

    #[test]
    fn a_selector_in_use_is_not_proposed() {
        let body = r#"{"access_token":"","expires_in":null,"error":"","message":""}"#;
        let lines = explain("token = '/access_token'\nexpires = '/expires_in'", body);
        assert_eq!(lines[2], "response.token: nothing at /access_token");
        assert_eq!(lines[3], "response.expires: nothing at /expires_in");
        assert!(!lines.concat().contains("perhaps"), "{lines:?}");
    }

    #[test]
    fn a_code_in_the_body_is_proposed_for_ok_and_error() {
        let lines = explain("token = '/t'", r#"{"errcode":40013,"errmsg":"no"}"#);
        assert_eq!(
            lines[2..],
            [
                "response.token: nothing at /t",
                "response.ok: missing; if /errcode tells success from failure, \
                 write ok = { \"/errcode\" = [0] } with its value on success",
                "response.error: nothing at /error; perhaps error = \"/errcode\"",
                "response.error_description: nothing at /error_description, /message; \
                 perhaps error_description = \"/errmsg\"",
            ]
        );
    }

    #[test]
    fn a_body_that_is_not_json_is_not_quoted() {
        for (body, shown) in [
            ("", "the body is empty"),
            (
                "<html>hunter3</html>",
                "the body is neither JSON nor a form, but 20 bytes of something else",
            ),
        ] {
            let lines = explain("token = '/t'", body);
            assert_eq!(lines[1], shown);
            assert_eq!(lines[2], "response.token: nothing at /t");
            assert!(!lines.concat().contains("hunter"));
        }
    }

    #[test]
    fn very_deep_and_very_wide_answers_are_cut() {
        let deep = format!("{}1{}", "{\"a\":".repeat(60), "}".repeat(60));
        assert_eq!(explain("token = '/t'", &deep)[1], "it has /a/a/a/a/a/a");
        let wide: Vec<_> = (0..100).map(|n| format!("\"k{n}\":1")).collect();
        let lines = explain("token = '/t'", &format!("{{{}}}", wide.join(",")));
        assert!(lines[1].ends_with("/k23 and 76 more"), "{}", lines[1]);
    }

    #[test]
    fn a_body_that_is_a_token_is_proposed() {
        let bare = "aG9sZCBtZSBjbG9zZQ==";
        for body in [bare, &format!("\"{bare}\"")] {
            let lines = explain("token = '/t'", body);
            let shown = "response.token: nothing at /t; perhaps token = \"body\"";
            assert!(lines.iter().any(|line| line == shown), "{lines:?}");
            assert!(!lines.concat().contains(bare));
        }
    }

    /// Bodies with `TOKEN` in every kind of place.
    const PLACES: [&str; 24] = [
        "TOKEN",
        "TOKEN=",
        "TOKEN==",
        "\"TOKEN\"",
        "a=TOKEN",
        "TOKEN=a",
        "error=x&TOKEN=a&b=TOKEN",
        "[\"TOKEN\"]",
        "[{\"TOKEN\":1}]",
        "{\"TOKEN\":1}",
        "{\"x\":{\"TOKEN\":{\"access_token\":1}}}",
        "{\"x\":{\"a/TOKEN\":1,\"a~TOKEN\":2}}",
        "{\"accessToken\":{\"TOKEN\":1}}",
        "{\"token_TOKEN\":1}",
        "{\"data\":\"TOKEN\",\"message\":\"TOKEN\"}",
        "{\"message\":\"here: (TOKEN)\",\"error_description\":\"令牌TOKEN。\"}",
        "{\"error\":\"TOKEN\"}",
        "{\"code\":\"TOKEN\"}",
        "{\"code\":{\"a\":\"TOKEN\"}}",
        "{\"code\":[\"TOKEN\"]}",
        "{\"access_token\":\"x TOKEN\"}",
        "{\"expires_in\":\"TOKEN\",\"access_token\":null}",
        "<html>TOKEN</html>",
        "{\"access_token\":\"TOKEN",
    ];

    /// Checks that neither the explanation nor the refusal contains a part of the token.
    fn check_no_token(token: &str, place: &str, content_type: &str, rules: &str) {
        let toml: ResponseToml = toml::from_str(rules).unwrap();
        let rules = ResponseRules::parse(&toml, &mut Vec::new());
        let mut headers = HeaderMap::new();
        let with = |text: &str| text.replace("TOKEN", token);
        headers.insert(header::CONTENT_TYPE, with(content_type).parse().unwrap());
        headers.insert(header::CONTENT_ENCODING, token.parse().unwrap());
        headers.insert("x-other", token.parse().unwrap());
        if let Ok(name) = with("x-token-TOKEN").parse::<http::HeaderName>() {
            headers.insert(name, token.parse().unwrap());
        }
        let body = with(place);
        let answer = Answer {
            status: StatusCode::OK,
            headers: &headers,
            body: body.as_bytes(),
            now: UNIX_EPOCH,
        };
        let mut shown = rules.explain(answer, &[]).join("\n");
        if let Err(refusal) = rules.read(answer, &[]) {
            shown.push_str(&format!("{refusal:?}"));
        }
        let shown = shown.to_ascii_lowercase();
        for part in token.to_ascii_lowercase().as_bytes().windows(16) {
            let part = std::str::from_utf8(part).unwrap();
            assert!(!shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn a_bare_token_with_a_json_content_type_is_not_shown() {
        let rules = "token = 'header:x-token'\nerror = 'body'\nerror_description = 're:(.*)'";
        let token = "0+aAa+-00+++0aA0a0aA0-A+";
        check_no_token(token, "TOKEN", "application/json", rules);
    }

    proptest! {
        #[test]
        fn a_token_in_an_answer_is_never_shown(
            token in "[A-Za-z0-9_.+/-]{24,64}",
            place in proptest::sample::select(&PLACES[..]),
            content_type in proptest::sample::select(&[
                "application/json",
                "application/x-www-form-urlencoded",
                "text/TOKEN",
                "TOKEN",
                "text/plain; charset=TOKEN",
            ][..]),
            rules in proptest::sample::select(&[
                "token = '/t'",
                "token = '/access_token'\nexpires = '/expires_in'\nok = { '/code' = [0] }",
                "token = 'header:x-token'\nerror = 'body'\nerror_description = 're:(.*)'",
                "token = '/t'\nerror = 'header:x-other'",
            ][..]),
        ) {
            check_no_token(&token, place, content_type, rules);
        }
    }
}
