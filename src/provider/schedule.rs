//! When to ask for a token. Pure: state and a moment in, a [`Decision`] out; no I/O, no clock, no luck of its own.
//!
//! Two rules hold whatever a vendor answers and whatever the clocks do, and the property test walks both: two fetches
//! never start closer together than [`MIN_GAP`], and a token is never usable after its expiry.
//!
//! A token's life is kept on both clocks (see [`crate::clock`]) and the earlier one rules. Pauses after failures are
//! kept on the boot clock alone: a step of the wall clock must not make us hammer a vendor.

mod life;

use std::time::Duration;

use crate::clock::Now;
use crate::config::LifeCycle;
use crate::dialect::Class;

pub use life::Life;

/// Between the starts of two fetches, always. Just under half of the shortest life that is kept up without a gap (1 s).
pub const MIN_GAP: Duration = Duration::from_millis(400);

/// No wait is longer. Tokio's timers stand still while the machine sleeps and know nothing of wall-clock steps; this is
/// how late we notice either. A request that finds its token expired wakes the refresher at once, so this only bounds
/// how long an unused token goes unrefreshed; 1,000 providers cost 33 wake-ups a second.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

const TRANSIENT: Ladder = Ladder {
    first: Duration::from_secs(1),
    last: Duration::from_secs(60),
};

/// Starts 0, 5, 15, 35, 75, 135 … minutes: at most 3 in any half hour and 28 a day, which stays under the lock-out
/// limits that are usual for wrong passwords.
const PERMANENT: Ladder = Ladder {
    first: Duration::from_secs(300),
    last: Duration::from_secs(3600),
};

/// A vendor may ask for any pause; a typo of theirs must not stop us for a year.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// For renewals that keep bringing back the token that was rejected.
const MAX_VAIN_PAUSE: Duration = Duration::from_secs(600);

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Fetch,
    Wait {
        /// Boot time of the next fetch as things stand; `None`: only an event can bring one about.
        next: Option<Duration>,
        /// Ask again after this much of tokio's time, at the latest.
        wake: Duration,
    },
}

/// One identity's fetches: what happened, and what follows from it.
#[derive(Clone, Debug)]
pub struct Schedule {
    rules: LifeCycle,
    life: Option<Life>,
    /// Boot time.
    last_start: Option<Duration>,
    failing: Option<Failing>,
    /// Boot time from which a renewal that somebody asked for may start.
    wanted: Option<Duration>,
    /// The fetch under way was asked for by a rejection.
    renewing: bool,
    /// Renewals in a row that brought the rejected token back.
    in_vain: u32,
    /// Boot time before which a token that came back unchanged is not asked for again.
    sticky_until: Option<Duration>,
    login_required: bool,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    last: Class,
    /// Set by the first permanent refusal and kept until success or a restart: after it, a vendor's 500 may hide
    /// another count of a wrong password, so every further failure takes a step of the permanent ladder.
    refused: bool,
    steps: u32,
    count: u32,
    /// Boot time.
    next: Duration,
}

/// A pause that doubles.
struct Ladder {
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
            in_vain: 0,
            sticky_until: None,
            login_required: false,
        }
    }

    pub fn decide(&self, now: Now) -> Decision {
        let Some(next) = self.next(now) else {
            return Decision::Wait {
                next: None,
                wake: self.wake(now, MAX_WAIT),
            };
        };
        match next.checked_sub(now.boot) {
            None | Some(Duration::ZERO) => Decision::Fetch,
            Some(away) => Decision::Wait {
                next: Some(next),
                wake: self.wake(now, away),
            },
        }
    }

    /// Boot time of the next fetch; in the past if it is due.
    pub fn next(&self, now: Now) -> Option<Duration> {
        if self.login_required {
            return None;
        }
        let due = match (self.failing, &self.life) {
            (Some(failing), _) => Some(failing.next),
            (None, None) => Some(now.boot),
            (None, Some(life)) => self.refresh_at(life, now),
        };
        let due = match (due, self.wanted) {
            (Some(due), Some(wanted)) => Some(due.min(wanted)),
            (due, wanted) => due.or(wanted),
        };
        due.map(|due| due.max(self.floor(MIN_GAP)))
    }

    /// A fetch starts now.
    pub fn started(&mut self, now: Now) {
        self.last_start = Some(now.boot);
        self.renewing = self.wanted.take().is_some();
        self.sticky_until = None;
    }

    /// The fetch brought a token that can be used; `same` if it is the one we had.
    pub fn succeeded(&mut self, life: Life, same: bool, now: Now) {
        self.failing = None;
        self.login_required = false;
        self.in_vain = match (same, self.renewing) {
            (true, true) => self.in_vain.saturating_add(1),
            (true, false) => self.in_vain,
            (false, _) => 0,
        };
        self.sticky_until = same
            .then(|| life.left(now))
            .flatten()
            .map(|left| now.boot + (left / 2).max(left.min(self.rules.min_interval)));
        self.life = Some(life);
    }

    /// A token that was there before we were: from the store.
    pub fn adopted(&mut self, life: Life) {
        self.life = Some(life);
    }

    /// Other life-cycle keys.
    pub fn set_rules(&mut self, rules: LifeCycle) {
        self.rules = rules;
    }

    /// The token that we had can no longer be used.
    pub fn lost(&mut self) {
        self.life = None;
    }

    /// The fetch failed. `random` in 0..1 spreads the retries of many processes.
    pub fn failed(&mut self, class: Class, retry_after: Option<Duration>, now: Now, random: f64) {
        let refused_before = self.failing.is_some_and(|failing| failing.refused);
        let refused = refused_before || class == Class::Permanent;
        let steps = match self.failing {
            Some(failing) if refused_before == refused => failing.steps.saturating_add(1),
            _ => 1,
        };
        let pause = if refused {
            PERMANENT.step(steps)
        } else {
            self.transient_pause(steps, now, random)
        };
        let pause = pause.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER));
        self.failing = Some(Failing {
            last: class,
            refused,
            steps,
            count: self.failures().saturating_add(1),
            next: now.boot.saturating_add(pause),
        });
    }

    /// There is nothing that could be sent: until [`Self::restart`], nothing will be.
    pub fn needs_login(&mut self) {
        self.login_required = true;
    }

    /// An upstream rejected the current token. Answers when the renewal may start, on the boot clock; `None` if the
    /// rejection changes nothing, because fetches are failing and their pauses rule.
    pub fn rejected(&mut self, now: Now) -> Option<Duration> {
        if self.failing.is_some() || self.login_required {
            return None;
        }
        let floor = self.rules.min_interval;
        let pause = doubled(floor, self.in_vain, MAX_VAIN_PAUSE.max(floor));
        let at = self.floor(pause).max(now.boot);
        let at = self.wanted.map_or(at, |wanted| wanted.min(at));
        self.wanted = Some(at);
        Some(at)
    }

    /// As [`Self::rejected`], for a token that the vendor may have killed with one whose answer was lost. That it is
    /// rejected all but proves it, so that no pause of ours helps anybody; a refusal's pauses still rule.
    pub fn rejected_suspect(&mut self, now: Now) -> Option<Duration> {
        let refused = self.failing.is_some_and(|failing| failing.refused);
        if refused || self.login_required {
            return None;
        }
        self.wanted = Some(now.boot);
        Some(now.boot)
    }

    /// Somebody wants a fetch now: it comes next, and pauses start over. The error is how long it is too early.
    pub fn by_hand(&mut self, now: Now) -> Result<(), Duration> {
        let early = self.floor(self.rules.min_interval).saturating_sub(now.boot);
        if early > Duration::ZERO {
            return Err(early);
        }
        self.restart();
        self.wanted = Some(now.boot);
        Ok(())
    }

    /// The credentials changed: what was refused with the old ones says nothing of the new ones.
    pub fn restart(&mut self) {
        if self.failing.take().is_some() || self.login_required {
            // The refresh that failed is still owed.
            self.wanted = Some(Duration::ZERO);
        }
        self.login_required = false;
    }

    /// A credential file has another content: what is pending starts over, and a token that is good is asked for anew.
    pub fn credentials_changed(&mut self) {
        self.restart();
        self.wanted = Some(Duration::ZERO);
    }

    /// Another provider's token, which this one is bought with, was renewed in its own time. That says nothing of what was
    /// refused: the next attempt is made with it, no sooner.
    pub fn input_changed(&mut self) {
        if !self.waits_for_credentials() {
            self.credentials_changed();
        }
    }

    /// As [`Self::input_changed`], because we said that it may be what the vendor refused: tried once at once. If it was not, the
    /// ladder goes on where it was.
    pub fn blamed_input_changed(&mut self) {
        match self.waits_for_credentials() {
            true => self.wanted = Some(Duration::ZERO),
            false => self.credentials_changed(),
        }
    }

    pub fn life(&self) -> Option<&Life> {
        self.life.as_ref()
    }

    pub fn usable(&self, now: Now) -> bool {
        self.life.is_some_and(|life| life.usable(now))
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failing.map_or(0, |failing| failing.count)
    }

    /// The last failure's class and the boot time of the next attempt, while fetches fail.
    pub fn failing(&self) -> Option<(Class, Duration)> {
        self.failing.map(|failing| (failing.last, failing.next))
    }

    pub fn login_required(&self) -> bool {
        self.login_required
    }

    /// Whether new credentials could change what comes next.
    pub fn waits_for_credentials(&self) -> bool {
        self.login_required || self.failing.is_some_and(|failing| failing.refused)
    }

    /// Full jitter; but while an old token is still good, a retry comes early enough to be of use.
    fn transient_pause(&self, steps: u32, now: Now, random: f64) -> Duration {
        let pause = TRANSIENT.step(steps).mul_f64(random.clamp(0.0, 1.0));
        let left = self.life.and_then(|life| life.left(now));
        match left {
            Some(left) if left > Duration::ZERO => pause.min((left / 2).max(TRANSIENT.first)),
            _ => pause,
        }
    }

    fn refresh_at(&self, life: &Life, now: Now) -> Option<Duration> {
        let due = life.until_refresh(now)?;
        let at = now.boot.saturating_add(due);
        // A token that came back unchanged: not before this, but at once when it has died.
        Some(match self.sticky_until {
            Some(until) if life.usable(now) => at.max(until),
            _ => at,
        })
    }

    fn floor(&self, gap: Duration) -> Duration {
        self.last_start
            .map_or(Duration::ZERO, |start| start.saturating_add(gap))
    }

    /// Wakes also at the token's end, so that its state is told on time.
    fn wake(&self, now: Now, away: Duration) -> Duration {
        let end = self
            .life
            .and_then(|life| life.left(now))
            .filter(|left| *left > Duration::ZERO)
            .unwrap_or(MAX_WAIT);
        away.min(MAX_WAIT).min(end)
    }
}

impl Ladder {
    fn step(&self, number: u32) -> Duration {
        doubled(self.first, number.saturating_sub(1), self.last)
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}

#[cfg(test)]
mod tests;
