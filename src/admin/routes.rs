//! Request → response.

use http::header;
use http::request::Parts;
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;

use super::control::{Control, Readiness};
use super::response::{
    AdminResponse, ErrorCode, done, json, problem, problem_with, respond, text, with_header,
};
use super::{guard, page};
use crate::status::RefreshError;

const BAD_REQUEST: ErrorCode = (StatusCode::BAD_REQUEST, "bad_request");
const HOST_NOT_ALLOWED: ErrorCode = (StatusCode::MISDIRECTED_REQUEST, "host_not_allowed");
const METHOD_NOT_ALLOWED: ErrorCode = (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
const NOT_FOUND: ErrorCode = (StatusCode::NOT_FOUND, "not_found");
const ORIGIN_NOT_ALLOWED: ErrorCode = (StatusCode::FORBIDDEN, "origin_not_allowed");
const REFRESH_FAILED: ErrorCode = (StatusCode::BAD_GATEWAY, "refresh_failed");
const RELOAD_FAILED: ErrorCode = (StatusCode::BAD_GATEWAY, "reload_failed");
const REQUEST_NOT_ALLOWED: ErrorCode = (StatusCode::FORBIDDEN, "request_not_allowed");
const TOO_SOON: ErrorCode = (StatusCode::TOO_MANY_REQUESTS, "too_soon");

/// The action of a path.
#[derive(PartialEq)]
enum Endpoint {
    Live,
    Ready,
    Metrics,
    Page,
    Status,
    Reload,
    /// The provider's name.
    Refresh(String),
    Log,
    /// The new log directives.
    SetLog(String),
    Quit,
}

/// `local_only`: the listener is on loopback, so everything is served. Off loopback, only probes
/// and metrics are.
pub(super) async fn respond_to(
    request: &Parts,
    control: &dyn Control,
    local_only: bool,
) -> AdminResponse {
    let endpoint = Endpoint::of(request.uri.path());
    if !endpoint.as_ref().is_some_and(Endpoint::open_to_all)
        && let Err((code, detail)) = admit(request, endpoint.as_ref(), control, local_only)
    {
        return problem(code, detail);
    }
    let Some(endpoint) = endpoint else {
        return problem(
            NOT_FOUND,
            "there is /, /status, /metrics, /livez, /readyz, /healthz, /-/reload, \
             /-/refresh/PROVIDER and /-/log/LEVEL here",
        );
    };
    let allow = endpoint.allow();
    if !allow.split(", ").any(|method| request.method == method) {
        let response = problem(METHOD_NOT_ALLOWED, &format!("this path takes {allow}"));
        return with_header(response, header::ALLOW, allow);
    }
    match endpoint {
        Endpoint::Live => text(StatusCode::OK, "ok\n"),
        Endpoint::Ready => ready(control.readiness(), is_strict(request)),
        Endpoint::Metrics => {
            let (samples, content_type) = control.metrics().render();
            respond(StatusCode::OK, content_type, samples)
        }
        Endpoint::Page => page::page(),
        Endpoint::Status => json(&control.report()),
        Endpoint::Reload => reload(control).await,
        Endpoint::Refresh(provider) => refresh(control, &provider).await,
        Endpoint::Log => match control.log() {
            Some(directives) => text(StatusCode::OK, directives + "\n"),
            None => no_log(),
        },
        Endpoint::SetLog(directives) => set_log(control, &directives),
        Endpoint::Quit => quit(control),
    }
}

/// Checks a request for anything but probes and metrics: it must come to a loopback listener, with
/// a host name that is allowed. A change also needs the header that a page of another site cannot
/// send without a preflight request.
fn admit(
    request: &Parts,
    endpoint: Option<&Endpoint>,
    control: &dyn Control,
    local_only: bool,
) -> Result<(), (ErrorCode, &'static str)> {
    if !local_only {
        let detail = "server.admin is not a loopback address: \
            only /livez, /readyz, /healthz and /metrics are served there";
        return Err((REQUEST_NOT_ALLOWED, detail));
    }
    let no_host = (
        BAD_REQUEST,
        "the request needs exactly one valid Host header",
    );
    let authority = guard::authority(request).ok_or(no_host)?;
    if !guard::host_allowed(&authority, || control.allow_hosts()) {
        let detail = "this Host is not allowed: use localhost, or add it to server.allow_hosts";
        return Err((HOST_NOT_ALLOWED, detail));
    }
    if request.method != Method::POST {
        return Ok(());
    }
    if guard::cross_site(&request.headers, &authority) {
        return Err((
            ORIGIN_NOT_ALLOWED,
            "the request comes from a page of another site",
        ));
    }
    // Jobs call /quitquitquit without the header, as they do with other sidecars. The configuration
    // must allow it.
    let header = request.headers.get("x-cupbearer");
    if endpoint != Some(&Endpoint::Quit) && header.is_none_or(|value| value != "1") {
        return Err((REQUEST_NOT_ALLOWED, "send the header X-Cupbearer: 1"));
    }
    Ok(())
}

fn ready(readiness: Readiness, strict: bool) -> AdminResponse {
    let pending = match strict {
        true => readiness.pending_now,
        false => readiness.pending,
    };
    if pending.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    let body = format!("not ready\n{}\n", pending.join("\n"));
    text(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn is_strict(request: &Parts) -> bool {
    let query = request.uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == "strict")
}

async fn reload(control: &dyn Control) -> AdminResponse {
    match control.reload().await {
        Ok(detail) => done(&detail),
        Err(problems) => {
            let detail = "reload failed; still running the previous configuration";
            problem_with(RELOAD_FAILED, detail, &problems)
        }
    }
}

async fn refresh(control: &dyn Control, provider: &str) -> AdminResponse {
    let Some(work) = control.refresh(provider) else {
        return problem(
            NOT_FOUND,
            "there is no provider of this name; /status lists them",
        );
    };
    match work.await {
        Ok(()) => done("a new token is in place"),
        Err(RefreshError::Failed(reason)) => problem(REFRESH_FAILED, &reason),
        Err(RefreshError::TooSoon { retry_after }) => {
            // Rounded up, so that a client that waits as long is not too early again.
            let seconds = retry_after.as_millis().div_ceil(1000).max(1).to_string();
            let detail = format!("min_interval is not over: try again in {seconds} s");
            with_header(problem(TOO_SOON, &detail), header::RETRY_AFTER, &seconds)
        }
    }
}

fn set_log(control: &dyn Control, directives: &str) -> AdminResponse {
    if control.log().is_none() {
        return no_log();
    }
    match control.set_log(directives) {
        Ok(()) => done("logging is changed until the process ends"),
        Err(reason) => problem(BAD_REQUEST, &reason),
    }
}

fn no_log() -> AdminResponse {
    problem(NOT_FOUND, "this process does not log by itself")
}

fn quit(control: &dyn Control) -> AdminResponse {
    if control.quit() {
        return done("ending, requests in flight first");
    }
    let detail = "set server.quitquitquit = true if the process may be ended this way";
    problem(REQUEST_NOT_ALLOWED, detail)
}

// === impl Endpoint ===

impl Endpoint {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/status" => Self::Status,
            "/metrics" => Self::Metrics,
            "/livez" | "/healthz" => Self::Live,
            "/readyz" => Self::Ready,
            "/-/reload" => Self::Reload,
            "/-/log" => Self::Log,
            "/quitquitquit" => Self::Quit,
            _ => {
                let (kind, rest): (fn(String) -> Self, _) = match path.strip_prefix("/-/refresh/") {
                    Some(name) => (Self::Refresh, name),
                    None => (Self::SetLog, path.strip_prefix("/-/log/")?),
                };
                let rest = percent_decode_str(rest).decode_utf8().ok()?;
                kind(rest.into_owned())
            }
        })
    }

    /// Kubelets and scrapers call by IP address; their endpoints reveal nothing sensitive.
    fn open_to_all(&self) -> bool {
        match self {
            Self::Live | Self::Ready | Self::Metrics => true,
            Self::Page | Self::Status | Self::Reload | Self::Refresh(_) => false,
            Self::Log | Self::SetLog(_) | Self::Quit => false,
        }
    }

    /// Returns the value of `Allow`.
    fn allow(&self) -> &'static str {
        match self {
            Self::Live | Self::Ready | Self::Metrics => "GET, HEAD",
            Self::Page | Self::Status | Self::Log => "GET, HEAD",
            Self::Reload | Self::Refresh(_) | Self::SetLog(_) | Self::Quit => "POST",
        }
    }
}
