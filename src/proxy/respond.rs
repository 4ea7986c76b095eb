//! Responses to the app: the upstream's, or Cupbearer's own.
//!
//! Cupbearer's errors are problem details (RFC 9457) with a `Proxy-Status` (RFC 9209), which tells
//! them from the vendor's errors. No other file makes responses of errors.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use serde::Serialize;

use super::error::{Party, ProxyError};
use super::headers::{self, PROXY_STATUS, Scan};
use super::reject::ForwardedBody;
use super::response_body::{Measure, ResponseBody};
use crate::metrics::Metrics;
use crate::upstream::SendFailure;
use crate::upstream::connect::ConnectError;

/// Marks an upstream's response that rejects the token and is forwarded all the same.
#[derive(Clone, Copy)]
pub(super) struct TokenRejected;

/// Returns the upstream's response without its hop-by-hop fields.
pub(super) fn forward(
    response: Response<ForwardedBody>,
    mut measure: Measure,
) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    measure.answered(parts.status, None);
    let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    if switches {
        measure.take_time();
    }
    parts.version = Version::HTTP_11;
    if parts.headers.contains_key(PROXY_STATUS) {
        headers::strip_own_proxy_status(&mut parts.headers);
    }
    if parts.extensions.remove::<TokenRejected>().is_some() {
        // RFC 9209 §2.3.32.
        let status = format!("cupbearer; received-status={}", parts.status.as_u16());
        if let Ok(value) = HeaderValue::try_from(status) {
            parts.headers.append(PROXY_STATUS, value);
        }
    }
    if headers::has_hop_by_hop(&parts.headers) {
        let protocol = parts.headers.get(UPGRADE).filter(|_| switches).cloned();
        headers::strip_hop_by_hop(&mut parts.headers);
        if let Some(protocol) = protocol {
            headers::set_upgrade(&mut parts.headers, protocol);
        }
    }
    Response::from_parts(parts, ResponseBody::upstream(body, measure))
}

/// Returns the response to an error: trailers-only if the request `is_grpc`, a problem otherwise.
pub(super) fn problem(
    error: &ProxyError,
    is_grpc: bool,
    mut measure: Measure,
    metrics: &Metrics,
) -> Response<ResponseBody> {
    let upstream = measure.upstream();
    report(error, upstream, metrics);
    let (code, status, _) = error.row();
    let (status, content) = match is_grpc {
        true => (StatusCode::OK, None),
        false => (status, Some(error.problem_details(upstream))),
    };
    measure.answered(status, Some(code));
    let mut response = Response::new(ResponseBody::own(content, measure));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let proxy_status = HeaderValue::try_from(error.proxy_status());
    headers.extend(proxy_status.ok().map(|value| (PROXY_STATUS, value)));
    if is_grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", error.grpc_status().into());
        headers.insert("grpc-message", error.grpc_message());
    } else {
        let problem = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, problem);
    }
    if let Some(seconds) = error.retry_after() {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Returns the response to an OPTIONS whose `Max-Forwards` is 0: this proxy is its final recipient
/// (RFC 9110 §7.6.2).
pub(super) fn final_recipient(mut measure: Measure) -> Response<ResponseBody> {
    let status = StatusCode::NO_CONTENT;
    measure.answered(status, None);
    let mut response = Response::new(ResponseBody::own(None, measure));
    *response.status_mut() = status;
    let own = HeaderValue::from_static("cupbearer");
    response.headers_mut().insert(PROXY_STATUS, own);
    response
}

/// Returns an error as a whole HTTP/1.1 message, after which the connection closes. For errors
/// outside of a request.
pub(super) fn raw_problem(error: &ProxyError, metrics: &Metrics) -> Vec<u8> {
    report(error, None, metrics);
    let body = error.problem_details(None);
    let retry_after = error
        .retry_after()
        .map(|seconds| format!("retry-after: {seconds}\r\n"))
        .unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {}\r\ndate: {}\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\nconnection: close\r\nproxy-status: {}\r\n{retry_after}\r\n",
        error.row().1,
        httpdate::fmt_http_date(SystemTime::now()),
        body.len(),
        error.proxy_status(),
    );
    [head.as_bytes(), &body].concat()
}

/// Whether a request's error must be a gRPC response.
pub(super) fn is_grpc<B>(request: &Request<B>, scan: &Scan) -> bool {
    let content_type = || request.headers().get(CONTENT_TYPE);
    scan.content_type
        && content_type().is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"))
}

impl ProxyError {
    /// Returns an error's code, status and RFC 9209 §2.3 error type.
    fn row(&self) -> (&'static str, StatusCode, &'static str) {
        const DENIED: &str = "http_request_denied";
        const MALFORMED: &str = "http_request_error";
        const INTERNAL: &str = "proxy_internal_error";
        const LIMIT: &str = "connection_limit_reached";
        let (code, status, proxy_error) = match self {
            Self::NoRoute => ("no_route", 404, "destination_not_found"),
            Self::BadRequest(_) => ("bad_request", 400, MALFORMED),
            Self::HeadersTooLarge => ("headers_too_large", 431, MALFORMED),
            Self::RequestTimeout => ("request_timeout", 408, MALFORMED),
            Self::BodyTimeout => ("request_timeout", 408, MALFORMED),
            Self::ConnectUnsupported => ("connect_unsupported", 501, DENIED),
            Self::HostNotAllowed => ("host_not_allowed", 421, DENIED),
            Self::OriginNotAllowed => ("origin_not_allowed", 403, DENIED),
            Self::RequestNotAllowed(_) => ("request_not_allowed", 403, DENIED),
            Self::ClientNotAllowed => ("client_not_allowed", 403, DENIED),
            Self::LoopDetected => ("loop_detected", 508, "proxy_loop_detected"),
            Self::TokenUnavailable { .. } => ("token_unavailable", 503, INTERNAL),
            Self::CredentialsRejected => ("credentials_rejected", 502, "proxy_configuration_error"),
            Self::LoginRequired => ("login_required", 503, INTERNAL),
            Self::Overloaded | Self::OutOfFiles => ("overloaded", 503, LIMIT),
            Self::ShuttingDown => ("shutting_down", 503, "proxy_internal_response"),
            Self::Internal(_) => ("internal", 500, INTERNAL),
            Self::Connect(error) => match error {
                ConnectError::Resolve { .. } => ("upstream_unresolved", 502, "dns_error"),
                ConnectError::Refused { .. } | ConnectError::Egress { .. } => {
                    ("upstream_refused", 502, "connection_refused")
                }
                ConnectError::Tls { failure, .. } if failure.certificate => {
                    ("upstream_tls", 502, "tls_certificate_error")
                }
                ConnectError::Tls { .. } => ("upstream_tls", 502, "tls_protocol_error"),
                ConnectError::Closed { .. } => ("upstream_closed", 502, "connection_terminated"),
                ConnectError::Timeout { .. } => {
                    ("upstream_connect_timeout", 504, "connection_timeout")
                }
            },
            Self::Send(failure) => match failure {
                SendFailure::Closed(_) => ("upstream_closed", 502, "connection_terminated"),
                SendFailure::Protocol(_) => ("upstream_protocol", 502, "http_protocol_error"),
                SendFailure::Timeout => ("upstream_timeout", 504, "http_response_timeout"),
                SendFailure::App(_) => ("bad_request", 400, MALFORMED),
            },
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (code, status, proxy_error)
    }

    fn title(&self) -> &'static str {
        match self {
            Self::NoRoute => "No upstream for this request",
            Self::BadRequest(_) => "The request is malformed or ambiguous",
            Self::HeadersTooLarge => "The request head is too large",
            Self::RequestTimeout | Self::BodyTimeout => "The request came in too slowly",
            Self::ConnectUnsupported => "CONNECT is not supported",
            Self::HostNotAllowed => "This proxy does not serve the request's host",
            Self::OriginNotAllowed => "Cross-site requests are refused",
            Self::RequestNotAllowed(_) => "The configuration does not allow this request",
            Self::ClientNotAllowed => "This client may not use the proxy",
            Self::LoopDetected => "The request came back to this proxy",
            Self::TokenUnavailable { .. } => "No valid token is available",
            Self::CredentialsRejected => "The token endpoint rejects the credentials",
            Self::LoginRequired => "A new login is needed",
            Self::Overloaded => "Too many requests at once",
            Self::OutOfFiles => "Too many connections at once",
            Self::ShuttingDown => "The proxy is shutting down",
            Self::Internal(_) => "A fault in the proxy",
            Self::Connect(error) => match error {
                ConnectError::Resolve { .. } => "The upstream's name cannot be resolved",
                ConnectError::Refused { .. } | ConnectError::Egress { .. } => {
                    "The upstream refuses connections"
                }
                ConnectError::Tls { failure, .. } if failure.certificate => {
                    "The upstream's certificate is not trusted"
                }
                ConnectError::Tls { .. } => "TLS with the upstream failed",
                ConnectError::Closed { .. } => "The upstream closed the connection",
                ConnectError::Timeout { .. } => "The upstream does not accept a connection in time",
            },
            Self::Send(failure) => match failure {
                SendFailure::Closed(_) => "The upstream closed the connection",
                SendFailure::Protocol(_) => "The upstream's response is not valid HTTP",
                SendFailure::Timeout => "The upstream does not respond in time",
                SendFailure::App(_) => "The request body broke off",
            },
        }
    }

    /// Returns what the operator or developer can do. Empty where the error text says so.
    fn advice(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "",
            Self::NoRoute => "Check the upstreams' `route` keys.",
            Self::HeadersTooLarge => "Send fewer or shorter fields.",
            Self::RequestTimeout => "See `server.header_timeout`.",
            Self::BodyTimeout => {
                "See `server.body_timeout`; the upstream may have acted on the part that arrived."
            }
            Self::ConnectUnsupported => {
                "A tunnel would hide the request from the proxy, which could add no token. \
                 Let the app use http:// URLs with this proxy; the proxy speaks TLS to the upstream."
            }
            Self::HostNotAllowed => "Add the host to `server.allow_hosts` if it is right.",
            Self::OriginNotAllowed => "Add the Origin to `server.allow_origins` if it is right.",
            Self::RequestNotAllowed(_) => "See the upstream's `allow` and `existing_credential`.",
            Self::ClientNotAllowed => "See `server.client_auth`.",
            Self::LoopDetected => "Change the upstream `url` that leads back to this proxy.",
            Self::TokenUnavailable { .. } => {
                "The token endpoint fails; the proxy keeps trying. See /status on the admin port."
            }
            Self::CredentialsRejected => {
                "Correct the provider's credentials; /status on the admin port and the log \
                 have the endpoint's answer."
            }
            Self::LoginRequired => {
                "The provider's one-time input was used, or its refresh token is no longer valid: \
             supply a new one."
            }
            Self::Overloaded => "See `max_in_flight` and `server.max_connections`.",
            Self::OutOfFiles => {
                "Raise the proxy's open-file limit (`ulimit -n`, LimitNOFILE), \
                 or lower `server.max_connections`."
            }
            Self::ShuttingDown => "Send the request again: no part of the request was sent.",
            Self::Internal(_) => "Please report it.",
            Self::Connect(error) => match error {
                ConnectError::Resolve { .. } => "Check the upstream's `url` and the DNS.",
                ConnectError::Refused { .. } | ConnectError::Egress { .. } => {
                    "Check the upstream's `url`, and whether the upstream is up."
                }
                ConnectError::Tls { failure, .. } if failure.certificate => {
                    "See `tls.ca_file` and `tls.server_name`; verification cannot be turned off."
                }
                ConnectError::Tls { .. } => "See the upstream's `tls` and `http`.",
                ConnectError::Closed { .. } => "The request may be sent again.",
                ConnectError::Timeout { .. } => "See `timeouts.connect`.",
            },
            Self::Send(failure) => match failure {
                SendFailure::Closed(_) => "The upstream may have acted on the request.",
                SendFailure::Protocol(_) => "The upstream may have acted on the request.",
                SendFailure::Timeout => {
                    "See `timeouts.response`; the upstream may have acted on the request."
                }
                SendFailure::App(_) => "Send the request again.",
            },
        }
    }

    fn grpc_status(&self) -> u16 {
        match (self, self.row().1.as_u16()) {
            (Self::ClientNotAllowed, _) => 16,               // UNAUTHENTICATED
            (Self::Connect(_), _) => 14,                     // UNAVAILABLE
            (Self::Send(SendFailure::Protocol(_)), _) => 13, // INTERNAL
            (Self::Overloaded | Self::OutOfFiles, _) => 8,   // RESOURCE_EXHAUSTED
            (_, 400 | 431) => 3,                             // INVALID_ARGUMENT
            (_, 403 | 421) => 7,                             // PERMISSION_DENIED
            (_, 404) => 5,                                   // NOT_FOUND
            (_, 408 | 504) => 4,                             // DEADLINE_EXCEEDED
            (_, 501) => 12,                                  // UNIMPLEMENTED
            (_, 502 | 503) => 14,                            // UNAVAILABLE
            _ => 13,                                         // INTERNAL
        }
    }

    /// Returns the seconds for `Retry-After`, rounded up: an earlier retry would fail.
    fn retry_after(&self) -> Option<u64> {
        let time = match self {
            Self::TokenUnavailable { retry_after } => *retry_after,
            Self::Overloaded | Self::OutOfFiles | Self::ShuttingDown => Duration::from_secs(1),
            _ => return None,
        };
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        Some(seconds.max(1))
    }

    fn proxy_status(&self) -> String {
        format!("cupbearer; error={}", self.row().2)
    }

    fn problem_details(&self, upstream: Option<&str>) -> Bytes {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            upstream: Option<&'a str>,
        }
        let (code, status, _) = self.row();
        let problem = Problem {
            r#type: format!("urn:cupbearer:error:{code}"),
            title: self.title(),
            status: status.as_u16(),
            detail: self.detail(),
            upstream,
        };
        serde_json::to_vec(&problem).unwrap_or_default().into()
    }

    /// Returns the error text and the advice. Peer addresses and the reasons of TLS and sockets are
    /// included: the operator of the proxy runs the app, too.
    fn detail(&self) -> String {
        let mut text = format!("{self}. {}", self.advice());
        text.truncate(text.trim_end().len());
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        text
    }

    /// Percent-encodes as the gRPC specification asks.
    fn grpc_message(&self) -> HeaderValue {
        /// Everything but printable ASCII, and `%`.
        const ENCODED: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
        let text = format!("{} ({})", self.detail(), self.row().0);
        let encoded = percent_encoding::utf8_percent_encode(&text, ENCODED).to_string();
        HeaderValue::try_from(encoded).unwrap_or_else(|_| HeaderValue::from_static("error"))
    }
}

/// Logs and counts an error.
fn report(error: &ProxyError, upstream: Option<&str>, metrics: &Metrics) {
    let code = error.row().0;
    metrics.count_error(upstream.unwrap_or_default(), code);
    let upstream = upstream.unwrap_or("-");
    let retry_is_safe = error.nothing_sent();
    match error.party() {
        // At a higher level, an app's own mistakes would let the app fill the log.
        Party::App => tracing::debug!(upstream, code, %error, "request refused"),
        party => {
            tracing::warn!(upstream, code, ?party, retry_is_safe, %error, "request failed");
        }
    }
}

#[cfg(test)]
mod tests;
