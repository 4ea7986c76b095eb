//! The interface of the admin port to the running proxy.

use std::future::Future;
use std::pin::Pin;

use super::report::Report;
use crate::metrics::Metrics;
use crate::status::RefreshError;

/// The data that the admin port shows and the actions that it starts.
pub trait Control: Send + Sync + 'static {
    fn metrics(&self) -> &Metrics;

    fn report(&self) -> Report;

    fn readiness(&self) -> Readiness;

    /// `server.allow_hosts`: lower case, without port unless written with one.
    fn allow_hosts(&self) -> Vec<String>;

    /// Fetches a token now; `None` if the provider does not exist. The future is dropped when the
    /// client disconnects.
    fn refresh(&self, provider: &str) -> Option<Work<Result<(), RefreshError>>>;

    /// Ends the process as SIGINT does, after requests in flight. Returns whether the configuration
    /// allows that.
    fn quit(&self) -> bool;

    /// Returns the log directives in the syntax of `--log`; `None` if they cannot be changed.
    fn log(&self) -> Option<String>;

    /// Replaces the log directives. The error says which part is invalid.
    fn set_log(&self, directives: &str) -> Result<(), String>;

    /// Reloads the configuration. Returns the changes in words, or all problems of the new file.
    fn reload(&self) -> Work<Result<String, Vec<String>>>;
}

/// A result that takes time.
pub type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whether this replica is to get requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Reasons against, one line each; empty if ready. A required provider that had its first token
    /// is never listed again, so that a vendor's outage does not make every replica unready.
    pub pending: Vec<String>,
    /// The present reasons alone, for `/readyz?strict`.
    pub pending_now: Vec<String>,
}
