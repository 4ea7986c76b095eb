//! Why a token request brought no token.

use std::fmt::Write as _;
use std::time::Duration;

use crate::dialect::{Class, Problem, Refusal};
use crate::provider::inputs::InputError;
use crate::upstream::connect::ConnectError;
use crate::upstream::tls::TlsConfigError;

/// Why there is no token. The text is for an operator: it says who failed, and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Input(#[from] InputError),
    /// The request cannot be built: nothing was sent.
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
    /// Nothing was sent: what this token is bought with is not there.
    #[error(
        "the token of provider `{provider}`, which this one is bought with, is not there yet: see that one's error"
    )]
    Chained { provider: String },
    /// The issuer's metadata cannot be had, or cannot be used.
    #[error("issuer {issuer}: {reason}")]
    Discovery {
        issuer: String,
        reason: String,
        class: Class,
        retry_after: Option<Duration>,
    },
    /// The vendor's no.
    #[error("{}", refusal_text(host, refusal))]
    Refused { host: String, refusal: Refusal },
    /// The token was dead when it came.
    #[error(
        "the token had already expired when it came: check this machine's clock, and `response.expires`"
    )]
    DeadOnArrival,
    /// A static provider's JWT: nobody but who configured it can bring another one.
    #[error(
        "{key}: the configured access_token has expired (by its `exp` and this machine's clock): replace it"
    )]
    ExpiredStatic { key: String },
    /// The token cannot be put where `[inject]` wants it.
    #[error("the token cannot be used: {}: {}", .0.path, .0.message)]
    Inject(Problem),
    #[error("the token request was not sent, for the proxy is ending")]
    Ending,
    #[error("a defect of this program ended the token request; please report it with the log")]
    Defect,
    /// A one-time input must be marked as spent before it is sent.
    #[error("the one-time input was not sent, because that cannot be recorded: {0}")]
    Store(String),
}

impl FetchError {
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { refusal, .. } => refusal.class,
            Self::Discovery { class, .. } => *class,
            // Nothing reaches the vendor, so trying again soon harms nobody; a repaired file is noticed quickly.
            Self::ExpiredStatic { .. }
            | Self::Input(_)
            | Self::Tls(_)
            | Self::Chained { .. }
            | Self::Ending
            | Self::Store(_) => Class::Transient,
            Self::Request(_) | Self::Inject(_) => Class::Permanent,
            Self::Dial(_)
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::TooLarge { .. }
            | Self::Defect
            | Self::DeadOnArrival => Class::Transient,
        }
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { refusal, .. } => refusal.retry_after,
            Self::Discovery { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the vendor may have issued a token all the same, which killed the one before where only one is active. A
    /// refusal that was meant so issues nothing; an error of the server's says little about how far it got.
    pub fn may_have_issued(&self) -> bool {
        match self {
            Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::TooLarge { .. }
            | Self::DeadOnArrival
            | Self::Inject(_)
            | Self::Defect => true,
            Self::Refused { refusal, .. } => {
                refusal.class == Class::Transient && refusal.retry_after.is_none()
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
        }
    }

    /// Whether the endpoint may be elsewhere by now: something was sent or dialled, and not the right server's trouble came of it.
    pub fn doubts_address(&self) -> bool {
        match self {
            Self::Dial(_) | Self::Tls(_) | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Refused { refusal, .. } => {
                refusal.class == Class::Permanent || refusal.status < 429
            }
            _ => false,
        }
    }

    /// Whether the vendor refused what it was given, a token among it perhaps.
    pub fn refuses_credentials(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. }
            if refusal.class == Class::Permanent || matches!(refusal.status, 401 | 403))
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

    /// Whether a refresh token is dead: refused for itself, not because the client was.
    pub fn kills_refresh_token(&self) -> bool {
        let Self::Refused { refusal, .. } = self else {
            return false;
        };
        refusal.class == Class::Permanent
            // RFC 6749 §5.2: these two speak of the client, and every other request would be refused as well.
            && !matches!(
                refusal.code.as_deref(),
                Some("invalid_client" | "unauthorized_client")
            )
    }
}

/// Whether something else than a token endpoint seems to have answered.
fn is_wrong_place(refusal: &Refusal) -> bool {
    refusal.code.is_none()
        && matches!(refusal.status, 402 | 404..=499)
        && !matches!(refusal.status, 408 | 425 | 429)
}

fn refusal_text(host: &str, refusal: &Refusal) -> String {
    let mut text = format!("the token endpoint {host} answered HTTP {}", refusal.status);
    if is_wrong_place(refusal) {
        text.push_str(": check token_url");
    }
    // Writing to a String cannot fail.
    if let Some(code) = &refusal.code {
        let _ = write!(text, ", {code}");
    }
    if let Some(description) = &refusal.description {
        let _ = write!(text, ": {description}");
    }
    if let Some(detail) = &refusal.detail {
        let _ = write!(text, " ({detail})");
    }
    if (300..400).contains(&refusal.status) {
        text.push_str("; redirects are never followed: correct token_url");
    }
    text
}
