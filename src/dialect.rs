//! How token endpoints speak: data, never code.
//!
//! A dialect is a TOML table ([`DialectToml`]). [`compile`] merges it with what it extends and with the
//! provider's own overrides (DESIGN.md §2, merge rule) into a [`Plan`]: parsed templates and selectors
//! that turn variables into a [`TokenRequest`], and a vendor's [`Answer`] into [`Issued`] or a [`Refusal`].
//!
//! Pure: no I/O and no clock. Whatever varies from fetch to fetch comes in through [`Frozen`].

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
mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod inject;
mod json;
mod jwt;
mod layer;
mod made;
mod mask;
mod needs;
mod one_or_many;
mod request;
mod response;
mod selector;
mod suggest;
mod telling;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use zeroize::Zeroizing;

use crate::secret::Secret;

pub use builtin::{builtin, find_builtin};
pub use compile::{compile, compile_as, compile_static};
pub use defaults::{Defaults, UrlTemplate};
pub use duration::{DurationError, parse_duration};
pub use needs::order;
pub use one_or_many::OneOrMany;
pub use response::check_token;
pub use schema::{DialectToml, Overrides};
pub use suggest::nearest;
pub use template::{BUILT_INS, CHAINED, WELL_KNOWN};

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
    pub defaults: Defaults,
    pub inject: InjectPlan,
    pub reject: RejectRules,
}

/// The token request and how to read its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangePlan {
    /// The grant's name, as in `[grants.NAME]`.
    pub grant: String,
    /// The auth method's name, as in `[auth]`; `None` where the dialect has no choice.
    pub auth_method: Option<String>,
    pub request: RequestPlan,
    /// Present only if the dialect has `[refresh]`.
    pub refresh: Option<RequestPlan>,
    /// Present only if the dialect has `[device]`.
    pub device: Option<RequestPlan>,
    /// The token is made here: no request is sent.
    pub made: Option<MadePlan>,
    pub response: ResponseRules,
    /// Variables that the first exchange spends.
    pub one_time: Vec<String>,
    /// The dialect's own word; the provider's `single_active` beats it.
    pub single_active: bool,
    /// Secrets that tell tokens apart.
    pub identity: Vec<String>,
}

/// A token request before its variables are known.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestPlan {
    method: Method,
    /// Instead of that of the URL.
    path: Option<layer::Field<(), template::Template>>,
    basic: Option<layer::Basic>,
    query: Vec<layer::TextField>,
    headers: Vec<layer::HeaderField>,
    body: layer::Body,
    computed: computed::Computed,
}

/// A token that nobody is asked for: `[grants.NAME] token`.
#[derive(Clone, Debug, PartialEq)]
pub struct MadePlan {
    token: layer::Field<(), template::Template>,
    computed: computed::Computed,
}

/// A token request, ready to be sent to the provider's `token_url`.
pub struct TokenRequest {
    pub method: Method,
    /// Path and query instead of those of `token_url`, percent-encoded; `None` where they stay.
    pub path: Option<Zeroizing<String>>,
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
    /// Where the request goes, without its query: what most vendors want as `aud` of an assertion.
    pub token_url: String,
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
    /// The dialect says nothing of it.
    transient_is_default: bool,
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

/// How the API says that a token is dead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RejectRules {
    pub status: Vec<u16>,
    pub grpc_status: Vec<u16>,
    /// With the texts that mean a dead token.
    body: Vec<(selector::Selector, Vec<String>)>,
}

impl ExchangePlan {
    /// Whether the grant begins with such a one-time input: a `code`, a `device_code`.
    pub fn begins_with(&self, input: &str) -> bool {
        self.one_time.iter().any(|name| name == input)
    }

    /// Variables without which no token can be asked for, by name, over request, refresh excluded.
    pub fn required_variables(&self) -> BTreeSet<String> {
        self.missing_variables(&|_| false)
    }

    /// As [`Self::required_variables`], of a provider that has those that are `given`: what a computed variable is made of is
    /// not missed where the variable itself is given.
    pub fn missing_variables(&self, given: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
        let needs = match &self.made {
            Some(made) => made.needs(given),
            None => self.request.needs(given),
        };
        let missing = needs
            .into_iter()
            .filter(|(name, needed)| *needed && !given(name));
        missing.map(|(name, _)| name.to_owned()).collect()
    }

    /// Every variable that request, refresh or device authorization can use.
    pub fn known_variables(&self) -> BTreeSet<String> {
        let requests = [
            Some(&self.request),
            self.refresh.as_ref(),
            self.device.as_ref(),
        ];
        let requests = requests.into_iter().flatten();
        let mut known: BTreeSet<_> = requests
            .flat_map(|request| request.needs(&|_| false))
            .collect();
        known.extend(self.made.iter().flat_map(|made| made.needs(&|_| false)));
        known.into_iter().map(|(name, _)| name.to_owned()).collect()
    }

    /// Signing keys among the variables that cannot sign what the dialect signs: the variable, and what is wrong with it,
    /// without quoting it. Those that are not among `variables` are not looked at.
    pub fn unusable_keys(&self, variables: &Variables) -> BTreeMap<String, String> {
        let requests = [
            Some(&self.request),
            self.refresh.as_ref(),
            self.device.as_ref(),
        ];
        let computed = (requests
            .into_iter()
            .flatten()
            .map(|request| &request.computed))
        .chain(self.made.iter().map(|made| &made.computed));
        computed
            .flat_map(computed::Computed::recipes)
            .filter_map(|recipe| match recipe {
                computed::Recipe::Assertion(plan) => plan.check_key(variables)?.err(),
                computed::Recipe::Template(_) => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
