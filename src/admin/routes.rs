//! Request → answer.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::{Control, Readiness, guard, page};
use crate::provider::RefreshError;

type Answer = Response<Full<Bytes>>;

/// What a path stands for.
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
    /// What is to be logged from now on.
    SetLog(String),
    Quit,
}

/// Why a request gets no answer.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
}

/// `local_only`: the port is on loopback, hence everything is served; off loopback only probes and metrics are.
pub(super) async fn answer(request: &Parts, control: &dyn Control, local_only: bool) -> Answer {
    let endpoint = Endpoint::of(request.uri.path());
    if !endpoint.as_ref().is_some_and(Endpoint::open_to_all)
        && let Err(refusal) = admit(request, endpoint.as_ref(), control, local_only)
    {
        return problem(refusal.status, refusal.code, refusal.detail);
    }
    let Some(endpoint) = endpoint else {
        return problem(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is /, /status, /metrics, /livez, /readyz, /healthz, /-/reload, /-/refresh/PROVIDER and /-/log/LEVEL here",
        );
    };
    if !endpoint.methods().contains(&request.method) {
        return method_not_allowed(&endpoint);
    }
    match endpoint {
        Endpoint::Live => text(StatusCode::OK, "ok\n"),
        Endpoint::Ready => ready(control.readiness(), is_strict(request)),
        Endpoint::Metrics => {
            let (samples, content_type) = control.metrics().render();
            respond(StatusCode::OK, content_type, samples)
        }
        Endpoint::Page => page::answer(),
        Endpoint::Status => json(StatusCode::OK, &control.report()),
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

/// Everything but probes and metrics: only from here, by a name that is ours, and changes only with the header that
/// another site's page cannot send without asking first.
fn admit(
    request: &Parts,
    endpoint: Option<&Endpoint>,
    control: &dyn Control,
    local_only: bool,
) -> Result<(), Refusal> {
    if !local_only {
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            code: "request_not_allowed",
            detail: "server.admin is not a loopback address: only /livez, /readyz, /healthz and /metrics are served there",
        });
    }
    let authority = guard::authority(request).ok_or(Refusal {
        status: StatusCode::BAD_REQUEST,
        code: "bad_request",
        detail: "the request needs exactly one valid Host header",
    })?;
    if !guard::host_allowed(&authority, || control.allow_hosts()) {
        return Err(Refusal {
            status: StatusCode::MISDIRECTED_REQUEST,
            code: "host_not_allowed",
            detail: "this Host is not one of ours: use localhost, or add it to server.allow_hosts",
        });
    }
    if request.method != Method::POST {
        return Ok(());
    }
    if guard::cross_site(&request.headers, &authority) {
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            code: "origin_not_allowed",
            detail: "the request comes from a page of another site",
        });
    }
    if endpoint.is_some_and(Endpoint::is_asked_for_bare) {
        return Ok(());
    }
    if request
        .headers
        .get("x-cupbearer")
        .is_none_or(|value| value != "1")
    {
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            code: "request_not_allowed",
            detail: "send the header X-Cupbearer: 1",
        });
    }
    Ok(())
}

fn ready(readiness: Readiness, strict: bool) -> Answer {
    let pending = if strict {
        readiness.pending_now
    } else {
        readiness.pending
    };
    if pending.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    let mut body = "not ready\n".to_owned();
    for line in pending {
        body.push_str(&line);
        body.push('\n');
    }
    text(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn is_strict(request: &Parts) -> bool {
    let query = request.uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == "strict")
}

async fn reload(control: &dyn Control) -> Answer {
    match control.reload().await {
        Ok(detail) => json(StatusCode::OK, &Done { detail: &detail }),
        Err(problems) => json_problem(&Problem {
            problems: &problems,
            ..Problem::new(
                StatusCode::BAD_GATEWAY,
                "reload_failed",
                "the configuration was not reloaded; the old one goes on",
            )
        }),
    }
}

async fn refresh(control: &dyn Control, provider: &str) -> Answer {
    let Some(work) = control.refresh(provider) else {
        let detail = "there is no provider of this name; /status lists them";
        return problem(StatusCode::NOT_FOUND, "not_found", detail);
    };
    match work.await {
        Ok(()) => {
            let detail = "a new token is in place";
            json(StatusCode::OK, &Done { detail })
        }
        Err(RefreshError::Failed(reason)) => {
            problem(StatusCode::BAD_GATEWAY, "refresh_failed", &reason)
        }
        Err(RefreshError::TooSoon { retry_after }) => {
            // Rounded up: a client that comes back on time must not be too early again.
            let seconds = retry_after.as_millis().div_ceil(1000).max(1);
            let detail = format!("min_interval is not over: try again in {seconds} s");
            let mut answer = problem(StatusCode::TOO_MANY_REQUESTS, "too_soon", &detail);
            if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
                answer.headers_mut().insert(header::RETRY_AFTER, value);
            }
            answer
        }
    }
}

fn set_log(control: &dyn Control, directives: &str) -> Answer {
    if control.log().is_none() {
        return no_log();
    }
    match control.set_log(directives) {
        Ok(()) => json(
            StatusCode::OK,
            &Done {
                detail: "logging is changed until the process ends",
            },
        ),
        Err(reason) => problem(StatusCode::BAD_REQUEST, "bad_request", &reason),
    }
}

fn no_log() -> Answer {
    let detail = "this process does not log by itself";
    problem(StatusCode::NOT_FOUND, "not_found", detail)
}

fn quit(control: &dyn Control) -> Answer {
    if control.quit() {
        return json(
            StatusCode::OK,
            &Done {
                detail: "ending, requests in flight first",
            },
        );
    }
    let detail = "set server.quitquitquit = true if the process may be ended this way";
    problem(StatusCode::FORBIDDEN, "request_not_allowed", detail)
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

    /// Kubelets and scrapers call by an IP address, and learn nothing that could hurt.
    fn open_to_all(&self) -> bool {
        match self {
            Self::Live | Self::Ready | Self::Metrics => true,
            Self::Page | Self::Status | Self::Reload | Self::Refresh(_) => false,
            Self::Log | Self::SetLog(_) | Self::Quit => false,
        }
    }

    /// Without `X-Cupbearer`: everybody's Jobs call it as they call it of other sidecars. That no page of another site does has
    /// been seen to by then, and the configuration must allow it.
    fn is_asked_for_bare(&self) -> bool {
        matches!(self, Self::Quit)
    }

    fn methods(&self) -> &'static [Method] {
        match self {
            Self::Live | Self::Ready | Self::Metrics | Self::Page | Self::Status | Self::Log => {
                &[Method::GET, Method::HEAD]
            }
            Self::Reload | Self::Refresh(_) | Self::SetLog(_) | Self::Quit => &[Method::POST],
        }
    }
}

#[derive(Serialize)]
struct Done<'a> {
    detail: &'a str,
}

/// RFC 9457.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    problems: &'a [String],
}

impl<'a> Problem<'a> {
    fn new(status: StatusCode, code: &str, detail: &'a str) -> Self {
        Self {
            r#type: format!("urn:cupbearer:error:{code}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail,
            problems: &[],
        }
    }
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Answer {
    json_problem(&Problem::new(status, code, detail))
}

fn json_problem(problem: &Problem<'_>) -> Answer {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(status, "application/problem+json", encode(problem))
}

fn method_not_allowed(endpoint: &Endpoint) -> Answer {
    let allow = match endpoint.methods() {
        [Method::POST] => "POST",
        _ => "GET, HEAD",
    };
    let detail = format!("this path takes {allow}");
    let mut answer = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        &detail,
    );
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    answer
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    respond(status, "application/json", encode(body))
}

fn encode(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("structs of strings and numbers always encode")
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    respond(status, "text/plain; charset=utf-8", body)
}

/// Every answer goes through here.
pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("same-origin"),
    );
    answer
}
