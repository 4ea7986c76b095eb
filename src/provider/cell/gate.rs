//! The gate of a single-active cell (DESIGN.md §6.5): who may leave with the old token while the next one is fetched.
//!
//! A new token kills the old one. A request that can be replayed gets over that by itself; one that cannot must be
//! answered before the exchange begins, or leave after it. So the refresher closes the gate to those, waits for the ones
//! on the [`Wire`], and only then closes it to all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use tokio::sync::Notify;

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
