//! The token cell: where the control flow and the data flow meet.
//!
//! One [`CellWriter`], held by the refresher; any number of [`CellReader`]s. Reading is one atomic load. A reader
//! that finds no usable token, or whose token was rejected, waits on the [`Outlook`] that the refresher publishes.
//!
//! Where a new token kills the old one, the cell has a gate ([`Gatekeeper::close`], [`CellReader::enter`]). It lies in the
//! same allocation as the token, so that one store publishes the new token and opens the gate.

mod gate;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::clock::{Clock, Now};
use crate::dialect::{Class, Injection};

use self::gate::{Gate, Slot};
pub use self::gate::{Gatekeeper, OnWire, Traveller};

/// A token as requests use it.
pub struct Token {
    /// Grows with every token put in the cell; the same bytes again are the same generation.
    pub generation: u64,
    /// One for each [`Place`]: the providers that share the cell may differ in how they send the token.
    pub injections: Box<[Injection]>,
    /// Usable before this, on both clocks, the safety margin already taken off. `None`: until rejected.
    pub wall_deadline: Option<SystemTime>,
    pub boot_deadline: Option<Duration>,
}

impl Token {
    pub fn usable(&self, now: Now) -> bool {
        self.wall_deadline
            .is_none_or(|deadline| now.wall < deadline)
            && self
                .boot_deadline
                .is_none_or(|deadline| now.boot < deadline)
    }
}

/// What a request that waits for a token can hope for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// A fetch is under way or about to start.
    Soon,
    /// The last fetch failed; the next one starts at this boot time.
    Failed { class: Class, next: Duration },
    /// Only a new one-time input or refresh token can help.
    LoginRequired,
    /// Nothing is to be done: the token in the cell is current.
    Settled,
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Nothing came in time, or the next attempt is too far away.
    Transient {
        retry_after: Duration,
    },
    /// The vendor refuses our credentials.
    Permanent {
        retry_after: Duration,
    },
    LoginRequired,
}

/// A new, empty cell.
pub fn cell(clock: Clock) -> (CellWriter, CellReader) {
    let (outlook, watch) = watch::channel(Outlook::Soon);
    let shared = Arc::new(Shared {
        slot: ArcSwapOption::empty(),
        rejected: AtomicU64::new(0),
        considered: AtomicU64::new(0),
        renew: Notify::new(),
        clock,
    });
    (
        CellWriter {
            shared: Arc::clone(&shared),
            outlook,
            taken: AtomicU64::new(0),
            gated: AtomicBool::new(false),
        },
        CellReader {
            shared,
            watch,
            place: Place::new(0),
        },
    )
}

/// A place in [`Token::injections`], taken for as long as a reader has it: a request that began before a reload still
/// finds there what it was promised.
#[derive(Clone)]
pub struct Place {
    pub(super) index: usize,
    taken: Arc<()>,
}

/// Whether a [`Place`] is still taken.
pub(super) struct PlaceWatch(Weak<()>);

impl Place {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            taken: Arc::default(),
        }
    }

    pub(super) fn watch(&self) -> PlaceWatch {
        PlaceWatch(Arc::downgrade(&self.taken))
    }
}

impl PlaceWatch {
    pub(super) fn is_taken(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// How a request leaves, or why not yet.
pub enum Entry {
    /// With this token, right now. To be kept until the head of the answer is there.
    Pass(Arc<Token>, Option<OnWire>),
    /// The gate is closed: [`CellReader::opening`].
    Closed,
    /// No usable token of a generation new enough: [`CellReader::newer`].
    NoToken,
}

struct Shared {
    slot: ArcSwapOption<Slot>,
    /// The newest generation that an upstream rejected.
    rejected: AtomicU64,
    /// The newest rejected generation that the refresher has dealt with: if it is still in the cell, then for good.
    considered: AtomicU64,
    renew: Notify,
    clock: Clock,
}

/// The refresher's half.
pub struct CellWriter {
    shared: Arc<Shared>,
    outlook: watch::Sender<Outlook>,
    /// The newest rejected generation that [`Self::rejection`] has handed out.
    taken: AtomicU64,
    /// What is published from now on has a gate.
    gated: AtomicBool,
}

impl CellWriter {
    /// Publishes a token with the gate open and, after it, the outlook: a reader that sees the new outlook sees the token
    /// too.
    pub fn publish(&self, token: Arc<Token>, outlook: Outlook) {
        self.shared.store(token, self.open_gate(), false);
        self.set_outlook(outlook);
    }

    /// Puts the same token in another form in the cell: nobody who waits is helped by it. Opens the gate.
    pub fn replace(&self, token: Arc<Token>) {
        self.shared
            .store(token, self.open_gate(), self.is_suspect());
        // Without news: whoever waits at the gate looks again.
        self.outlook.send_modify(|_| {});
    }

    /// Empties the cell: what was in it must not be used any more.
    pub fn clear(&self, outlook: Outlook) {
        self.shared.slot.store(None);
        self.set_outlook(outlook);
    }

    /// Whether a new token kills the old one, from the next token on.
    pub fn set_gated(&self, gated: bool) {
        self.gated.store(gated, Ordering::Relaxed);
    }

    /// For whoever runs the exchange.
    pub fn gatekeeper(&self) -> Gatekeeper {
        Gatekeeper {
            shared: Arc::clone(&self.shared),
            outlook: self.outlook.clone(),
        }
    }

    /// Whether the gate was last [opened](Gatekeeper::open) with this token as suspect.
    pub fn is_suspect(&self) -> bool {
        self.shared
            .slot
            .load()
            .as_ref()
            .is_some_and(|slot| slot.suspect)
    }

    fn open_gate(&self) -> Gate {
        match self.gated.load(Ordering::Relaxed) {
            true => Gate::Open,
            false => Gate::Absent,
        }
    }

    /// With [`Outlook::Settled`], every rejection that [`Self::rejection`] has handed out counts as dealt with.
    pub fn set_outlook(&self, outlook: Outlook) {
        if outlook == Outlook::Settled {
            let taken = self.taken.load(Ordering::Relaxed);
            self.shared.considered.fetch_max(taken, Ordering::Release);
        }
        self.outlook.send_replace(outlook);
    }

    pub fn current(&self) -> Option<Arc<Token>> {
        self.shared.token()
    }

    /// A reader at this place. It must not be used before a token with an injection for it is in the cell, or none.
    pub fn reader(&self, place: Place) -> CellReader {
        CellReader {
            shared: Arc::clone(&self.shared),
            watch: self.outlook.subscribe(),
            place,
        }
    }

    /// Waits until a reader reports a rejection, or finds no usable token where the refresher believes that all is
    /// settled (a suspend, a step of the wall clock). Answers the newest rejected generation so far, 0 for none.
    ///
    /// Cancel safe: a report that nobody waited for is kept.
    pub async fn rejection(&self) -> u64 {
        self.shared.renew.notified().await;
        let rejected = self.shared.rejected.load(Ordering::Acquire);
        self.taken.fetch_max(rejected, Ordering::Relaxed);
        rejected
    }
}

/// The requests' half. Cheap to clone.
#[derive(Clone)]
pub struct CellReader {
    shared: Arc<Shared>,
    watch: watch::Receiver<Outlook>,
    place: Place,
}

impl CellReader {
    /// Whether both read the same cell at the same place.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
            && Arc::ptr_eq(&self.place.taken, &other.place.taken)
    }

    /// The token, if there is one that can be used now. No lock, no wait.
    pub fn current(&self) -> Option<Arc<Token>> {
        self.shared
            .token()
            .filter(|token| token.usable(self.shared.clock.now()))
    }

    /// The token that a request may be sent with right now, if it is of a generation above `than`. No lock, no wait.
    pub fn enter(&self, traveller: Traveller, than: u64) -> Entry {
        loop {
            let slot = match self.look(traveller, than) {
                Ok(slot) => slot,
                Err(entry) => return entry,
            };
            let on_wire = slot.wire.enter();
            if self.is_unmoved(&slot) {
                return Entry::Pass(Arc::clone(&slot.token), Some(on_wire));
            }
        }
    }

    /// Whether [`Self::enter`] would find the gate closed. A hint, for whoever would rather wait before than after it has
    /// taken a connection.
    pub fn is_closed(&self, traveller: Traveller) -> bool {
        let slot = self.shared.slot.load();
        slot.as_ref()
            .is_some_and(|slot| !slot.gate.admits(traveller))
    }

    /// Waits, at most until `deadline`, for the gate to open. Cancel safe.
    pub async fn opening(
        &self,
        traveller: Traveller,
        deadline: Instant,
    ) -> Result<(), Unavailable> {
        const LATE: Unavailable = Unavailable::Transient {
            retry_after: Duration::from_secs(1),
        };
        let mut watch = self.watch.clone();
        loop {
            watch.mark_unchanged();
            if !self.is_closed(traveller) {
                return Ok(());
            }
            match tokio::time::timeout_at(deadline, watch.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(LATE),
            }
        }
    }

    /// Waits, at most `limit`, for the end of a fetch that is under way or about to start. Whether there is a usable token
    /// of a generation above `than` then. Cancel safe.
    pub async fn after_fetch(&self, than: u64, limit: Duration) -> bool {
        let mut watch = self.watch.clone();
        let over = watch.wait_for(|outlook| *outlook != Outlook::Soon);
        let over = tokio::time::timeout(limit, over).await;
        over.is_ok_and(|over| over.is_ok())
            && self.current().is_some_and(|token| token.generation > than)
    }

    /// The slot that the request is to be registered in; how it ends if there is none, or no need to.
    fn look(&self, traveller: Traveller, than: u64) -> Result<Arc<Slot>, Entry> {
        let slot = self.shared.slot.load();
        let usable = slot.as_ref().filter(|slot| {
            slot.token.generation > than && slot.token.usable(self.shared.clock.now())
        });
        let Some(slot) = usable else {
            return Err(Entry::NoToken);
        };
        if !slot.gate.admits(traveller) {
            return Err(Entry::Closed);
        }
        if !slot.gate.counts(traveller) {
            return Err(Entry::Pass(Arc::clone(&slot.token), None));
        }
        Ok(Arc::clone(slot))
    }

    /// Whether `slot` is still what is published. To be asked after the request was registered in it.
    fn is_unmoved(&self, slot: &Arc<Slot>) -> bool {
        let now = self.shared.slot.load();
        now.as_ref().is_some_and(|now| Arc::ptr_eq(now, slot))
    }

    /// Whether there is nothing in the cell, not even an expired token. Cheaper than [`Self::current`].
    pub fn is_empty(&self) -> bool {
        self.shared.slot.load().is_none()
    }

    /// How this reader's provider sends `token`.
    pub fn injection<'a>(&self, token: &'a Token) -> &'a Injection {
        // The refresher builds one injection for each place it hands out, for as long as a reader has it.
        &token.injections[self.place.index]
    }

    /// Waits, up to `limit`, for a usable token of a generation above `than` (0 for any).
    ///
    /// Answers at once when there is one, when the next attempt is further away than `limit`, and when the
    /// refresher has already found out that `than` cannot be replaced (the vendor gave the same token again).
    /// Cancel safe.
    pub async fn newer(&self, than: u64, limit: Duration) -> Result<Arc<Token>, Unavailable> {
        let deadline = Instant::now() + limit;
        let mut watch = self.watch.clone();
        loop {
            let outlook = *watch.borrow_and_update();
            let usable = self.current();
            let found = usable.is_some();
            if let Some(token) = usable.filter(|token| token.generation > than) {
                return Ok(token);
            }
            if outlook == Outlook::Settled {
                if found && self.shared.considered.load(Ordering::Acquire) >= than {
                    return Err(Unavailable::Transient {
                        retry_after: Duration::from_secs(1),
                    });
                }
                if !found {
                    // It expired and the refresher does not know yet: clocks moved under its timers.
                    self.shared.renew.notify_one();
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let at_once = self.is_suspect(than);
            if !at_once && let Some(reason) = self.hopeless(outlook, left) {
                return Err(reason);
            }
            match tokio::time::timeout_at(deadline, watch.changed()).await {
                Ok(Ok(())) => {}
                // The refresher is gone: shutting down, or its provider was taken out by a reload.
                Ok(Err(_)) => {
                    return Err(Unavailable::Transient {
                        retry_after: Duration::from_secs(1),
                    });
                }
                Err(_) => return Err(self.after_waiting(*watch.borrow())),
            }
        }
    }

    /// Tells the refresher that the API rejected this generation. Ignored unless it is still current.
    pub fn reject(&self, generation: u64) {
        self.shared.rejected.fetch_max(generation, Ordering::AcqRel);
        self.shared.renew.notify_one();
    }

    /// Whether the token in the cell is of this generation, and one that is renewed at once whatever the outlook.
    fn is_suspect(&self, generation: u64) -> bool {
        let slot = self.shared.slot.load();
        slot.as_ref()
            .is_some_and(|slot| slot.suspect && slot.token.generation == generation)
    }

    fn hopeless(&self, outlook: Outlook, left: Duration) -> Option<Unavailable> {
        match outlook {
            Outlook::Soon | Outlook::Settled => None,
            Outlook::LoginRequired => Some(Unavailable::LoginRequired),
            Outlook::Failed { class, next } => {
                let away = next.saturating_sub(self.shared.clock.now().boot);
                (away > left).then(|| unavailable(class, away))
            }
        }
    }

    fn after_waiting(&self, outlook: Outlook) -> Unavailable {
        match outlook {
            Outlook::Soon | Outlook::Settled => Unavailable::Transient {
                retry_after: Duration::from_secs(1),
            },
            Outlook::LoginRequired => Unavailable::LoginRequired,
            Outlook::Failed { class, next } => {
                unavailable(class, next.saturating_sub(self.shared.clock.now().boot))
            }
        }
    }
}

impl Shared {
    fn store(&self, token: Arc<Token>, gate: Gate, suspect: bool) {
        let slot = Slot::after(self.slot.load().as_deref(), token, gate, suspect);
        self.slot.store(Some(Arc::new(slot)));
    }

    fn token(&self) -> Option<Arc<Token>> {
        let slot = self.slot.load();
        slot.as_ref().map(|slot| Arc::clone(&slot.token))
    }
}

fn unavailable(class: Class, retry_after: Duration) -> Unavailable {
    match class {
        Class::Transient => Unavailable::Transient { retry_after },
        Class::Permanent => Unavailable::Permanent { retry_after },
    }
}

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod tests;
