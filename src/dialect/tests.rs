//! Whole dialects: vendors' samples to the byte ([`golden`], [`fixtures`]), the merge rule
//! ([`merging`]) and computed variables ([`computing`]).

mod computing;
mod fixtures;
mod golden;
mod merging;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, StatusCode};

use super::*;
use crate::secret::Secret;

/// The provider whose plan a test compiles.
#[derive(Default)]
struct Provider {
    dialect: &'static str,
    grant: Option<&'static str>,
    auth_method: Option<&'static str>,
    /// `[dialects]`
    dialects: &'static str,
    /// `[providers.x]`, only the dialect's tables.
    overrides: &'static str,
}

impl Provider {
    fn of(dialect: &'static str) -> Self {
        Self {
            dialect,
            ..Self::default()
        }
    }

    fn compile(&self) -> Result<Plan, Vec<Problem>> {
        let user: BTreeMap<String, DialectToml> = toml::from_str(self.dialects).unwrap();
        let overrides: Overrides = toml::from_str(self.overrides).unwrap();
        compile(&Source {
            dialect: self.dialect,
            user: &user,
            overrides: &overrides,
            grant: self.grant,
            auth_method: self.auth_method,
        })
    }

    fn exchange(&self) -> ExchangePlan {
        self.compile().unwrap().exchange
    }

    /// The first request's bytes, as [`wire`] shows them.
    fn request(&self, variables: &[(&str, Var)]) -> String {
        wire(
            &self
                .exchange()
                .request
                .render(&vars(variables), &frozen())
                .unwrap(),
        )
    }

    fn refresh(&self, variables: &[(&str, Var)]) -> String {
        let refresh = self.exchange().refresh.unwrap();
        wire(&refresh.render(&vars(variables), &frozen()).unwrap())
    }

    fn problems(&self) -> Vec<(String, String)> {
        let problems = self.compile().unwrap_err();
        (problems.into_iter())
            .map(|problem| (problem.path, problem.message))
            .collect()
    }

    fn read(
        &self,
        status: u16,
        headers: &[(&'static str, &str)],
        body: &str,
    ) -> Result<Issued, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &map,
            body: body.as_bytes(),
            now: UNIX_EPOCH,
        };
        self.exchange()
            .response
            .read(answer, &[&Secret::new("hunter2")])
    }
}

fn text(text: &str) -> Var {
    Var::Text(text.into())
}

fn vars(variables: &[(&str, Var)]) -> Variables {
    (variables.iter())
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

fn frozen() -> Frozen {
    Frozen {
        token_url: "https://auth.example/token".to_owned(),
        now: UNIX_EPOCH + Duration::from_millis(1_700_000_000_789),
        nonce: "n0nce".into(),
        uuid: "0b0b".into(),
    }
}

/// Method and query, a line per header in the order of their names, an empty line, the body.
fn wire(request: &TokenRequest) -> String {
    let query = request.query.as_ref().map(|query| format!("?{}", **query));
    let mut headers: Vec<_> = (request.headers.iter())
        .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()))
        .collect();
    headers.sort();
    format!(
        "{}{}\n{}\n{}",
        request.method,
        query.unwrap_or_default(),
        headers.concat(),
        String::from_utf8(request.body.to_vec()).unwrap()
    )
}
