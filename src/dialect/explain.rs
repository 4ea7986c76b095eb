//! What an answer looks like beside what a dialect expects of it: for somebody who adapts a dialect to a vendor. Names and
//! places, never values.

use http::HeaderMap;
use serde_json::Value as JsonValue;

use super::document::Document;
use super::selector::Selector;
use super::telling;
use super::{Answer, ResponseRules};
use crate::secret::Secret;

/// Of a body that may be a token as a whole.
const SHORTEST_TOKEN: usize = 16;

/// Places in an answer that are listed.
const LISTED: usize = 24;

/// How deep they are looked for.
const DEPTH: usize = 5;

/// Whether a key's name, in lower case and without `_` and `-`, is one for such a value.
type LooksLike = fn(&str) -> bool;

impl ResponseRules {
    /// A line each: what kind of answer it was, what is in it, which selector found nothing, and what to write instead.
    /// `secrets` are masked should they be keys.
    pub fn explain(&self, answer: Answer<'_>, secrets: &[&Secret]) -> Vec<String> {
        let token_key = self.token.iter().find_map(Selector::first_key);
        let document = Document::read(answer.body, answer.headers, token_key);
        let content_type = match telling::content_type(answer.headers) {
            Some(content_type) => format!("content type {content_type}"),
            None => "no content type".to_owned(),
        };
        let coding = match telling::content_coding(answer.headers) {
            Some(coding) => format!(", content coding {coding}, which was not asked for"),
            None => String::new(),
        };
        let status = answer.status.as_u16();
        let mut lines = vec![format!("HTTP {status}, {content_type}{coding}")];
        let mut places = Vec::new();
        match &document.json {
            Some(json) => places_in(json, &mut String::new(), DEPTH, &mut places),
            None if document.text.is_empty() => lines.push("the body is empty".to_owned()),
            None => lines.push(format!(
                "the body is neither JSON nor a form, but {} bytes of something else",
                answer.body.len()
            )),
        }
        if !places.is_empty() {
            let shown = places.iter().take(LISTED);
            let shown: Vec<_> = shown
                .map(|place| telling::place(place, secrets).0)
                .collect();
            let more = match places.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            lines.push(format!("it has {}{more}", shown.join(", ")));
        }
        self.misses(answer.headers, &document, &places, secrets, &mut lines);
        lines
    }

    fn misses(
        &self,
        headers: &HeaderMap,
        document: &Document,
        places: &[String],
        secrets: &[&Secret],
        lines: &mut Vec<String>,
    ) {
        for (selector, values) in &self.ok {
            if let Some(found) = selector.found(headers, document)
                && !values.contains(&found)
            {
                lines.push(format!(
                    "response.ok: what is at {selector} is not one of the values that mean success"
                ));
            }
        }
        let keys: [(&str, &[Selector], LooksLike); 3] = [
            ("token", &self.token, looks_like_token),
            ("expires", &self.expires, looks_like_expiry),
            ("error", &self.error, looks_like_code),
        ];
        for (key, selectors, looks_like) in keys {
            let finds = |selector: &Selector| {
                selector.is_jwt_exp() || selector.text(headers, document).is_some()
            };
            if selectors.is_empty() || selectors.iter().any(finds) {
                continue;
            }
            let looked: Vec<_> = selectors.iter().map(ToString::to_string).collect();
            let mut line = format!("response.{key}: nothing at {}", looked.join(", "));
            let last = |place: &&String| {
                let name = place
                    .rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .to_ascii_lowercase();
                looks_like(&name.replace(['_', '-'], ""))
            };
            let place = places.iter().filter(last).find_map(|place| {
                let (place, all) = telling::place(place, secrets);
                all.then_some(place)
            });
            let elsewhere = || match key {
                "token" => token_outside(headers, document),
                _ => None,
            };
            if let Some(place) = place.or_else(elsewhere) {
                line.push_str(&format!("; perhaps {key} = \"{place}\""));
            }
            lines.push(line);
        }
    }
}

/// JSON pointers (RFC 6901) of every single value.
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
        JsonValue::Object(object) => {
            for (name, value) in object {
                inside(name, value);
            }
        }
        // One shows how they all are.
        JsonValue::Array(items) => {
            if let Some(first) = items.first() {
                inside("0", first);
            }
        }
        _ if at.is_empty() => {}
        _ => places.push(at.clone()),
    }
}

/// In a header field, or as the whole of a body that is one word.
fn token_outside(headers: &HeaderMap, document: &Document) -> Option<String> {
    let field = telling::header_names(headers)
        .find(|name| looks_like_token(&name.as_str().replace('-', "")));
    if let Some(name) = field {
        return Some(format!("header:{name}"));
    }
    let text = document.bare_text()?;
    let is_word = text.len() >= SHORTEST_TOKEN && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_word.then(|| "body".to_owned())
}

fn looks_like_token(name: &str) -> bool {
    name.ends_with("token") && !name.contains("refresh") && !name.contains("id")
        || matches!(name, "jwt" | "ticket" | "sessionid")
}

fn looks_like_expiry(name: &str) -> bool {
    name.contains("expir") || matches!(name, "ttl" | "leaseduration")
}

fn looks_like_code(name: &str) -> bool {
    matches!(
        name,
        "error"
            | "errcode"
            | "errorcode"
            | "code"
            | "ret"
            | "retcode"
            | "resultcode"
            | "status"
            | "subcode"
    )
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::{StatusCode, header};
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
    fn it_says_what_is_there_and_what_to_write() {
        let lines = explain(
            "token = '/access_token'\nexpires = '/expires_in'\nok = { '/code' = [0] }",
            r#"{"code":17,"data":{"app-token":"hunter2","expireTime":"hunter2","a/b":[{"x":1}]},"hunter2":1,"e":[]}"#,
        );
        assert_eq!(
            lines,
            [
                "HTTP 200, content type text/json",
                "it has /code, /data/app-token, /data/expireTime, /data/a~1b/0/x, /[masked]",
                "response.ok: what is at /code is not one of the values that mean success",
                "response.token: nothing at /access_token; perhaps token = \"/data/app-token\"",
                "response.expires: nothing at /expires_in; perhaps expires = \"/data/expireTime\"",
                "response.error: nothing at /error; perhaps error = \"/code\"",
            ]
        );
    }

    #[test]
    fn what_is_no_json_shows_nothing_of_itself() {
        for (body, told) in [
            ("", "the body is empty"),
            (
                "<html>hunter3</html>",
                "the body is neither JSON nor a form, but 20 bytes of something else",
            ),
        ] {
            let lines = explain("token = '/t'", body);
            assert_eq!(lines[1], told);
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
    fn a_token_elsewhere_than_in_json_is_pointed_at() {
        let bare = "aG9sZCBtZSBjbG9zZQ==";
        for body in [bare, &format!("\"{bare}\"")] {
            let lines = explain("token = '/t'", body);
            let told = "response.token: nothing at /t; perhaps token = \"body\"";
            assert!(lines.iter().any(|line| line == told), "{lines:?}");
            assert!(!lines.concat().contains(bare));
        }
    }

    /// Bodies and header fields with `TOKEN` in every kind of place.
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

    proptest! {
        /// Wherever a dialect that is wrong for it looks, and whatever the answer calls itself.
        #[test]
        fn a_token_in_an_answer_is_never_told(
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
            let toml: ResponseToml = toml::from_str(rules).unwrap();
            let rules = ResponseRules::parse(&toml, &mut Vec::new());
            let mut headers = HeaderMap::new();
            let with = |text: &str| text.replace("TOKEN", &token);
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
            let mut told = rules.explain(answer, &[]).join("\n");
            if let Err(refusal) = rules.read(answer, &[]) {
                told.push_str(&format!("{refusal:?}"));
            }
            let told = told.to_ascii_lowercase();
            // A part of it is as bad.
            for part in token.to_ascii_lowercase().as_bytes().windows(16) {
                let part = std::str::from_utf8(part).unwrap();
                prop_assert!(!told.contains(part), "{told}");
            }
        }
    }
}
