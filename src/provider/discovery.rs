//! CONTROL, discovery: an issuer's metadata (RFC 8414; OpenID Connect Discovery 1.0 where that is all there is) → where its
//! token endpoint is, and how it wants clients to authenticate.

use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use crate::config::{Endpoint, Issuer};
use crate::dialect::{Class, TokenRequest};
use crate::provider::exchange::{Answered, Fetch, FetchError};

/// RFC 8414 §2: what a server that does not say takes.
const DEFAULT_METHOD: &str = "client_secret_basic";

/// RFC 8414 §2. What is not here is not needed.
#[derive(Debug, Deserialize)]
struct Metadata {
    issuer: String,
    token_endpoint: Option<String>,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Asks the issuer, and answers the endpoint with the addresses that it states. Cancel safe.
///
/// # Errors
///
/// Transient where nobody answers or the server is in trouble; permanent where what it says cannot be used.
pub async fn discover(
    endpoint: &Endpoint,
    issuer: &Issuer,
    fetch: &dyn Fetch,
) -> Result<Endpoint, FetchError> {
    let deadline = Instant::now() + endpoint.timeout;
    let mut last = None;
    for path in &issuer.well_known {
        let answer = get(endpoint, path, fetch, deadline).await?;
        let status = answer.status;
        if let Ok(metadata) = serde_json::from_slice::<Metadata>(&answer.body)
            && status.is_success()
        {
            return metadata.endpoint(endpoint, issuer);
        }
        last = Some(status);
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
    }
    let status = last.unwrap_or(StatusCode::NOT_FOUND);
    let class = match status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        true => Class::Transient,
        false => Class::Permanent,
    };
    let reason = match status.is_success() {
        true => "what it answers is no metadata (RFC 8414)".to_owned(),
        false => format!("it answered HTTP {}", status.as_u16()),
    };
    Err(failed(
        issuer,
        class,
        format!(
            "{reason} at {}; if it publishes none, write token_url instead",
            issuer.well_known.join(" and ")
        ),
    ))
}

async fn get(
    endpoint: &Endpoint,
    path: &str,
    fetch: &dyn Fetch,
    deadline: Instant,
) -> Result<Answered, FetchError> {
    let mut headers = http::HeaderMap::new();
    headers.insert(
        http::header::ACCEPT,
        http::HeaderValue::from_static("application/json"),
    );
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

impl Metadata {
    fn endpoint(self, asked: &Endpoint, issuer: &Issuer) -> Result<Endpoint, FetchError> {
        let permanent = |reason: String| failed(issuer, Class::Permanent, reason);
        // RFC 8414 §3.3: else one issuer could speak for another.
        if self.issuer != issuer.text {
            let stated: String = self
                .issuer
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect();
            return Err(permanent(format!(
                "its metadata are of the issuer {stated}: if that is meant, write `issuer` exactly so"
            )));
        }
        let stated = (self.token_endpoint)
            .ok_or_else(|| permanent("its metadata name no token_endpoint".to_owned()))?;
        let mut found = asked
            .at(&stated)
            .map_err(|reason| permanent(format!("its token_endpoint {reason}")))?;
        let methods = self
            .token_endpoint_auth_methods_supported
            .unwrap_or_else(|| vec![DEFAULT_METHOD.to_owned()]);
        let supported = |(name, _): &&(String, _)| methods.iter().any(|method| method == name);
        if let Some((_, plan)) = issuer.choices.iter().find(supported) {
            found.plan = plan.clone();
        }
        let or = |own: &Option<String>, stated: Option<String>| {
            own.clone()
                .or_else(|| stated.filter(|url| asked.at(url).is_ok()))
        };
        found.authorization_url = or(&asked.authorization_url, self.authorization_endpoint);
        found.device_authorization_url = or(
            &asked.device_authorization_url,
            self.device_authorization_endpoint,
        );
        Ok(found)
    }
}

fn failed(issuer: &Issuer, class: Class, reason: String) -> FetchError {
    FetchError::Discovery {
        issuer: issuer.text.clone(),
        reason,
        class,
    }
}
