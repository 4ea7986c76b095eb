//! Responses of the admin port.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

pub(super) type AdminResponse = Response<Full<Bytes>>;

/// Status and code of an error, which is `urn:cupbearer:error:CODE` in the response.
pub(super) type ErrorCode = (StatusCode, &'static str);

pub(super) fn done(detail: &str) -> AdminResponse {
    json(&serde_json::json!({ "detail": detail }))
}

pub(super) fn problem(code: ErrorCode, detail: &str) -> AdminResponse {
    problem_with(code, detail, &[])
}

/// Returns an error response as in RFC 9457.
pub(super) fn problem_with(
    (status, code): ErrorCode,
    detail: &str,
    problems: &[String],
) -> AdminResponse {
    let mut body = serde_json::json!({
        "type": format!("urn:cupbearer:error:{code}"),
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    if !problems.is_empty() {
        body["problems"] = problems.into();
    }
    respond(status, "application/problem+json", body.to_string())
}

pub(super) fn json(body: &impl Serialize) -> AdminResponse {
    let body = serde_json::to_vec(body).expect("structs of strings and numbers always encode");
    respond(StatusCode::OK, "application/json", body)
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> AdminResponse {
    respond(status, "text/plain; charset=utf-8", body)
}

pub(super) fn with_header(
    mut response: AdminResponse,
    name: header::HeaderName,
    value: &str,
) -> AdminResponse {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Builds every response of the admin port.
pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> AdminResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let resource_policy = header::HeaderName::from_static("cross-origin-resource-policy");
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (resource_policy, "same-origin"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
