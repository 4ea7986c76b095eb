//! Errors of a request, and whether the app may send the request again.
//!
//! Only `respond.rs` makes responses of these errors.

use std::time::Duration;

use crate::token::cell::Unavailable;
use crate::upstream::SendFailure;
use crate::upstream::connect::ConnectError;

#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("no upstream has a route for this request")]
    NoRoute,
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("the request head exceeds 64 KiB or 256 fields")]
    HeadersTooLarge,
    #[error("the request head did not arrive in time")]
    RequestTimeout,
    #[error("the app stopped sending the request body")]
    BodyTimeout,
    #[error("CONNECT is not supported")]
    ConnectUnsupported,
    #[error("the request's host is not one of this proxy's names")]
    HostNotAllowed,
    #[error("a web page of another site sent the request")]
    OriginNotAllowed,
    #[error("{0}")]
    RequestNotAllowed(&'static str),
    #[error("the client did not prove that it may use this proxy")]
    ClientNotAllowed,
    #[error("the request's `Via` names this proxy")]
    LoopDetected,
    #[error("no valid token is available")]
    TokenUnavailable { retry_after: Duration },
    #[error("the token endpoint rejects the configured credentials")]
    CredentialsRejected,
    #[error("the provider needs a new login")]
    LoginRequired,
    #[error(transparent)]
    Connect(ConnectError),
    #[error(transparent)]
    Send(SendFailure),
    #[error("too many requests or connections are open")]
    Overloaded,
    #[error("the process has no file descriptor left")]
    OutOfFiles,
    #[error("the proxy is shutting down, and the request still waits for a token")]
    ShuttingDown,
    #[error("{0}")]
    Internal(&'static str),
}

impl ProxyError {
    pub(super) fn token(reason: Unavailable) -> Self {
        match reason {
            Unavailable::Transient { retry_after } => Self::TokenUnavailable { retry_after },
            Unavailable::Permanent { .. } => Self::CredentialsRejected,
            Unavailable::LoginRequired => Self::LoginRequired,
        }
    }

    /// Returns whether no byte of the request reached the upstream, so that a retry is safe.
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
