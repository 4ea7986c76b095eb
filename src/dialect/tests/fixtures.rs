//! Each built-in dialect against its fixture, `fixtures/NAME.toml`: its requests, to the byte, and
//! its document's answers, read to token, lifetime and error class.
//!
//! A new vendor needs two files and its name in the list of `builtin.rs`.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::*;

/// The example key of RFC 7515 §A.2.
const RSA_KEY: &str = include_str!("samples/rfc7515-a2.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// Variables of every request and of the injection.
    #[serde(default)]
    variables: toml::Table,
    request: Vec<RequestCase>,
    /// Empty if the token is built without a request.
    #[serde(default)]
    answer: Vec<AnswerCase>,
    api: ApiCase,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestCase {
    grant: Option<String>,
    auth_method: Option<String>,
    #[serde(default)]
    request: Which,
    /// In addition to the fixture's variables.
    #[serde(default)]
    variables: toml::Table,
    /// `METHOD URL`, a line per header by name, an empty line, the body. A final line break is
    /// ignored. `JWT` stands for an assertion.
    #[serde(default)]
    sent: String,
    /// The assertion, or the token that is built without a request.
    jwt: Option<Jwt>,
}

/// Which of the dialect's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Which {
    #[default]
    Grant,
    Refresh,
    Device,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwt {
    header: serde_json::Value,
    claims: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerCase {
    /// The answer is likely, but not in the document; the dialect needs an `unverified` entry.
    #[serde(default)]
    assumed: bool,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: String,
    /// The token; like the next three keys, only for a success.
    token: Option<String>,
    refresh_token: Option<String>,
    /// Lifetime in seconds from before the request.
    life: Option<u64>,
    /// End of the lifetime as a time.
    until: Option<String>,
    /// "transient" or "permanent"; like the next two keys, only for an error.
    class: Option<String>,
    /// Whether only a new login helps.
    #[serde(default, rename = "final")]
    is_final: bool,
    code: Option<String>,
    description: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiCase {
    /// A line per header, and `?query`, that carry the token `TOKEN`.
    sent: String,
    /// Answers that mean a dead token.
    dead: Vec<ApiAnswer>,
    /// Similar answers that do not mean a dead token.
    alive: Vec<ApiAnswer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiAnswer {
    /// See [`AnswerCase`].
    #[serde(default)]
    assumed: bool,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    body: String,
}

fn ok() -> u16 {
    200
}

#[test]
fn every_dialect_matches_its_document() {
    for (name, _) in builtin() {
        let fixture = read(name);
        check_requests(name, &fixture);
        check_answers(name, &fixture.answer);
        check_api(name, &fixture);
    }
}

#[test]
fn assumed_answers_need_an_unverified_entry() {
    for (name, _) in builtin() {
        let fixture = read(name);
        let api = fixture.api.dead.iter().chain(&fixture.api.alive);
        let assumed = fixture.answer.iter().any(|answer| answer.assumed)
            || api.into_iter().any(|answer| answer.assumed);
        let said = !find_builtin(name).unwrap().unverified.is_empty();
        assert!(!assumed || said, "{name} has no `unverified`");
    }
}

#[test]
fn a_user_dialect_may_extend_each_built_in_one() {
    for (name, _) in builtin() {
        let own = format!("[own]\nextends = '{name}'\nresponse.error = '/mine'");
        let user: BTreeMap<String, DialectToml> = toml::from_str(&own).unwrap();
        let source = Source {
            dialect: "own",
            user: &user,
            overrides: &Overrides::default(),
            grant: None,
            auth_method: None,
        };
        let extended = compile(&source).unwrap_or_else(|problems| panic!("{name}: {problems:#?}"));
        let mut plan = plan(name, None, None);
        assert_ne!(extended.exchange.response, plan.exchange.response, "{name}");
        plan.exchange.response = extended.exchange.response.clone();
        assert_eq!(extended.exchange, plan.exchange, "{name}");
        assert_eq!(extended.inject, plan.inject, "{name}");
        assert_eq!(extended.reject, plan.reject, "{name}");
        assert_eq!(extended.defaults, plan.defaults, "{name}");
    }
}

#[test]
fn every_fixture_has_a_dialect() {
    for file in std::fs::read_dir(folder()).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        let name = file.strip_suffix(".toml").unwrap_or(&file);
        assert!(find_builtin(name).is_some(), "fixtures/{file}");
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/dialect/tests/fixtures"
    ))
}

fn read(name: &str) -> Fixture {
    let path = folder().join(format!("{name}.toml"));
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("fixtures/{name}.toml: {error}"));
    toml::from_str(&text).unwrap_or_else(|error| panic!("fixtures/{name}.toml: {error}"))
}

/// Checks each request, and that every grant, auth method and further request of the dialect has a
/// case.
fn check_requests(name: &str, fixture: &Fixture) {
    let dialects = chain(name);
    let default = |of: fn(&DialectToml) -> &Option<String>| {
        let written = dialects.iter().find_map(|dialect| of(dialect).clone());
        written.unwrap_or_default()
    };
    let mut grants = BTreeSet::new();
    let mut auth_methods = BTreeSet::new();
    let mut requests = BTreeSet::new();
    for case in &fixture.request {
        let plan = plan(name, case.grant.as_deref(), case.auth_method.as_deref());
        let variables = values(&[&fixture.variables, &case.variables]);
        let context = format!("{name}, {:?}, {:?}", case.grant, case.auth_method);
        let (sent, jwt) = sent(&plan, case.request, &variables);
        assert_eq!(sent, case.sent.trim_end_matches('\n'), "{context}");
        match (jwt, &case.jwt) {
            (Some((header, claims)), Some(jwt)) => {
                assert_eq!(header, jwt.header, "{context}");
                assert_eq!(claims, jwt.claims, "{context}");
            }
            (None, None) => {}
            (jwt, _) => panic!("{context}: {jwt:?}"),
        }
        requests.insert(case.request);
        grants.insert((case.grant.clone()).unwrap_or_else(|| default(|it| &it.default_grant)));
        auth_methods
            .insert((case.auth_method.clone()).unwrap_or_else(|| default(|it| &it.default_auth)));
    }
    let own = dialects[0];
    for grant in own.grants.names() {
        assert!(grants.contains(grant), "{name}: no request of {grant}");
    }
    for method in own.auth.names() {
        assert!(auth_methods.contains(method), "{name}: no {method}");
    }
    let refreshed = own.refresh.is_none() || requests.contains(&Which::Refresh);
    assert!(refreshed, "{name}: no refresh");
    let logged_in = own.device.is_none() || requests.contains(&Which::Device);
    assert!(logged_in, "{name}: no device authorization");
}

fn check_answers(name: &str, cases: &[AnswerCase]) {
    let exchange = plan(name, None, None).exchange;
    if exchange.local_token.is_some() {
        return;
    }
    for case in cases {
        let context = format!("{name}: {}", case.body);
        let mut headers = HeaderMap::new();
        for (name, value) in &case.headers {
            let name: HeaderName = name.parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        let answer = Answer {
            status: StatusCode::from_u16(case.status).unwrap(),
            headers: &headers,
            body: case.body.as_bytes(),
            now: UNIX_EPOCH,
        };
        match (exchange.response.read(answer, &[]), &case.token) {
            (Ok(issued), Some(token)) => {
                assert_eq!(issued.access_token.expose(), token, "{context}");
                let refresh_token = issued.refresh_token.as_ref().map(Secret::expose);
                assert_eq!(refresh_token, case.refresh_token.as_deref(), "{context}");
                assert_eq!(life(issued.expiry), (case.life, case.until()), "{context}");
                assert_eq!(issued.warnings, [""; 0], "{context}");
            }
            (Err(refusal), None) => {
                let class = format!("{:?}", refusal.class).to_lowercase();
                assert_eq!(Some(class), case.class, "{context}");
                assert_eq!(refusal.is_final, case.is_final, "{context}");
                assert_eq!(refusal.code, case.code, "{context}");
                assert_eq!(refusal.description, case.description, "{context}");
            }
            (read, _) => panic!("{context}: {read:?}"),
        }
    }
    let yes = cases.iter().filter(|case| case.token.is_some()).count();
    assert!(yes > 0 && yes < cases.len(), "{name}: a yes and a no");
}

fn check_api(name: &str, fixture: &Fixture) {
    let plan = plan(name, None, None);
    let variables = values(&[&fixture.variables]);
    let mut injection = plan.inject.build(&"TOKEN".into(), &variables).unwrap();
    if let Some(per_request) = injection.per_request {
        injection = per_request.make(&frozen()).unwrap();
    }
    let mut lines: Vec<_> = (injection.headers.iter())
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    if !injection.query.is_empty() {
        lines.push(format!("?{}", *injection.query));
    }
    assert_eq!(lines.join("\n"), fixture.api.sent.trim_end(), "{name}");

    let is_dead = |answer: &ApiAnswer| {
        let body = answer.body.as_bytes();
        plan.reject.status.contains(&answer.status)
            || plan.reject.body_matches(body, &HeaderMap::new())
    };
    for answer in &fixture.api.dead {
        assert!(is_dead(answer), "{name}: {} is dead", answer.body);
    }
    for answer in &fixture.api.alive {
        assert!(!is_dead(answer), "{name}: {} is alive", answer.body);
    }
    let (dead, alive) = (&fixture.api.dead, &fixture.api.alive);
    assert!(!dead.is_empty() && !alive.is_empty(), "{name}: both");
}

impl AnswerCase {
    fn until(&self) -> Option<SystemTime> {
        let at: jiff::Timestamp = self.until.as_ref()?.parse().unwrap();
        Some(at.into())
    }
}

fn life(expiry: Expiry) -> (Option<u64>, Option<SystemTime>) {
    match expiry {
        Expiry::Unstated => (None, None),
        Expiry::In(life) => (Some(life.as_secs()), None),
        Expiry::At { at, .. } => (None, Some(at)),
    }
}

/// The dialect and the dialects that it extends.
fn chain(name: &str) -> Vec<&'static DialectToml> {
    let extends = |dialect: &&'static DialectToml| find_builtin(dialect.extends.as_deref()?);
    std::iter::successors(find_builtin(name), extends).collect()
}

fn plan(name: &str, grant: Option<&str>, auth_method: Option<&str>) -> Plan {
    let source = Source {
        dialect: name,
        user: &BTreeMap::new(),
        overrides: &Overrides::default(),
        grant,
        auth_method,
    };
    compile(&source).unwrap_or_else(|problems| panic!("{name}: {problems:#?}"))
}

type Parts = (serde_json::Value, serde_json::Value);

/// The request with `JWT` in place of an assertion, and the assertion.
fn sent(plan: &Plan, which: Which, variables: &Variables) -> (String, Option<Parts>) {
    let token_url = match &plan.defaults.token_url {
        Some(url) => url.fill(variables).unwrap(),
        None => "https://vendor.example/token".to_owned(),
    };
    let frozen = Frozen {
        token_url: token_url.clone(),
        ..frozen()
    };
    if let Some(made) = &plan.exchange.local_token {
        let issued = made.make(variables, &frozen).unwrap();
        return (
            String::new(),
            jwt_in(issued.access_token.expose()).map(|(_, parts)| parts),
        );
    }
    let request = match which {
        Which::Grant => Some(&plan.exchange.request),
        Which::Refresh => plan.exchange.refresh.as_ref(),
        Which::Device => plan.exchange.device.as_ref(),
    };
    let request = request.unwrap_or_else(|| panic!("there is no {which:?}"));
    let request = request.render(variables, &frozen).unwrap();
    let address = match &request.path {
        Some(path) => {
            let host = token_url.find('/').map_or(0, |at| at + 2);
            let end = token_url[host..]
                .find('/')
                .map_or(token_url.len(), |at| host + at);
            format!("{}{}", &token_url[..end], **path)
        }
        None => token_url,
    };
    let wire = wire(&request);
    let rest = wire.strip_prefix(request.method.as_str()).unwrap();
    let text = format!(
        "{} {address}{}",
        request.method,
        rest.trim_end_matches('\n')
    );
    match jwt_in(&text) {
        Some((jwt, parts)) => (text.replace(&jwt, "JWT"), Some(parts)),
        None => (text, None),
    }
}

/// The first signed JWT in a text, with its header and claims.
fn jwt_in(text: &str) -> Option<(String, Parts)> {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let words = text.split(|c| !is_inside(c));
    words.into_iter().find_map(|word| {
        let mut parts = word.split('.');
        let mut json = || {
            let part = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
            serde_json::from_slice(&part).ok()
        };
        Some((word.to_owned(), (json()?, json()?)))
    })
}

fn values(tables: &[&toml::Table]) -> Variables {
    let all = tables.iter().flat_map(|table| table.iter());
    all.map(|(name, value)| {
        let value = match value {
            toml::Value::String(value) if value == "RFC 7515 A.2" => text(RSA_KEY),
            toml::Value::String(value) => text(value),
            toml::Value::Integer(value) => Var::Integer(*value),
            toml::Value::Boolean(value) => Var::Boolean(*value),
            other => panic!("{name}: a variable is no {}", other.type_str()),
        };
        (name.clone(), value)
    })
    .collect()
}
