//! The gate of a single-active cell: which requests may use the old token during an exchange.
//!
//! A new token invalidates the old one. A replayable request survives this by a retry; any other
//! must be answered before the exchange begins, or leave after it. So the refresher closes the gate
//! to unrepeatable requests, waits for the ones [in flight](InFlight), and then closes it to all.

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
