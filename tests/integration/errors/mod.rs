//! Cupbearer's errors as the app sees them: status, problem document and `Proxy-Status`.

mod access;
mod limits;
mod requests;
mod upstreams;

use std::time::Duration;

use crate::client::Response;
use crate::harness::{App, World, server, with_app};
use crate::upstream::Script;

/// Code, status and `Proxy-Status` error type of each error that these tests can provoke.
/// `login_required` and `store_unavailable` are missing: only grants with stored state cause them.
const TABLE: [(&str, u16, &str); 23] = [
    ("no_route", 404, "destination_not_found"),
    ("bad_request", 400, "http_request_error"),
    ("headers_too_large", 431, "http_request_error"),
    ("request_timeout", 408, "http_request_error"),
    ("connect_unsupported", 501, "http_request_denied"),
    ("host_not_allowed", 421, "http_request_denied"),
    ("origin_not_allowed", 403, "http_request_denied"),
    ("request_not_allowed", 403, "http_request_denied"),
    ("client_not_allowed", 403, "http_request_denied"),
    ("loop_detected", 508, "proxy_loop_detected"),
    ("token_unavailable", 503, "proxy_internal_error"),
    ("credentials_rejected", 502, "proxy_configuration_error"),
    ("upstream_unresolved", 502, "dns_error"),
    ("upstream_refused", 502, "connection_refused"),
    ("upstream_tls", 502, "tls_certificate_error"),
    ("upstream_tls", 502, "tls_protocol_error"),
    ("upstream_closed", 502, "connection_terminated"),
    ("upstream_connect_timeout", 504, "connection_timeout"),
    ("upstream_timeout", 504, "http_response_timeout"),
    ("upstream_protocol", 502, "http_protocol_error"),
    ("overloaded", 503, "connection_limit_reached"),
    ("shutting_down", 503, "proxy_internal_response"),
    ("internal", 500, "proxy_internal_error"),
];

/// Asserts that a response is the error `code`: status, `Proxy-Status`, problem document,
/// `Retry-After`.
pub(crate) fn assert_error(response: &Response, code: &str, upstream: Option<&str>) {
    assert_eq!(
        response.code(),
        code,
        "{} {:?}",
        response.status,
        response.text()
    );
    let proxy_status = response.head.get("proxy-status").unwrap();
    let error = proxy_status.strip_prefix("cupbearer; error=").unwrap();
    assert!(
        TABLE.contains(&(code, response.status.as_u16(), error)),
        "{code} {} {error}",
        response.status
    );
    let problem = response.json();
    let keys: Vec<_> = problem
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut expected = vec!["type", "title", "status", "detail"];
    expected.extend(upstream.map(|_| "upstream"));
    assert_eq!(keys, expected);
    assert_eq!(problem["status"], response.status.as_u16());
    assert!(!problem["title"].as_str().unwrap().is_empty());
    assert!(!problem["detail"].as_str().unwrap().is_empty());
    assert_eq!(
        problem.get("upstream").and_then(|name| name.as_str()),
        upstream
    );
    if matches!(code, "token_unavailable" | "overloaded") {
        let seconds: u64 = response.head.get("retry-after").unwrap().parse().unwrap();
        assert!(seconds > 0);
    }
}

/// Runs `test` with one upstream `api`, then asserts that no connection reached the upstream.
async fn with_unused_upstream(more_server: &str, keys: &str, test: impl AsyncFnOnce(&App)) {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server(more_server) + &world.upstream("api", &upstream.url(), keys);
    with_app(&config, test).await;
    let arrived = tokio::time::timeout(Duration::ZERO, upstream.accept()).await;
    assert!(arrived.is_err());
}

/// Sends each request on its own connection and asserts that its response is the error `code`.
async fn assert_refused(app: &App, code: &str, upstream: Option<&str>, requests: &[&str]) {
    for request in requests {
        println!("{request:?}");
        let response = app.connect().await.request(request).await;
        assert_error(&response, code, upstream);
    }
}
