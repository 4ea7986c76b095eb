//! When to fetch a token. Pure: state and a moment in, a [`Decision`] out; no I/O, no clock and no
//! random numbers of its own.
//!
//! Two rules hold for every vendor response and every clock step (the property test checks both):
//! two fetches never start closer together than [`MIN_GAP`], and an expired token is never usable.
//!
//! A token's life is kept on both clocks (see [`crate::clock`]) and the earlier one decides.
//! Backoff uses the boot clock alone: a wall-clock step must not cause a flood of requests.
//!
//! A failed refresh keeps the old token until it expires. Transient failures back off from 1 s to 1
//! min with full jitter, refusals from 5 min to 1 h, so that no account is locked. Attempts go on
//! until one succeeds, unless a login is required. A token that comes back unchanged is no error:
//! its next refresh waits for at least half of the remaining life.

mod life;

use std::time::Duration;

use crate::clock::Now;
use crate::config::LifeCycle;
use crate::dialect::FailureClass;

pub use life::{Deadline, Life};

/// Between the starts of any two fetches. Just under half of the shortest life that can be renewed
/// without a gap (1 s).
pub const MIN_GAP: Duration = Duration::from_millis(400);

/// The longest wait. Tokio's timers stop while the machine sleeps and ignore wall-clock steps, so
/// either is noticed this late. A request with an expired token wakes the refresher at once, so
/// only unused tokens stay stale this long; 1,000 providers cost 33 wake-ups a second.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

const TRANSIENT: Backoff = Backoff {
    first: Duration::from_secs(1),
    last: Duration::from_secs(60),
};

/// Fetches start after 0, 5, 15, 35, 75, 135 … minutes: at most 3 in any half hour and 28 a day,
/// below the usual lock-out limits for wrong passwords.
const PERMANENT: Backoff = Backoff {
    first: Duration::from_secs(300),
    last: Duration::from_secs(3600),
};

/// Limits a vendor's `Retry-After`, so that a typo cannot stop refreshes for a year.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The longest pause between renewals that return the rejected token unchanged.
const MAX_UNCHANGED_PAUSE: Duration = Duration::from_secs(600);

/// The refresher's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Fetch,
    Wait {
        /// Boot time of the next planned fetch; `None`: only an event can trigger one.
        next: Option<Duration>,
        /// Decide again after this much of tokio's time at the latest.
        wake: Duration,
    },
}

/// The fetch history of one identity, from which the next fetch follows.
#[derive(Clone, Debug)]
pub struct Schedule {
    rules: LifeCycle,
    life: Option<Life>,
    /// Boot time.
    last_start: Option<Duration>,
    failing: Option<Failing>,
    /// Boot time from which a requested renewal may start.
    wanted: Option<Duration>,
    /// A rejection or a request triggered the fetch under way.
    renewing: bool,
    /// Consecutive renewals that returned the rejected token.
    unchanged_renewals: u32,
    /// Boot time before which a token that came back unchanged is not fetched again.
    unchanged_until: Option<Duration>,
    login_required: bool,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    /// Set by the first permanent refusal until success or a restart. After it, a vendor's 500 may
    /// also count as a wrong password, so every later failure takes a permanent backoff step.
    refused: bool,
    steps: u32,
    count: u32,
    /// Boot time.
    next: Duration,
}

/// Exponential backoff: doubles from `first` to `last`.
struct Backoff {
    first: Duration,
    last: Duration,
}

impl Schedule {
    pub fn new(rules: LifeCycle) -> Self {
        Self {
            rules,
            life: None,
            last_start: None,
            failing: None,
            wanted: None,
            renewing: false,
            unchanged_renewals: 0,
            unchanged_until: None,
            login_required: false,
        }
    }

    pub fn decide(&self, now: Now) -> Decision {
        let next = self.next(now);
        let away = next.map(|next| next.saturating_sub(now.boot));
        if away == Some(Duration::ZERO) {
            return Decision::Fetch;
        }
        // Also wakes at the token's end, so that its state is reported on time.
        let end = self.life.and_then(|life| life.left(now));
        let end = end.filter(|left| !left.is_zero());
        let wake = away.into_iter().chain(end).fold(MAX_WAIT, Duration::min);
        Decision::Wait { next, wake }
    }

    /// Boot time of the next fetch; in the past if due.
    pub fn next(&self, now: Now) -> Option<Duration> {
        if self.login_required {
            return None;
        }
        let due = match (self.failing, &self.life) {
            (Some(failing), _) => Some(failing.next),
            (None, None) => Some(now.boot),
            (None, Some(life)) => self.refresh_at(life, now),
        };
        let due = due.into_iter().chain(self.wanted).min();
        due.map(|due| due.max(self.earliest(MIN_GAP)))
    }

    /// Records that a fetch starts now.
    pub fn started(&mut self, now: Now) {
        self.last_start = Some(now.boot);
        self.renewing = self.wanted.take().is_some();
        self.unchanged_until = None;
    }

    /// Records a usable token; `same` if the vendor returned the current one again.
    pub fn succeeded(&mut self, life: Life, same: bool, now: Now) {
        self.failing = None;
        self.login_required = false;
        if !same {
            self.unchanged_renewals = 0;
        } else if self.renewing {
            self.unchanged_renewals = self.unchanged_renewals.saturating_add(1);
        }
        let left = life.left(now).filter(|_| same);
        self.unchanged_until =
            left.map(|left| now.boot + (left / 2).max(left.min(self.rules.min_interval)));
        self.life = Some(life);
    }

    /// Sets the life of the current token; `None`: it can no longer be used.
    pub fn set_life(&mut self, life: Option<Life>) {
        self.life = life;
    }

    pub fn set_rules(&mut self, rules: LifeCycle) {
        self.rules = rules;
    }

    /// Records a failed fetch. `random` in 0..1 spreads the retries of many processes.
    pub fn failed(
        &mut self,
        class: FailureClass,
        retry_after: Option<Duration>,
        now: Now,
        random: f64,
    ) {
        let refused_before = self.failing.is_some_and(|failing| failing.refused);
        let refused = refused_before || class == FailureClass::Permanent;
        let steps = match self.failing {
            Some(failing) if refused_before == refused => failing.steps.saturating_add(1),
            _ => 0,
        };
        let pause = if refused {
            PERMANENT.pause(steps)
        } else {
            self.transient_pause(steps, now, random)
        };
        let pause = pause.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER));
        self.failing = Some(Failing {
            refused,
            steps,
            count: self.failures().saturating_add(1),
            next: now.boot.saturating_add(pause),
        });
    }

    /// Stops all fetches until [`Self::restart`]: no credential is left to send.
    pub fn needs_login(&mut self) {
        self.login_required = true;
    }

    /// An upstream rejected the current token. Returns the boot time from which the renewal may
    /// start; `None` while fetches fail, because their backoff applies.
    ///
    /// `suspect`: a lost response may have invalidated the token. The rejection all but proves it,
    /// so the renewal may start at once, and only the backoff after a refusal applies.
    pub fn rejected(&mut self, suspect: bool, now: Now) -> Option<Duration> {
        let failing = self.failing.filter(|failing| failing.refused || !suspect);
        if failing.is_some() || self.login_required {
            return None;
        }
        let min = self.rules.min_interval;
        let backoff = Backoff {
            first: min,
            last: MAX_UNCHANGED_PAUSE.max(min),
        };
        let at = match suspect {
            true => now.boot,
            false => self
                .earliest(backoff.pause(self.unchanged_renewals))
                .max(now.boot),
        };
        self.wanted = Some(self.wanted.map_or(at, |wanted| wanted.min(at)));
        self.wanted
    }

    /// Makes a requested fetch the next step and resets the backoff. The error is how long the
    /// request must wait because of `min_interval`.
    pub fn request_refresh(&mut self, now: Now) -> Result<(), Duration> {
        let early = self
            .earliest(self.rules.min_interval)
            .saturating_sub(now.boot);
        if !early.is_zero() {
            return Err(early);
        }
        self.restart();
        self.wanted = Some(now.boot);
        Ok(())
    }

    /// Resets the backoff: a refusal of the old credentials does not apply to new ones.
    pub fn restart(&mut self) {
        if self.failing.take().is_some() || self.login_required {
            // The refresh that failed is still due.
            self.wanted = Some(Duration::ZERO);
        }
        self.login_required = false;
    }

    /// A credential file changed: resets the backoff and fetches even if the token is usable.
    pub fn credentials_changed(&mut self) {
        self.restart();
        self.wanted = Some(Duration::ZERO);
    }

    /// The token of a chained provider was renewed. After a refusal, which may have had another
    /// cause, that makes the next attempt no sooner. But if this provider reported the old token
    /// as refused (`blamed`), one attempt follows at once, and the backoff then continues.
    pub fn input_changed(&mut self, blamed: bool) {
        match self.waits_for_credentials() {
            false => self.credentials_changed(),
            true if blamed => self.wanted = Some(Duration::ZERO),
            true => {}
        }
    }

    pub fn life(&self) -> Option<&Life> {
        self.life.as_ref()
    }

    pub fn usable(&self, now: Now) -> bool {
        self.life.is_some_and(|life| life.usable(now))
    }

    /// Consecutive failures.
    pub fn failures(&self) -> u32 {
        self.failing.map_or(0, |failing| failing.count)
    }

    pub fn login_required(&self) -> bool {
        self.login_required
    }

    /// Whether a login is required or the vendor refused the credentials.
    pub fn waits_for_credentials(&self) -> bool {
        self.login_required || self.failing.is_some_and(|failing| failing.refused)
    }

    /// Full jitter; but while the old token is usable, the retry comes before its end.
    fn transient_pause(&self, steps: u32, now: Now, random: f64) -> Duration {
        let pause = TRANSIENT.pause(steps).mul_f64(random.clamp(0.0, 1.0));
        match self.life.and_then(|life| life.left(now)) {
            Some(left) if !left.is_zero() => pause.min((left / 2).max(TRANSIENT.first)),
            _ => pause,
        }
    }

    fn refresh_at(&self, life: &Life, now: Now) -> Option<Duration> {
        let at = now.boot.saturating_add(life.refresh.left(now)?);
        // A token that came back unchanged is fetched later, unless it has expired.
        Some(match self.unchanged_until {
            Some(until) if life.usable(now) => at.max(until),
            _ => at,
        })
    }

    /// The earliest boot time at which a fetch keeps `gap` from the start of the last one.
    fn earliest(&self, gap: Duration) -> Duration {
        let start = self.last_start;
        start.map_or(Duration::ZERO, |start| start.saturating_add(gap))
    }
}

impl Backoff {
    /// The pause after `steps` earlier ones.
    fn pause(&self, steps: u32) -> Duration {
        self.first.saturating_mul(1 << steps.min(16)).min(self.last)
    }
}

#[cfg(test)]
mod tests;
