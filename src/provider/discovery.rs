//! Control flow: an issuer's metadata (RFC 8414, or OpenID Connect Discovery 1.0), which name its
//! endpoints and client authentication methods.
//!
//! Metadata decide where credentials are sent. So they are accepted only from the issuer itself:
//! over TLS (unless `allow_http`), without redirects, and only if they name the issuer byte for
//! byte (RFC 8414 §3.3). Endpoints may be on any host; `tls.server_name` and the egress proxy
//! chosen for the issuer's own host do not apply to other hosts.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::config::{BrowserRules, Endpoint, Issuer, Scheme};
use crate::dialect::{FailureClass, Members, TokenRequest};
use crate::provider::exchange::{Fetch, FetchError, RawResponse};

/// Default authentication method (RFC 8414 §2).
const DEFAULT_METHOD: &str = "client_secret_basic";

/// Reason why a response is unusable.
struct Unusable {
    class: FailureClass,
    reason: String,
    retry_after: Option<Duration>,
    /// Whether the response holds metadata, so that the other address cannot do better.
    is_metadata: bool,
}

/// Requests the metadata and returns the endpoint with the addresses in them. Cancel safe.
///
/// The result may be used until a token request fails at it.
///
/// # Errors
///
/// Transient for connection failures, server errors and responses that are not JSON (such as the
/// page of a captive portal); permanent for refusals and unusable metadata.
pub async fn discover(
    endpoint: &Endpoint,
    issuer: &Issuer,
    fetch: &dyn Fetch,
    clock: &Clock,
) -> Result<Endpoint, FetchError> {
    let deadline = Instant::now() + endpoint.timeout;
    let mut unusable = Unusable::new("it has no metadata");
    for path in &issuer.well_known {
        let json = HeaderValue::from_static("application/json");
        let request = TokenRequest {
            method: Method::GET,
            path: Some(path.clone().into()),
            query: None,
            headers: HeaderMap::from_iter([(header::ACCEPT, json)]),
            body: Default::default(),
        };
        let line = fetch.dial(endpoint, deadline).await?;
        let answer = line.ask(endpoint, request, deadline).await?;
        let this = match read(&answer, endpoint, issuer, clock) {
            Ok(found) => return Ok(found),
            Err(this) => this,
        };
        let in_trouble = this.class == FailureClass::Transient && !answer.status.is_success();
        // One server may hold the metadata of this issuer at the second address only: while that
        // address fails, the response of the first is not a refusal.
        if in_trouble || !unusable.is_metadata {
            unusable = this;
        }
        if in_trouble {
            break;
        }
    }
    let mut reason = unusable.reason;
    if !unusable.is_metadata {
        let paths = issuer.well_known.join(" and ");
        reason += &format!(" at {paths}; if it publishes none, write token_url instead");
    }
    Err(FetchError::Discovery {
        issuer: issuer.text.clone(),
        reason,
        class: unusable.class,
        retry_after: unusable.retry_after,
    })
}

fn read(
    answer: &RawResponse,
    asked: &Endpoint,
    issuer: &Issuer,
    clock: &Clock,
) -> Result<Endpoint, Unusable> {
    let status = answer.status;
    if !status.is_success() {
        let redirected = match status.is_redirection() {
            true => " (redirects are never followed)",
            false => "",
        };
        let refusal = (asked.plan.response).refused(answer.answer(clock.now()), &[]);
        return Err(Unusable {
            class: match status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
                true => FailureClass::Transient,
                false => FailureClass::Permanent,
            },
            retry_after: refusal.retry_after,
            ..Unusable::new(format!("it answered HTTP {}{redirected}", status.as_u16()))
        });
    }
    let Some(metadata) = Members::of(answer.answer(clock.now())) else {
        return Err(Unusable {
            class: FailureClass::Transient,
            ..Unusable::new("its response is not JSON metadata (RFC 8414)")
        });
    };
    let Some(stated) = metadata.text("issuer") else {
        return Err(Unusable::new("its response holds no metadata (RFC 8414)"));
    };
    // RFC 8414 §3.3: prevents one issuer from impersonating another.
    if stated != issuer.text {
        // Only visible ASCII, since other characters could garble a terminal.
        let stated = stated.chars().filter(char::is_ascii_graphic);
        let stated: String = stated.take(200).collect();
        return Err(Unusable::metadata(format!(
            "its metadata are of the issuer {stated}: if that is meant, write exactly this `issuer`"
        )));
    }
    located(asked, issuer, &metadata).map_err(Unusable::metadata)
}

/// Returns the endpoint with the members used of RFC 8414 §2, RFC 8705 §5 and RFC 9207 §3.
fn located(asked: &Endpoint, issuer: &Issuer, metadata: &Members) -> Result<Endpoint, String> {
    // RFC 8705 §5: clients with a certificate prefer the aliases.
    let aliases = metadata.object("mtls_endpoint_aliases");
    let aliases = aliases.filter(|_| asked.tls.client_cert.is_some());
    let for_client = |member: &str| {
        let alias = aliases.as_ref().and_then(|aliases| aliases.text(member));
        alias.or_else(|| metadata.text(member))
    };
    let stated = for_client("token_endpoint").ok_or("its metadata name no token_endpoint")?;
    let mut found = at(asked, "token_endpoint", &stated)?;
    let methods = metadata.list("token_endpoint_auth_methods_supported");
    let methods = methods.unwrap_or_else(|| vec![DEFAULT_METHOD.to_owned()]);
    let supported = |(name, _): &&(String, _)| methods.contains(name);
    if let Some((_, plan)) = issuer.choices.iter().find(supported) {
        found.plan = plan.clone();
    }
    if found.plan.spends("code")
        && found.authorization_url.is_none()
        && let Some(stated) = metadata.text("authorization_endpoint")
    {
        at(asked, "authorization_endpoint", &stated)?;
        found.authorization_url = Some(stated);
        found.browser = BrowserRules {
            lacks_s256: (metadata.list("code_challenge_methods_supported"))
                .is_some_and(|methods| !methods.iter().any(|method| method == "S256")),
            issuer: Some(issuer.text.clone()),
            names_issuer: metadata.is_true("authorization_response_iss_parameter_supported"),
        };
    }
    if found.plan.spends("device_code")
        && found.device_authorization_url.is_none()
        && let Some(stated) = for_client("device_authorization_endpoint")
    {
        at(asked, "device_authorization_endpoint", &stated)?;
        found.device_authorization_url = Some(stated);
    }
    Ok(found)
}

/// Applies the rules of `token_url`, and refuses a plain HTTP endpoint of an HTTPS issuer.
fn at(asked: &Endpoint, member: &str, stated: &str) -> Result<Endpoint, String> {
    let found = (asked.at(stated)).map_err(|reason| format!("its {member} {reason}"))?;
    let schemes = (asked.token_url.scheme, found.token_url.scheme);
    if schemes == (Scheme::Https, Scheme::Http) && !asked.allow_http {
        let reason = "is a plain http:// URL, and the issuer's is https://";
        return Err(format!("its {member} {reason}"));
    }
    Ok(found)
}

impl Unusable {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            class: FailureClass::Permanent,
            reason: reason.into(),
            retry_after: None,
            is_metadata: false,
        }
    }

    fn metadata(reason: impl Into<String>) -> Self {
        Self {
            is_metadata: true,
            ..Self::new(reason)
        }
    }
}

#[cfg(test)]
mod tests;
