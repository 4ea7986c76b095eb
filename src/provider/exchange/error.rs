//! Errors of a token request.

use std::time::Duration;

use crate::dialect::{FailureClass, Problem, Refusal};
use crate::provider::inputs::InputError;
use crate::upstream::connect::ConnectError;
use crate::upstream::tls::TlsConfigError;

/// Why there is no token. The text names the failing part and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Input(#[from] InputError),
    /// Nothing was sent.
    #[error("cannot build the token request: {}: {}", .0.path, .0.message)]
    Request(Problem),
    #[error("cannot set up TLS for the token endpoint: {0}")]
    Tls(#[from] TlsConfigError),
    /// Nothing was sent.
    #[error("cannot reach the token endpoint: {0}")]
    Dial(#[from] ConnectError),
    #[error("the token endpoint {host} did not answer within {limit:?}")]
    Timeout { host: String, limit: Duration },
    #[error("the token endpoint {host} broke off: {reason}")]
    Broken { host: String, reason: String },
    #[error("the answer of the token endpoint {host} is larger than 1 MiB")]
    TooLarge { host: String },
    /// Nothing was sent: a chained provider has no token.
    #[error(
        "the token of provider `{provider}`, which the request needs, is not available yet: see \
         the error of `{provider}`"
    )]
    Chained { provider: String },
    /// The issuer's metadata (RFC 8414) are unavailable or unusable.
    #[error("issuer {issuer}: {reason}")]
    Discovery {
        issuer: String,
        reason: String,
        class: FailureClass,
        retry_after: Option<Duration>,
    },
    /// The vendor's error response.
    #[error("{}", refusal_text(host, refusal))]
    Refused { host: String, refusal: Refusal },
    #[error(
        "the token had already expired when it arrived: check this machine's clock, and \
         `response.expires`"
    )]
    DeadOnArrival,
    /// A static provider's JWT, which only a configuration change can replace.
    #[error(
        "{key}: the configured access_token has expired (by its `exp` and this machine's clock): \
         replace it"
    )]
    ExpiredStatic { key: String },
    /// `[inject]` cannot send the token.
    #[error("the token cannot be used: {}: {}", .0.path, .0.message)]
    Inject(Problem),
    #[error("the token request was not sent: the proxy is shutting down")]
    Ending,
    #[error("a bug in Cupbearer ended the token request; please report it with the log")]
    Defect,
    /// A one-time input must be marked as spent before it is sent.
    #[error("the one-time input was not sent, because that cannot be recorded: {0}")]
    Store(String),
}

impl FetchError {
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Refused { refusal, .. } => refusal.class,
            Self::Discovery { class, .. } => *class,
            Self::Request(_) | Self::Inject(_) => FailureClass::Permanent,
            // Includes errors before anything is sent: an early retry costs the vendor nothing and
            // notices a repaired file soon.
            _ => FailureClass::Transient,
        }
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { refusal, .. } => refusal.retry_after,
            Self::Discovery { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the vendor may have issued a token despite the error, which invalidates the previous
    /// one under `single_active`. A clear refusal issues none; after a server error, this is open.
    pub fn may_have_issued(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => {
                refusal.class == FailureClass::Transient && refusal.retry_after.is_none()
            }
            Self::Input(_)
            | Self::Discovery { .. }
            | Self::Chained { .. }
            | Self::ExpiredStatic { .. }
            | Self::Request(_)
            | Self::Tls(_)
            | Self::Dial(_)
            | Self::Ending
            | Self::Store(_) => false,
            _ => true,
        }
    }

    /// Whether the endpoint may have moved: a dial or an exchange failed, and not because the right
    /// server was in trouble.
    pub fn doubts_address(&self) -> bool {
        match self {
            Self::Dial(_) | Self::Tls(_) | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Refused { refusal, .. } => {
                refusal.class == FailureClass::Permanent || refusal.status < 429
            }
            _ => false,
        }
    }

    /// Whether the vendor refused the credentials, which may include a chained token.
    pub fn refuses_credentials(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. }
            if refusal.class == FailureClass::Permanent || matches!(refusal.status, 401 | 403))
    }

    /// The vendor's own error code.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { refusal, .. } => refusal.code.as_deref(),
            _ => None,
        }
    }

    /// RFC 6749 §5.2: the grant itself (code, refresh token) is invalid, expired or revoked.
    pub fn is_invalid_grant(&self) -> bool {
        self.code() == Some("invalid_grant")
    }

    /// Whether the vendor refused the refresh token itself rather than the client.
    pub fn kills_refresh_token(&self) -> bool {
        // RFC 6749 §5.2: these two codes refuse the client, and with it every request.
        let refuses_client = matches!(self.code(), Some("invalid_client" | "unauthorized_client"));
        matches!(self, Self::Refused { .. })
            && self.class() == FailureClass::Permanent
            && !refuses_client
    }
}

/// Whether the response seems to come from another server or path than the token endpoint.
fn is_wrong_url(refusal: &Refusal) -> bool {
    refusal.code.is_none()
        && matches!(refusal.status, 402 | 404..=499)
        && !matches!(refusal.status, 408 | 425 | 429)
}

fn refusal_text(host: &str, refusal: &Refusal) -> String {
    let mut text = format!("the token endpoint {host} answered HTTP {}", refusal.status);
    if is_wrong_url(refusal) {
        text += ": check token_url";
    }
    if let Some(code) = &refusal.code {
        text += &format!(", {code}");
    }
    if let Some(description) = &refusal.description {
        text += &format!(": {description}");
    }
    if let Some(detail) = &refusal.detail {
        text += &format!(" ({detail})");
    }
    if (300..400).contains(&refusal.status) {
        text += "; redirects are never followed: correct token_url";
    }
    text
}
