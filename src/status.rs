//! State of a provider, as the control thread reports it to admin pages, metrics and the command
//! line.

use std::time::{Duration, SystemTime};

/// State of a provider for admin pages, metrics and the command line. Holds no secret.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub state: State,
    pub generation: u64,
    /// Expiry of the token; `None` if the vendor states none and `ttl` is not set.
    pub expires_at: Option<SystemTime>,
    pub fetched_at: Option<SystemTime>,
    /// Next planned fetch; `None` during a fetch and for tokens that are never renewed.
    pub next_fetch_at: Option<SystemTime>,
    /// Consecutive failures.
    pub failures: u32,
    /// Last failure, for people; cleared by success.
    pub last_error: Option<String>,
}

/// Token state, as in `token_state{state}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    Valid,
    /// Usable, but its refresh failed.
    Stale,
    Expired,
    #[default]
    Missing,
    LoginRequired,
}

/// Failure of a requested refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshError {
    /// `min_interval` has not passed.
    TooSoon { retry_after: Duration },
    /// A message without secrets.
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

    /// Name in metrics and in `/status`.
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
