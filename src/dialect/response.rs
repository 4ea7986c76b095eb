//! Reading a token endpoint's answer: a yes, a no, or nothing that can be understood.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use super::document::Document;
use super::layer::join;
use super::mask::clean;
use super::one_or_many::OneOrMany;
use super::schema::{Ordered, ResponseToml, Scalar};
use super::selector::{Selector, jwt_exp};
use super::telling;
use super::{
    Answer, Class, Expiry, Issued, LONGEST_TOKEN, Problem, Refusal, ResponseRules, expiry,
};
use crate::secret::Secret;

/// Of a vendor's description, by characters.
const DESCRIPTION_CHARS: usize = 300;

/// Of a code or a header value in a detail.
const WORD_CHARS: usize = 100;

/// Names of members that a detail lists.
const LISTED_KEYS: usize = 12;

/// What no dialect has to say: RFC 6749 §5.2, and Laravel's `message`.
const DEFAULT_ERROR: [&str; 1] = ["/error"];
const DEFAULT_DESCRIPTION: [&str; 2] = ["/error_description", "/message"];

/// Codes of RFC 6749 §4.1.2.1 and RFC 8628 §3.5 by which a server asks to be asked again.
const DEFAULT_TRANSIENT: [&str; 3] = ["temporarily_unavailable", "server_error", "slow_down"];

/// What comes before an HTTP status in a list of codes: `status:404`.
const STATUS: &str = "status:";

/// Why an answer is no yes.
enum Fault {
    /// HTTP says so.
    Status,
    /// A selector of `ok` found something else; what it found.
    NotOk(String),
    /// 2xx without a token.
    NoToken,
    /// A token that cannot be sent, and why.
    UnsendableToken(&'static str),
}

/// An answer under examination.
struct Reading<'a> {
    rules: &'a ResponseRules,
    status: StatusCode,
    headers: &'a HeaderMap,
    document: Document,
    secrets: &'a [&'a Secret],
    now: SystemTime,
}

impl ResponseRules {
    /// Expects what a dialect and its overrides say together.
    pub(super) fn parse(toml: &ResponseToml, problems: &mut Vec<Problem>) -> Self {
        let rules = Self {
            token: selectors(toml.token.as_ref(), "token", &[], problems),
            expires: selectors(toml.expires.as_ref(), "expires", &[], problems),
            expires_unit: toml.expires_unit,
            refresh_token: selectors(toml.refresh_token.as_ref(), "refresh_token", &[], problems),
            ok: parse_ok(toml, problems),
            error: selectors(toml.error.as_ref(), "error", &DEFAULT_ERROR, problems),
            error_description: selectors(
                toml.error_description.as_ref(),
                "error_description",
                &DEFAULT_DESCRIPTION,
                problems,
            ),
            permanent: texts(toml.permanent.as_ref(), &[]),
            transient: texts(toml.transient.as_ref(), &DEFAULT_TRANSIENT),
            transient_is_default: toml.transient.is_none(),
        };
        let not_in_expires = [
            ("token", &rules.token),
            ("refresh_token", &rules.refresh_token),
            ("error", &rules.error),
            ("error_description", &rules.error_description),
        ];
        for (key, selectors) in not_in_expires {
            if selectors.iter().any(Selector::is_jwt_exp) {
                problems.push(Problem {
                    path: join("response", key),
                    message: "`jwt:exp` can stand only in `expires`".to_owned(),
                });
            }
        }
        for (key, codes) in [
            ("permanent", &rules.permanent),
            ("transient", &rules.transient),
        ] {
            let mut statuses = codes.iter().filter_map(|code| code.strip_prefix(STATUS));
            if statuses.any(|status| StatusCode::from_bytes(status.as_bytes()).is_err()) {
                problems.push(Problem {
                    path: join("response", key),
                    message: "after `status:` comes an HTTP status, as in \"status:404\""
                        .to_owned(),
                });
            }
        }
        if rules
            .permanent
            .iter()
            .any(|code| rules.transient.contains(code))
        {
            problems.push(Problem {
                path: "response.permanent".to_owned(),
                message: "a code is in `permanent` and in `transient`".to_owned(),
            });
        }
        rules
    }

    /// Whether `code` is listed as one that asking again does not help against.
    pub fn is_permanent(&self, code: &str) -> bool {
        self.permanent.iter().any(|listed| listed == code)
    }

    /// Whether there is a place in the answer where the token is.
    pub(super) fn finds_token(&self) -> bool {
        !self.token.is_empty()
    }

    /// The one key that every provider needs, its own or its dialect's.
    pub(super) fn check_token(&self, problems: &mut Vec<Problem>) {
        let path = "response.token";
        // One that cannot be read is told already.
        if self.finds_token() || problems.iter().any(|problem| problem.path == path) {
            return;
        }
        problems.push(Problem {
            path: path.to_owned(),
            message: "missing: say where the token is in the answer, as in \"/access_token\""
                .to_owned(),
        });
    }

    /// Reads an answer. `secrets` are masked wherever the vendor echoes them.
    pub fn read(&self, answer: Answer<'_>, secrets: &[&Secret]) -> Result<Issued, Refusal> {
        let reading = self.reading(answer, secrets);
        reading.issued().map_err(|fault| reading.refusal(&fault))
    }

    fn reading<'a>(&'a self, answer: Answer<'a>, secrets: &'a [&'a Secret]) -> Reading<'a> {
        let token_key = self.token.iter().find_map(Selector::first_key);
        Reading {
            rules: self,
            status: answer.status,
            headers: answer.headers,
            document: Document::read(answer.body, answer.headers, token_key),
            secrets,
            now: answer.now,
        }
    }
}

impl ResponseRules {
    /// Reads an answer that is a no, of an endpoint that gives something else than tokens.
    pub fn refused(&self, answer: Answer<'_>, secrets: &[&Secret]) -> Refusal {
        self.reading(answer, secrets).refusal(&Fault::Status)
    }
}

impl Reading<'_> {
    fn issued(&self) -> Result<Issued, Fault> {
        if !self.status.is_success() {
            return Err(Fault::Status);
        }
        for (selector, values) in &self.rules.ok {
            if let Some(found) = selector.found(self.headers, &self.document)
                && !values.contains(&found)
            {
                return Err(Fault::NotOk(found));
            }
        }
        let token = self.first(&self.rules.token).ok_or(Fault::NoToken)?;
        check_token(&token).map_err(Fault::UnsendableToken)?;
        let access_token = Secret::new(token);
        let mut warnings = Vec::new();
        if self.document.mended {
            warnings.push(
                "the answer had raw line breaks inside JSON strings (RFC 8259 §7 forbids them); \
                 they were dropped with the indentation after them"
                    .to_owned(),
            );
        }
        Ok(Issued {
            expiry: self.expiry(&access_token, &mut warnings),
            refresh_token: self.first(&self.rules.refresh_token).map(Secret::new),
            access_token,
            warnings,
        })
    }

    fn expiry(&self, token: &Secret, warnings: &mut Vec<String>) -> Expiry {
        let date = self.date();
        for selector in &self.rules.expires {
            if selector.is_jwt_exp() {
                match jwt_exp(token.expose()) {
                    Some(exp) => return expiry::at_unix(exp, date),
                    None => continue,
                }
            }
            let Some(text) = selector.found(self.headers, &self.document) else {
                continue;
            };
            match expiry::read(&text, self.rules.expires_unit, date) {
                Some(Expiry::Unstated) => {}
                Some(stated) => return stated,
                None => warnings.push(format!(
                    "the expiry at {selector} cannot be read: neither a number, 0 or greater, nor an ISO-8601 time"
                )),
            }
        }
        Expiry::Unstated
    }

    fn refusal(&self, fault: &Fault) -> Refusal {
        let code = self.code(fault);
        let description = self.first(&self.rules.error_description);
        // Where the vendor does not say no, there may be a token anywhere.
        let told = |text: String| match fault {
            Fault::Status | Fault::NotOk(_) => text,
            Fault::NoToken | Fault::UnsendableToken(_) => telling::text(&text),
        };
        Refusal {
            class: self.class(fault, code.as_deref()),
            status: self.status.as_u16(),
            detail: self.detail(fault, code.is_some()),
            code: code.map(|code| clean(&told(code), self.secrets, WORD_CHARS)),
            description: description
                .map(|text| clean(&told(text), self.secrets, DESCRIPTION_CHARS)),
            retry_after: self.retry_after(),
        }
    }

    /// The vendor's code; one that means success is none.
    fn code(&self, fault: &Fault) -> Option<String> {
        let means_success = |code: &String| {
            (self.rules.ok.iter()).any(|(selector, values)| {
                values.contains(code)
                    && selector.text(self.headers, &self.document).as_ref() == Some(code)
            })
        };
        let code = self
            .first(&self.rules.error)
            .filter(|code| !means_success(code));
        match fault {
            // What `ok` looks at may be the token of a dialect that is wrong, and an object may hold it.
            Fault::NotOk(found) => code.or_else(|| {
                let scalar = Some(found).filter(|found| !found.starts_with(['{', '[']));
                scalar.map(|found| telling::text(found))
            }),
            Fault::Status | Fault::NoToken => code,
            Fault::UnsendableToken(_) => None,
        }
    }

    /// DESIGN.md §2, error classes. The vendor's code says more than the status.
    fn class(&self, fault: &Fault, code: Option<&str>) -> Class {
        let status = format!("{STATUS}{}", self.status.as_str());
        // Whatever the code's name, 401 is about who asks (RFC 6749 §5.2): there are servers that call a wrong password
        // `server_error`, and lock the account of whoever tries it soon again.
        let by_default = self.rules.transient_is_default && self.status == StatusCode::UNAUTHORIZED;
        for word in code.into_iter().chain([status.as_str()]) {
            if !by_default && self.rules.transient.iter().any(|listed| listed == word) {
                return Class::Transient;
            }
            if self.rules.permanent.iter().any(|listed| listed == word) {
                return Class::Permanent;
            }
        }
        let transient = match fault {
            Fault::Status => match self.status {
                status if asks_to_retry(status.as_str()) || !status.is_client_error() => true,
                // RFC 6749 §5.2, and servers that use 403 for the same.
                StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => false,
                // 404 and the like come from whatever answers at a wrong or not yet right address, unless the vendor's
                // own words say otherwise.
                _ => self.document.json.is_none() || code.is_none(),
            },
            Fault::NotOk(found) => asks_to_retry(found) || code.is_some_and(asks_to_retry),
            Fault::NoToken => !self.document.is_json(),
            Fault::UnsendableToken(_) => true,
        };
        if transient {
            Class::Transient
        } else {
            Class::Permanent
        }
    }

    /// What was odd; a code speaks for itself.
    fn detail(&self, fault: &Fault, has_code: bool) -> Option<String> {
        if self.status.is_redirection() {
            return Some(
                "the token endpoint redirects, and token requests follow no redirects: \
                 put the final address into token_url"
                    .to_owned(),
            );
        }
        if let Fault::UnsendableToken(reason) = fault {
            return Some((*reason).to_owned());
        }
        if has_code {
            return None;
        }
        let missed = match fault {
            Fault::NoToken => &self.rules.token,
            Fault::Status | Fault::NotOk(_) | Fault::UnsendableToken(_) => &self.rules.error,
        };
        let what = match fault {
            Fault::NoToken => "token",
            Fault::Status | Fault::NotOk(_) | Fault::UnsendableToken(_) => "error code",
        };
        let missed: Vec<_> = missed.iter().map(ToString::to_string).collect();
        Some(format!(
            "no {what} at {} ({})",
            missed.join(", "),
            self.shape()
        ))
    }

    /// What kind of body it was, without any value of it.
    fn shape(&self) -> String {
        if self.document.json.is_some() {
            let mut keys = self.document.keys();
            if keys.is_empty() {
                return "JSON without keys".to_owned();
            }
            keys.truncate(LISTED_KEYS);
            let keys = keys.into_iter().map(|key| match telling::is_plain(key) {
                true => clean(key, self.secrets, WORD_CHARS),
                false => format!("<a name of {} characters>", key.chars().count()),
            });
            return format!("keys: {}", keys.collect::<Vec<_>>().join(", "));
        }
        if self.document.text.is_empty() {
            return "the body is empty".to_owned();
        }
        if self.document.is_json() {
            return "the body is JSON, but no object".to_owned();
        }
        if let Some(coding) = telling::content_coding(self.headers) {
            return format!(
                "the body is not JSON; content coding {coding}, which was not asked for"
            );
        }
        match telling::content_type(self.headers) {
            Some(value) => format!("the body is not JSON; content type {value}"),
            None => "the body is not JSON; no content type".to_owned(),
        }
    }

    /// The first that is there and not empty.
    fn first(&self, selectors: &[Selector]) -> Option<String> {
        selectors
            .iter()
            .find_map(|selector| selector.text(self.headers, &self.document))
    }

    fn date(&self) -> Option<SystemTime> {
        let date = self.headers.get(header::DATE)?.to_str().ok()?;
        httpdate::parse_http_date(date).ok()
    }

    /// RFC 9110 §10.2.3. The vendor's own clock counts where it is told.
    fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = httpdate::parse_http_date(text).ok()?;
        let since = self.date().unwrap_or(self.now);
        Some(at.duration_since(since).unwrap_or_default())
    }
}

/// 408, 425, 429 and 5xx, as a status or as a code in the body: the server, not the request, is at fault.
fn asks_to_retry(code: &str) -> bool {
    matches!(code, "408" | "425" | "429")
        || code
            .parse()
            .is_ok_and(|code: u16| (500..600).contains(&code))
}

/// Whether a token can be sent: visible ASCII is what every header accepts, and what cannot end one. The reason holds
/// nothing of it.
pub fn check_token(token: &str) -> Result<(), &'static str> {
    if token.is_empty() {
        return Err("the token is empty");
    }
    if token.len() > LONGEST_TOKEN {
        return Err("the token is longer than 48 KiB: no request could carry it");
    }
    if !token.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return Err("the token holds a byte that cannot stand in a header");
    }
    Ok(())
}

fn parse_ok(toml: &ResponseToml, problems: &mut Vec<Problem>) -> Vec<(Selector, Vec<String>)> {
    let table = toml.ok.iter().flat_map(Ordered::iter);
    let entries = table.filter_map(|(text, values)| {
        let path = join("response.ok", text);
        let selector = parse_selector(text, Selector::parse, &path, problems)?;
        Some((selector, texts(Some(values), &[])))
    });
    entries.collect()
}

fn selectors(
    written: Option<&OneOrMany<String>>,
    key: &str,
    default: &[&str],
    problems: &mut Vec<Problem>,
) -> Vec<Selector> {
    let path = join("response", key);
    let parse = |text: &str| parse_selector(text, Selector::parse, &path, problems);
    match written {
        Some(list) => list
            .0
            .iter()
            .map(String::as_str)
            .filter_map(parse)
            .collect(),
        None => default.iter().copied().filter_map(parse).collect(),
    }
}

pub(super) fn parse_selector(
    text: &str,
    parse: fn(&str) -> Result<Selector, String>,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<Selector> {
    match parse(text) {
        Ok(selector) => Some(selector),
        Err(message) => {
            problems.push(Problem {
                path: path.to_owned(),
                message,
            });
            None
        }
    }
}

pub(super) fn texts(written: Option<&OneOrMany<Scalar>>, default: &[&str]) -> Vec<String> {
    match written {
        Some(list) => list.0.iter().map(ToString::to_string).collect(),
        None => default.iter().map(|&text| text.to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests;
