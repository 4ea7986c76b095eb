//! Why an exchange with the upstream fails.

use std::error::Error;
use std::io;

use super::stall::Stalled;

/// Why a request got no response.
#[derive(Debug)]
pub struct SendError {
    pub failure: SendFailure,
    /// The connection had carried requests before; the peer may have closed it as idle.
    pub reused: bool,
    /// Nothing of the request was written: it may be sent again whatever its method.
    pub unsent: bool,
}

/// The underlying error of a failure.
pub type Cause = Box<dyn Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// The upstream closed the connection, or reset the stream, before its answer was complete.
    #[error("the upstream closed the connection: {0}")]
    Closed(Cause),
    /// What the upstream sent is not HTTP.
    #[error("the upstream's answer is not valid HTTP: {0}")]
    Protocol(Cause),
    #[error("the upstream did not answer in time")]
    Timeout,
    /// The app's body ended in the middle, or is not as long as it said.
    #[error("the app's request body broke off: {0}")]
    App(Cause),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the upstream closed the connection in the middle of its answer: {0}")]
    Closed(io::Error),
    #[error("the upstream's answer is not valid HTTP: {0}")]
    Protocol(Cause),
    /// It was still being uploaded.
    #[error("the app's request body broke off: {0}")]
    App(Cause),
    #[error("the upstream's answer stands still: {0}")]
    Stalled(Stalled),
}

impl SendFailure {
    /// Whether the app stood still in the middle of its body.
    pub fn app_stalled(&self) -> bool {
        let Self::App(cause) = self else {
            return false;
        };
        let source = cause.source();
        cause.is::<Stalled>() || source.is_some_and(<dyn Error>::is::<Stalled>)
    }
}
