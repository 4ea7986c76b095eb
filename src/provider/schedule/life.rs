//! A token's life: from what the vendor says to deadlines on both clocks.

use std::time::{Duration, SystemTime};

use crate::clock::Now;
use crate::config::LifeCycle;
use crate::dialect::Expiry;

/// For a token without any expiry.
const UNSTATED_REFRESH: Duration = Duration::from_secs(3600);

/// One token's life on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When the token dies, on our wall clock; `None` if that is not known.
    pub expires_at: Option<SystemTime>,
    /// Usable before this: the expiry less a margin.
    pub wall_deadline: Option<SystemTime>,
    pub boot_deadline: Option<Duration>,
    refresh_wall: Option<SystemTime>,
    refresh_boot: Option<Duration>,
}

impl Life {
    /// The life of a token whose request was sent at `sent`. `random` in 0..1 moves the refresh earlier, never later.
    pub fn new(expiry: Expiry, rules: &LifeCycle, sent: Now, random: f64) -> Self {
        Self::build(
            stated_life(expiry, sent.wall).or(rules.ttl),
            Duration::ZERO,
            rules,
            sent,
            random,
        )
    }

    /// The life that is left of a token kept in a store.
    pub fn resumed(
        fetched_at: SystemTime,
        expires_at: Option<SystemTime>,
        rules: &LifeCycle,
        now: Now,
        random: f64,
    ) -> Self {
        // A fetch in the future means that the clock was set back meanwhile; then the life starts over at most.
        let age = now.wall.duration_since(fetched_at).unwrap_or_default();
        let life =
            expires_at.map(|expires_at| expires_at.duration_since(fetched_at).unwrap_or_default());
        Self::build(life, age, rules, now, random)
    }

    /// This life under other rules. A `ttl` counts for a token whose end is not known.
    pub fn under(&self, rules: &LifeCycle, fetched_at: SystemTime, now: Now, random: f64) -> Self {
        let by_ttl = || fetched_at.checked_add(rules.ttl?);
        let expires_at = self.expires_at.or_else(by_ttl);
        Self::resumed(fetched_at, expires_at, rules, now, random)
    }

    pub fn usable(&self, now: Now) -> bool {
        self.wall_deadline
            .is_none_or(|deadline| now.wall < deadline)
            && self
                .boot_deadline
                .is_none_or(|deadline| now.boot < deadline)
    }

    /// How long the token stays usable, by the clock that ends it first.
    pub fn left(&self, now: Now) -> Option<Duration> {
        earlier(now, self.wall_deadline, self.boot_deadline)
    }

    /// How long until it is to be refreshed, zero if that is due; `None`: it never is.
    pub(super) fn until_refresh(&self, now: Now) -> Option<Duration> {
        earlier(now, self.refresh_wall, self.refresh_boot)
    }

    fn build(
        life: Option<Duration>,
        age: Duration,
        rules: &LifeCycle,
        now: Now,
        random: f64,
    ) -> Self {
        let wall = |after: Duration| now.wall.checked_add(after.saturating_sub(age));
        let boot = |after: Duration| now.boot.checked_add(after.saturating_sub(age));
        let usable = life.map(|life| life.saturating_sub(margin(life)));
        let refresh = refresh_after(life, rules, random);
        Self {
            // Beyond what the clock can hold is as good as never.
            expires_at: life.and_then(wall),
            wall_deadline: usable.and_then(wall),
            boot_deadline: usable.and_then(boot),
            refresh_wall: refresh.and_then(wall),
            refresh_boot: refresh.and_then(boot),
        }
    }
}

/// `None` where the vendor states nothing, or 0.
fn stated_life(expiry: Expiry, sent: SystemTime) -> Option<Duration> {
    match expiry {
        Expiry::Unstated | Expiry::In(Duration::ZERO) => None,
        Expiry::In(life) => Some(life),
        // The answer's `Date` is what the vendor's clock said after we had sent: counting the difference from before
        // is on the safe side. A point in the past is a life of nothing, not an unstated one.
        Expiry::At { at, date } => {
            Some(at.duration_since(date.unwrap_or(sent)).unwrap_or_default())
        }
    }
}

/// After how much of its life a token is refreshed; `None`: never.
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
        // A token that lives shorter than that would be refreshed for ever.
        Some(_) => life / 2,
        None => {
            let most = if rules.single_active { 300 } else { 3600 };
            let fifth = (life / 5).clamp(Duration::from_secs(10), Duration::from_secs(3600));
            fifth.min(Duration::from_secs(most)).min(life / 2)
        }
    }
}

fn margin(life: Duration) -> Duration {
    (life / 20).min(Duration::from_secs(1))
}

/// The time until the earlier of two moments, zero when it has passed.
fn earlier(now: Now, wall: Option<SystemTime>, boot: Option<Duration>) -> Option<Duration> {
    let wall = wall.map(|at| at.duration_since(now.wall).unwrap_or_default());
    let boot = boot.map(|at| at.saturating_sub(now.boot));
    match (wall, boot) {
        (Some(wall), Some(boot)) => Some(wall.min(boot)),
        (wall, boot) => wall.or(boot),
    }
}
