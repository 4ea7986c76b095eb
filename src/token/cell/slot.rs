//! The published state of a cell: a token, and the gate that decides which requests may use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::dialect::Injection;
use crate::token::schedule::Deadline;

/// An access token in the form that requests use.
pub struct Token {
    /// Grows with each new token; the same bytes again keep their generation.
    pub generation: u64,
    /// One per [`MemberIndex`](super::MemberIndex): providers that share a cell may send the token differently.
    pub injections: Box<[Injection]>,
    /// The end of use, safety margin included.
    pub deadline: Deadline,
}

/// The state that the writer, the gatekeeper and all readers share.
pub(super) struct Shared {
    pub(super) slot: ArcSwapOption<Slot>,
    /// The newest generation that an upstream rejected.
    pub(super) rejected: AtomicU64,
    /// The newest rejected generation that the refresher has handled. If the cell still holds this
    /// generation, no replacement will come.
    pub(super) handled: AtomicU64,
    pub(super) wake: Notify,
    pub(super) clock: Clock,
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

impl Shared {
    /// The generation in the cell, if suspect: a rejection renews it at once.
    pub(super) fn suspect(&self) -> Option<u64> {
        let slot = self.slot.load();
        let suspect = slot.as_ref().filter(|slot| slot.suspect);
        suspect.map(|slot| slot.token.generation)
    }

    pub(super) fn store(&self, token: Arc<Token>, gate: Gate, suspect: bool) {
        let slot = Slot::after(self.slot.load().as_deref(), token, gate, suspect);
        self.slot.store(Some(Arc::new(slot)));
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
