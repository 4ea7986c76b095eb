//! Runs against a server on loopback that writes given bytes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clock::test::TestClock;
use crate::config::{Provider, Scheme, TokenSource, Value};
use crate::demo::authority::Offer;
use crate::dialect::{Expiry, FailureClass};
use crate::provider::testing::{CLIENT_CREDENTIALS, Log, endpoint, literal, provider};
use crate::testing::{self, TestCa};

const TOKEN: &str = r#"{"access_token":"at-1","expires_in":3600}"#;

/// A server that writes the same bytes after each complete request.
#[derive(Clone)]
struct Vendor {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

/// What the server does after its bytes.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Close,
    StayOpen,
}

impl Vendor {
    async fn plain(answer: impl Into<Vec<u8>>, then: Then) -> Self {
        Self::start(answer.into(), then, None).await
    }

    async fn start(answer: Vec<u8>, then: Then, tls: Option<TlsAcceptor>) -> Self {
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&requests);
        let serve = move |tcp| {
            let (answer, seen, tls) = (answer.clone(), Arc::clone(&seen), tls.clone());
            async move {
                match tls {
                    None => serve(tcp, answer, then, seen).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(tcp).await {
                            serve(stream, answer, then, seen).await;
                        }
                    }
                }
            }
        };
        let (address, _) = testing::accept_each(serve).await;
        Self {
            port: address.port(),
            requests,
        }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn provider(&self, dialect: &str) -> Provider {
        let port = self.port;
        provider("x", dialect, |provider| {
            let endpoint = endpoint(provider);
            endpoint.path_and_query = "/v2/token".to_owned();
            endpoint.token_url = testing::origin(Scheme::Http, "127.0.0.1", port);
        })
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Vec<u8>,
    then: Then,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !whole(&request) {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend_from_slice(&buffer[..read]),
        }
    }
    seen.lock()
        .unwrap()
        .push(String::from_utf8(request).unwrap());
    // The client may close early.
    let _ = stream.write_all(&answer).await;
    let _ = stream.flush().await;
    if then == Then::StayOpen {
        std::future::pending::<()>().await;
    }
    let _ = stream.shutdown().await;
}

fn whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |length| length.parse().unwrap());
    body.len() >= length
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

async fn fetch(provider: &Provider) -> Result<Fetched, FetchError> {
    fetch_with(provider, Clock::Test(TestClock::new())).await
}

async fn fetch_with(provider: &Provider, clock: Clock) -> Result<Fetched, FetchError> {
    let TokenSource::Endpoint(endpoint) = &provider.source else {
        panic!("a static provider");
    };
    let fetch = HttpFetch::new(TlsProfiles::new(), clock);
    let deadline = Instant::now() + endpoint.timeout;
    let line = fetch.dial(endpoint, deadline).await?;
    let variables = crate::provider::inputs::ready(&provider.variables);
    let call = TokenCall {
        endpoint,
        request: &endpoint.plan.request,
        variables: &variables,
    };
    line.send(call, deadline).await
}

#[tokio::test]
async fn cncns_sample_request_is_sent_as_documented() {
    let vendor = Vendor::plain(answer("200 OK", "", TOKEN), Then::Close).await;
    let mut provider = vendor.provider("cncn");
    for (name, value) in [("client_id", "joelhy"), ("client_secret", "secret")] {
        provider.variables.insert(name.to_owned(), literal(value));
    }
    fetch(&provider).await.unwrap();
    let request = vendor.requests().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("POST /v2/token HTTP/1.1"));
    let lines: Vec<&str> = lines.collect();
    let host = format!("Host: 127.0.0.1:{}", vendor.port);
    let agent = concat!("User-Agent: cupbearer/", env!("CARGO_PKG_VERSION"));
    // md5("secret"), as the vendor's document requires.
    let basic = {
        use base64::Engine as _;
        let pair = "joelhy:5ebe2294ecd0e0f08eab7690d2a6ee69";
        format!(
            "Authorization: Basic {}",
            base64::prelude::BASE64_STANDARD.encode(pair)
        )
    };
    for expected in [
        &*host,
        agent,
        &*basic,
        "Content-Length: 29",
        "Accept-Encoding: identity",
    ] {
        assert!(lines.contains(&expected), "{expected} is not in {lines:?}");
    }
    assert_eq!(body, "grant_type=client_credentials");
}

#[tokio::test]
async fn responses_with_any_framing_are_read() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        11\r\n{\"access_token\":\"\r\n8\r\nat-1\",\"e\r\n10\r\nxpires_in\":3600}\r\n0\r\n\r\n";
    let until_close = format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{TOKEN}");
    for bytes in [
        answer("200 OK", "Content-Type: application/json\r\n", TOKEN),
        answer("200 OK", "Content-Type: text/plain\r\n", TOKEN),
        answer("201 Created", "", TOKEN),
        answer("200 OK", "Bad Header: x\r\nX-Folded: a\r\n b\r\n", TOKEN),
        chunked.as_bytes().to_vec(),
        until_close.into_bytes(),
    ] {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let vendor = Vendor::plain(bytes, Then::Close).await;
        let fetched = fetch(&vendor.provider(CLIENT_CREDENTIALS)).await;
        let issued = fetched
            .unwrap_or_else(|error| panic!("{error}: {text}"))
            .issued;
        assert_eq!(issued.access_token.expose(), "at-1");
        assert_eq!(issued.expiry, Expiry::In(Duration::from_secs(3600)));
    }
}

#[tokio::test]
async fn a_response_of_1_mib_is_read_and_a_larger_one_refused() {
    for (length, read) in [(MAX_ANSWER, true), (MAX_ANSWER + 1, false)] {
        // JSON may end in white space.
        let text = format!("{TOKEN}{}", " ".repeat(length - TOKEN.len()));
        let vendor = Vendor::plain(answer("200 OK", "", &text), Then::Close).await;
        let fetched = fetch(&vendor.provider(CLIENT_CREDENTIALS)).await;
        assert_eq!(fetched.is_ok(), read, "{length} bytes");
    }
}

#[tokio::test]
async fn responses_without_a_token_have_a_class_and_a_text() {
    let huge = format!("{{\"access_token\":\"{}\"}}", "a".repeat(2 * 1024 * 1024));
    let html = "<html><body>Bad Gateway</body></html>";
    let cases: [(Vec<u8>, FailureClass, &str); 14] = [
        (
            answer("404 Not Found", "", html),
            FailureClass::Transient,
            "answered HTTP 404: check token_url (no error code at ",
        ),
        (
            answer("404 Not Found", "", r#"{"error":"no_such_app"}"#),
            FailureClass::Permanent,
            "answered HTTP 404, no_such_app",
        ),
        (
            answer("500 Oops", "", "oops"),
            FailureClass::Transient,
            "HTTP 500",
        ),
        (
            answer("502 Bad", "", html),
            FailureClass::Transient,
            "HTTP 502",
        ),
        (
            answer("200 OK", "", html),
            FailureClass::Transient,
            "HTTP 200",
        ),
        (
            answer("200 OK", "", ""),
            FailureClass::Transient,
            "HTTP 200",
        ),
        (
            answer("200 OK", "", "{}"),
            FailureClass::Permanent,
            "HTTP 200",
        ),
        (
            answer("200 OK", "", &huge),
            FailureClass::Transient,
            "larger than 1 MiB",
        ),
        (
            answer(
                "401 No",
                "",
                r#"{"error":"invalid_client","error_description":"no hunter2"}"#,
            ),
            FailureClass::Permanent,
            "invalid_client: no ",
        ),
        (
            answer(
                "400 No",
                "",
                r#"{"error":"invalid_grant","error_description":"密码错误"}"#,
            ),
            FailureClass::Permanent,
            "密码错误",
        ),
        (b"".to_vec(), FailureClass::Transient, "broke off"),
        (
            b"HTTP/1.1 200 OK\r\nConte".to_vec(),
            FailureClass::Transient,
            "broke off",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec(),
            FailureClass::Transient,
            "broke off",
        ),
        (
            b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
            FailureClass::Transient,
            "broke off",
        ),
    ];
    for (bytes, class, expected) in cases {
        let vendor = Vendor::plain(bytes, Then::Close).await;
        let error = fetch(&vendor.provider(CLIENT_CREDENTIALS))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert_eq!(error.class(), class, "{text}");
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains(&format!("127.0.0.1:{}", vendor.port)),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(vendor.requests().len(), 1);
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Vendor::plain(answer("200 OK", "", TOKEN), Then::Close).await;
    for status in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"] {
        let location = format!("Location: http://127.0.0.1:{}/\r\n", elsewhere.port);
        let vendor = Vendor::plain(answer(status, &location, ""), Then::Close).await;
        let error = fetch(&vendor.provider(CLIENT_CREDENTIALS))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("never followed"), "{error}");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn retry_after_is_passed_on() {
    let vendor = Vendor::plain(
        answer("429 Slow down", "Retry-After: 17\r\n", ""),
        Then::Close,
    )
    .await;
    let error = fetch(&vendor.provider(CLIENT_CREDENTIALS))
        .await
        .unwrap_err();
    assert_eq!(error.class(), FailureClass::Transient);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(17)));
}

#[tokio::test(start_paused = true)]
async fn a_response_after_the_timeout_is_an_error() {
    for bytes in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"] {
        let vendor = Vendor::plain(bytes, Then::StayOpen).await;
        let began = Instant::now();
        let error = fetch(&vendor.provider(CLIENT_CREDENTIALS))
            .await
            .unwrap_err();
        assert!(
            matches!(error, FetchError::Timeout { .. } | FetchError::Dial(_)),
            "{error}"
        );
        assert_eq!(error.class(), FailureClass::Transient);
        assert!(began.elapsed() <= Duration::from_secs(11));
    }
}

#[tokio::test]
async fn a_refused_connection_is_transient_and_names_the_address() {
    let port = testing::closed_port().await.port();
    let vendor = Vendor {
        port,
        requests: Arc::default(),
    };
    let error = fetch(&vendor.provider(CLIENT_CREDENTIALS))
        .await
        .unwrap_err();
    assert_eq!(error.class(), FailureClass::Transient);
    let text = error.to_string();
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
}

#[tokio::test]
async fn the_life_of_a_token_counts_from_before_the_request() {
    let vendor = Vendor::plain(answer("200 OK", "", TOKEN), Then::Close).await;
    let clock = Clock::System;
    let before = clock.now();
    let fetched = fetch_with(&vendor.provider(CLIENT_CREDENTIALS), clock.clone())
        .await
        .unwrap();
    let after = clock.now();
    assert!(before.boot <= fetched.sent.boot && fetched.sent.boot < after.boot);
}

#[tokio::test]
async fn the_queries_of_url_and_dialect_are_joined_and_never_logged() {
    let log = Log::default();
    let _guard = log.capture();
    let dialect = r#"
default_grant = "main"
[request]
method = "GET"
query = { secret = "{client_secret}" }
[grants.main]
[response]
token = "/access_token"
error = "/error"
[inject]
headers = { Authorization = "Bearer {access_token}" }
"#;
    let body = r#"{"error":"denied","error_description":"hunter2 is wrong"}"#;
    for (bytes, line) in [
        (answer("200 OK", "", TOKEN), "token endpoint answered"),
        (answer("401 No", "", body), "token endpoint refused"),
    ] {
        let vendor = Vendor::plain(bytes, Then::Close).await;
        let mut provider = vendor.provider(dialect);
        endpoint(&mut provider).path_and_query = "/token?app=hunter2-app".to_owned();
        let result = fetch(&provider).await;
        let request = vendor.requests().remove(0);
        assert!(
            request.starts_with("GET /token?app=hunter2-app&secret=hunter2 HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(!request.contains("Content-Length"), "{request}");
        let logged = log.text();
        assert!(
            logged.contains(line) && logged.contains("/token"),
            "{logged}"
        );
        assert!(!logged.contains("hunter2"), "{logged}");
        let text = format!("{:?}", result.map(drop));
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_built_is_not_sent() {
    let vendor = Vendor::plain(answer("200 OK", "", TOKEN), Then::Close).await;
    let mut provider = vendor.provider("cncn");
    provider.variables.remove("client_secret");
    let error = fetch(&provider).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Permanent);
    assert!(error.to_string().contains("client_secret"), "{error}");
    assert!(vendor.requests().is_empty());
}

#[tokio::test]
async fn tls_is_verified_with_the_configured_ca_file() {
    let ca = TestCa::new();
    let bytes = answer("200 OK", "", TOKEN);
    let vendor = Vendor::start(
        bytes,
        Then::Close,
        Some(ca.server(Offer {
            http2: true,
            ..Offer::default()
        })),
    )
    .await;
    let mut provider = vendor.provider(CLIENT_CREDENTIALS);
    let settings = endpoint(&mut provider);
    settings.token_url = testing::origin(Scheme::Https, "localhost", vendor.port);
    settings.tls.ca_file = Some(ca.ca_file());
    let fetched = fetch(&provider).await.unwrap();
    assert_eq!(fetched.issued.access_token.expose(), "at-1");

    // Another name, or another CA: nothing is sent.
    endpoint(&mut provider).tls.server_name = Some("other.test".to_owned());
    assert!(matches!(fetch(&provider).await, Err(FetchError::Dial(_))));
    let settings = endpoint(&mut provider);
    settings.tls.server_name = None;
    let other = TestCa::new();
    settings.tls.ca_file = Some(other.ca_file());
    assert!(matches!(fetch(&provider).await, Err(FetchError::Dial(_))));
    assert_eq!(vendor.requests().len(), 1);

    // A missing CA file is found at start-up.
    settings_without_ca(&mut provider);
    let fetch = HttpFetch::new(TlsProfiles::new(), Clock::System);
    let error = fetch.check(endpoint(&mut provider)).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}

fn settings_without_ca(provider: &mut Provider) {
    endpoint(provider).tls.ca_file = Some("/nonexistent/ca.pem".into());
}

#[test]
fn public_variables_are_not_masked() {
    let vendor = provider("x", CLIENT_CREDENTIALS, |provider| {
        provider
            .variables
            .insert("number".to_owned(), Value::Literal(Var::Integer(7)));
    });
    let variables = crate::provider::inputs::ready(&vendor.variables);
    let request = TokenRequest {
        path: None,
        method: Method::POST,
        query: None,
        headers: HeaderMap::new(),
        body: Zeroizing::default(),
    };
    let secrets = secrets(&variables, &request.headers);
    let secrets: Vec<&str> = secrets.iter().map(Secret::expose).collect();
    assert_eq!(secrets, ["hunter2"]);
}

#[test]
fn an_address_is_in_doubt_only_after_a_dial_or_a_request() {
    let host = || "h".to_owned();
    let limit = Duration::from_secs(1);
    assert!(
        FetchError::Timeout {
            host: host(),
            limit
        }
        .doubts_address()
    );
    let reason = host();
    assert!(
        FetchError::Broken {
            host: host(),
            reason
        }
        .doubts_address()
    );
    assert!(!FetchError::Chained { provider: host() }.doubts_address());
    assert!(!FetchError::Store(host()).doubts_address());
}
