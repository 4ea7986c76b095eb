//! A token's life: turns the vendor's expiry into deadlines on both clocks.
//!
//! Use ends before the expiry by 5 % of the lifetime, at most 1 s. An absolute expiry counts from
//! the response's `Date` if there is one, because the local wall clock may be wrong.

use std::time::{Duration, SystemTime};

use crate::clock::Now;
use crate::config::LifeCycle;
use crate::dialect::Expiry;

/// Refresh interval of a token without any expiry.
const UNSTATED_REFRESH: Duration = Duration::from_secs(3600);

/// A moment on both clocks, reached as soon as one clock reaches it. `None`: never on that clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    wall: Option<SystemTime>,
    boot: Option<Duration>,
}

/// One token's life on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When the token expires, on the local wall clock; `None` if unknown.
    pub expires_at: Option<SystemTime>,
    /// The end of use: the expiry less a margin.
    pub deadline: Deadline,
    /// When the token is due for a refresh.
    pub(super) refresh: Deadline,
}

impl Deadline {
    /// The moment `after` from `now`; never if `None`, or on a clock that cannot represent it.
    pub(crate) fn after(after: Option<Duration>, now: Now) -> Self {
        Self {
            wall: after.and_then(|after| now.wall.checked_add(after)),
            boot: after.and_then(|after| now.boot.checked_add(after)),
        }
    }

    /// The time left on the clock that gets there first, zero once passed; `None`: unlimited.
    pub fn left(&self, now: Now) -> Option<Duration> {
        let wall = self
            .wall
            .map(|at| at.duration_since(now.wall).unwrap_or_default());
        let boot = self.boot.map(|at| at.saturating_sub(now.boot));
        wall.into_iter().chain(boot).min()
    }

    pub fn is_ahead(&self, now: Now) -> bool {
        self.left(now) != Some(Duration::ZERO)
    }
}

impl Life {
    /// The life of a token whose request was sent at `sent`. `random` in 0..1 moves the refresh
    /// earlier, never later.
    pub fn new(expiry: Expiry, rules: &LifeCycle, sent: Now, random: f64) -> Self {
        let life = stated_life(expiry, sent.wall).or(rules.ttl);
        Self::build(life, Duration::ZERO, rules, sent, random)
    }

    /// The remaining life of a stored token.
    pub fn resumed(
        fetched_at: SystemTime,
        expires_at: Option<SystemTime>,
        rules: &LifeCycle,
        now: Now,
        random: f64,
    ) -> Self {
        // `fetched_at` in the future: the clock was set back since, so the age is taken as zero.
        let age = now.wall.duration_since(fetched_at).unwrap_or_default();
        let life = expires_at.map(|at| at.duration_since(fetched_at).unwrap_or_default());
        Self::build(life, age, rules, now, random)
    }

    /// This life under other rules. `ttl` applies to a token without a known expiry.
    pub fn under(&self, rules: &LifeCycle, fetched_at: SystemTime, now: Now, random: f64) -> Self {
        let by_ttl = || fetched_at.checked_add(rules.ttl?);
        let expires_at = self.expires_at.or_else(by_ttl);
        Self::resumed(fetched_at, expires_at, rules, now, random)
    }

    pub fn usable(&self, now: Now) -> bool {
        self.deadline.is_ahead(now)
    }

    /// How long the token stays usable, by the clock that ends it first.
    pub fn left(&self, now: Now) -> Option<Duration> {
        self.deadline.left(now)
    }

    fn build(
        life: Option<Duration>,
        age: Duration,
        rules: &LifeCycle,
        now: Now,
        random: f64,
    ) -> Self {
        let deadline = |after: Option<Duration>| {
            Deadline::after(after.map(|after| after.saturating_sub(age)), now)
        };
        // The safety margin is 5 % of the life, at most 1 s.
        let margin = |life: Duration| (life / 20).min(Duration::from_secs(1));
        Self {
            expires_at: deadline(life).wall,
            deadline: deadline(life.map(|life| life.saturating_sub(margin(life)))),
            refresh: deadline(refresh_after(life, rules, random)),
        }
    }
}

/// `None` where the vendor states nothing, or 0.
fn stated_life(expiry: Expiry, sent: SystemTime) -> Option<Duration> {
    match expiry {
        Expiry::Unstated | Expiry::In(Duration::ZERO) => None,
        Expiry::In(life) => Some(life),
        // The response's `Date` is later than `sent`, so counting its difference from `sent` errs
        // on the safe side. An expiry in the past is a life of zero, not an unstated one.
        Expiry::At { at, date } => {
            Some(at.duration_since(date.unwrap_or(sent)).unwrap_or_default())
        }
    }
}

/// The age at which a token is refreshed; `None`: never.
fn refresh_after(life: Option<Duration>, rules: &LifeCycle, random: f64) -> Option<Duration> {
    let (after, slack) = match life {
        None if rules.single_active => return None,
        None => (UNSTATED_REFRESH, UNSTATED_REFRESH),
        Some(life) => {
            let before = refresh_before(life, rules);
            (life.saturating_sub(before), before)
        }
    };
    let jitter = (after.min(slack) / 10).mul_f64(random.clamp(0.0, 1.0));
    Some(after.saturating_sub(jitter))
}

fn refresh_before(life: Duration, rules: &LifeCycle) -> Duration {
    match rules.refresh_before {
        Some(before) if before < life => before,
        // The configured margin would refresh a token of such a short life in an endless loop.
        Some(_) => life / 2,
        None => {
            let most = if rules.single_active { 300 } else { 3600 };
            let fifth = (life / 5).max(Duration::from_secs(10));
            fifth.min(Duration::from_secs(most)).min(life / 2)
        }
    }
}
