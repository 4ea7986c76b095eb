//! What can go wrong with a request: who failed, and whether it may be sent again.
//!
//! `respond.rs` makes responses of these, and is the only file that does.

use std::time::Duration;

use crate::provider::cell::Unavailable;
use crate::upstream::SendFailure;
use crate::upstream::connect::ConnectError;

/// One variant for each code of DESIGN.md §5 that a request can meet.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("no upstream is configured for this request")]
    NoRoute,
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("the request's head is longer than 64 KiB or 256 fields")]
    HeadersTooLarge,
    #[error("the request's head did not arrive in time")]
    RequestTimeout,
    #[error("the request's body did not go on in time")]
    BodyTimeout,
    #[error("CONNECT is not supported")]
    ConnectUnsupported,
    #[error("the Host is not one that this proxy answers to")]
    HostNotAllowed,
    #[error("a cross-site request")]
    OriginNotAllowed,
    #[error("{0}")]
    RequestNotAllowed(&'static str),
    #[error("the client did not prove that it may use this proxy")]
    ClientNotAllowed,
    #[error("the request has been through this proxy before")]
    LoopDetected,
    #[error("there is no valid token")]
    TokenUnavailable { retry_after: Duration },
    #[error("the token endpoint refuses the configured credentials")]
    CredentialsRejected { retry_after: Duration },
    #[error("the provider needs a new login")]
    LoginRequired,
    #[error(transparent)]
    Connect(ConnectError),
    #[error(transparent)]
    Send(SendFailure),
    #[error("too many requests in flight")]
    Overloaded,
    #[error("the process may open no more files")]
    OutOfFiles,
    #[error("the proxy is ending, and the request still waited for a token")]
    ShuttingDown,
    #[error("{0}")]
    Internal(&'static str),
}

/// Who has to look into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Party {
    App,
    Cupbearer,
    Vendor,
    Upstream,
}

impl ProxyError {
    pub(super) fn token(reason: Unavailable) -> Self {
        match reason {
            Unavailable::Transient { retry_after } => Self::TokenUnavailable { retry_after },
            Unavailable::Permanent { retry_after } => Self::CredentialsRejected { retry_after },
            Unavailable::LoginRequired => Self::LoginRequired,
        }
    }

    pub(super) fn party(&self) -> Party {
        match self {
            Self::NoRoute
            | Self::BadRequest(_)
            | Self::HeadersTooLarge
            | Self::RequestTimeout
            | Self::BodyTimeout
            | Self::ConnectUnsupported
            | Self::HostNotAllowed
            | Self::OriginNotAllowed
            | Self::RequestNotAllowed(_)
            | Self::ClientNotAllowed
            | Self::LoopDetected
            | Self::Send(SendFailure::App(_)) => Party::App,
            Self::TokenUnavailable { .. }
            | Self::CredentialsRejected { .. }
            | Self::LoginRequired => Party::Vendor,
            Self::Connect(_) | Self::Send(_) => Party::Upstream,
            Self::Overloaded | Self::OutOfFiles | Self::ShuttingDown | Self::Internal(_) => {
                Party::Cupbearer
            }
        }
    }

    /// Nothing of the request reached the upstream, so that the app may send it again whatever its method.
    pub(super) fn nothing_sent(&self) -> bool {
        !matches!(self, Self::Send(_) | Self::BodyTimeout)
    }
}

impl From<SendFailure> for ProxyError {
    fn from(failure: SendFailure) -> Self {
        match failure.app_stalled() {
            true => Self::BodyTimeout,
            false => Self::Send(failure),
        }
    }
}

impl From<ConnectError> for ProxyError {
    fn from(error: ConnectError) -> Self {
        match error.is_out_of_files() {
            true => Self::OutOfFiles,
            false => Self::Connect(error),
        }
    }
}
