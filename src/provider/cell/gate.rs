//! The gate of a single-active cell (DESIGN.md §6.5): who may leave with the old token while the next one is fetched.
//!
//! A new token kills the old one. A request that can be replayed gets over that by itself; one that cannot must be
//! answered before the exchange begins, or leave after it. So the refresher closes the gate to those, waits for the ones
//! on the [`Wire`], and only then closes it to all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::{Outlook, Shared, Token};

/// How long an exchange waits for the answers to requests that could not be repeated.
const LONGEST_DRAIN: Duration = Duration::from_secs(2);

/// Opens and closes a cell's gate, but cannot put another token there.
pub struct Gatekeeper {
    pub(super) shared: Arc<Shared>,
    pub(super) outlook: watch::Sender<Outlook>,
}

/// What is published: replaced as a whole.
pub(super) struct Slot {
    pub(super) token: Arc<Token>,
    pub(super) gate: Gate,
    /// The vendor may have issued another token, whose answer was lost: a rejection of this one is renewed at once.
    pub(super) suspect: bool,
    /// The generation's own: whoever is still on the wire with an older one is dead already, and not waited for.
    pub(super) wire: Arc<Wire>,
}

/// Who may pass. Moves in this order, and from anywhere back to [`Gate::Open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Gate {
    /// The vendor lets old tokens live: everybody passes, nobody is counted.
    Absent,
    Open,
    Replayable,
    Shut,
}

/// What becomes of a request whose token is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Traveller {
    /// It is sent again with the next token.
    Replayable,
    /// The app gets the rejection: its body is too large to keep, or it is an upgrade.
    Unrepeatable,
}

/// How many requests that cannot be repeated are on their way with one generation's token, and have no answer yet.
#[derive(Debug, Default)]
pub(super) struct Wire {
    requests: AtomicUsize,
    idle: Notify,
}

/// A request is on the wire for as long as this lives.
#[must_use = "dropped, the request counts as answered"]
#[derive(Debug)]
pub struct OnWire(Arc<Wire>);

impl Gatekeeper {
    /// Closes the gate in two steps: to requests that cannot be repeated, then, once those that have left are answered or
    /// 2 s are over, to all. Does nothing where there is no gate or no token.
    ///
    /// Cancel safe, but the gate stays as far closed as it got.
    pub async fn close(&self) {
        let Some(wire) = self.close_to_unrepeatable() else {
            return;
        };
        // Whoever has not been answered by then is overtaken by the new token.
        let _ = tokio::time::timeout(LONGEST_DRAIN, wire.idle()).await;
        self.close_to_all();
    }

    /// Opens the gate with the token that is in the cell. `suspect`: it may be dead, and its rejection is renewed at once.
    pub fn open(&self, suspect: bool) {
        let Some(slot) = self.shared.slot.load_full() else {
            return;
        };
        let gate = slot.gate.min(Gate::Open);
        if slot.gate != gate || slot.suspect != suspect {
            self.shared.store(Arc::clone(&slot.token), gate, suspect);
            // Without news: whoever waits at the gate looks again.
            self.outlook.send_modify(|_| {});
        }
    }

    /// `None` if there is nothing to close.
    pub(super) fn close_to_unrepeatable(&self) -> Option<Arc<Wire>> {
        self.narrow(Gate::Replayable)
    }

    pub(super) fn close_to_all(&self) {
        self.narrow(Gate::Shut);
    }

    fn narrow(&self, to: Gate) -> Option<Arc<Wire>> {
        let slot = self.shared.slot.load_full()?;
        if slot.gate == Gate::Absent {
            return None;
        }
        let gate = slot.gate.max(to);
        self.shared
            .store(Arc::clone(&slot.token), gate, slot.suspect);
        Some(Arc::clone(&slot.wire))
    }
}

impl Slot {
    /// What comes after `last`: the same generation goes on with its wire.
    pub(super) fn after(last: Option<&Self>, token: Arc<Token>, gate: Gate, suspect: bool) -> Self {
        let same = last.filter(|last| last.token.generation == token.generation);
        Self {
            wire: same.map_or_else(Arc::default, |last| Arc::clone(&last.wire)),
            token,
            gate,
            suspect,
        }
    }
}

impl Gate {
    pub(super) fn admits(self, traveller: Traveller) -> bool {
        match self {
            Self::Absent | Self::Open => true,
            Self::Replayable => traveller == Traveller::Replayable,
            Self::Shut => false,
        }
    }

    pub(super) fn counts(self, traveller: Traveller) -> bool {
        self != Self::Absent && traveller == Traveller::Unrepeatable
    }
}

impl Wire {
    /// Registers a request. It must look at the gate once more after this and before it is sent: either it then sees that
    /// the refresher has closed, or the refresher sees it on the wire. The fences here and in [`Self::is_idle`] stand
    /// between each side's store and its load, so that not both can miss the other's.
    pub(super) fn enter(self: &Arc<Self>) -> OnWire {
        self.requests.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        OnWire(Arc::clone(self))
    }

    /// To be asked after the gate was closed.
    pub(super) fn is_idle(&self) -> bool {
        fence(Ordering::SeqCst);
        self.requests.load(Ordering::SeqCst) == 0
    }

    /// Waits until it is idle. For one waiter. Cancel safe.
    pub(super) async fn idle(&self) {
        while !self.is_idle() {
            // The notice is kept if it comes before anybody waits.
            self.idle.notified().await;
        }
    }
}

impl Drop for OnWire {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_one();
        }
    }
}
