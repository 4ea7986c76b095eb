//! CONTROL, discovery: an issuer's metadata (RFC 8414; OpenID Connect Discovery 1.0 where that is all there is) → where its
//! endpoints are, and how it wants clients to authenticate.
//!
//! Metadata say where credentials go, so that they are taken only from the issuer itself: over TLS (or what `allow_http`
//! permits), without redirects, and where they name the issuer to the byte (RFC 8414 §3.3). What they name may be on any
//! host; what is said for the issuer's own host (`tls.server_name`, the way out) is not carried there.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::Value as Json;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::config::{BrowserRules, Endpoint, Issuer, Scheme};
use crate::dialect::{Class, TokenRequest};
use crate::provider::exchange::{Answered, Fetch, FetchError};

/// RFC 8414 §2: what a server that does not say takes.
const DEFAULT_METHOD: &str = "client_secret_basic";

/// RFC 8414 §2, RFC 8705 §5, RFC 9207 §3. What is not here is not needed.
#[derive(Debug, Deserialize)]
struct Metadata {
    #[serde(flatten)]
    endpoints: Endpoints,
    /// The same for clients that show a certificate.
    mtls_endpoint_aliases: Option<Endpoints>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    authorization_response_iss_parameter_supported: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
struct Endpoints {
    token_endpoint: Option<String>,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
}

/// Why an answer is of no use.
struct Wrong {
    class: Class,
    reason: String,
    retry_after: Option<Duration>,
    /// They are metadata: at the other address there will be nothing better.
    is_metadata: bool,
}

/// Asks the issuer, and answers the endpoint with the addresses that it states. Cancel safe.
///
/// The answer holds until something goes wrong with it, however long that is: every token request tries it.
///
/// # Errors
///
/// Transient where nobody answers, where what answers is in trouble, and where it is no JSON (a page of something on the
/// way); permanent where the server says no, and where what it says cannot be used.
pub async fn discover(
    endpoint: &Endpoint,
    issuer: &Issuer,
    fetch: &dyn Fetch,
    clock: &Clock,
) -> Result<Endpoint, FetchError> {
    let deadline = Instant::now() + endpoint.timeout;
    let mut wrong: Option<Wrong> = None;
    for path in &issuer.well_known {
        let answer = get(endpoint, path, fetch, deadline).await?;
        let this = match read(&answer, endpoint, issuer, clock) {
            Ok(found) => return Ok(found),
            Err(this) => this,
        };
        let in_trouble = this.class == Class::Transient && !answer.status.is_success();
        // One server may answer for many issuers at one of the two addresses, and for this one at the other: while that is
        // in trouble, what the first one says is no refusal.
        if in_trouble || !wrong.as_ref().is_some_and(|wrong| wrong.is_metadata) {
            wrong = Some(this);
        }
        if in_trouble {
            break;
        }
    }
    let wrong = wrong.unwrap_or_else(|| Wrong::new("it has no metadata"));
    let reason = match wrong.is_metadata {
        true => wrong.reason,
        false => format!(
            "{} at {}; if it publishes none, write token_url instead",
            wrong.reason,
            issuer.well_known.join(" and ")
        ),
    };
    Err(FetchError::Discovery {
        issuer: issuer.text.clone(),
        reason,
        class: wrong.class,
        retry_after: wrong.retry_after,
    })
}

async fn get(
    endpoint: &Endpoint,
    path: &str,
    fetch: &dyn Fetch,
    deadline: Instant,
) -> Result<Answered, FetchError> {
    let mut headers = HeaderMap::new();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::ACCEPT, json);
    let request = TokenRequest {
        method: Method::GET,
        path: Some(path.to_owned().into()),
        query: None,
        headers,
        body: Default::default(),
    };
    let line = fetch.dial(endpoint, deadline).await?;
    line.ask(endpoint, request, deadline).await
}

fn read(
    answer: &Answered,
    asked: &Endpoint,
    issuer: &Issuer,
    clock: &Clock,
) -> Result<Endpoint, Wrong> {
    let status = answer.status;
    if !status.is_success() {
        let redirected = match status.is_redirection() {
            true => " (redirects are never followed)",
            false => "",
        };
        let refusal = (asked.plan.response).refused(answer.answer(clock.now()), &[]);
        return Err(Wrong {
            class: match status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
                true => Class::Transient,
                false => Class::Permanent,
            },
            retry_after: refusal.retry_after,
            ..Wrong::new(format!("it answered HTTP {}{redirected}", status.as_u16()))
        });
    }
    let Ok(json) = serde_json::from_slice::<Json>(&answer.body) else {
        return Err(Wrong {
            class: Class::Transient,
            ..Wrong::new("what it answers is no JSON, let alone metadata (RFC 8414)")
        });
    };
    let Some(stated) = json.get("issuer").and_then(Json::as_str) else {
        return Err(Wrong::new("what it answers is no metadata (RFC 8414)"));
    };
    // RFC 8414 §3.3: else one issuer could speak for another.
    if stated != issuer.text {
        // A URL is ASCII; what else there is could turn a terminal's line around.
        let stated = stated.chars().filter(char::is_ascii_graphic);
        let stated: String = stated.take(200).collect();
        return Err(Wrong::in_metadata(format!(
            "its metadata are of the issuer {stated}: if that is meant, write `issuer` exactly so"
        )));
    }
    // serde's own words quote what they read.
    let metadata: Metadata = serde_json::from_value(json).map_err(|_| {
        Wrong::in_metadata("a member of its metadata has the wrong type (RFC 8414 §2)")
    })?;
    metadata.endpoint(asked, issuer).map_err(Wrong::in_metadata)
}

impl Metadata {
    fn endpoint(mut self, asked: &Endpoint, issuer: &Issuer) -> Result<Endpoint, String> {
        // RFC 8705 §5: the aliases come first for whoever shows a certificate.
        if asked.tls.client_cert.is_some()
            && let Some(aliases) = self.mtls_endpoint_aliases.take()
        {
            self.endpoints.take_from(aliases);
        }
        let stated =
            (self.endpoints.token_endpoint).ok_or("its metadata name no token_endpoint")?;
        let mut found = at(asked, "token_endpoint", &stated)?;
        let methods = self
            .token_endpoint_auth_methods_supported
            .unwrap_or_else(|| vec![DEFAULT_METHOD.to_owned()]);
        let supported = |(name, _): &&(String, _)| methods.iter().any(|method| method == name);
        if let Some((_, plan)) = issuer.choices.iter().find(supported) {
            found.plan = plan.clone();
        }
        if found.plan.begins_with("code")
            && found.authorization_url.is_none()
            && let Some(stated) = self.endpoints.authorization_endpoint
        {
            at(asked, "authorization_endpoint", &stated)?;
            found.authorization_url = Some(stated);
            found.browser = BrowserRules {
                lacks_s256: (self.code_challenge_methods_supported)
                    .is_some_and(|methods| !methods.iter().any(|method| method == "S256")),
                issuer: Some(issuer.text.clone()),
                names_issuer: self.authorization_response_iss_parameter_supported == Some(true),
            };
        }
        if found.plan.begins_with("device_code")
            && found.device_authorization_url.is_none()
            && let Some(stated) = self.endpoints.device_authorization_endpoint
        {
            at(asked, "device_authorization_endpoint", &stated)?;
            found.device_authorization_url = Some(stated);
        }
        Ok(found)
    }
}

/// Besides the rules of `token_url`: an issuer that is itself known by its certificate sends nobody to plain HTTP.
fn at(asked: &Endpoint, member: &str, stated: &str) -> Result<Endpoint, String> {
    let told = |reason: &str| format!("its {member} {reason}");
    let found = asked.at(stated).map_err(told)?;
    let downgrades =
        asked.token_url.scheme == Scheme::Https && found.token_url.scheme == Scheme::Http;
    match downgrades && !asked.allow_http {
        true => Err(told("is a plain http:// URL, and the issuer's is https://")),
        false => Ok(found),
    }
}

impl Endpoints {
    fn take_from(&mut self, other: Self) {
        let Self {
            token_endpoint,
            authorization_endpoint: _,
            device_authorization_endpoint,
        } = other;
        self.token_endpoint = token_endpoint.or_else(|| self.token_endpoint.take());
        self.device_authorization_endpoint =
            device_authorization_endpoint.or_else(|| self.device_authorization_endpoint.take());
    }
}

impl Wrong {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            class: Class::Permanent,
            reason: reason.into(),
            retry_after: None,
            is_metadata: false,
        }
    }

    fn in_metadata(reason: impl Into<String>) -> Self {
        Self {
            is_metadata: true,
            ..Self::new(reason)
        }
    }
}

#[cfg(test)]
mod tests;
