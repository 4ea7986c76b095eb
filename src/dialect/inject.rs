//! Putting the token on forwarded requests, and recognizing that an API rejects the token.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::computed::{Computed, Recipe, Recipes};
use super::document::Document;
use super::field::{HeaderField, Problem, TextField, header_fields, join, report, text_fields};
use super::one_or_many::OneOrMany;
use super::request::{header_value, render_query};
use super::response::{check_token, texts};
use super::schema::{InjectToml, Ordered, RejectToml, Scalar};
use super::selector::Selector;
use super::source::Extent;
use super::suggest::nearest;
use super::template::{Place, Scope, Template};
use super::value::{Frozen, Variables};
use crate::secret::Secret;

const REJECT_STATUS: u16 = 401;
/// UNAUTHENTICATED.
const REJECT_GRPC_STATUS: u16 = 16;

/// Where a forwarded request carries the token.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectPlan {
    headers: Vec<HeaderField>,
    query: Vec<TextField>,
    header_names: Vec<HeaderName>,
    query_names: Vec<String>,
    computed: Computed,
}

/// A token in the form it is sent: built once per fetch, and per request only if the dialect uses
/// a time or a nonce.
#[derive(Clone, Default)]
pub struct Injection {
    /// Values are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `name=value&name=value`, percent-encoded; empty where the dialect injects no query.
    pub query: Zeroizing<String>,
    /// Present if the values above must be made anew for each request.
    pub per_request: Option<Arc<PerRequest>>,
}

/// What an injection with a time or a nonce is made of.
pub struct PerRequest {
    plan: InjectPlan,
    access_token: Secret,
    variables: Variables,
}

/// How the API reports a dead token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RejectRules {
    pub status: Vec<u16>,
    pub grpc_status: Vec<u16>,
    /// Selectors with the texts that mean a dead token.
    body: Vec<(Selector, Vec<String>)>,
}

impl InjectPlan {
    pub(super) fn parse(
        toml: &InjectToml,
        vars: &Recipes,
        extent: Extent,
        problems: &mut Vec<Problem>,
    ) -> Self {
        // RFC 6750 §2 forbids two methods at once, so `query` alone disables the default header.
        let default = Ordered(vec![(
            "Authorization".to_owned(),
            Scalar::Text("Bearer {access_token}".to_owned()),
        )]);
        let (headers, query) = match (&toml.headers, &toml.query) {
            (None, None) => (Some(&default), None),
            (headers, query) => (headers.as_ref(), query.as_ref()),
        };
        let found_before = problems.len();
        let headers = headers.map_or_else(Vec::new, |table| {
            header_fields(table, "inject.headers", Place::Inject, problems)
        });
        let query = query.map_or_else(Vec::new, |table| {
            text_fields(table, "inject.query", Place::Inject, problems)
        });
        let mut plan = Self {
            header_names: headers.iter().map(|field| field.name.clone()).collect(),
            query_names: query.iter().map(|field| field.name.clone()).collect(),
            headers,
            query,
            computed: Computed::default(),
        };
        plan.computed = vars.for_templates(plan.templates(), Place::Inject, problems);
        let computed = plan.computed.recipes().flat_map(Recipe::templates);
        let carries_token = (plan.templates().chain(computed)).any(Template::names_access_token);
        if !carries_token && problems.len() == found_before {
            plan.report_missing_token(extent, problems);
        }
        plan
    }

    /// Points at a misspelt `access_token`, or reports that no template uses the token.
    fn report_missing_token(&self, extent: Extent, problems: &mut Vec<Problem>) {
        let places = || {
            let headers = self.headers.iter().map(|field| (&field.path, &field.value));
            headers.chain(self.query.iter().map(|field| (&field.path, &field.value)))
        };
        let misspelt = |template: &Template| {
            template
                .variables()
                .any(|(name, _)| nearest(name, ["access_token"]).is_some())
        };
        let message = "nothing here carries `{access_token}`";
        let found_before = problems.len();
        let misspelt = places().filter(|(_, template)| misspelt(template));
        problems.extend(misspelt.map(|(path, _)| {
            Problem::new(&**path, format!("{message}; did you mean `access_token`?"))
        }));
        if problems.len() > found_before || extent == Extent::Part {
            return;
        }
        let mut all = places();
        let path = match (all.next(), all.next()) {
            (Some((only, _)), None) => only.as_str(),
            _ => "inject",
        };
        problems.push(Problem::new(path, message));
    }

    /// Fails if the token cannot be sent ([`check_token`]).
    pub fn build(
        &self,
        access_token: &Secret,
        variables: &Variables,
    ) -> Result<Injection, Problem> {
        check_token(access_token.expose()).map_err(|reason| Problem::new("inject", reason))?;
        if !self.is_per_request() {
            return self.fill(access_token, Scope::of(variables));
        }
        // Made with a sample, so that a template that fails does so here and not per request.
        let sample = Frozen {
            now: SystemTime::UNIX_EPOCH,
            nonce: "0".repeat(32),
            uuid: "00000000-0000-0000-0000-000000000000".to_owned(),
            token_url: String::new(),
        };
        let made = self.fill(access_token, Scope::of_request(variables, &sample))?;
        let per_request = PerRequest {
            plan: self.clone(),
            access_token: access_token.clone(),
            variables: variables.clone(),
        };
        Ok(Injection {
            per_request: Some(Arc::new(per_request)),
            ..made
        })
    }

    fn fill(&self, access_token: &Secret, scope: Scope<'_>) -> Result<Injection, Problem> {
        let scope = Scope {
            access_token: Some(access_token),
            ..scope
        };
        let values = self.computed.values(scope)?;
        let scope = scope.with(&values);
        let mut headers = Vec::with_capacity(self.headers.len());
        for field in &self.headers {
            if let Some(text) = field.fill(scope)? {
                headers.push((field.name.clone(), header_value(field, &text, true)?));
            }
        }
        let query = render_query(&self.query, scope)?;
        Ok(Injection {
            headers,
            query,
            per_request: None,
        })
    }

    fn is_per_request(&self) -> bool {
        let computed = self.computed.recipes().flat_map(Recipe::templates);
        (self.templates().chain(computed)).any(Template::names_built_in)
    }

    /// Headers that the token replaces in the app's request.
    pub fn header_names(&self) -> &[HeaderName] {
        &self.header_names
    }

    /// Decoded query keys that the token replaces in the app's request.
    pub fn query_names(&self) -> &[String] {
        &self.query_names
    }

    /// Variables of the plan, each with whether requests require it.
    pub fn variables(&self) -> impl Iterator<Item = (&str, bool)> {
        let templates: Vec<_> = self.templates().collect();
        self.computed.needs(&templates, &|_| false).into_iter()
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        let headers = self.headers.iter().map(|field| &field.value);
        headers.chain(self.query.iter().map(|field| &field.value))
    }
}

impl PerRequest {
    /// Makes the headers and the query of one request.
    pub fn make(&self, frozen: &Frozen) -> Result<Injection, Problem> {
        let scope = Scope::of_request(&self.variables, frozen);
        self.plan.fill(&self.access_token, scope)
    }
}

impl RejectRules {
    pub(super) fn parse(toml: &RejectToml, problems: &mut Vec<Problem>) -> Self {
        let body = toml.body.iter().flat_map(Ordered::iter);
        let body = body.filter_map(|(text, values)| {
            let path = join("reject.body", text);
            let selector = report(Selector::parse_pointer(text), &path, problems)?;
            Some((selector, texts(Some(values), &[])))
        });
        let body = body.collect();
        let statuses = |written: &Option<OneOrMany<u16>>, default| {
            written
                .as_ref()
                .map_or_else(|| vec![default], |list| list.0.clone())
        };
        let status = statuses(&toml.status, REJECT_STATUS);
        if status.iter().any(|status| !(100..600).contains(status)) {
            let message = "an HTTP status is between 100 and 599";
            problems.push(Problem::new("reject.status", message));
        }
        Self {
            status,
            grpc_status: statuses(&toml.grpc_status, REJECT_GRPC_STATUS),
            body,
        }
    }

    /// Whether response bodies must be inspected.
    pub fn reads_bodies(&self) -> bool {
        !self.body.is_empty()
    }

    /// Whether a body, compressed or not and whatever its content type, matches a rule.
    pub fn body_matches(&self, body: &[u8], headers: &HeaderMap) -> bool {
        let Some(json) = Document::read_api(body, headers).json else {
            return false;
        };
        (self.body.iter()).any(|(selector, values)| {
            (selector.in_json(&json)).is_some_and(|found| values.contains(&found))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn inject(toml: &str) -> Result<InjectPlan, Vec<Problem>> {
        let mut problems = Vec::new();
        let plan = InjectPlan::parse(
            &toml::from_str(toml).unwrap(),
            &Recipes::default(),
            Extent::Whole,
            &mut problems,
        );
        if problems.is_empty() {
            Ok(plan)
        } else {
            Err(problems)
        }
    }

    fn reject(toml: &str) -> RejectRules {
        let mut problems = Vec::new();
        let rules = RejectRules::parse(&toml::from_str(toml).unwrap(), &mut problems);
        assert_eq!(problems, []);
        rules
    }

    #[test]
    fn an_empty_table_injects_a_bearer_header() {
        let plan = inject("").unwrap();
        assert_eq!(plan.header_names(), ["authorization"]);
        let injection = plan.build(&"tok".into(), &Variables::new()).unwrap();
        let (name, value) = &injection.headers[0];
        assert_eq!(
            (name.as_str(), value.as_bytes()),
            ("authorization", &b"Bearer tok"[..])
        );
        assert!(value.is_sensitive());
        assert_eq!(injection.query.as_str(), "");
    }

    #[test]
    fn a_query_replaces_the_default_header() {
        let plan = inject("query = { 'access token' = '{access_token}', k = '{key?}' }").unwrap();
        assert_eq!(plan.header_names(), [""; 0]);
        assert_eq!(plan.query_names(), ["access token", "k"]);
        let injection = plan.build(&"a+b/c".into(), &Variables::new()).unwrap();
        assert_eq!(injection.query.as_str(), "access%20token=a%2Bb%2Fc");
        assert!(injection.headers.is_empty());
    }

    #[test]
    fn times_and_nonces_are_made_anew_for_each_request() {
        let plan = inject(
            "query = { t = '{unix}', ms = '{unix_ms}', n = '{nonce}', access_token = '{access_token}' }
             headers = { X-Sign = '{nonce|hmac_md5:access_token}', X-Static = 's' }",
        );
        let plan = plan.unwrap();
        let ready = plan.build(&"tok".into(), &Variables::new()).unwrap();
        let per_request = ready.per_request.unwrap();
        let make = |seconds, nonce: &str| {
            let frozen = Frozen {
                now: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
                nonce: nonce.to_owned(),
                uuid: String::new(),
                token_url: String::new(),
            };
            per_request.make(&frozen).unwrap()
        };
        let (first, second) = (make(7, "a"), make(8, "b"));
        assert_eq!(first.query.as_str(), "t=7&ms=7000&n=a&access_token=tok");
        assert_eq!(second.query.as_str(), "t=8&ms=8000&n=b&access_token=tok");
        assert!(first.per_request.is_none());
        assert_ne!(first.headers[0].1, second.headers[0].1);
        assert_eq!(first.headers[1].1, second.headers[1].1);
        assert!(first.headers.iter().all(|(_, value)| value.is_sensitive()));

        let fixed = inject("").unwrap().build(&"tok".into(), &Variables::new());
        assert!(fixed.unwrap().per_request.is_none());
    }

    #[test]
    fn a_time_that_cannot_be_filled_in_fails_before_the_first_request() {
        let plan = inject("query = { n = '{nonce|json:/x}', t = '{access_token}' }").unwrap();
        let problem = plan.build(&"tok".into(), &Variables::new()).err().unwrap();
        assert_eq!(problem.path, "inject.query.n");
    }

    #[test]
    fn a_token_of_16_kib_works_and_one_with_a_line_break_does_not() {
        let plan = inject("").unwrap();
        let long = "x".repeat(16 * 1024);
        let injection = plan
            .build(&long.as_str().into(), &Variables::new())
            .unwrap();
        assert_eq!(injection.headers[0].1.len(), long.len() + 7);
        for token in [
            "",
            "hunter2\r\nX: y",
            "hunter2 ",
            "hünter2",
            "hunter2\u{7f}",
        ] {
            let problem = plan.build(&token.into(), &Variables::new()).err().unwrap();
            assert!(!format!("{problem:?}").contains("nter2"), "{problem:?}");
        }
    }

    #[test]
    fn bad_plans_are_reported_with_their_path() {
        for (toml, path, message) in [
            (
                "headers = {}",
                "inject",
                "nothing here carries `{access_token}`",
            ),
            (
                "headers = { A = 'Bearer {acces_token}', B = 'b' }",
                "inject.headers.A",
                "nothing here carries `{access_token}`; did you mean `access_token`?",
            ),
            (
                "query = { A = '{token}' }",
                "inject.query.A",
                "nothing here carries `{access_token}`",
            ),
            (
                "headers = { Host = '{access_token}' }",
                "inject.headers.Host",
                "is set by the connection itself",
            ),
            (
                "headers = { A = '{token_url}{access_token}' }",
                "inject.headers.A",
                "`{token_url}` is known only in token requests (character 1)",
            ),
        ] {
            let problems = inject(toml).unwrap_err();
            assert_eq!((&*problems[0].path, &*problems[0].message), (path, message));
            assert_eq!(problems.len(), 1, "{problems:?}");
        }
    }

    #[test]
    fn bodies_match_by_pointer_and_text() {
        let rules = reject("body = { '/errcode' = [40001, '42001'], '/d/ok' = false }");
        assert!(rules.reads_bodies());
        assert_eq!(
            (rules.status.as_slice(), rules.grpc_status.as_slice()),
            (&[401][..], &[16][..])
        );
        for (body, matches) in [
            (json!({"errcode": 40001}), true),
            (json!({"errcode": "40001"}), true),
            (json!({"errcode": 42001.0}), true),
            (json!({"errcode": 0}), false),
            (json!({"errcode": null}), false),
            (json!({"d": {"ok": false}}), true),
            (json!([]), false),
        ] {
            let read = rules.body_matches(body.to_string().as_bytes(), &HeaderMap::new());
            assert_eq!(read, matches, "{body}");
        }
        assert!(!reject("status = []").reads_bodies());
    }
}
