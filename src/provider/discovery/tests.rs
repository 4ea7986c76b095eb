//! Metadata responses of servers, without a network.

use std::sync::Mutex;

use http::StatusCode;
use serde_json::{Value as Json, json};
use zeroize::Zeroizing;

use super::*;
use crate::config::{Config, TokenSource};
use crate::provider::exchange::{Fetched, Pending, TokenCall, TokenConnection};

const ISSUER: &str = "https://id.example/realm";

/// An issuer with one scripted response for each of its two addresses.
struct Server {
    answers: Mutex<Vec<(u16, String)>>,
    headers: HeaderMap,
}

impl Server {
    fn new(answers: &[(u16, &str)]) -> Self {
        let last_first = answers.iter().rev();
        let answers = last_first.map(|(status, body)| (*status, (*body).to_owned()));
        Self {
            answers: Mutex::new(answers.collect()),
            headers: HeaderMap::new(),
        }
    }

    async fn discover(&self, endpoint: &Endpoint) -> Result<Endpoint, FetchError> {
        let issuer = endpoint.issuer.as_ref().unwrap();
        discover(endpoint, issuer, self, &Clock::System).await
    }

    fn left(&self) -> usize {
        self.answers.lock().unwrap().len()
    }
}

impl Fetch for Server {
    fn dial<'a>(
        &'a self,
        _endpoint: &'a Endpoint,
        _deadline: Instant,
    ) -> Pending<'a, Result<Box<dyn TokenConnection>, FetchError>> {
        let next = self.answers.lock().unwrap().pop();
        let (status, body) = next.expect("asked no more often than it has addresses");
        let line = Answering(RawResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: self.headers.clone(),
            body: Zeroizing::new(body.into_bytes()),
        });
        Box::pin(std::future::ready(Ok(
            Box::new(line) as Box<dyn TokenConnection>
        )))
    }
}

struct Answering(RawResponse);

impl TokenConnection for Answering {
    fn send<'a>(
        self: Box<Self>,
        _call: TokenCall<'a>,
        _deadline: Instant,
    ) -> Pending<'a, Result<Fetched, FetchError>> {
        unreachable!("no token is asked for")
    }

    fn ask<'a>(
        self: Box<Self>,
        _endpoint: &'a Endpoint,
        _request: TokenRequest,
        _deadline: Instant,
    ) -> Pending<'a, Result<RawResponse, FetchError>> {
        Box::pin(std::future::ready(Ok(self.0)))
    }
}

/// An environment with an egress proxy and one excluded host.
const BEHIND_PROXY: [(&str, &str); 2] = [
    ("HTTPS_PROXY", "http://proxy.example:3128"),
    ("NO_PROXY", "inside.example"),
];

fn endpoint(lines: &str) -> Endpoint {
    let text = format!(
        "[store]\nkind = 'file'\npath = '/tmp/x'\n\
         [providers.x]\nissuer = '{ISSUER}'\nclient_id = 'c'\nclient_secret = 's'\n{lines}"
    );
    let config = Config::from_toml(&text, &BEHIND_PROXY).unwrap();
    match &config.providers[0].source {
        TokenSource::Endpoint(endpoint) => (**endpoint).clone(),
        _ => panic!("no endpoint"),
    }
}

/// Metadata with `members` and the issuer.
fn metadata(mut members: Json) -> String {
    members["issuer"] = ISSUER.into();
    members.to_string()
}

async fn found(lines: &str, members: Json) -> Result<Endpoint, String> {
    let server = Server::new(&[(200, &metadata(members)), (404, "")]);
    let found = server.discover(&endpoint(lines)).await;
    found.map_err(|error| error.to_string())
}

#[tokio::test]
async fn settings_of_the_issuers_host_do_not_apply_to_other_hosts() {
    let tls = "tls = { server_name = 'id.internal' }\n";
    let at = |lines: &'static str, url: &'static str| async move {
        let lines = format!("{tls}{lines}");
        let found = found(&lines, json!({ "token_endpoint": url }))
            .await
            .unwrap();
        let proxy = found.egress.map(|proxy| proxy.host);
        (proxy, found.tls.server_name)
    };
    let proxy = |name: &str| Some(name.to_owned());
    let same = at("", "https://id.example/token").await;
    assert_eq!(same, (proxy("proxy.example"), proxy("id.internal")));
    // Another port of the same host keeps the settings.
    let port = at("", "https://id.example:8443/token").await;
    assert_eq!(port, (proxy("proxy.example"), proxy("id.internal")));
    assert_eq!(at("", "https://inside.example/t").await, (None, None));
    let other = at("", "https://other.example/t").await;
    assert_eq!(other, (proxy("proxy.example"), None));
    // `proxy` of the provider applies to all hosts.
    let off = at("proxy = 'off'\n", "https://other.example/t").await;
    assert_eq!(off, (None, None));
    let own = at(
        "proxy = 'http://mine.example'\n",
        "https://inside.example/t",
    )
    .await;
    assert_eq!(own, (proxy("mine.example"), None));
}

#[tokio::test]
async fn browser_endpoint_comes_from_the_metadata() {
    let members = json!({
        "token_endpoint": "https://id.example/token",
        "authorization_endpoint": "https://login.example/authorize?x=1",
        "device_authorization_endpoint": "https://id.example/device",
        "code_challenge_methods_supported": ["plain"],
        "authorization_response_iss_parameter_supported": true,
    });
    let code = "grant = 'authorization_code'\n";
    let with_code = found(code, members.clone()).await.unwrap();
    let url = with_code.authorization_url.as_deref();
    assert_eq!(url, Some("https://login.example/authorize?x=1"));
    assert_eq!(with_code.device_authorization_url, None);
    let rules = BrowserRules {
        lacks_s256: true,
        issuer: Some(ISSUER.to_owned()),
        names_issuer: true,
    };
    assert_eq!(with_code.browser, rules);
    // A configured address takes precedence.
    let own = format!("{code}authorization_url = 'https://own.example/a'\n");
    let own = found(&own, members.clone()).await.unwrap();
    assert_eq!(
        own.authorization_url.as_deref(),
        Some("https://own.example/a")
    );
    assert_eq!(own.browser, BrowserRules::default());
    let device = found("grant = 'device_code'\n", members.clone())
        .await
        .unwrap();
    let url = device.device_authorization_url.as_deref();
    assert_eq!(url, Some("https://id.example/device"));
    // An unused endpoint is not checked.
    let mut bad = members;
    bad["authorization_endpoint"] = "http://login.example/".into();
    assert!(found("", bad.clone()).await.is_ok());
    let told = found(code, bad).await.unwrap_err();
    assert!(
        told.contains("its authorization_endpoint is a plain http:// URL"),
        "{told}"
    );
    let silent = json!({
        "token_endpoint": "https://id.example/token",
        "authorization_endpoint": "https://a.example/",
    });
    let silent = found(code, silent).await.unwrap();
    assert!(!silent.browser.lacks_s256 && !silent.browser.names_issuer);
}

#[tokio::test]
async fn client_certificate_selects_the_mtls_alias() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\n").unwrap();
    let members = json!({
        "token_endpoint": "https://id.example/token",
        "mtls_endpoint_aliases": { "token_endpoint": "https://mtls.id.example/token" },
    });
    let tls = format!("tls = {{ client_cert_file = {cert:?}, client_key_file = {key:?} }}\n");
    let shown = found(&tls, members.clone()).await.unwrap();
    assert_eq!(shown.address(), "https://mtls.id.example/token");
    let none = found("", members).await.unwrap();
    assert_eq!(none.address(), "https://id.example/token");
}

#[tokio::test]
async fn metadata_with_members_of_other_types_are_usable() {
    let basic = json!({
        "token_endpoint": "https://id.example/token",
        "token_endpoint_auth_methods_supported": "client_secret_basic",
        "mtls_endpoint_aliases": [],
        "code_challenge_methods_supported": {},
        "authorization_response_iss_parameter_supported": "false",
        "authorization_endpoint": 7,
        "device_authorization_endpoint": null,
        "scopes_supported": "openid",
    });
    let mut post = basic.clone();
    post["token_endpoint_auth_methods_supported"] = "client_secret_post private_key_jwt".into();
    let basic = found("", basic).await.unwrap();
    assert_eq!(basic.address(), "https://id.example/token");
    let post = found("", post).await.unwrap();
    assert_ne!(post.plan.request, basic.plan.request);
}

#[tokio::test]
async fn metadata_may_begin_with_a_byte_order_mark() {
    let text = metadata(json!({ "token_endpoint": "https://id.example/token" }));
    let server = Server::new(&[(200, &format!("\u{feff}{text}"))]);
    assert!(server.discover(&endpoint("")).await.is_ok());
}

#[tokio::test]
async fn unusable_metadata_are_a_permanent_error() {
    for (members, told) in [
        (json!({}), "its metadata name no token_endpoint"),
        (
            json!({ "token_endpoint": 7 }),
            "its token_endpoint is no URL",
        ),
        (
            json!({ "token_endpoint": ["https://id.example/token"] }),
            "its metadata name no token_endpoint",
        ),
        (
            json!({ "token_endpoint": "/token" }),
            "its token_endpoint is no URL",
        ),
        (
            json!({ "token_endpoint": "https://u:p@id.example/" }),
            "its token_endpoint is no URL",
        ),
        (
            json!({ "token_endpoint": "http://id.example/token" }),
            "its token_endpoint is a plain http:// URL, which would send",
        ),
        (
            json!({ "token_endpoint": "http://127.0.0.1/token" }),
            "its token_endpoint is a plain http:// URL, and the issuer's is https://",
        ),
    ] {
        let server = Server::new(&[(200, &metadata(members)), (404, "")]);
        let error = server.discover(&endpoint("")).await.unwrap_err();
        assert_eq!(error.class(), FailureClass::Permanent);
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("issuer {ISSUER}: {told}")),
            "{text}"
        );
        assert!(!text.contains("write token_url instead"), "{text}");
    }
    // `allow_http` permits the downgrade.
    let plain = json!({ "token_endpoint": "http://127.0.0.1/token" });
    assert!(found("allow_http = true\n", plain).await.is_ok());
}

#[tokio::test]
async fn second_address_is_tried_unless_the_server_fails() {
    let good = metadata(json!({ "token_endpoint": "https://id.example/token" }));
    let other = json!({ "issuer": "https://id.example" }).to_string();
    for first in [
        (404, ""),
        (403, "{}"),
        (302, ""),
        (200, "<html>"),
        (200, "{}"),
        (200, &other),
    ] {
        let server = Server::new(&[first, (200, &good)]);
        assert!(server.discover(&endpoint("")).await.is_ok(), "{first:?}");
    }
    for (first, second, class, told, left) in [
        (
            (503, ""),
            (200, &*good),
            FailureClass::Transient,
            "it answered HTTP 503 at /",
            1,
        ),
        (
            (429, ""),
            (200, &good),
            FailureClass::Transient,
            "it answered HTTP 429 at /",
            1,
        ),
        (
            (404, ""),
            (404, ""),
            FailureClass::Permanent,
            "it answered HTTP 404 at /",
            0,
        ),
        (
            (404, ""),
            (302, ""),
            FailureClass::Permanent,
            "(redirects are never followed)",
            0,
        ),
        (
            (200, "<html>"),
            (200, "<html>"),
            FailureClass::Transient,
            "is not JSON",
            0,
        ),
        (
            (200, "<html>"),
            (404, ""),
            FailureClass::Permanent,
            "it answered HTTP 404 at /",
            0,
        ),
        // Metadata of another issuer say more than a missing file.
        (
            (200, &other),
            (404, ""),
            FailureClass::Permanent,
            "are of the issuer https://id.example:",
            0,
        ),
        // A failing server outweighs the metadata of another issuer.
        (
            (200, &other),
            (503, ""),
            FailureClass::Transient,
            "it answered HTTP 503 at /",
            0,
        ),
    ] {
        let server = Server::new(&[first, second]);
        let error = server.discover(&endpoint("")).await.unwrap_err();
        assert_eq!(error.class(), class, "{first:?} {second:?}");
        assert!(error.to_string().contains(told), "{told}: {error}");
        assert_eq!(server.left(), left, "{first:?} {second:?}");
    }
}

#[tokio::test]
async fn issuer_name_in_errors_has_no_control_characters() {
    let stated = "https://id.example/\u{202e}\u{1b}[31m/x\r\ny";
    let other = json!({ "issuer": stated }).to_string();
    let server = Server::new(&[(200, &other), (404, "")]);
    let error = server.discover(&endpoint("")).await.unwrap_err();
    let told = error.to_string();
    assert!(told.contains("https://id.example/[31m/xy:"), "{told}");
}

#[tokio::test]
async fn retry_after_of_the_issuer_is_kept() {
    let mut server = Server::new(&[(503, "")]);
    let minute = HeaderValue::from_static("60");
    server.headers.insert(header::RETRY_AFTER, minute);
    let error = server.discover(&endpoint("")).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
}
