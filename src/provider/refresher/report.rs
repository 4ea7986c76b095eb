//! What a refresher reports: status, metrics and log lines.

use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::Refresher;
use crate::clock::{Now, unix_seconds};
use crate::dialect::FailureClass;
use crate::provider::source::Failure;
use crate::status::{State, Status};
use crate::token::schedule::Life;

impl Refresher {
    /// Publishes the status and the state metric as of `now`. `next`: boot time of the next fetch.
    pub(super) fn publish_status(&self, now: Now, next: Option<Duration>) {
        let state = self.state(now);
        for member in self.members.iter() {
            member.metrics.set_state(state);
        }
        let until = |next: Duration| next.saturating_sub(now.boot);
        let status = Status {
            state,
            generation: self.generation(),
            expires_at: self.schedule.life().and_then(|life| life.expires_at),
            fetched_at: self.held.as_ref().map(|held| held.fetched_at),
            next_fetch_at: next.and_then(|next| now.wall.checked_add(until(next))),
            failures: self.schedule.failures(),
            last_error: self.last_error.clone(),
        };
        self.status.send_if_modified(|published| {
            let changed = *published != status;
            *published = status;
            changed
        });
    }

    fn state(&self, now: Now) -> State {
        match &self.held {
            Some(_) if self.schedule.usable(now) => match self.schedule.failures() {
                0 => State::Valid,
                _ => State::Stale,
            },
            _ if self.schedule.login_required() => State::LoginRequired,
            Some(_) => State::Expired,
            None => State::Missing,
        }
    }

    /// Sets the status error, and logs it unless already reported.
    pub(super) fn report_error(&mut self, reason: String) {
        if self.last_error.as_ref() != Some(&reason) {
            warn!(provider = self.lead().name, "{reason}");
        }
        self.last_error = Some(reason);
    }

    /// Sets the metrics of the token's life.
    pub(super) fn record_life(&self, fetched_at: SystemTime, life: &Life) {
        let expiry = life.expires_at.map_or(f64::INFINITY, unix_seconds);
        for member in self.members.iter() {
            member.metrics.expiry.set(expiry);
            member.metrics.fetched_at.set(unix_seconds(fetched_at));
        }
    }

    /// Counts a token request in the metrics.
    pub(super) fn count(&self, result: &Result<(), Failure>, took: Duration) {
        if self.source.is_offline() {
            return;
        }
        for member in self.members.iter() {
            let metrics = &member.metrics;
            let counter = match result {
                Ok(()) => &metrics.fetched,
                Err(Failure::Fetch(error)) if error.class() == FailureClass::Transient => {
                    &metrics.fetch_transient
                }
                Err(_) => &metrics.fetch_permanent,
            };
            counter.inc();
            metrics.fetch_duration.observe(took.as_secs_f64());
        }
    }

    pub(super) fn log_fetched(&self, life: &Life, same: bool, now: Now) {
        let next = self.schedule.next(now);
        info!(
            provider = self.lead().name,
            expires_in_s = life.left(now).map(|left| left.as_secs()),
            refresh_in_s = next.map(|next| next.saturating_sub(now.boot).as_secs()),
            unchanged = same,
            "token fetched"
        );
    }
}
