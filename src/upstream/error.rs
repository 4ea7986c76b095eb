//! Errors of an exchange with the upstream.

use std::error::Error;
use std::io;
use std::task::Poll;

use bytes::Bytes;
use http_body::Frame;

use super::stall::Stalled;

/// Why a request got no response.
#[derive(Debug)]
pub struct SendError {
    pub failure: SendFailure,
    /// The connection had carried requests before, so the peer may have closed it as idle.
    pub reused: bool,
    /// No byte of the request was written, so any method may be sent again.
    pub unsent: bool,
}

/// Result of polling a body for its next frame.
pub type PollFrame<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

pub type Cause = Box<dyn Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// The connection was closed, or the stream reset, before the response was complete.
    #[error("the upstream closed the connection: {0}")]
    Closed(Cause),
    #[error("the upstream's response is not valid HTTP: {0}")]
    Protocol(Cause),
    #[error("the upstream did not respond in time")]
    Timeout,
    /// The app's body was cut off, or does not have the declared length.
    #[error("the app's request body was cut off: {0}")]
    App(Cause),
}

/// Why a response body was cut off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the upstream closed the connection inside the response: {0}")]
    Closed(io::Error),
    #[error("the upstream's response is not valid HTTP: {0}")]
    Protocol(Cause),
    /// The upload was still running.
    #[error("the app's request body was cut off: {0}")]
    App(Cause),
    #[error("the upstream's response stalled: {0}")]
    Stalled(Stalled),
}

impl SendFailure {
    /// Returns whether the app's upload stalled.
    pub fn app_stalled(&self) -> bool {
        let Self::App(cause) = self else {
            return false;
        };
        let source = cause.source();
        cause.is::<Stalled>() || source.is_some_and(<dyn Error>::is::<Stalled>)
    }
}
