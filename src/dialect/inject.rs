//! The token on a forwarded request, and how an API says that it is dead.

use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::computed::{Computed, Recipe, Recipes};
use super::layer::{HeaderField, TextField, header_fields, join, text_fields};
use super::request::{cannot_stand_in_a_header, push_query_pair};
use super::response::{check_token, parse_selector, texts};
use super::schema::{InjectToml, Ordered, RejectToml, Scalar};
use super::selector::Selector;
use super::suggest::nearest;
use super::template::{Place, Scope, Template};
use super::{Extent, InjectPlan, Injection, Problem, RejectRules, Variables};
use crate::secret::Secret;

/// 401 everywhere; UNAUTHENTICATED in gRPC.
const REJECT_STATUS: u16 = 401;
const REJECT_GRPC_STATUS: u16 = 16;

impl InjectPlan {
    pub(super) fn parse(
        toml: &InjectToml,
        vars: &Recipes,
        extent: Extent,
        problems: &mut Vec<Problem>,
    ) -> Self {
        // RFC 6750 §2: never two methods at once; so the default stands in only for nothing at all.
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
            plan.blame(extent, problems);
        }
        plan
    }

    /// Says where the token was probably meant to be, or that it is nowhere.
    fn blame(&self, extent: Extent, problems: &mut Vec<Problem>) {
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
        problems.extend(
            places()
                .filter(|(_, template)| misspelt(template))
                .map(|(path, _)| Problem {
                    path: path.clone(),
                    message: format!("{message}; did you mean `access_token`?"),
                }),
        );
        if problems.len() > found_before || extent == Extent::Part {
            return;
        }
        let mut all = places();
        let path = match (all.next(), all.next()) {
            (Some((only, _)), None) => only.as_str(),
            _ => "inject",
        };
        problems.push(Problem {
            path: path.to_owned(),
            message: message.to_owned(),
        });
    }

    /// Fails where the token cannot be sent ([`check_token`]).
    pub fn build(
        &self,
        access_token: &Secret,
        variables: &Variables,
    ) -> Result<Injection, Problem> {
        check_token(access_token.expose()).map_err(|reason| Problem {
            path: "inject".to_owned(),
            message: reason.to_owned(),
        })?;
        let scope = Scope {
            access_token: Some(access_token),
            ..Scope::of(variables)
        };
        let values = self.computed.values(scope)?;
        let scope = Scope {
            computed: Some(&values),
            ..scope
        };
        let mut headers = Vec::with_capacity(self.headers.len());
        for field in &self.headers {
            if let Some(text) = field.fill(scope)? {
                headers.push((field.name.clone(), sensitive(field, &text)?));
            }
        }
        let mut query = Zeroizing::new(String::new());
        for field in &self.query {
            if let Some(value) = field.fill(scope)? {
                push_query_pair(&mut query, &field.name, &value);
            }
        }
        Ok(Injection { headers, query })
    }

    /// Headers that the proxy strips from the app's request because the token goes there.
    pub fn header_names(&self) -> &[HeaderName] {
        &self.header_names
    }

    /// Query keys (decoded) that the proxy strips from the app's request.
    pub fn query_names(&self) -> &[String] {
        &self.query_names
    }

    /// Variables that it uses, and whether no request can be sent without them.
    pub fn variables(&self) -> impl Iterator<Item = (&str, bool)> {
        let templates: Vec<_> = self.templates().collect();
        self.computed.needs(&templates, &|_| false).into_iter()
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        let headers = self.headers.iter().map(|field: &HeaderField| &field.value);
        headers.chain(self.query.iter().map(|field: &TextField| &field.value))
    }
}

fn sensitive(field: &HeaderField, text: &str) -> Result<HeaderValue, Problem> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| field.problem(cannot_stand_in_a_header(&field.value)))?;
    value.set_sensitive(true);
    Ok(value)
}

impl RejectRules {
    pub(super) fn parse(toml: &RejectToml, problems: &mut Vec<Problem>) -> Self {
        let body = toml.body.iter().flat_map(Ordered::iter);
        let body = body.filter_map(|(text, values)| {
            let path = join("reject.body", text);
            let selector = parse_selector(text, Selector::parse_pointer, &path, problems)?;
            Some((selector, texts(Some(values), &[])))
        });
        let body = body.collect();
        let status = match &toml.status {
            Some(status) => status.0.clone(),
            None => vec![REJECT_STATUS],
        };
        if status.iter().any(|status| !(100..600).contains(status)) {
            problems.push(Problem {
                path: "reject.status".to_owned(),
                message: "an HTTP status is between 100 and 599".to_owned(),
            });
        }
        Self {
            status,
            grpc_status: match &toml.grpc_status {
                Some(status) => status.0.clone(),
                None => vec![REJECT_GRPC_STATUS],
            },
            body,
        }
    }

    /// Whether bodies need to be looked into at all.
    pub fn reads_bodies(&self) -> bool {
        !self.body.is_empty()
    }

    pub fn body_matches(&self, body: &serde_json::Value) -> bool {
        self.body.iter().any(|(selector, values)| {
            selector
                .in_json(body)
                .is_some_and(|found| values.contains(&found))
        })
    }
}

#[cfg(test)]
mod tests {
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
    fn a_bearer_header_where_nothing_is_written() {
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
    fn problems() {
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
                "headers = { A = '{unix}{access_token}' }",
                "inject.headers.A",
                "`{unix}` is frozen per token request and not known in [inject] (character 1)",
            ),
        ] {
            let problems = inject(toml).unwrap_err();
            assert_eq!((&*problems[0].path, &*problems[0].message), (path, message));
            assert_eq!(problems.len(), 1, "{problems:?}");
        }
    }

    #[test]
    fn bodies_that_reject() {
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
            assert_eq!(rules.body_matches(&body), matches, "{body}");
        }
        assert!(!reject("status = []").reads_bodies());
    }
}
