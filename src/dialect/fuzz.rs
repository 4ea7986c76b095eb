//! Fuzz targets: templates, selectors, and token endpoints' answers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::answer::{Answer, Refusal};
use super::document::Document;
use super::expiry::{self, Arrival, Expiry};
use super::response::{ResponseRules, check_token};
use super::schema::ResponseToml;
use super::selector::{Selector, jwt_exp};
use super::template::{Place, Scope, Template};
use super::value::{Frozen, Var, Variables};
use crate::secret::Secret;

/// Too long for a fuzzer to produce by chance.
const SECRET: &str = "hunter2-hunter2";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_450_675_309)
}

/// Reads three parts, separated by lines of `---`: `[response]`, status and header fields, body.
pub fn token_answer(data: &[u8]) {
    let mut parts = [&b""[..]; 3];
    let mut rest = data;
    for part in &mut parts {
        (*part, rest) = divide(rest);
    }
    let [rules, head, body] = parts;
    let Some(rules) = std::str::from_utf8(rules).ok().and_then(parse_rules) else {
        return;
    };
    let Ok(head) = std::str::from_utf8(head) else {
        return;
    };
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.trim().parse().ok());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = HeaderValue::try_from(value.trim());
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), value) {
            headers.append(name, value);
        }
    }
    let answer = Answer {
        status: status.unwrap_or(StatusCode::OK),
        headers: &headers,
        body,
        now: now(),
    };
    match rules.read(answer, &[&Secret::new(SECRET)]) {
        Ok(issued) => {
            assert!(check_token(issued.access_token.expose()).is_ok());
            check_expiry(&issued.expiry);
        }
        Err(refusal) => check_refusal(&refusal, &rules),
    }
}

fn divide(data: &[u8]) -> (&[u8], &[u8]) {
    const LINE: &[u8] = b"\n---\n";
    let at = data.windows(LINE.len()).position(|window| window == LINE);
    at.map_or((data, b""), |at| (&data[..at], &data[at + LINE.len()..]))
}

fn parse_rules(text: &str) -> Option<ResponseRules> {
    let toml: ResponseToml = toml::from_str(text).ok()?;
    let mut problems = Vec::new();
    let rules = ResponseRules::parse(&toml, &mut problems);
    problems.is_empty().then_some(rules)
}

/// Echoed secrets are masked and texts stay short. A detail also quotes the dialect's selectors,
/// which may contain anything.
fn check_refusal(refusal: &Refusal, rules: &ResponseRules) {
    for text in [&refusal.code, &refusal.description].into_iter().flatten() {
        assert!(!text.contains(SECRET), "a secret is shown");
        assert!(text.chars().count() < 400);
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    if let Some(detail) = &refusal.detail {
        let in_dialect = format!("{:?}", (&rules.token, &rules.error)).contains(SECRET);
        assert!(in_dialect || !detail.contains(SECRET), "a secret is shown");
    }
}

fn check_expiry(expiry: &Expiry) {
    if let Expiry::In(life) = expiry {
        assert!(!life.is_zero());
    }
}

/// Parses and fills a template.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let variables: Variables = [
        ("client_id", Var::Integer(19)),
        ("client_secret", Var::Text(SECRET.into())),
        ("yes", Var::Boolean(true)),
        ("empty", Var::Text("".into())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let frozen = Frozen {
        now: now(),
        nonce: "n0nce".into(),
        uuid: "0b0b".into(),
        token_url: "https://vendor.test/token".into(),
    };
    let token = Secret::new(SECRET);
    for place in [Place::Exchange, Place::Inject] {
        let Ok(template) = Template::parse(text, place) else {
            continue;
        };
        let scope = Scope {
            variables: &variables,
            frozen: (place == Place::Exchange).then_some(&frozen),
            access_token: (place == Place::Inject).then_some(&token),
            computed: None,
        };
        let filled = template.fill(scope);
        let typed = template.fill_typed(scope);
        if let (Ok(filled), Ok(typed)) = (&filled, &typed) {
            assert_eq!(filled.is_some(), typed.is_some());
        }
        if let Ok(Some(shown)) = template.redacted(scope) {
            assert!(!shown.contains(SECRET) || text.contains(SECRET), "{shown}");
        }
        let mut derived = Vec::new();
        template.derived(scope, &mut derived);
        if let Some(literal) = template.as_literal() {
            assert!(matches!(&filled, Ok(Some(filled)) if filled.as_str() == literal));
        }
    }
    let escaped = text.replace('{', "{{").replace('}', "}}");
    let literal = Template::parse(&escaped, Place::Exchange);
    assert!(literal.is_ok_and(|literal| !literal.has_placeholders()));
}

/// Reads a selector, a line break and a document; reads the document as a JWT and an expiry, too.
pub fn selector(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n');
    let (first, body) = at.map_or((data, &b""[..]), |at| (&data[..at], &data[at + 1..]));
    let Ok(text) = std::str::from_utf8(first) else {
        return;
    };
    if let Ok(selector) = Selector::parse(text) {
        let mut headers = HeaderMap::new();
        headers.insert("x-token", HeaderValue::from_static("abc"));
        let document = Document::read(body, &headers, selector.first_key());
        if !selector.is_jwt_exp() {
            let found = selector.text(&headers, &document);
            assert!(found.is_none() || selector.found(&headers, &document).is_some());
        }
    }
    let _ = Selector::parse_pointer(text);
    let Ok(body) = std::str::from_utf8(body) else {
        return;
    };
    if let Some(seconds) = jwt_exp(body) {
        check_expiry(&expiry::at_unix(seconds, None));
    }
    let arrival = Arrival {
        now: now(),
        date: None,
    };
    if let Some(read) = expiry::read(body, None, arrival) {
        check_expiry(&read);
    }
}
