//! The only source of time.
//!
//! Expiry is kept on two clocks: the wall clock sees NTP steps, the boot clock sees suspend, and
//! neither sees both. A token is usable only while both clocks say so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub wall: SystemTime,
    /// Since boot, including time asleep.
    pub boot: Duration,
}

#[derive(Clone, Debug, Default)]
pub enum Clock {
    #[default]
    System,
    /// Follows the clock of tokio, which tests pause, plus the steps of a test.
    Test(test::TestClock),
}

impl Clock {
    pub fn now(&self) -> Now {
        match self {
            Self::System => {
                let boot = clock_gettime(ClockId::Boottime);
                Now {
                    wall: SystemTime::now(),
                    // The kernel's boot clock is never negative and its nanoseconds are below 1e9.
                    boot: Duration::new(boot.tv_sec as u64, boot.tv_nsec as u32),
                }
            }
            Self::Test(clock) => clock.now(),
        }
    }
}

/// Returns seconds since the Unix epoch, negative before it.
pub fn unix_seconds(at: SystemTime) -> f64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

pub mod test {
    //! A clock for tests.

    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::time::{Duration, UNIX_EPOCH};

    use tokio::time::Instant;

    use super::Now;

    /// Starts at 2026-01-01, one hour after boot; follows the (paused) clock of tokio.
    #[derive(Clone, Debug)]
    pub struct TestClock {
        started: Instant,
        steps: Arc<Mutex<Steps>>,
    }

    #[derive(Debug, Default)]
    struct Steps {
        /// Sum of the steps of the wall clock, in seconds.
        wall: i64,
        /// Time asleep, which both clocks see and tokio does not.
        asleep: Duration,
    }

    impl TestClock {
        /// Must be called inside a tokio runtime.
        #[allow(
            clippy::new_without_default,
            reason = "a default would hide that a runtime is needed"
        )]
        pub fn new() -> Self {
            Self {
                started: Instant::now(),
                steps: Arc::default(),
            }
        }

        /// Steps the wall clock, as NTP or a user would.
        pub fn step_wall(&self, seconds: i64) {
            self.steps().wall += seconds;
        }

        /// Simulates a suspend, during which timers stand still.
        pub fn suspend(&self, time: Duration) {
            self.steps().asleep += time;
        }

        pub(super) fn now(&self) -> Now {
            let steps = self.steps();
            let run = self.started.elapsed() + steps.asleep;
            let started = 1_767_225_600_u64.saturating_add_signed(steps.wall);
            Now {
                wall: UNIX_EPOCH + Duration::from_secs(started) + run,
                boot: Duration::from_secs(3600) + run,
            }
        }

        fn steps(&self) -> MutexGuard<'_, Steps> {
            self.steps.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
