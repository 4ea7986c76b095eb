//! Record of an upstream's token rejections, and how often they may start a token fetch.
//!
//! An upstream that had accepted the rejected token may ask for a new one at any time. Otherwise
//! its renewals back off from 5 s to 10 min, until it accepts a token. Each upstream has its own
//! backoff.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::token::cell::CellReader;

/// Backoff of the renewals for an upstream that has not accepted the token it rejects.
const MIN_BACKOFF: Duration = Duration::from_secs(5);
const MAX_BACKOFF: Duration = Duration::from_secs(600);

/// An upstream's verdicts on the tokens so far.
#[derive(Default)]
pub(super) struct Record {
    /// The newest generation that the upstream accepted.
    accepted: AtomicU64,
    /// The newest generation whose rejection was logged.
    logged: AtomicU64,
    backoff: Mutex<Backoff>,
}

#[derive(Default)]
struct Backoff {
    /// No renewal starts before this.
    until: Option<Instant>,
    length: Duration,
}

impl Record {
    /// Notes that the upstream accepted `generation`.
    pub(super) fn accepted(&self, generation: u64) {
        // Almost always equal: a load is cheaper than a store that other cores see.
        if self.accepted.load(Relaxed) >= generation {
            return;
        }
        self.accepted.fetch_max(generation, Relaxed);
        *self.backoff.lock().unwrap_or_else(PoisonError::into_inner) = Backoff::default();
    }

    /// Returns whether this is the first rejection of `generation`: only the first is logged.
    pub(super) fn is_first_rejection(&self, generation: u64) -> bool {
        self.logged.fetch_max(generation, Relaxed) < generation
    }

    /// Asks for a token newer than `generation`; returns whether it did.
    ///
    /// An upstream that rejects every token has to wait: a broken API must not flood the token
    /// endpoint, nor invalidate the tokens of other upstreams.
    pub(super) fn renew(&self, generation: u64, token: &CellReader) -> bool {
        if self.accepted.load(Relaxed) < generation && !self.may_renew(Instant::now()) {
            return false;
        }
        token.reject(generation);
        true
    }

    fn may_renew(&self, now: Instant) -> bool {
        let mut backoff = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
        if backoff.until.is_some_and(|until| now < until) {
            return false;
        }
        backoff.length = (backoff.length * 2).clamp(MIN_BACKOFF, MAX_BACKOFF);
        backoff.until = Some(now + backoff.length);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_rejects_every_token_gets_fewer_renewals() {
        let record = Record::default();
        let started = Instant::now();
        let mut asked = 0;
        while started.elapsed() < Duration::from_secs(3600) {
            asked += u32::from(record.may_renew(Instant::now()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // Pauses of 5, 10, … 320 s: 7 renewals in 635 s, then one every 10 minutes.
        assert!((11..=14).contains(&asked), "{asked}");
        record.accepted(1);
        assert!(record.may_renew(Instant::now()));
    }

    #[test]
    fn only_the_first_rejection_of_a_generation_is_logged() {
        let record = Record::default();
        let logged = [1, 1, 2, 1, 2, 3].map(|generation| record.is_first_rejection(generation));
        assert_eq!(logged, [true, false, true, false, false, true]);
    }
}
