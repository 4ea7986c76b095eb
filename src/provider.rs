//! CONTROL: config → exchange → schedule → refresher → [`cell`].
//!
//! Every provider identity has one refresher task on the control thread. It alone asks the vendor for tokens
//! and it alone writes the cell that the data plane reads.

pub mod cell;

use std::time::{Duration, SystemTime};

/// What admin pages, metrics and the command line may know of a provider. Holds no secret.
#[derive(Clone, Debug)]
pub struct Status {
    pub state: State,
    pub generation: u64,
    /// When the vendor's token stops being valid; `None` if the vendor does not say and no `ttl` is set.
    pub expires_at: Option<SystemTime>,
    pub fetched_at: Option<SystemTime>,
    /// When the next fetch is planned; `None` while one is under way, and for tokens that are never renewed.
    pub next_fetch_at: Option<SystemTime>,
    /// Failures in a row.
    pub failures: u32,
    /// The last failure in words, for people; cleared by success.
    pub last_error: Option<String>,
}

/// As in `token_state{state}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Valid,
    /// Usable, but its refresh failed.
    Stale,
    Expired,
    Missing,
    LoginRequired,
}

/// Why `POST /-/refresh/NAME` did not bring a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshError {
    /// Inside `min_interval`.
    TooSoon { retry_after: Duration },
    /// In words, free of secrets.
    Failed(String),
}

impl State {
    pub const ALL: [Self; 5] = [
        Self::Valid,
        Self::Stale,
        Self::Expired,
        Self::Missing,
        Self::LoginRequired,
    ];

    /// As metrics and `/status` write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Missing => "missing",
            Self::LoginRequired => "login_required",
        }
    }
}
