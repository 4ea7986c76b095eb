//! The token cell: where the control flow and the data flow meet.
//!
//! One [`CellWriter`], held by the refresher; any number of [`CellReader`]s. Reading is one atomic load. A reader
//! that finds no usable token, or whose token was rejected, waits on the [`Outlook`] that the refresher publishes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::clock::{Clock, Now};
use crate::dialect::{Class, Injection};

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
        token: ArcSwapOption::empty(),
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

struct Shared {
    token: ArcSwapOption<Token>,
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
}

impl CellWriter {
    /// Publishes a token and, after it, the outlook: a reader that sees the new outlook sees the token too.
    pub fn publish(&self, token: Arc<Token>, outlook: Outlook) {
        self.shared.token.store(Some(token));
        self.set_outlook(outlook);
    }

    /// Puts the same token in another form in the cell: nobody who waits is helped by it.
    pub fn replace(&self, token: Arc<Token>) {
        self.shared.token.store(Some(token));
    }

    /// Empties the cell: what was in it must not be used any more.
    pub fn clear(&self, outlook: Outlook) {
        self.shared.token.store(None);
        self.set_outlook(outlook);
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
        self.shared.token.load_full()
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
            .token
            .load_full()
            .filter(|token| token.usable(self.shared.clock.now()))
    }

    /// Whether there is nothing in the cell, not even an expired token. Cheaper than [`Self::current`].
    pub fn is_empty(&self) -> bool {
        self.shared.token.load().is_none()
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
            if let Some(reason) = self.hopeless(outlook, left) {
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

fn unavailable(class: Class, retry_after: Duration) -> Unavailable {
    match class {
        Class::Transient => Unavailable::Transient { retry_after },
        Class::Permanent => Unavailable::Permanent { retry_after },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::test::TestClock;

    fn token(generation: u64, life: Option<Duration>, clock: &Clock) -> Arc<Token> {
        let now = clock.now();
        Arc::new(Token {
            generation,
            injections: Box::new([]),
            wall_deadline: life.map(|life| now.wall + life),
            boot_deadline: life.map(|life| now.boot + life),
        })
    }

    fn setup() -> (CellWriter, CellReader, Clock, TestClock) {
        let test = TestClock::new();
        let clock = Clock::Test(test.clone());
        let (writer, reader) = cell(clock.clone());
        (writer, reader, clock, test)
    }

    const WAIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_expired_token_is_never_handed_out() {
        let (writer, reader, clock, test) = setup();
        writer.publish(token(1, Some(WAIT), &clock), Outlook::Settled);
        assert!(reader.current().is_some());
        test.step_wall(10);
        assert!(reader.current().is_none());
        test.step_wall(-10);
        assert!(reader.current().is_some());
        test.suspend(WAIT);
        assert!(reader.current().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_are_woken_by_the_token_they_wait_for() {
        let (writer, reader, clock, _) = setup();
        let waiter = tokio::spawn(async move {
            let start = Instant::now();
            let token = reader.newer(1, WAIT).await.unwrap();
            (token.generation, start.elapsed())
        });
        tokio::task::yield_now().await;
        writer.publish(token(1, None, &clock), Outlook::Soon);
        tokio::time::advance(Duration::from_secs(3)).await;
        writer.publish(token(2, None, &clock), Outlook::Settled);
        assert_eq!(waiter.await.unwrap(), (2, Duration::from_secs(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_cannot_be_helped_in_time_does_not_wait() {
        let (writer, reader, clock, _) = setup();
        let start = Instant::now();
        let away = Duration::from_secs(11);
        for (class, expected) in [
            (
                Class::Transient,
                Unavailable::Transient { retry_after: away },
            ),
            (
                Class::Permanent,
                Unavailable::Permanent { retry_after: away },
            ),
        ] {
            let next = clock.now().boot + away;
            writer.set_outlook(Outlook::Failed { class, next });
            assert_eq!(reader.newer(0, WAIT).await.err(), Some(expected));
        }
        writer.set_outlook(Outlook::LoginRequired);
        assert_eq!(
            reader.newer(0, WAIT).await.err(),
            Some(Unavailable::LoginRequired)
        );
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_its_limit_and_with_the_refresher() {
        let (writer, reader, _, _) = setup();
        let start = Instant::now();
        assert!(reader.newer(0, WAIT).await.is_err());
        assert_eq!(start.elapsed(), WAIT);
        drop(writer);
        assert!(reader.newer(0, WAIT).await.is_err());
        assert_eq!(start.elapsed(), WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejection_that_was_answered_with_the_same_token_is_not_waited_for_again() {
        let (writer, reader, clock, _) = setup();
        writer.publish(token(1, None, &clock), Outlook::Settled);
        reader.reject(1);
        assert_eq!(writer.rejection().await, 1);
        let waiter = {
            let reader = reader.clone();
            tokio::spawn(async move {
                let start = Instant::now();
                (reader.newer(1, WAIT).await.is_err(), start.elapsed())
            })
        };
        tokio::task::yield_now().await;
        writer.set_outlook(Outlook::Soon);
        tokio::time::advance(Duration::from_secs(1)).await;
        writer.publish(token(1, None, &clock), Outlook::Settled);
        assert_eq!(waiter.await.unwrap(), (true, Duration::from_secs(1)));
        let start = Instant::now();
        assert!(reader.newer(1, WAIT).await.is_err());
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    /// The refresher has not seen the rejection yet: that it believes all is settled says nothing.
    #[tokio::test(start_paused = true)]
    async fn a_rejection_that_is_still_unread_is_waited_for() {
        let (writer, reader, clock, _) = setup();
        writer.publish(token(1, None, &clock), Outlook::Settled);
        reader.reject(1);
        writer.set_outlook(Outlook::Settled);
        let start = Instant::now();
        assert!(reader.newer(1, WAIT).await.is_err());
        assert_eq!(start.elapsed(), WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_finds_its_token_expired_wakes_the_refresher() {
        let (writer, reader, clock, test) = setup();
        writer.publish(token(1, Some(WAIT), &clock), Outlook::Settled);
        test.suspend(WAIT);
        let waiter = tokio::spawn(async move { reader.newer(0, WAIT).await.is_ok() });
        assert_eq!(writer.rejection().await, 0);
        writer.publish(token(2, None, &clock), Outlook::Settled);
        assert!(waiter.await.unwrap());
    }

    #[tokio::test]
    async fn rejections_before_anybody_listens_are_kept() {
        let (writer, reader, _, _) = setup();
        reader.reject(3);
        reader.reject(2);
        assert_eq!(writer.rejection().await, 3);
    }
}
