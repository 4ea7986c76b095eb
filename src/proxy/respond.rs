//! Responses to the app: the upstream's, or Cupbearer's own.
//!
//! Cupbearer's errors are problem details (RFC 9457) with a `Proxy-Status` (RFC 9209), which tells
//! them from the vendor's errors. No other file makes responses of errors.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use serde::Serialize;

use super::error::ProxyError;
use super::error_code::{self, ErrorCode, Party};
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
    // Not `contains_key`: comparing every name is cheaper than hashing one.
    if parts.headers.keys().any(|name| *name == PROXY_STATUS) {
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
    let ErrorCode { code, status, .. } = *error.row();
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
        headers.insert("grpc-status", error.row().grpc_status.into());
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
    let line = |seconds| format!("retry-after: {seconds}\r\n");
    let retry_after = error.retry_after().map(line).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {}\r\ndate: {}\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\nconnection: close\r\nproxy-status: {}\r\n{retry_after}\r\n",
        error.row().status,
        httpdate::fmt_http_date(SystemTime::now()),
        body.len(),
        error.proxy_status(),
    );
    [head.as_bytes(), &body].concat()
}

/// Returns whether a request's error must be a gRPC response.
pub(super) fn is_grpc<B>(request: &Request<B>, scan: &Scan) -> bool {
    let content_type = || request.headers().get(CONTENT_TYPE);
    scan.content_type
        && content_type().is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"))
}

impl ProxyError {
    fn row(&self) -> &'static ErrorCode {
        match self {
            Self::NoRoute => error_code::NO_ROUTE,
            Self::BadRequest(_) => error_code::BAD_REQUEST,
            Self::HeadersTooLarge => error_code::HEADERS_TOO_LARGE,
            Self::RequestTimeout => error_code::HEAD_TIMEOUT,
            Self::BodyTimeout => error_code::BODY_TIMEOUT,
            Self::ConnectUnsupported => error_code::CONNECT_UNSUPPORTED,
            Self::HostNotAllowed => error_code::HOST_NOT_ALLOWED,
            Self::OriginNotAllowed => error_code::ORIGIN_NOT_ALLOWED,
            Self::RequestNotAllowed(_) => error_code::REQUEST_NOT_ALLOWED,
            Self::ClientNotAllowed => error_code::CLIENT_NOT_ALLOWED,
            Self::LoopDetected => error_code::LOOP_DETECTED,
            Self::TokenUnavailable { .. } => error_code::TOKEN_UNAVAILABLE,
            Self::CredentialsRejected => error_code::CREDENTIALS_REJECTED,
            Self::LoginRequired => error_code::LOGIN_REQUIRED,
            Self::Overloaded => error_code::TOO_MANY_REQUESTS,
            Self::OutOfFiles => error_code::OUT_OF_FILES,
            Self::ShuttingDown => error_code::SHUTTING_DOWN,
            Self::Internal(_) => error_code::FAULT,
            Self::Connect(error) => match error {
                ConnectError::Resolve { .. } => error_code::UNRESOLVED,
                ConnectError::Refused { .. } | ConnectError::Egress { .. } => {
                    error_code::CONNECTION_REFUSED
                }
                ConnectError::Tls { failure, .. } if failure.certificate => error_code::UNTRUSTED,
                ConnectError::Tls { .. } => error_code::TLS_FAILED,
                ConnectError::Closed { .. } => error_code::CLOSED_AT_CONNECT,
                ConnectError::Timeout { .. } => error_code::UPSTREAM_CONNECT_TIMEOUT,
            },
            Self::Send(failure) => match failure {
                SendFailure::Closed(_) => error_code::CLOSED_AFTER_REQUEST,
                SendFailure::Protocol(_) => error_code::UPSTREAM_PROTOCOL,
                SendFailure::Timeout => error_code::UPSTREAM_TIMEOUT,
                SendFailure::App(_) => error_code::BODY_BROKEN,
            },
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
        format!("cupbearer; error={}", self.row().proxy_error)
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
        let row = self.row();
        let problem = Problem {
            r#type: format!("urn:cupbearer:error:{}", row.code),
            title: row.title,
            status: row.status.as_u16(),
            detail: self.detail(),
            upstream,
        };
        serde_json::to_vec(&problem).unwrap_or_default().into()
    }

    /// Returns the error text and the advice. Peer addresses and the reasons of TLS and sockets are
    /// included: the operator of the proxy runs the app, too.
    fn detail(&self) -> String {
        let mut text = format!("{self}. {}", self.row().advice);
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
        let text = format!("{} ({})", self.detail(), self.row().code);
        let encoded = percent_encoding::utf8_percent_encode(&text, ENCODED).to_string();
        HeaderValue::try_from(encoded).unwrap_or_else(|_| HeaderValue::from_static("error"))
    }
}

/// Logs and counts an error.
fn report(error: &ProxyError, upstream: Option<&str>, metrics: &Metrics) {
    let ErrorCode { code, party, .. } = *error.row();
    metrics.count_error(upstream.unwrap_or_default(), code);
    let upstream = upstream.unwrap_or("-");
    let retry_is_safe = error.nothing_sent();
    match party {
        // At a higher level, an app's own mistakes would let the app fill the log.
        Party::App => tracing::debug!(upstream, code, %error, "request refused"),
        _ => tracing::warn!(upstream, code, ?party, retry_is_safe, %error, "request failed"),
    }
}

#[cfg(test)]
mod tests;
