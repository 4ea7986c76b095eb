//! The gate of a single-active cell: which requests may use the old token during an exchange.
//!
//! A new token invalidates the old one. A replayable request survives this by a retry; any other
//! must be answered before the exchange begins, or leave after it. So the refresher closes the gate
//! to unrepeatable requests, waits for the ones [in flight](InFlight), and then closes it to all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::{FetchStatus, Shared, Token};

/// How long an exchange waits for the responses to unrepeatable requests.
const LONGEST_DRAIN: Duration = Duration::from_secs(2);

/// Opens and closes a cell's gate, but cannot publish another token.
pub struct Gatekeeper {
    pub(super) shared: Arc<Shared>,
    pub(super) status: watch::Sender<FetchStatus>,
}

/// The published state: always replaced as a whole.
pub(super) struct Slot {
    pub(super) token: Arc<Token>,
    pub(super) gate: Gate,
    /// A lost response may have held a newer token: a rejection of this one is renewed at once.
    pub(super) suspect: bool,
    /// Per generation: requests with an older token have been invalidated and need no drain.
    pub(super) in_flight: Arc<InFlight>,
}

/// The requests that may pass. Closes in this order, and opens from any state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Gate {
    /// Old tokens stay valid: all requests pass uncounted.
    Absent,
    Open,
    Replayable,
    Shut,
}

/// What happens to a request whose token is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replayability {
    /// Sent again with the next token.
    Replayable,
    /// The app gets the rejection: the body is too large to keep, or the request is an upgrade.
    Unrepeatable,
}

/// Counts the unrepeatable requests that wait for a response to one generation's token.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    requests: AtomicUsize,
    idle: Notify,
}

/// Counts one request as in flight until dropped.
#[must_use = "dropped, the request counts as answered"]
#[derive(Debug)]
pub struct InFlightGuard(Arc<InFlight>);

impl Gatekeeper {
    /// Closes the gate to unrepeatable requests, then, once those in flight are answered or 2 s
    /// have passed, to all. Does nothing without a gate or a token.
    ///
    /// Cancel safe, but the gate stays as far closed as it is.
    pub async fn close(&self) {
        let Some(in_flight) = self.narrow(Gate::Replayable) else {
            return;
        };
        // After the limit, unanswered requests may see their token invalidated.
        let _ = tokio::time::timeout(LONGEST_DRAIN, in_flight.idle()).await;
        self.narrow(Gate::Shut);
    }

    /// Opens the gate with the current token. `suspect`: the token may be invalid, so a rejection
    /// renews it at once.
    pub fn open(&self, suspect: bool) {
        let Some(slot) = self.shared.slot.load_full() else {
            return;
        };
        let gate = slot.gate.min(Gate::Open);
        if slot.gate != gate || slot.suspect != suspect {
            self.shared.store(Arc::clone(&slot.token), gate, suspect);
            // Wakes the requests that wait at the gate.
            self.status.send_modify(|_| {});
        }
    }

    /// Closes the gate as far as `to`. `None` if there is no gate or no token.
    pub(super) fn narrow(&self, to: Gate) -> Option<Arc<InFlight>> {
        let slot = self.shared.slot.load_full()?;
        if slot.gate == Gate::Absent {
            return None;
        }
        let gate = slot.gate.max(to);
        self.shared
            .store(Arc::clone(&slot.token), gate, slot.suspect);
        Some(Arc::clone(&slot.in_flight))
    }
}

impl Slot {
    /// The successor of `last`, which shares the counter if the generation is the same.
    pub(super) fn after(last: Option<&Self>, token: Arc<Token>, gate: Gate, suspect: bool) -> Self {
        let same = last.filter(|last| last.token.generation == token.generation);
        Self {
            in_flight: same.map_or_else(Arc::default, |last| Arc::clone(&last.in_flight)),
            token,
            gate,
            suspect,
        }
    }
}

impl Gate {
    pub(super) fn admits(self, replayability: Replayability) -> bool {
        match self {
            Self::Absent | Self::Open => true,
            Self::Replayable => replayability == Replayability::Replayable,
            Self::Shut => false,
        }
    }

    pub(super) fn counts(self, replayability: Replayability) -> bool {
        self != Self::Absent && replayability == Replayability::Unrepeatable
    }
}

impl InFlight {
    /// Registers a request, which must check the gate once more before it is sent: then either the
    /// request sees the closed gate, or the refresher sees the request in flight. The fences here
    /// and in [`Self::is_idle`] order each side's store before its load, so that both cannot miss.
    pub(super) fn enter(self: &Arc<Self>) -> InFlightGuard {
        self.requests.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        InFlightGuard(Arc::clone(self))
    }

    /// Call after the gate was closed.
    pub(super) fn is_idle(&self) -> bool {
        fence(Ordering::SeqCst);
        self.requests.load(Ordering::SeqCst) == 0
    }

    /// Waits until idle. For one waiter. Cancel safe.
    pub(super) async fn idle(&self) {
        while !self.is_idle() {
            // `Notify` keeps a permit for a notification that comes before the wait.
            self.idle.notified().await;
        }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_one();
        }
    }
}
