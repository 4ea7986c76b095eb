//! Reading a token endpoint's answer into [`Issued`] or a [`Refusal`].

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use super::answer::{Answer, FailureClass, Issued, Refusal};
use super::document::Document;
use super::expiry::{self, Arrival, Expiry};
use super::field::{Problem, join, report};
use super::mask::clean;
use super::one_or_many::OneOrMany;
use super::redact;
use super::schema::{ExpiresUnit, Ordered, ResponseToml, Scalar};
use super::selector::{Selector, jwt_exp};
use super::words::{Said, Words};
use crate::secret::Secret;

/// The longest accepted access token in bytes. A request head, which carries it, is at most 64 KiB.
pub const LONGEST_TOKEN: usize = 48 * 1024;

/// Reason of [`check_token`].
pub const TOKEN_WITH_SCHEME: &str = "the token begins with an authentication scheme, such as \
                                     `Bearer `; the scheme must not be in it";

/// Authentication schemes of tokens, which people copy together with the token.
const SCHEMES: [&str; 6] = ["bearer", "basic", "token", "dpop", "oauth", "apikey"];

/// Characters of a vendor's description that are kept.
const DESCRIPTION_CHARS: usize = 300;

/// Characters of a code or key in a detail that are kept.
const WORD_CHARS: usize = 100;

/// Keys that a detail lists.
const LISTED_KEYS: usize = 12;

/// RFC 6749 §5.2.
const DEFAULT_ERROR: [&str; 1] = ["/error"];

/// RFC 6749 §5.2, and Laravel's `message`.
const DEFAULT_DESCRIPTION: [&str; 2] = ["/error_description", "/message"];

/// Codes of RFC 6749 §4.1.2.1 and RFC 8628 §3.5 that ask for a retry.
const DEFAULT_TRANSIENT: [&str; 3] = ["temporarily_unavailable", "server_error", "slow_down"];

/// Why an answer gives no token.
enum Fault {
    /// The HTTP status is no success.
    Status,
    /// The text at a selector of `ok`, which does not mean success.
    NotOk(String),
    /// 2xx without a token.
    NoToken,
    /// The reason why the token cannot be sent.
    UnsendableToken(&'static str),
}

/// An answer with the rules to read it by.
pub(super) struct Reading<'a> {
    pub(super) rules: &'a ResponseRules,
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    pub(super) document: Document,
    pub(super) secrets: &'a [&'a Secret],
    now: SystemTime,
}

/// `[response]`, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseRules {
    pub(super) token: Vec<Selector>,
    pub(super) expires: Vec<Selector>,
    pub(super) expires_unit: Option<ExpiresUnit>,
    pub(super) issued_at: Vec<Selector>,
    pub(super) refresh_token: Vec<Selector>,
    /// Selectors with the texts that mean success.
    pub(super) ok: Vec<(Selector, Vec<String>)>,
    pub(super) error: Vec<Selector>,
    pub(super) error_description: Vec<Selector>,
    pub(super) permanent: Words,
    pub(super) transient: Words,
    pub(super) final_: Words,
    /// The dialect does not list `transient`.
    pub(super) transient_is_default: bool,
}

impl ResponseRules {
    /// Parses the merged `[response]` of a dialect and its overrides.
    pub(super) fn parse(toml: &ResponseToml, problems: &mut Vec<Problem>) -> Self {
        let rules = Self {
            token: selectors(toml.token.as_ref(), "token", &[], problems),
            expires: selectors(toml.expires.as_ref(), "expires", &[], problems),
            expires_unit: toml.expires_unit,
            issued_at: selectors(toml.issued_at.as_ref(), "issued_at", &[], problems),
            refresh_token: selectors(toml.refresh_token.as_ref(), "refresh_token", &[], problems),
            ok: parse_ok(toml, problems),
            error: selectors(toml.error.as_ref(), "error", &DEFAULT_ERROR, problems),
            error_description: selectors(
                toml.error_description.as_ref(),
                "error_description",
                &DEFAULT_DESCRIPTION,
                problems,
            ),
            permanent: Words::parse(toml.permanent.as_ref(), &[], "permanent", problems),
            transient: Words::parse(
                toml.transient.as_ref(),
                &DEFAULT_TRANSIENT,
                "transient",
                problems,
            ),
            final_: Words::parse(toml.final_.as_ref(), &[], "final", problems),
            transient_is_default: toml.transient.is_none(),
        };
        for (key, selectors) in [
            ("token", &rules.token),
            ("issued_at", &rules.issued_at),
            ("refresh_token", &rules.refresh_token),
            ("error", &rules.error),
            ("error_description", &rules.error_description),
        ] {
            if selectors.iter().any(Selector::is_jwt_exp) {
                let message = "`jwt:exp` is a selector of `expires` only";
                problems.push(Problem::new(join("response", key), message));
            }
        }
        for (key, words) in [("permanent", &rules.permanent), ("final", &rules.final_)] {
            if words.contradicts(&rules.transient) {
                let message = format!("a word is in `{key}` and in `transient`");
                problems.push(Problem::new(join("response", key), message));
            }
        }
        rules
    }

    /// Whether `permanent` or `final` lists the code.
    pub fn is_permanent(&self, code: &str) -> bool {
        self.permanent.lists(code) || self.final_.lists(code)
    }

    pub(super) fn finds_token(&self) -> bool {
        !self.token.is_empty()
    }

    /// Checks for `token`, the one key that every provider needs.
    pub(super) fn check_token(&self, problems: &mut Vec<Problem>) {
        let path = "response.token";
        // An unreadable selector is already reported.
        if !self.finds_token() && problems.iter().all(|problem| problem.path != path) {
            let message = "missing: write the token's selector, as in \"/access_token\"";
            problems.push(Problem::new(path, message));
        }
    }

    /// Reads an answer; masks `secrets` where the vendor echoes them.
    pub fn read(&self, answer: Answer<'_>, secrets: &[&Secret]) -> Result<Issued, Refusal> {
        let reading = self.reading(answer, secrets);
        reading.issued().map_err(|fault| reading.refusal(&fault))
    }

    /// Reads the error answer of an endpoint that issues no tokens, such as device authorization.
    pub fn refused(&self, answer: Answer<'_>, secrets: &[&Secret]) -> Refusal {
        self.reading(answer, secrets).refusal(&Fault::Status)
    }

    pub(super) fn reading<'a>(
        &'a self,
        answer: Answer<'a>,
        secrets: &'a [&'a Secret],
    ) -> Reading<'a> {
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
        let mended = "the answer had raw line breaks inside JSON strings (RFC 8259 §7 forbids \
                      them); they were dropped with the indentation after them";
        let mended = self.document.mended.then(|| mended.to_owned());
        let mut warnings = Vec::from_iter(mended);
        Ok(Issued {
            expiry: self.expiry(&access_token, &mut warnings),
            refresh_token: self.first(&self.rules.refresh_token).map(Secret::new),
            access_token,
            warnings,
        })
    }

    fn expiry(&self, token: &Secret, warnings: &mut Vec<String>) -> Expiry {
        let arrival = Arrival {
            now: self.now,
            date: self.date(),
        };
        let jwt_exp = || jwt_exp(token.expose()).map(|exp| expiry::at_unix(exp, arrival.date));
        let issued_at = self.first(&self.rules.issued_at);
        let issued_at = issued_at.and_then(|text| expiry::read(&text, None, arrival));
        let mut stated = Vec::new();
        for selector in &self.rules.expires {
            if selector.is_jwt_exp() {
                stated.extend(jwt_exp());
                continue;
            }
            let Some(text) = selector.found(self.headers, &self.document) else {
                continue;
            };
            let Some(read) = expiry::read(&text, self.rules.expires_unit, arrival) else {
                warnings.push(format!(
                    "the expiry at {selector} cannot be read: \
                     neither a number, 0 or greater, nor a duration, nor a time"
                ));
                continue;
            };
            stated.extend(issued_at.and_then(|issued_at| expiry::after(issued_at, read)));
            stated.push(read);
        }
        match expiry::earliest(&stated, arrival) {
            Expiry::Unstated => jwt_exp().unwrap_or(Expiry::Unstated),
            stated => stated,
        }
    }

    fn refusal(&self, fault: &Fault) -> Refusal {
        let code = self.code(fault);
        let description = self.first(&self.rules.error_description);
        let said = Said {
            code: code.as_deref(),
            description: description.as_deref(),
            status: self.status,
        };
        let class = self.class(fault, said);
        let is_final =
            class == FailureClass::Permanent && self.rules.final_.matches(said).is_some();
        // Without an explicit error from the vendor, any text may contain a token.
        let redact = |text: String| match fault {
            Fault::Status | Fault::NotOk(_) => text,
            Fault::NoToken | Fault::UnsendableToken(_) => redact::redact_words(&text),
        };
        Refusal {
            class,
            is_final,
            status: self.status.as_u16(),
            detail: self.detail(fault, code.is_some()),
            code: code.map(|code| clean(&redact(code), self.secrets, WORD_CHARS)),
            description: description
                .map(|text| clean(&redact(text), self.secrets, DESCRIPTION_CHARS)),
            retry_after: self.retry_after(),
        }
    }

    /// The vendor's code, unless it means success.
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
            // In a wrong dialect, `ok` may select the token, or an object that contains it.
            Fault::NotOk(found) => code.or_else(|| {
                let scalar = Some(found).filter(|found| !found.starts_with(['{', '[']));
                scalar.map(|found| redact::redact_words(found))
            }),
            Fault::Status | Fault::NoToken => code,
            Fault::UnsendableToken(_) => None,
        }
    }

    /// Classifies by the most specific word that the dialect lists, then by the status.
    fn class(&self, fault: &Fault, said: Said<'_>) -> FailureClass {
        let code = said.code;
        // 401 means wrong credentials (RFC 6749 §5.2), whatever the code: some servers report a
        // wrong password as `server_error` and lock the account after a few retries.
        let by_default = self.rules.transient_is_default && self.status == StatusCode::UNAUTHORIZED;
        let transient = self.rules.transient.matches(said);
        let transient = transient.filter(|_| !by_default);
        let permanent = self.rules.permanent.matches(said);
        let permanent = permanent.max(self.rules.final_.matches(said));
        if transient.is_some() || permanent.is_some() {
            return match transient >= permanent {
                true => FailureClass::Transient,
                false => FailureClass::Permanent,
            };
        }
        let transient = match fault {
            Fault::Status => match self.status {
                status if asks_to_retry(status.as_str()) || !status.is_client_error() => true,
                // RFC 6749 §5.2; some servers use 403 in place of 400 or 401.
                StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => false,
                // 404 and similar statuses may come from a server other than the vendor's, unless
                // the vendor's own code is in the answer.
                _ => self.document.json.is_none() || code.is_none(),
            },
            Fault::NotOk(found) => asks_to_retry(found) || code.is_some_and(asks_to_retry),
            Fault::NoToken => !self.document.is_json(),
            Fault::UnsendableToken(_) => true,
        };
        if transient {
            FailureClass::Transient
        } else {
            FailureClass::Permanent
        }
    }

    /// The answer's oddity; `None` if the vendor's code explains the failure.
    fn detail(&self, fault: &Fault, has_code: bool) -> Option<String> {
        if self.status.is_redirection() {
            let detail = "the token endpoint redirects, but token requests follow no redirects: \
                          write the final URL as token_url";
            return Some(detail.to_owned());
        }
        let (what, missed) = match fault {
            Fault::UnsendableToken(reason) => return Some((*reason).to_owned()),
            _ if has_code => return None,
            Fault::NoToken => ("token", &self.rules.token),
            Fault::Status | Fault::NotOk(_) => ("error code", &self.rules.error),
        };
        let missed: Vec<_> = missed.iter().map(ToString::to_string).collect();
        Some(format!(
            "no {what} at {} ({})",
            missed.join(", "),
            self.shape()
        ))
    }

    /// The kind of body, without any value of it.
    fn shape(&self) -> String {
        if self.document.json.is_some() {
            let keys = self.document.keys().take(LISTED_KEYS);
            let keys: Vec<_> = keys
                .map(|key| match redact::is_plain(key) {
                    true => clean(key, self.secrets, WORD_CHARS),
                    false => format!("<a name of {} characters>", key.chars().count()),
                })
                .collect();
            return match &keys[..] {
                [] => "JSON without keys".to_owned(),
                keys => format!("keys: {}", keys.join(", ")),
            };
        }
        if self.document.too_large {
            return "the body is larger than 1 MiB once decompressed".to_owned();
        }
        if self.document.text.is_empty() {
            return "the body is empty".to_owned();
        }
        if self.document.is_json() {
            return "the body is JSON, but no object".to_owned();
        }
        if let Some(coding) = redact::content_coding(self.headers) {
            return format!("the body is not JSON; unrequested content coding {coding}");
        }
        match redact::content_type(self.headers) {
            Some(value) => format!("the body is not JSON; content type {value}"),
            None => "the body is not JSON; no content type".to_owned(),
        }
    }

    /// The first text that is present and not empty.
    pub(super) fn first(&self, selectors: &[Selector]) -> Option<String> {
        let mut texts = selectors
            .iter()
            .map(|selector| selector.text(self.headers, &self.document));
        texts.find_map(|text| text)
    }

    fn date(&self) -> Option<SystemTime> {
        let date = self.headers.get(header::DATE)?.to_str().ok()?;
        httpdate::parse_http_date(date).ok()
    }

    /// RFC 9110 §10.2.3. An HTTP date counts from the vendor's clock, if the answer has a `Date`.
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

/// 408, 425, 429 and 5xx, as a status or as a code in the body: the server is at fault.
fn asks_to_retry(code: &str) -> bool {
    matches!(code.parse(), Ok(408 | 425 | 429 | 500..600))
}

/// Checks that a token can be sent: only visible ASCII is safe in every header. The reason does not
/// quote the token.
pub fn check_token(token: &str) -> Result<(), &'static str> {
    if token.is_empty() {
        return Err("the token is empty");
    }
    if token.len() > LONGEST_TOKEN {
        return Err("the token is longer than 48 KiB, too long for a request head");
    }
    if begins_with_scheme(token) {
        return Err(TOKEN_WITH_SCHEME);
    }
    if !token.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return Err("the token contains a byte that a header cannot carry");
    }
    Ok(())
}

fn begins_with_scheme(token: &str) -> bool {
    let first = token.split_once(' ').map(|(first, _)| first);
    first.is_some_and(|first| {
        SCHEMES
            .iter()
            .any(|scheme| first.eq_ignore_ascii_case(scheme))
    })
}

fn parse_ok(toml: &ResponseToml, problems: &mut Vec<Problem>) -> Vec<(Selector, Vec<String>)> {
    let table = toml.ok.iter().flat_map(Ordered::iter);
    let entries = table.filter_map(|(text, values)| {
        let path = join("response.ok", text);
        let selector = report(Selector::parse(text), &path, problems)?;
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
    let texts: Vec<_> = match written {
        Some(list) => list.0.iter().map(String::as_str).collect(),
        None => default.to_vec(),
    };
    let selectors = texts.into_iter();
    let selectors = selectors.filter_map(|text| report(Selector::parse(text), &path, problems));
    selectors.collect()
}

pub(super) fn texts(written: Option<&OneOrMany<Scalar>>, default: &[&str]) -> Vec<String> {
    match written {
        Some(list) => list.0.iter().map(ToString::to_string).collect(),
        None => default.iter().map(|&text| text.to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests;
