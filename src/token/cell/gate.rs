//! The gate of a single-active cell: which requests may use the old token during an exchange.
//!
//! A single-active vendor invalidates token g when it issues g+1, before g+1 arrives here. A
//! replayable request survives this by a retry; any other must be answered before the exchange
//! begins, or leave after it. So the refresher dials, closes the gate to unrepeatable requests,
//! waits at most 2 s for the response heads of those [in flight](InFlight), closes the gate to all
//! requests, sends the exchange, and publishes g+1 with an open gate in one store.
//!
//! `interleavings.rs` tests all orders of these steps on the real cell. The races:
//!
//! * *A request reads an open gate while the refresher closes it.* The request registers as in
//!   flight, then reads the gate again; the refresher closes the gate, then counts the requests in
//!   flight. A fence lies between both steps on each side, so at least one side sees the other.
//! * *A replayable request is not counted.* The request may be in flight with g when g dies. After
//!   the rejection it is sent again with g+1. Its report names g, so it starts no second fetch.
//! * *Token and gate disagree.* Impossible: both are in one allocation behind one pointer.
//! * *The dial fails.* The gate was never closed.
//! * *The response is lost.* g may be dead and g+1 lost. The exchange is repeated at once with the
//!   gate closed, unless it spends a one-time input. If the second exchange fails too, the gate
//!   opens with g marked as suspect: the first rejection of g renews at once, later ones with
//!   backoff.
//! * *The 2 s are over.* An unrepeatable request in flight may get a 401. Responses that have begun
//!   are never cut off.
//! * *The refresher fails.* A panic counts as a failed fetch and opens the gate. If the refresher
//!   ends, waiting requests fail. No request waits at the gate for longer than `token_wait`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::fetch_status::FetchStatus;
use super::slot::{Gate, InFlight, Shared};

/// How long an exchange waits for the responses to unrepeatable requests.
const LONGEST_DRAIN: Duration = Duration::from_secs(2);

/// Opens and closes a cell's gate, but cannot publish another token.
pub struct Gatekeeper {
    pub(super) shared: Arc<Shared>,
    pub(super) status: watch::Sender<FetchStatus>,
}

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
