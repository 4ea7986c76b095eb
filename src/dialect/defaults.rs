//! A dialect's defaults for providers: URLs and life-cycle durations.

use std::time::Duration;

use super::duration::parse_duration;
use super::field::{Field, Problem, field, report};
use super::request::encode_segment;
use super::schema::DialectToml;
use super::template::{Place, Scope, Template};
use super::value::Variables;

/// A dialect's defaults; `None` where the dialect has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    pub token_url: Option<UrlTemplate>,
    pub authorization_url: Option<UrlTemplate>,
    pub device_authorization_url: Option<UrlTemplate>,
    pub ttl: Option<Duration>,
    pub min_interval: Option<Duration>,
    pub refresh_before: Option<Duration>,
}

/// A URL with variables, which must be known when the configuration is read: a token's destination
/// is not secret and does not change while the program runs.
#[derive(Clone, Debug, PartialEq)]
pub struct UrlTemplate(Field<(), Template>);

impl Defaults {
    /// `chain` is the dialect and the dialects that it extends, nearest first.
    pub(super) fn parse(chain: &[(&str, &DialectToml)], problems: &mut Vec<Problem>) -> Self {
        let mut url = |path: &str, written: fn(&DialectToml) -> &Option<String>| {
            let text = chain.iter().find_map(|(_, toml)| written(toml).as_ref())?;
            field(text, path.to_owned(), Place::Fixed, problems).map(UrlTemplate)
        };
        let token_url = url("token_url", |toml| &toml.token_url);
        let authorization_url = url("authorization_url", |toml| &toml.authorization_url);
        let device_authorization_url = url("device_authorization_url", |toml| {
            &toml.device_authorization_url
        });
        let mut span = |path: &str, written: fn(&DialectToml) -> &Option<String>| {
            let text = chain.iter().find_map(|(_, toml)| written(toml).as_ref())?;
            let message = "expected a duration such as \"30s\" (units: ms, s, m, h, d)";
            let span = parse_duration(text).map_err(|_| message.to_owned());
            report(span, path, problems)
        };
        Self {
            token_url,
            authorization_url,
            device_authorization_url,
            ttl: span("ttl", |toml| &toml.ttl),
            min_interval: span("min_interval", |toml| &toml.min_interval),
            refresh_before: span("refresh_before", |toml| &toml.refresh_before),
        }
    }

    /// The URLs' variables.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        let urls = [
            &self.token_url,
            &self.authorization_url,
            &self.device_authorization_url,
        ];
        urls.into_iter().flatten().flat_map(UrlTemplate::variables)
    }
}

impl UrlTemplate {
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.0.value.variables().map(|(name, _)| name)
    }

    /// Variables without a default.
    pub fn required_variables(&self) -> impl Iterator<Item = &str> {
        let required = self.0.value.variables().filter(|(_, required)| *required);
        required.map(|(name, _)| name)
    }

    /// Whether the scheme is `http`, which a provider has to allow.
    pub fn is_plain_http(&self) -> bool {
        self.0.value.starts_with("http://")
    }

    /// The URL, each value percent-encoded as one segment.
    pub fn fill(&self, variables: &Variables) -> Result<String, Problem> {
        let filled = (self.0.value).fill_with(Scope::of(variables), &encode_segment);
        let filled = filled.map_err(|message| self.0.problem(message))?;
        let filled = filled.ok_or_else(|| self.0.problem("one of its variables has no value"))?;
        Ok(filled.to_string())
    }
}
