//! Dialects: how a vendor's token endpoint is asked and answers, as data rather than code.
//!
//! [`compile`] merges a dialect ([`DialectToml`]) with the dialects that it extends and with the
//! provider's overrides into a [`Plan`]: parsed templates that turn variables into a
//! [`TokenRequest`], and selectors that turn an [`Answer`] into [`Issued`] or a [`Refusal`].
//!
//! This module does no I/O and reads no clock; values that differ per fetch come in through
//! [`Frozen`].

pub mod schema;

mod assertion;
mod builtin;
mod compile;
mod computed;
mod defaults;
mod document;
mod duration;
mod expiry;
mod explain;
mod field;
mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod inject;
mod json;
mod jwt;
mod layer;
mod local_token;
mod mask;
mod needs;
mod one_or_many;
mod redact;
mod request;
mod response;
mod selector;
mod suggest;
mod template;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use zeroize::Zeroizing;

use crate::secret::Secret;

pub use builtin::{builtin, find_builtin};
pub use compile::{compile, compile_as, compile_static};
pub use defaults::{Defaults, UrlTemplate};
pub use duration::{DurationError, parse_duration};
pub use field::Problem;
pub use needs::order;
pub use one_or_many::OneOrMany;
pub use response::check_token;
pub use schema::{DialectToml, Overrides};
pub use suggest::nearest;
pub use template::{BUILT_INS, CHAINED, WELL_KNOWN};
pub use value::{Frozen, Var, Variables};

/// The longest accepted access token in bytes. A request head, which carries it, is at most 64 KiB.
pub const LONGEST_TOKEN: usize = 48 * 1024;

/// The input of [`compile`].
#[derive(Debug)]
pub struct Source<'a> {
    /// A name in `user` or of a built-in dialect; `user` wins. "" is a provider without a dialect.
    pub dialect: &'a str,
    /// The configuration's `[dialects.*]`.
    pub user: &'a BTreeMap<String, DialectToml>,
    /// The provider's own `[request]`, `[response]`, `[inject]`, `[reject]`.
    pub overrides: &'a Overrides,
    /// The provider's `grant`; `None` selects the dialect's `default_grant`.
    pub grant: Option<&'a str>,
    /// The provider's `auth_method`; `None` selects the dialect's `default_auth`.
    pub auth_method: Option<&'a str>,
}

/// How complete the input of [`compile_as`] is; only a complete input is checked for missing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Everything that a provider needs.
    Whole,
    /// A dialect without a provider: providers and extending dialects may still name the token's
    /// selector and the grant.
    Base,
    /// Some tables could not be read: an unknown name may be a grant or variable of those tables.
    Part,
}

/// How one provider gets a token and how requests carry the token.
#[derive(Clone, Debug)]
pub struct Plan {
    pub exchange: ExchangePlan,
    pub defaults: Defaults,
    pub inject: InjectPlan,
    pub reject: RejectRules,
}

/// The token requests and how to read their answers.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangePlan {
    /// The grant's name, as in `[grants.NAME]`.
    pub grant: String,
    /// The auth method's name, as in `[auth]`; `None` where the dialect offers no choice.
    pub auth_method: Option<String>,
    pub request: RequestPlan,
    /// Present only if the dialect has `[refresh]`.
    pub refresh: Option<RequestPlan>,
    /// Present only if the dialect has `[device]` and the grant spends a `device_code`.
    pub device: Option<RequestPlan>,
    /// Builds the token locally, in place of `request`.
    pub local_token: Option<LocalTokenPlan>,
    pub response: ResponseRules,
    /// Variables that the first exchange spends.
    pub one_time: Vec<String>,
    /// The dialect's default; the provider's `single_active` overrides it.
    pub single_active: bool,
    /// Names of secrets that identify the token's owner.
    pub identity: Vec<String>,
}

/// A token request before its variables are known.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestPlan {
    method: Method,
    /// Replaces the URL's path and query.
    path: Option<field::Field<(), template::Template>>,
    basic: Option<layer::Basic>,
    query: Vec<field::TextField>,
    headers: Vec<field::HeaderField>,
    body: layer::Body,
    computed: computed::Computed,
}

/// A token that is built locally, from `[grants.NAME] token`.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalTokenPlan {
    token: field::Field<(), template::Template>,
    computed: computed::Computed,
}

/// A token request, ready to be sent to the provider's `token_url`.
pub struct TokenRequest {
    pub method: Method,
    /// Percent-encoded path and query that replace those of `token_url`.
    pub path: Option<Zeroizing<String>>,
    /// Percent-encoded query to append to that of `token_url`.
    pub query: Option<Zeroizing<String>>,
    /// `Accept`, `Content-Type`, `Authorization`, … without `Host` and framing fields. Credentials
    /// are marked sensitive.
    pub headers: HeaderMap,
    /// Empty for requests without a body; the exchange then sends `Content-Length: 0` for a POST.
    pub body: Zeroizing<Vec<u8>>,
}

/// A token endpoint's answer.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    pub status: http::StatusCode,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    /// Local time of arrival; a `Retry-After` date counts from `now` if the answer has no `Date`.
    pub now: SystemTime,
}

/// `[response]`, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseRules {
    token: Vec<selector::Selector>,
    expires: Vec<selector::Selector>,
    expires_unit: Option<schema::ExpiresUnit>,
    refresh_token: Vec<selector::Selector>,
    /// Selectors with the texts that mean success.
    ok: Vec<(selector::Selector, Vec<String>)>,
    error: Vec<selector::Selector>,
    error_description: Vec<selector::Selector>,
    permanent: Vec<String>,
    transient: Vec<String>,
    /// The dialect does not list `transient`.
    transient_is_default: bool,
}

/// A token that the vendor issued.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    /// Checked: non-empty, every byte in 0x21–0x7E, at most [`LONGEST_TOKEN`] bytes.
    pub access_token: Secret,
    /// `None` for absent, null and "".
    pub refresh_token: Option<Secret>,
    pub expiry: Expiry,
    /// Tolerated oddities (a token broken over lines), one line each, free of secrets.
    pub warnings: Vec<String>,
}

/// The token's lifetime as the vendor states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Absent or 0: the provider's `ttl` decides.
    Unstated,
    /// Counted from before the request was sent.
    In(Duration),
    /// A time of the vendor's clock; the answer's `Date`, in `date`, corrects for clock skew.
    At {
        at: SystemTime,
        date: Option<SystemTime>,
    },
}

/// An error answer, or an answer that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub class: Class,
    pub status: u16,
    /// The vendor's own error code.
    pub code: Option<String>,
    /// The vendor's description: escaped, capped by characters, the request's secrets masked.
    pub description: Option<String>,
    /// From `Retry-After`; an HTTP date counts from the answer's `Date`, or else [`Answer::now`].
    pub retry_after: Option<Duration>,
    /// The oddity of an answer without a code: "no token at /access_token (keys: code, data)".
    pub detail: Option<String>,
}

/// Whether a failed fetch is worth repeating with the same inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Transient,
    Permanent,
}

/// Where a forwarded request carries the token.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectPlan {
    headers: Vec<field::HeaderField>,
    query: Vec<field::TextField>,
    header_names: Vec<HeaderName>,
    query_names: Vec<String>,
    computed: computed::Computed,
}

/// A token in the form it is sent: built once per fetch, never per request.
#[derive(Clone)]
pub struct Injection {
    /// Values are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `name=value&name=value`, percent-encoded; empty where the dialect injects no query.
    pub query: Zeroizing<String>,
}

/// How the API reports a dead token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RejectRules {
    pub status: Vec<u16>,
    pub grpc_status: Vec<u16>,
    /// Selectors with the texts that mean a dead token.
    body: Vec<(selector::Selector, Vec<String>)>,
}

impl ExchangePlan {
    /// Whether the first exchange spends this one-time input: a `code`, a `device_code`.
    pub fn spends(&self, input: &str) -> bool {
        self.one_time.iter().any(|name| name == input)
    }

    /// Names of the variables without which no token can be fetched; a refresh may need others.
    pub fn required_variables(&self) -> BTreeSet<String> {
        self.missing_variables(&|_| false)
    }

    /// [`Self::required_variables`] less those that are `given`; a given computed variable needs
    /// none of its inputs.
    pub fn missing_variables(&self, given: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
        let needs = match &self.local_token {
            Some(token) => token.needs(given),
            None => self.request.needs(given),
        };
        let missing = needs
            .into_iter()
            .filter(|(name, needed)| *needed && !given(name));
        missing.map(|(name, _)| name.to_owned()).collect()
    }

    /// Every variable that request, refresh or device authorization can use.
    pub fn known_variables(&self) -> BTreeSet<String> {
        let sent = self
            .requests()
            .flat_map(|request| request.needs(&|_| false));
        let local = self.local_token.iter();
        let local = local.flat_map(|token| token.needs(&|_| false));
        sent.chain(local).map(|(name, _)| name.to_owned()).collect()
    }

    /// Signing keys in `variables` that cannot sign their assertion: the variable's name and the
    /// reason, which does not quote the key.
    pub fn unusable_keys(&self, variables: &Variables) -> BTreeMap<String, String> {
        let sent = self.requests().map(|request| &request.computed);
        sent.chain(self.local_token.iter().map(|token| &token.computed))
            .flat_map(computed::Computed::recipes)
            .filter_map(|recipe| match recipe {
                computed::Recipe::Assertion(plan) => plan.check_key(variables)?.err(),
                computed::Recipe::Template(_) => None,
            })
            .collect()
    }

    fn requests(&self) -> impl Iterator<Item = &RequestPlan> {
        std::iter::once(&self.request)
            .chain(&self.refresh)
            .chain(&self.device)
    }
}

#[cfg(test)]
mod tests;
