//! The token cell, where the control plane hands tokens to the data plane.
//!
//! The refresher holds the one [`CellWriter`]; every route holds a [`CellReader`]. Reading is one
//! atomic load. A reader without a usable token, or with a rejected one, waits on the
//! [`FetchStatus`] that the refresher publishes.
//!
//! Where a new token invalidates the old one, the cell has a gate ([`Gatekeeper::close`],
//! [`CellReader::enter`]). Token and gate share one allocation, so that one store publishes the new
//! token and opens the gate.

mod fetch_status;
mod gate;
mod slot;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock::Clock;
use crate::dialect::{FailureClass, Injection};

use self::slot::{Gate, Shared, Slot};

pub use self::fetch_status::FetchStatus;
pub use self::gate::Gatekeeper;
pub use self::slot::{InFlightGuard, Replayability, Token};

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The wait timed out, or the next attempt is too far away.
    Transient {
        retry_after: Duration,
    },
    /// The vendor refuses the credentials.
    Permanent {
        retry_after: Duration,
    },
    LoginRequired,
}

/// For a wait whose end is not known.
const RETRY_SOON: Unavailable = Unavailable::Transient {
    retry_after: Duration::from_secs(1),
};

/// Creates an empty cell.
pub fn cell(clock: Clock) -> (CellWriter, CellReader) {
    let writer = CellWriter {
        shared: Arc::new(Shared {
            slot: ArcSwapOption::empty(),
            rejected: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            wake: Notify::new(),
            clock,
        }),
        status: watch::Sender::new(FetchStatus::Soon),
        seen: AtomicU64::new(0),
        gated: AtomicBool::new(false),
    };
    let reader = writer.reader(MemberIndex::new(0));
    (writer, reader)
}

/// An index into [`Token::injections`]. Not reused while a reader holds a clone, so that a request
/// that began before a reload still finds its own injection.
#[derive(Clone)]
pub struct MemberIndex(Arc<usize>);

impl MemberIndex {
    pub(crate) fn new(index: usize) -> Self {
        Self(Arc::new(index))
    }

    pub(crate) fn get(&self) -> usize {
        *self.0
    }

    /// Whether another clone exists.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// The result of [`CellReader::enter`].
pub enum Entry {
    /// Send the request with this token now, and keep the guard until the response head arrives.
    Pass(Arc<Token>, Option<InFlightGuard>),
    /// The gate is closed: wait with [`CellReader::opening`].
    Closed,
    /// No usable token of a sufficient generation: wait with [`CellReader::newer`].
    NoToken,
}

/// The refresher's half.
pub struct CellWriter {
    shared: Arc<Shared>,
    status: watch::Sender<FetchStatus>,
    /// The newest rejected generation that [`Self::rejection`] has returned.
    seen: AtomicU64,
    /// Whether the next published token has a gate.
    gated: AtomicBool,
}

impl CellWriter {
    /// Publishes a token with the gate open, then the status: a reader that sees the new status
    /// also sees the token.
    pub fn publish(&self, token: Arc<Token>, status: FetchStatus) {
        self.shared.store(token, self.open_gate(), false);
        self.set_status(status);
    }

    /// Publishes the current token with other injections, which ends no wait for a newer token.
    /// Opens the gate.
    pub fn replace(&self, token: Arc<Token>) {
        self.shared
            .store(token, self.open_gate(), self.is_suspect());
        // Wakes the requests that wait at the gate.
        self.status.send_modify(|_| {});
    }

    /// Empties the cell: its token must not be used any more.
    pub fn clear(&self, status: FetchStatus) {
        self.shared.slot.store(None);
        self.set_status(status);
    }

    /// Sets whether each new token invalidates the old one, from the next token on.
    pub fn set_gated(&self, gated: bool) {
        self.gated.store(gated, Ordering::Relaxed);
    }

    pub fn gatekeeper(&self) -> Gatekeeper {
        Gatekeeper {
            shared: Arc::clone(&self.shared),
            status: self.status.clone(),
        }
    }

    /// Whether the gate was last [opened](Gatekeeper::open) with this token as suspect.
    pub fn is_suspect(&self) -> bool {
        self.shared.suspect().is_some()
    }

    fn open_gate(&self) -> Gate {
        match self.gated.load(Ordering::Relaxed) {
            true => Gate::Open,
            false => Gate::Absent,
        }
    }

    /// [`FetchStatus::Settled`] marks all rejections that [`Self::rejection`] returned as handled.
    pub fn set_status(&self, status: FetchStatus) {
        if status == FetchStatus::Settled {
            let seen = self.seen.load(Ordering::Relaxed);
            self.shared.handled.fetch_max(seen, Ordering::Release);
        }
        self.status.send_replace(status);
    }

    /// Creates a reader. Unless the cell is empty, its token must have an injection at `index`
    /// before the reader is used.
    pub fn reader(&self, index: MemberIndex) -> CellReader {
        CellReader {
            shared: Arc::clone(&self.shared),
            watch: self.status.subscribe(),
            index,
        }
    }

    /// Waits until a reader reports a rejection, or finds no usable token in a settled cell (after
    /// a suspend or a wall-clock step). Returns the newest rejected generation so far, 0 for none.
    ///
    /// Cancel safe: an unseen report is kept.
    pub async fn rejection(&self) -> u64 {
        self.shared.wake.notified().await;
        let rejected = self.shared.rejected.load(Ordering::Acquire);
        self.seen.fetch_max(rejected, Ordering::Relaxed);
        rejected
    }
}

/// The requests' half. Cheap to clone.
#[derive(Clone)]
pub struct CellReader {
    shared: Arc<Shared>,
    watch: watch::Receiver<FetchStatus>,
    index: MemberIndex,
}

impl CellReader {
    /// Whether both read the same injection of the same cell.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared) && Arc::ptr_eq(&self.index.0, &other.index.0)
    }

    /// The token, if usable now. No lock, no wait.
    pub fn current(&self) -> Option<Arc<Token>> {
        let slot = self.shared.slot.load();
        let token = slot.as_ref().map(|slot| &slot.token);
        token
            .filter(|token| token.deadline.is_ahead(self.shared.clock.now()))
            .cloned()
    }

    /// Lets a request leave with the token if its generation is above `than`. No lock, no wait.
    pub fn enter(&self, replayability: Replayability, than: u64) -> Entry {
        loop {
            let slot = match self.look(replayability, than) {
                Ok(slot) => slot,
                Err(entry) => return entry,
            };
            let on_wire = slot.in_flight.enter();
            if self.is_unmoved(&slot) {
                return Entry::Pass(Arc::clone(&slot.token), Some(on_wire));
            }
        }
    }

    /// Whether [`Self::enter`] would find the gate closed. A hint, to wait before rather than after
    /// taking a connection.
    pub fn is_closed(&self, replayability: Replayability) -> bool {
        let slot = self.shared.slot.load();
        slot.as_ref()
            .is_some_and(|slot| !slot.gate.admits(replayability))
    }

    /// Waits, at most until `deadline`, for the gate to open. Cancel safe.
    pub async fn opening(
        &self,
        replayability: Replayability,
        deadline: Instant,
    ) -> Result<(), Unavailable> {
        let mut watch = self.watch.clone();
        let open = watch.wait_for(|_| !self.is_closed(replayability));
        match timeout_at(deadline, open).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(RETRY_SOON),
        }
    }

    /// Waits, at most `limit`, for a fetch that is under way or about to start. Returns whether a
    /// usable token of a generation above `than` is there then. Cancel safe.
    pub async fn after_fetch(&self, than: u64, limit: Duration) -> bool {
        let mut watch = self.watch.clone();
        let over = watch.wait_for(|status| *status != FetchStatus::Soon);
        let over = timeout(limit, over).await;
        over.is_ok_and(|over| over.is_ok())
            && self.current().is_some_and(|token| token.generation > than)
    }

    /// The slot to register the request in; the error is the result if it needs no registration.
    fn look(&self, replayability: Replayability, than: u64) -> Result<Arc<Slot>, Entry> {
        let slot = self.shared.slot.load();
        let usable = slot.as_ref().filter(|slot| {
            slot.token.generation > than && slot.token.deadline.is_ahead(self.shared.clock.now())
        });
        let Some(slot) = usable else {
            return Err(Entry::NoToken);
        };
        if !slot.gate.admits(replayability) {
            return Err(Entry::Closed);
        }
        if !slot.gate.counts(replayability) {
            return Err(Entry::Pass(Arc::clone(&slot.token), None));
        }
        Ok(Arc::clone(slot))
    }

    /// Whether `slot` is still published. Call after the request was registered in `slot`.
    fn is_unmoved(&self, slot: &Arc<Slot>) -> bool {
        let now = self.shared.slot.load();
        now.as_ref().is_some_and(|now| Arc::ptr_eq(now, slot))
    }

    /// Whether the cell has no token, not even an expired one. Cheaper than [`Self::current`].
    pub fn is_empty(&self) -> bool {
        self.shared.slot.load().is_none()
    }

    /// The form in which this reader's provider sends `token`.
    pub fn injection<'a>(&self, token: &'a Token) -> &'a Injection {
        // In range: the refresher builds an injection for each index that a reader still holds.
        &token.injections[self.index.get()]
    }

    /// Waits, at most `limit`, for a usable token of a generation above `than` (0 for any).
    ///
    /// Returns at once when there is one, when the next attempt is further away than `limit`, and
    /// when a fetch has already returned the rejected token `than` again. Cancel safe.
    pub async fn newer(&self, than: u64, limit: Duration) -> Result<Arc<Token>, Unavailable> {
        let deadline = Instant::now() + limit;
        let mut watch = self.watch.clone();
        loop {
            let status = *watch.borrow_and_update();
            match self.current() {
                Some(token) if token.generation > than => return Ok(token),
                _ if status != FetchStatus::Settled => {}
                Some(_) if self.shared.handled.load(Ordering::Acquire) >= than => {
                    return Err(RETRY_SOON);
                }
                Some(_) => {}
                // Expired without the refresher's knowledge: a suspend or a wall-clock step.
                None => self.shared.wake.notify_one(),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.is_too_late(status, left) && self.shared.suspect() != Some(than) {
                return Err(self.unavailable(status));
            }
            match timeout_at(deadline, watch.changed()).await {
                Ok(Ok(())) => {}
                // The refresher has ended: a shutdown, or a reload removed the provider.
                Ok(Err(_)) => return Err(RETRY_SOON),
                Err(_) => return Err(self.unavailable(*watch.borrow())),
            }
        }
    }

    /// Reports that the API rejected this generation. Ignored unless still current.
    pub fn reject(&self, generation: u64) {
        self.shared.rejected.fetch_max(generation, Ordering::AcqRel);
        self.shared.wake.notify_one();
    }

    /// Whether no fetch can bring a token within `left`.
    fn is_too_late(&self, status: FetchStatus, left: Duration) -> bool {
        match status {
            FetchStatus::Soon | FetchStatus::Settled => false,
            FetchStatus::LoginRequired => true,
            FetchStatus::Failed { next, .. } => self.until(next) > left,
        }
    }

    fn unavailable(&self, status: FetchStatus) -> Unavailable {
        match status {
            FetchStatus::Soon | FetchStatus::Settled => RETRY_SOON,
            FetchStatus::LoginRequired => Unavailable::LoginRequired,
            FetchStatus::Failed { class, next } => {
                let retry_after = self.until(next);
                match class {
                    FailureClass::Transient => Unavailable::Transient { retry_after },
                    FailureClass::Permanent => Unavailable::Permanent { retry_after },
                }
            }
        }
    }

    fn until(&self, boot: Duration) -> Duration {
        boot.saturating_sub(self.shared.clock.now().boot)
    }
}

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod tests;
