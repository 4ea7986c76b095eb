//! How much a peer may make us do for nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::http2::{Reason, Violation};

/// Frames in a second that bring nothing, besides those that were earned: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, frames of
/// unknown kinds and on streams that are over.
const ALLOWANCE: u32 = 2_000;

/// Of what was earned, so much can be used at once.
const MOST: u32 = 20_000;

const PERIOD: Duration = Duration::from_secs(1);

pub(super) struct Calm {
    credit: u32,
    since: Instant,
}

impl Calm {
    pub(super) fn new() -> Self {
        Self {
            credit: ALLOWANCE,
            since: Instant::now(),
        }
    }

    /// Something went on, for which the peer may well send so many frames.
    pub(super) fn earn(&mut self, frames: u32) {
        self.credit = (self.credit + frames).min(MOST);
    }

    /// A frame that brought nothing. The clock is looked at only when the credit is used up.
    pub(super) fn disturb(&mut self) -> Result<(), Violation> {
        if let Some(credit) = self.credit.checked_sub(1) {
            self.credit = credit;
            return Ok(());
        }
        let now = Instant::now();
        if now.saturating_duration_since(self.since) < PERIOD {
            let rule = "a flood of frames that bring nothing";
            return Err(Violation::new(Reason::ENHANCE_YOUR_CALM, rule));
        }
        self.since = now;
        self.credit = ALLOWANCE;
        Ok(())
    }
}
