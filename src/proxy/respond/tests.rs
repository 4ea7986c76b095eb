//! Every error as the app sees it.

use std::io;
use std::sync::Arc;

use http_body::Body as _;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::route::tests::target;
use super::super::target::Target;
use super::*;
use crate::config::Route;
use crate::token::cell::Unavailable;
use crate::upstream::Stalled;
use crate::upstream::connect::{Peer, Stage};
use crate::upstream::tls::TlsFailure;

/// The expected code, status and Proxy-Status error. No `_` arm: a new error needs a row.
fn row(error: &ProxyError) -> (&'static str, u16, &'static str) {
    match error {
        ProxyError::NoRoute => ("no_route", 404, "destination_not_found"),
        ProxyError::BadRequest(_) | ProxyError::Send(SendFailure::App(_)) => {
            ("bad_request", 400, "http_request_error")
        }
        ProxyError::RequestTimeout | ProxyError::BodyTimeout => {
            ("request_timeout", 408, "http_request_error")
        }
        ProxyError::ConnectUnsupported => ("connect_unsupported", 501, "http_request_denied"),
        ProxyError::HostNotAllowed => ("host_not_allowed", 421, "http_request_denied"),
        ProxyError::OriginNotAllowed => ("origin_not_allowed", 403, "http_request_denied"),
        ProxyError::RequestNotAllowed(_) => ("request_not_allowed", 403, "http_request_denied"),
        ProxyError::ClientNotAllowed => ("client_not_allowed", 403, "http_request_denied"),
        ProxyError::LoopDetected => ("loop_detected", 508, "proxy_loop_detected"),
        ProxyError::TokenUnavailable { .. } => ("token_unavailable", 503, "proxy_internal_error"),
        ProxyError::LoginRequired => ("login_required", 503, "proxy_internal_error"),
        ProxyError::CredentialsRejected => {
            ("credentials_rejected", 502, "proxy_configuration_error")
        }
        ProxyError::Connect(ConnectError::Resolve { .. }) => {
            ("upstream_unresolved", 502, "dns_error")
        }
        ProxyError::Connect(ConnectError::Refused { .. } | ConnectError::Egress { .. }) => {
            ("upstream_refused", 502, "connection_refused")
        }
        ProxyError::Connect(ConnectError::Tls { failure, .. }) if failure.certificate => {
            ("upstream_tls", 502, "tls_certificate_error")
        }
        ProxyError::Connect(ConnectError::Tls { .. }) => {
            ("upstream_tls", 502, "tls_protocol_error")
        }
        ProxyError::Connect(ConnectError::Closed { .. })
        | ProxyError::Send(SendFailure::Closed(_)) => {
            ("upstream_closed", 502, "connection_terminated")
        }
        ProxyError::Connect(ConnectError::Timeout { .. }) => {
            ("upstream_connect_timeout", 504, "connection_timeout")
        }
        ProxyError::Send(SendFailure::Timeout) => {
            ("upstream_timeout", 504, "http_response_timeout")
        }
        ProxyError::Send(SendFailure::Protocol(_)) => {
            ("upstream_protocol", 502, "http_protocol_error")
        }
        ProxyError::HeadersTooLarge => ("headers_too_large", 431, "http_request_error"),
        ProxyError::ShuttingDown => ("shutting_down", 503, "proxy_internal_response"),
        ProxyError::Overloaded | ProxyError::OutOfFiles => {
            ("overloaded", 503, "connection_limit_reached")
        }
        ProxyError::Internal(_) => ("internal", 500, "proxy_internal_error"),
    }
}

async fn every_error() -> Vec<ProxyError> {
    let peer = Peer {
        host: "api.example.cn".to_owned(),
        port: 443,
        egress: false,
    };
    let source = Arc::new(io::Error::other("out of luck: 证书 \"x\"\r\n"));
    let tls = |certificate| ConnectError::Tls {
        peer: peer.clone(),
        failure: TlsFailure {
            certificate,
            reason: "the certificate is for 证书.example".to_owned(),
        },
    };
    let retry_after = Duration::from_millis(1500);
    let waited = Duration::from_secs(10);
    let mut errors = vec![
        ProxyError::NoRoute,
        ProxyError::BadRequest("no valid Host"),
        ProxyError::RequestTimeout,
        ProxyError::ConnectUnsupported,
        ProxyError::HostNotAllowed,
        ProxyError::OriginNotAllowed,
        ProxyError::RequestNotAllowed("not in `allow`"),
        ProxyError::ClientNotAllowed,
        ProxyError::LoopDetected,
        ProxyError::token(Unavailable::Transient { retry_after }),
        ProxyError::token(Unavailable::Permanent { retry_after }),
        ProxyError::token(Unavailable::LoginRequired),
        ProxyError::HeadersTooLarge,
        ProxyError::ShuttingDown,
        ProxyError::Overloaded,
        ProxyError::OutOfFiles,
        SendFailure::App(Stalled(retry_after).into()).into(),
        ProxyError::Internal("a panic"),
        SendFailure::Timeout.into(),
        SendFailure::Closed(hyper_error().await.into()).into(),
        SendFailure::Protocol(hyper_error().await.into()).into(),
        SendFailure::App(hyper_error().await.into()).into(),
    ];
    let connect = [
        ConnectError::Resolve {
            peer: peer.clone(),
            source: Arc::clone(&source),
        },
        ConnectError::Refused {
            peer: peer.clone(),
            source: Arc::clone(&source),
        },
        ConnectError::Timeout {
            peer: peer.clone(),
            stage: Stage::Handshake,
            limit: waited,
        },
        tls(true),
        tls(false),
        ConnectError::Closed {
            peer: peer.clone(),
            source,
        },
        ConnectError::Egress {
            peer,
            target: "api.example.cn:443".to_owned(),
            status: Some(407),
            reason: "it asks for credentials".to_owned(),
        },
    ];
    errors.extend(connect.map(ProxyError::Connect));
    errors
}

/// Returns an error that only hyper can make.
async fn hyper_error() -> hyper::Error {
    let (io, mut peer) = tokio::io::duplex(1024);
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .unwrap();
    tokio::spawn(driver);
    let request = Request::get("/").body(http_body_util::Empty::<Bytes>::new());
    let sent = sender.send_request(request.unwrap());
    let answer = async {
        peer.read_u8().await.unwrap();
        peer.write_all(b"what?\r\n\r\n").await.unwrap();
    };
    tokio::join!(sent, answer).0.unwrap_err()
}

fn measure(target: Option<&Arc<Target>>) -> Measure {
    let mut measure = Measure::start(&Arc::default());
    if let Some(target) = target {
        measure.routed(target);
    }
    measure
}

#[tokio::test]
async fn every_error_becomes_its_problem() {
    let metrics = Metrics::new();
    let target = target("cncn", Route::CatchAll, "", &[]);
    for error in every_error().await {
        let (code, status, proxy_error) = row(&error);
        for target in [None, Some(&target)] {
            let answer = problem(&error, false, measure(target), &metrics);
            assert_eq!(answer.status(), status, "{code}");
            let headers = answer.headers();
            assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
            let expected = format!("cupbearer; error={proxy_error}");
            assert_eq!(headers[PROXY_STATUS], expected.as_str());
            let retry = headers
                .get(RETRY_AFTER)
                .map(|value| value.to_str().unwrap());
            let expected = match &error {
                ProxyError::TokenUnavailable { .. } => Some("2"),
                ProxyError::Overloaded | ProxyError::OutOfFiles | ProxyError::ShuttingDown => {
                    Some("1")
                }
                _ => None,
            };
            assert_eq!(retry, expected, "{code}");
            let length = answer.body().size_hint().exact();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(length, Some(body.len() as u64));
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(problem["type"], format!("urn:cupbearer:error:{code}"));
            assert_eq!(problem["status"], status);
            assert!(!problem["title"].as_str().unwrap().is_empty());
            assert!(problem["detail"].as_str().unwrap().len() > 10, "{problem}");
            assert_eq!(problem.get("upstream").is_some(), target.is_some());
            let upstream = if target.is_some() { "cncn" } else { "" };
            let labels = [("upstream", upstream), ("error", code)];
            let counted = metrics.value("cupbearer_request_errors_total", &labels);
            assert!(counted.is_some_and(|count| count > 0.0));
        }
    }
    assert_eq!(target.metrics.in_flight.get(), 0);
}

#[tokio::test]
async fn grpc_errors_are_trailers_only() {
    let metrics = Metrics::new();
    for kind in ["application/grpc", "application/grpc+proto"] {
        let request = Request::post("/").header(CONTENT_TYPE, kind).body(());
        let request = request.unwrap();
        assert!(is_grpc(&request, &Scan::of(request.headers())));
        for error in every_error().await {
            let (code, _, proxy_error) = row(&error);
            let answer = problem(&error, true, measure(None), &metrics);
            assert_eq!(answer.status(), StatusCode::OK);
            assert!(answer.body().is_end_stream(), "trailers-only");
            let headers = answer.headers();
            assert_eq!(headers[CONTENT_TYPE], "application/grpc");
            let expected = format!("cupbearer; error={proxy_error}");
            assert_eq!(headers[PROXY_STATUS], expected.as_str());
            let expected = match code {
                "bad_request" | "headers_too_large" => "3",
                "request_timeout" | "upstream_timeout" => "4",
                "no_route" => "5",
                "host_not_allowed" | "origin_not_allowed" | "request_not_allowed" => "7",
                "overloaded" => "8",
                "connect_unsupported" => "12",
                "loop_detected" | "upstream_protocol" | "internal" => "13",
                "client_not_allowed" => "16",
                _ => "14",
            };
            assert_eq!(headers["grpc-status"], expected, "{code}");
            let message = headers["grpc-message"].to_str().unwrap();
            let message = percent_encoding::percent_decode_str(message)
                .decode_utf8()
                .unwrap();
            assert!(message.ends_with(&format!("({code})")), "{message}");
        }
    }
    let json = Request::post("/").header(CONTENT_TYPE, "application/json");
    let json = json.body(()).unwrap();
    assert!(!is_grpc(&json, &Scan::of(json.headers())));
}

#[tokio::test]
async fn a_raw_problem_is_a_complete_http_message() {
    let metrics = Metrics::new();
    for error in every_error().await {
        let (code, status, proxy_error) = row(&error);
        let text = String::from_utf8(raw_problem(&error, &metrics)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let first = format!("HTTP/1.1 {status} ");
        assert!(lines.next().unwrap().starts_with(&first), "{head}");
        let lines = Vec::from_iter(lines);
        assert!(lines.contains(&"connection: close"));
        assert!(lines.contains(&&*format!("content-length: {}", body.len())));
        assert!(lines.contains(&&*format!("proxy-status: cupbearer; error={proxy_error}")));
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["type"], format!("urn:cupbearer:error:{code}"));
    }
}
