//! The state of fetching.

use std::time::Duration;

use crate::dialect::FailureClass;

/// The state of fetching, as requests that wait for a token see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchStatus {
    /// A fetch is under way or about to start.
    Soon,
    /// The last fetch failed; the next one starts at this boot time.
    Failed { class: FailureClass, next: Duration },
    /// Only a login or a new refresh token can help.
    LoginRequired,
    /// The token in the cell is current; no fetch is due.
    Settled,
}
