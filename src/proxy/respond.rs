//! Respond: the upstream's answer on its way back, or an answer of our own.
//!
//! The one place where errors become responses. Ours are problem details (RFC 9457) with a `Proxy-Status` (RFC 9209), so that
//! nobody takes them for the vendor's.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use serde::Serialize;

use super::error::{Party, ProxyError};
use super::headers::{self, PROXY_STATUS, Scan};
use super::reject::ForwardedBody;
use super::response_body::{Measure, ResponseBody};
use crate::metrics::Metrics;
use crate::upstream::SendFailure;
use crate::upstream::connect::ConnectError;

/// What the shape of an error depends on.
#[derive(Clone, Copy, Default)]
pub(super) struct Shape {
    grpc: bool,
}

/// Marks an answer of the upstream's that its token was rejected in, and that is passed on all the same.
#[derive(Clone, Copy)]
pub(super) struct Received;

/// The upstream's answer, less what was meant for our connection to it.
pub(super) fn forward(
    response: Response<ForwardedBody>,
    mut measure: Measure,
) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    if let Some(target) = &measure.target {
        target.metrics.count(parts.status);
    }
    if let Some(access) = &mut measure.access {
        access.answered(parts.status, None);
        access.sent(0, body.is_end_stream());
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        measure.take_time();
    }
    parts.version = Version::HTTP_11;
    if parts.headers.contains_key(PROXY_STATUS) {
        headers::strip_own_proxy_status(&mut parts.headers);
    }
    // Only now: what the upstream said in our name is gone.
    if parts.extensions.remove::<Received>().is_some() {
        received(&mut parts);
    }
    if headers::has_hop_by_hop(&parts.headers) {
        let upgrade = (parts.status == StatusCode::SWITCHING_PROTOCOLS)
            .then(|| parts.headers.get(UPGRADE).cloned())
            .flatten();
        headers::strip_hop_by_hop(&mut parts.headers);
        if let Some(protocol) = upgrade {
            parts
                .headers
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol);
        }
    }
    Response::from_parts(parts, ResponseBody::upstream(body, measure))
}

/// RFC 9209 §2.3.32: the status that the upstream gave, and that a renewal could not help.
fn received(parts: &mut http::response::Parts) {
    let status = format!("cupbearer; received-status={}", parts.status.as_u16());
    if let Ok(value) = HeaderValue::try_from(status) {
        parts.headers.append(PROXY_STATUS, value);
    }
}

/// An answer of our own.
pub(super) fn problem(
    error: &ProxyError,
    shape: Shape,
    mut measure: Measure,
    metrics: &Metrics,
) -> Response<ResponseBody> {
    let answer = Answer::to(error);
    let upstream = measure.target.as_ref().map(|target| &*target.config.name);
    log(error, &answer, upstream);
    metrics.count_error(upstream.unwrap_or_default(), answer.code);
    let body = if shape.grpc {
        Bytes::new()
    } else {
        answer.body(error, upstream)
    };
    let status = if shape.grpc {
        StatusCode::OK
    } else {
        answer.status
    };
    if let Some(target) = &measure.target {
        target.metrics.count(status);
    }
    if let Some(access) = &mut measure.access {
        access.answered(status, Some(answer.code));
        // It is in one piece, and on its way.
        access.sent(body.len(), true);
    }
    let mut response = Response::new(ResponseBody::own(
        (!body.is_empty()).then_some(body),
        measure,
    ));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(PROXY_STATUS, answer.proxy_status());
    if shape.grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from(u16::from(answer.grpc)),
        );
        headers.insert(
            HeaderName::from_static("grpc-message"),
            answer.grpc_message(error),
        );
    } else {
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
    }
    if let Some(seconds) = answer.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer to OPTIONS whose `Max-Forwards` is used up: this proxy is its final recipient
/// (RFC 9110 §7.6.2).
pub(super) fn final_recipient(mut measure: Measure) -> Response<ResponseBody> {
    let status = StatusCode::NO_CONTENT;
    if let Some(target) = &measure.target {
        target.metrics.count(status);
    }
    if let Some(access) = &mut measure.access {
        access.answered(status, None);
        access.sent(0, true);
    }
    let mut response = Response::new(ResponseBody::own(None, measure));
    *response.status_mut() = status;
    let ours = HeaderValue::from_static("cupbearer");
    response.headers_mut().insert(PROXY_STATUS, ours);
    response
}

/// Where there was no request: a whole message, after which the connection ends.
pub(super) fn raw_problem(error: &ProxyError, metrics: &Metrics) -> Vec<u8> {
    let answer = Answer::to(error);
    log(error, &answer, None);
    metrics.count_error("", answer.code);
    let body = answer.body(error, None);
    let mut text = format!(
        "HTTP/1.1 {}\r\ndate: {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\nproxy-status: ",
        answer.status,
        httpdate::fmt_http_date(SystemTime::now()),
        body.len()
    )
    .into_bytes();
    text.extend_from_slice(answer.proxy_status().as_bytes());
    if let Some(seconds) = answer.retry_after {
        text.extend_from_slice(format!("\r\nretry-after: {seconds}").as_bytes());
    }
    text.extend_from_slice(b"\r\n\r\n");
    text.extend_from_slice(&body);
    text
}

// === impl Shape ===

impl Shape {
    pub(super) fn of<B>(request: &Request<B>, scan: &Scan) -> Self {
        let grpc = scan.content_type
            && request
                .headers()
                .get(CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        Self { grpc }
    }
}

/// One row of DESIGN.md §5.
struct Answer {
    code: &'static str,
    status: StatusCode,
    title: &'static str,
    /// RFC 9209 §2.3.
    proxy_error: &'static str,
    grpc: u8,
    /// Seconds.
    retry_after: Option<u64>,
    /// What the operator or developer can do about it.
    advice: &'static str,
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
}

/// gRPC status codes.
mod grpc {
    pub(super) const INVALID_ARGUMENT: u8 = 3;
    pub(super) const DEADLINE_EXCEEDED: u8 = 4;
    pub(super) const NOT_FOUND: u8 = 5;
    pub(super) const PERMISSION_DENIED: u8 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
    pub(super) const UNIMPLEMENTED: u8 = 12;
    pub(super) const INTERNAL: u8 = 13;
    pub(super) const UNAVAILABLE: u8 = 14;
    pub(super) const UNAUTHENTICATED: u8 = 16;
}

impl Answer {
    const fn new(
        code: &'static str,
        status: StatusCode,
        title: &'static str,
        proxy_error: &'static str,
        grpc: u8,
        advice: &'static str,
    ) -> Self {
        Self {
            code,
            status,
            title,
            proxy_error,
            grpc,
            retry_after: None,
            advice,
        }
    }

    fn retry_after(mut self, time: Duration) -> Self {
        // Rounded up: earlier would be in vain.
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        self.retry_after = Some(seconds.max(1));
        self
    }

    fn to(error: &ProxyError) -> Self {
        const DENIED: &str = "http_request_denied";
        const REQUEST: &str = "http_request_error";
        const OWN: &str = "proxy_internal_error";
        match error {
            ProxyError::NoRoute => Self::new("no_route", StatusCode::NOT_FOUND, "No upstream for this request", "destination_not_found", grpc::NOT_FOUND, "Check the upstreams' `route` keys."),
            ProxyError::BadRequest(_) => Self::new("bad_request", StatusCode::BAD_REQUEST, "The request is malformed or ambiguous", REQUEST, grpc::INVALID_ARGUMENT, "Change the request."),
            ProxyError::HeadersTooLarge => Self::new(
                "headers_too_large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The request's head is too large",
                REQUEST,
                grpc::INVALID_ARGUMENT,
                "Send fewer or shorter fields.",
            ),
            ProxyError::RequestTimeout => Self::new("request_timeout", StatusCode::REQUEST_TIMEOUT, "The request came in too slowly", REQUEST, grpc::DEADLINE_EXCEEDED, "See `server.header_timeout`."),
            ProxyError::BodyTimeout => Self::new("request_timeout", StatusCode::REQUEST_TIMEOUT, "The request came in too slowly", REQUEST, grpc::DEADLINE_EXCEEDED, "See `server.body_timeout`; the upstream may have acted on the part that came."),
            ProxyError::ConnectUnsupported => Self::new("connect_unsupported", StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported", DENIED, grpc::UNIMPLEMENTED, "A tunnel would hide the request from the proxy, and no token could be put on it. Let the app use http:// URLs with this proxy: it speaks TLS to the upstream itself."),
            ProxyError::HostNotAllowed => Self::new("host_not_allowed", StatusCode::MISDIRECTED_REQUEST, "This Host is not served here", DENIED, grpc::PERMISSION_DENIED, "Add it to `server.allow_hosts` if it is right."),
            ProxyError::OriginNotAllowed => Self::new("origin_not_allowed", StatusCode::FORBIDDEN, "Cross-site requests are refused", DENIED, grpc::PERMISSION_DENIED, "Add the Origin to `server.allow_origins` if it is right."),
            ProxyError::RequestNotAllowed(_) => Self::new("request_not_allowed", StatusCode::FORBIDDEN, "The configuration does not allow this request", DENIED, grpc::PERMISSION_DENIED, "See the upstream's `allow` and `existing_credential`."),
            ProxyError::ClientNotAllowed => Self::new("client_not_allowed", StatusCode::FORBIDDEN, "This client may not use the proxy", DENIED, grpc::UNAUTHENTICATED, "See `server.client_auth`."),
            ProxyError::LoopDetected => Self::new("loop_detected", StatusCode::LOOP_DETECTED, "The request came back to this proxy", "proxy_loop_detected", grpc::INTERNAL, "An upstream's `url` leads back here."),
            ProxyError::TokenUnavailable { retry_after, .. } => Self::new("token_unavailable", StatusCode::SERVICE_UNAVAILABLE, "There is no valid token now", OWN, grpc::UNAVAILABLE, "The token endpoint does not answer as it should; it is tried again. See /status on the admin port.").retry_after(*retry_after),
            ProxyError::CredentialsRejected { .. } => Self::new("credentials_rejected", StatusCode::BAD_GATEWAY, "The token endpoint refuses our credentials", "proxy_configuration_error", grpc::UNAVAILABLE, "Correct the provider's credentials; its own words are in /status on the admin port and in the log."),
            ProxyError::LoginRequired => Self::new("login_required", StatusCode::SERVICE_UNAVAILABLE, "A new login is needed", OWN, grpc::UNAVAILABLE, "The provider's one-time input is spent, or its refresh token is dead: supply a new one."),
            ProxyError::Connect(error) => Self::connect(error),
            ProxyError::Send(failure) => Self::send(failure),
            ProxyError::Overloaded => Self::new("overloaded", StatusCode::SERVICE_UNAVAILABLE, "Too many requests at once", "connection_limit_reached", grpc::RESOURCE_EXHAUSTED, "See `max_in_flight` and `server.max_connections`.").retry_after(Duration::from_secs(1)),
            ProxyError::OutOfFiles => Self::new("overloaded", StatusCode::SERVICE_UNAVAILABLE, "Too many connections at once", "connection_limit_reached", grpc::RESOURCE_EXHAUSTED, "Raise its limit of open files (`ulimit -n`, LimitNOFILE), or lower `server.max_connections`.").retry_after(Duration::from_secs(1)),
            ProxyError::ShuttingDown => Self::new(
                "shutting_down",
                StatusCode::SERVICE_UNAVAILABLE,
                "The proxy is shutting down",
                "proxy_internal_response",
                grpc::UNAVAILABLE,
                "Send the request again: nothing of it was sent.",
            )
            .retry_after(Duration::from_secs(1)),
            ProxyError::Internal(_) => Self::new("internal", StatusCode::INTERNAL_SERVER_ERROR, "A fault in the proxy", OWN, grpc::INTERNAL, "Please report it."),
        }
    }

    fn connect(error: &ConnectError) -> Self {
        let bad_gateway = |code, title, proxy_error, advice| {
            Self::new(
                code,
                StatusCode::BAD_GATEWAY,
                title,
                proxy_error,
                grpc::UNAVAILABLE,
                advice,
            )
        };
        match error {
            ConnectError::Resolve { .. } => bad_gateway(
                "upstream_unresolved",
                "The upstream's name cannot be resolved",
                "dns_error",
                "Check the upstream's `url` and the DNS.",
            ),
            ConnectError::Refused { .. } | ConnectError::Egress { .. } => bad_gateway(
                "upstream_refused",
                "The upstream refuses connections",
                "connection_refused",
                "Check the upstream's `url`, and whether it is up.",
            ),
            ConnectError::Tls { failure, .. } if failure.certificate => bad_gateway(
                "upstream_tls",
                "The upstream's certificate is not trusted",
                "tls_certificate_error",
                "See `tls.ca_file` and `tls.server_name`; verification cannot be turned off.",
            ),
            ConnectError::Tls { .. } => bad_gateway(
                "upstream_tls",
                "TLS with the upstream failed",
                "tls_protocol_error",
                "See the upstream's `tls` and `http`.",
            ),
            ConnectError::Closed { .. } => bad_gateway(
                "upstream_closed",
                "The upstream closed the connection",
                "connection_terminated",
                "The request may be sent again.",
            ),
            ConnectError::Timeout { .. } => Self::new(
                "upstream_connect_timeout",
                StatusCode::GATEWAY_TIMEOUT,
                "The upstream does not accept a connection in time",
                "connection_timeout",
                grpc::UNAVAILABLE,
                "See `timeouts.connect`.",
            ),
        }
    }

    fn send(failure: &SendFailure) -> Self {
        match failure {
            SendFailure::Closed(_) => Self::new(
                "upstream_closed",
                StatusCode::BAD_GATEWAY,
                "The upstream closed the connection",
                "connection_terminated",
                grpc::UNAVAILABLE,
                "It may or may not have acted on the request.",
            ),
            SendFailure::Protocol(_) => Self::new(
                "upstream_protocol",
                StatusCode::BAD_GATEWAY,
                "The upstream's answer is not valid HTTP",
                "http_protocol_error",
                grpc::INTERNAL,
                "It may have acted on the request.",
            ),
            SendFailure::Timeout => Self::new(
                "upstream_timeout",
                StatusCode::GATEWAY_TIMEOUT,
                "The upstream does not answer in time",
                "http_response_timeout",
                grpc::DEADLINE_EXCEEDED,
                "See `timeouts.response`; it may have acted on the request.",
            ),
            SendFailure::App(_) => Self::new(
                "bad_request",
                StatusCode::BAD_REQUEST,
                "The request's body broke off",
                "http_request_error",
                grpc::INVALID_ARGUMENT,
                "Send it again.",
            ),
        }
    }

    fn proxy_status(&self) -> HeaderValue {
        // Made of tokens of RFC 9209.
        HeaderValue::try_from(format!("cupbearer; error={}", self.proxy_error))
            .unwrap_or_else(|_| HeaderValue::from_static("cupbearer"))
    }

    fn body(&self, error: &ProxyError, upstream: Option<&str>) -> Bytes {
        let problem = Problem {
            r#type: format!("urn:cupbearer:error:{}", self.code),
            title: self.title,
            status: self.status.as_u16(),
            detail: self.detail(error),
            upstream,
        };
        serde_json::to_vec(&problem).unwrap_or_default().into()
    }

    /// Peers' addresses and the reasons of TLS and sockets are for the log of whoever runs the proxy, and the app is theirs.
    fn detail(&self, error: &ProxyError) -> String {
        let mut text = error.to_string();
        if let Some(first) = text.get(..1).map(str::to_uppercase) {
            text.replace_range(..1, &first);
        }
        format!("{text}. {}", self.advice)
    }

    /// Percent-encoded as the gRPC specification asks.
    fn grpc_message(&self, error: &ProxyError) -> HeaderValue {
        let text = format!("{} ({})", self.detail(error), self.code);
        let encoded = percent_encoding::utf8_percent_encode(&text, GRPC_MESSAGE).to_string();
        HeaderValue::try_from(encoded).unwrap_or_else(|_| HeaderValue::from_static("error"))
    }
}

/// Everything but printable ASCII, and `%`.
const GRPC_MESSAGE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');

fn log(error: &ProxyError, answer: &Answer, upstream: Option<&str>) {
    let upstream = upstream.unwrap_or("-");
    let retry = error.nothing_sent();
    match error.party() {
        // The app's own mistakes are its business; at a higher level they would let it fill the log.
        Party::App => tracing::debug!(upstream, code = answer.code, %error, "request refused"),
        party => {
            tracing::warn!(upstream, code = answer.code, ?party, retry_is_safe = retry, %error, "request failed");
        }
    }
}

#[cfg(test)]
mod tests;
