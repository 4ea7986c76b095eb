//! How token endpoints speak: data, never code.
//!
//! A dialect is a TOML table ([`DialectToml`]). [`compile`] merges it with what it extends and with the
//! provider's own overrides (DESIGN.md §2, merge rule) into a [`Plan`]: parsed templates and selectors
//! that turn variables into a [`TokenRequest`], and a vendor's [`Answer`] into [`Issued`] or a [`Refusal`].
//!
//! Pure: no I/O and no clock. Whatever varies from fetch to fetch comes in through [`Frozen`].

pub mod schema;

mod builtin;
mod compile;
mod document;
mod expiry;
mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod inject;
mod json;
mod layer;
mod mask;
mod request;
mod response;
mod selector;
mod suggest;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use zeroize::Zeroizing;

use crate::secret::Secret;

pub use builtin::builtin;
pub use compile::{compile, compile_as, compile_static};
pub use response::check_token;
pub use schema::{DialectToml, Overrides};
pub use suggest::nearest;
pub use template::{BUILT_INS, WELL_KNOWN};

/// A variable's value. TOML's types are kept, so that a JSON body can hold them as written.
#[derive(Clone, PartialEq)]
pub enum Var {
    Text(Secret),
    Integer(i64),
    Boolean(bool),
}

impl Var {
    /// As it stands in a header, a form or a query.
    pub fn to_text(&self) -> Secret {
        match self {
            Self::Text(text) => text.clone(),
            Self::Integer(number) => number.to_string().into(),
            Self::Boolean(flag) => flag.to_string().into(),
        }
    }
}

impl fmt::Debug for Var {
    /// A number may be a secret as well as a text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The longest access token that is taken: the head of a request, which holds it, is at most 64 KiB.
pub const LONGEST_TOKEN: usize = 48 * 1024;

/// Variables by name: `client_id`, `client_secret`, … and the provider's own `vars`.
pub type Variables = BTreeMap<String, Var>;

/// Something wrong with a dialect or with a provider's use of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path inside the dialect or provider table: `grants.sms.form.phone`. May be empty.
    pub path: String,
    /// What is wrong, without quoting any value.
    pub message: String,
}

/// What [`compile`] works from.
#[derive(Debug)]
pub struct Source<'a> {
    /// A name among `user` or the built-in dialects; `user` wins. "" for none: the defaults and `overrides`.
    pub dialect: &'a str,
    /// The configuration's `[dialects.*]`.
    pub user: &'a BTreeMap<String, DialectToml>,
    /// The provider's own `[request]`, `[response]`, `[inject]`, `[reject]`.
    pub overrides: &'a Overrides,
    /// The provider's `grant`; the dialect's `default_grant` otherwise.
    pub grant: Option<&'a str>,
    /// The provider's `auth_method`; the dialect's `default_auth` otherwise.
    pub auth_method: Option<&'a str>,
}

/// How much of what [`compile_as`] reads is there: what is not there is then no mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// All that a provider needs.
    Whole,
    /// A dialect by itself: providers, and dialects that extend it, may yet say where the token is and which grant is
    /// meant.
    Base,
    /// Something that was written could not be read: a name may be that of a grant or variable that was in it.
    Part,
}

/// How one provider gets a token and how the token rides on requests.
#[derive(Clone, Debug)]
pub struct Plan {
    pub exchange: ExchangePlan,
    pub inject: InjectPlan,
    pub reject: RejectRules,
}

/// The token request and how to read its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangePlan {
    /// The grant's name, as in `[grants.NAME]`.
    pub grant: String,
    pub request: RequestPlan,
    /// Present only if the dialect has `[refresh]`.
    pub refresh: Option<RequestPlan>,
    pub response: ResponseRules,
    /// Variables that the first exchange spends.
    pub one_time: Vec<String>,
    /// The dialect's own word; the provider's `single_active` beats it.
    pub single_active: bool,
}

/// A token request before its variables are known.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestPlan {
    method: Method,
    basic: Option<layer::Basic>,
    query: Vec<layer::TextField>,
    headers: Vec<layer::HeaderField>,
    body: layer::Body,
}

/// A token request, ready to be sent to the provider's `token_url`.
pub struct TokenRequest {
    pub method: Method,
    /// Percent-encoded query to add to that of `token_url`; `None` where there is none.
    pub query: Option<Zeroizing<String>>,
    /// `Accept`, `Content-Type`, `Authorization`, … Credentials are marked sensitive. No `Host`, no framing.
    pub headers: HeaderMap,
    /// Empty for requests without a body; the exchange then sends `Content-Length: 0` for a POST.
    pub body: Zeroizing<Vec<u8>>,
}

/// What is frozen once per fetch: the same in every template of one request.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub now: SystemTime,
    pub nonce: String,
    pub uuid: String,
}

/// A token endpoint's answer.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    pub status: http::StatusCode,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    /// When it came, by the local clock: what a `Retry-After` date is counted from where the answer has no `Date`.
    pub now: SystemTime,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ResponseRules {
    token: Vec<selector::Selector>,
    expires: Vec<selector::Selector>,
    expires_unit: Option<schema::ExpiresUnit>,
    refresh_token: Vec<selector::Selector>,
    /// With the texts that mean success.
    ok: Vec<(selector::Selector, Vec<String>)>,
    error: Vec<selector::Selector>,
    error_description: Vec<selector::Selector>,
    permanent: Vec<String>,
    transient: Vec<String>,
}

/// A vendor's yes.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    /// Checked: non-empty, every byte in 0x21–0x7E, at most [`LONGEST_TOKEN`].
    pub access_token: Secret,
    /// `None` for absent, null and "".
    pub refresh_token: Option<Secret>,
    pub expiry: Expiry,
    /// Oddities that were forgiven (a token broken over lines), one line each, free of secrets.
    pub warnings: Vec<String>,
}

/// What the vendor says of the token's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Nothing, or 0: the provider's `ttl` decides.
    Unstated,
    /// Counted from before the request was sent.
    In(Duration),
    /// A point of the vendor's clock; `date` is the answer's `Date`, by which it is corrected.
    At {
        at: SystemTime,
        date: Option<SystemTime>,
    },
}

/// A vendor's no, or an answer that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub class: Class,
    pub status: u16,
    /// The vendor's own error code.
    pub code: Option<String>,
    /// The vendor's words: escaped, capped by characters, the request's secrets masked.
    pub description: Option<String>,
    /// From `Retry-After`; the HTTP-date form is counted from the answer's `Date`, without one from [`Answer::now`].
    pub retry_after: Option<Duration>,
    /// What was odd about the answer where there is no code: "no token at /access_token (keys: code, data)".
    pub detail: Option<String>,
}

/// How to go on after a failure (DESIGN.md §2, error classes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Transient,
    Permanent,
}

/// Where the token goes on a forwarded request.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectPlan {
    headers: Vec<layer::HeaderField>,
    query: Vec<layer::TextField>,
    header_names: Vec<HeaderName>,
    query_names: Vec<String>,
}

/// A token in the form it is sent: built once per fetch, never per request.
#[derive(Clone)]
pub struct Injection {
    /// Values are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `name=value&name=value`, percent-encoded; empty where the dialect injects no query.
    pub query: Zeroizing<String>,
}

/// How the API says that a token is dead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RejectRules {
    pub status: Vec<u16>,
    pub grpc_status: Vec<u16>,
    /// With the texts that mean a dead token.
    body: Vec<(selector::Selector, Vec<String>)>,
}

impl ExchangePlan {
    /// Variables without which no token can be asked for, by name, over request, refresh excluded.
    pub fn required_variables(&self) -> BTreeSet<String> {
        let templates = self.request.templates();
        let variables = templates.iter().flat_map(|template| template.variables());
        variables
            .filter(|(_, required)| *required)
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    /// Every variable that request or refresh can use.
    pub fn known_variables(&self) -> BTreeSet<String> {
        let mut templates = self.request.templates();
        templates.extend(self.refresh.iter().flat_map(RequestPlan::templates));
        let variables = templates.iter().flat_map(|template| template.variables());
        variables.map(|(name, _)| name.to_owned()).collect()
    }
}

#[cfg(test)]
mod tests;
