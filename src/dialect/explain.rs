//! What an answer looks like beside what a dialect expects of it: for somebody who adapts a dialect to a vendor. Names and
//! places, never values.

use http::{HeaderMap, StatusCode};
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
        let seen = Seen {
            status: answer.status,
            headers: answer.headers,
            document: &document,
            places: &places,
            secrets,
        };
        self.misses(&seen, &mut lines);
        lines
    }

    fn misses(&self, seen: &Seen<'_>, lines: &mut Vec<String>) {
        for (selector, values) in &self.ok {
            if let Some(found) = selector.found(seen.headers, seen.document)
                && !values.contains(&found)
            {
                lines.push(format!(
                    "response.ok: what is at {selector} is not one of the values that mean success"
                ));
            }
        }
        let is_yes = seen.status.is_success();
        if is_yes {
            let token = seen
                .place(looks_like_token)
                .or_else(|| seen.token_elsewhere());
            seen.miss("token", &self.token, token, lines);
            let expiry = seen.place(looks_like_expiry);
            seen.miss("expires", &self.expires, expiry, lines);
        }
        // What an answer is not about, it need not have.
        let code = seen.place(looks_like_code);
        let words = seen.place(looks_like_words);
        if seen.misses(&self.error)
            && is_yes
            && self.ok.is_empty()
            && let Some(code) = &code
        {
            lines.push(format!(
                "response.ok: there is none; if it is {code} that says whether all went well, write ok = {{ \"{code}\" = [0] }} \
                 with what it is then"
            ));
        }
        for (key, selectors, proposal) in [
            ("error", &self.error, code),
            ("error_description", &self.error_description, words),
        ] {
            if proposal.is_some() || !is_yes && !seen.places.is_empty() {
                seen.miss(key, selectors, proposal, lines);
            }
        }
    }
}

/// An answer under examination.
struct Seen<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
    document: &'a Document,
    places: &'a [String],
    secrets: &'a [&'a Secret],
}

impl Seen<'_> {
    fn misses(&self, selectors: &[Selector]) -> bool {
        let finds = |selector: &Selector| {
            selector.is_jwt_exp() || selector.text(self.headers, self.document).is_some()
        };
        !selectors.is_empty() && !selectors.iter().any(finds)
    }

    fn miss(
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
        // What is there is empty, or no single value: where was not the mistake.
        let proposal = proposal.filter(|place| !looked.contains(place));
        let perhaps = match proposal {
            Some(place) => format!("; perhaps {key} = \"{place}\""),
            None => String::new(),
        };
        let looked = looked.join(", ");
        lines.push(format!("response.{key}: nothing at {looked}{perhaps}"));
    }

    /// The first place with such a name that may be told as a whole.
    fn place(&self, looks_like: LooksLike) -> Option<String> {
        let places = self.places.iter();
        places
            .filter(|place| looks_like(&last_name(place)))
            .find_map(|place| self.told(place))
    }

    fn told(&self, place: &str) -> Option<String> {
        let (place, all) = telling::place(place, self.secrets);
        all.then_some(place)
    }

    /// Where no name says so: by what is there.
    fn token_elsewhere(&self) -> Option<String> {
        let field = telling::header_names(self.headers)
            .find(|name| looks_like_token(&name.as_str().replace('-', "")));
        if let Some(name) = field {
            return Some(format!("header:{name}"));
        }
        let Some(json) = &self.document.json else {
            let text = self.document.bare_text()?;
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
        self.told(longest)
    }
}

/// In lower case and without `_` and `-`.
fn last_name(place: &str) -> String {
    let name = place.rsplit('/').next().unwrap_or_default();
    name.to_ascii_lowercase().replace(['_', '-'], "")
}

/// RFC 7235's token68, and long enough.
fn could_be_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    text.len() >= SHORTEST_TOKEN
        && !body.starts_with('/')
        && body
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
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

fn looks_like_token(name: &str) -> bool {
    name.ends_with("token") && !name.contains("refresh") && !name.contains("id")
        || matches!(name, "jwt" | "ticket" | "sessionid")
}

fn looks_like_expiry(name: &str) -> bool {
    let spans = ["expir", "valid", "lifetime", "ttl", "leaseduration"];
    spans.iter().any(|span| name.contains(span)) && !name.contains("refresh")
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

fn looks_like_words(name: &str) -> bool {
    matches!(
        name,
        "errordescription"
            | "errormessage"
            | "errormsg"
            | "errmsg"
            | "msg"
            | "message"
            | "desc"
            | "description"
            | "detail"
            | "reason"
    )
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::header;
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
    fn where_no_name_says_so_the_value_does() {
        let rules = "token = '/t'\nexpires = '/e'";
        let body = r#"{"tkn":"8f3k2jd9x0lq92zz","refresh":"8f3k2jd9x0lq92zz8f3k2jd9x0lq92zz","link":"https://x.example/a?b","validFor":9}"#;
        let lines = explain(rules, body);
        assert_eq!(
            lines[2..],
            [
                "response.token: nothing at /t; perhaps token = \"/tkn\"",
                "response.expires: nothing at /e; perhaps expires = \"/validFor\"",
            ]
        );
        // Half an answer is no token.
        let lines = explain(rules, "{\"access_token\":\"8f3k2jd9x0lq92zz");
        assert_eq!(lines[2], "response.token: nothing at /t");
    }

    #[test]
    fn where_it_looks_already_is_not_proposed() {
        let body = r#"{"access_token":"","expires_in":null,"error":"","message":""}"#;
        let lines = explain("token = '/access_token'\nexpires = '/expires_in'", body);
        assert_eq!(lines[2], "response.token: nothing at /access_token");
        assert_eq!(lines[3], "response.expires: nothing at /expires_in");
        assert!(!lines.concat().contains("perhaps"), "{lines:?}");
    }

    #[test]
    fn a_code_in_the_body_is_proposed_for_what_it_may_be() {
        let lines = explain("token = '/t'", r#"{"errcode":40013,"errmsg":"no"}"#);
        assert_eq!(
            lines[2..],
            [
                "response.token: nothing at /t",
                "response.ok: there is none; if it is /errcode that says whether all went well, write ok = { \"/errcode\" = [0] } with what it is then",
                "response.error: nothing at /error; perhaps error = \"/errcode\"",
                "response.error_description: nothing at /error_description, /message; perhaps error_description = \"/errmsg\"",
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

    /// Checks that neither the explanation nor the refusal tells a part of the token.
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
        let mut told = rules.explain(answer, &[]).join("\n");
        if let Err(refusal) = rules.read(answer, &[]) {
            told.push_str(&format!("{refusal:?}"));
        }
        let told = told.to_ascii_lowercase();
        // A part of it is as bad.
        for part in token.to_ascii_lowercase().as_bytes().windows(16) {
            let part = std::str::from_utf8(part).unwrap();
            assert!(!told.contains(part), "{told}");
        }
    }

    #[test]
    fn a_bare_token_that_is_called_json_is_not_told() {
        let rules = "token = 'header:x-token'\nerror = 'body'\nerror_description = 're:(.*)'";
        let token = "0+aAa+-00+++0aA0a0aA0-A+";
        check_no_token(token, "TOKEN", "application/json", rules);
    }

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
            check_no_token(&token, place, content_type, rules);
        }
    }
}
