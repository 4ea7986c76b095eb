//! CONTROL, refresher: the one task that keeps a cell filled. A loop over [`schedule`](super::schedule); it alone asks
//! the vendor, so that there is never more than one fetch in flight per identity, whoever wants it.

mod members;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use crate::catch_unwind::catch_unwind;
use crate::clock::{Now, unix_seconds};
use crate::config::{Provider, TokenSource};
use crate::dialect::{Class, Injection};
use crate::provider::cell::{CellReader, CellWriter, Outlook, Place, Token};
use crate::provider::chain::Link;
use crate::provider::exchange::{FetchError, Fetched, Turn};
use crate::provider::schedule::{Decision, Life, Schedule};
use crate::provider::source::{Failure, Source, resumed_life};
use crate::provider::store::SavedAccess;
use crate::provider::{Deps, RefreshError, State, Status};
use crate::secret::Secret;

pub(super) use members::{Members, injection};

/// How often credential files are looked at while new ones could help, and a static token's file always.
const FILE_POLL: Duration = Duration::from_secs(2);

/// How soon a store that cannot be read is tried again.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// What a [`Handle`](super::Handle) asks of its refresher.
pub(super) enum Command {
    Refresh(oneshot::Sender<Result<(), RefreshError>>),
    Reconfigure(Reconfigure),
    Stop,
}

/// Other providers, or other keys of theirs, for the same identity.
pub(super) struct Reconfigure {
    pub(super) group: Vec<Arc<Provider>>,
    /// A reader for each of them; `None` where the old one goes on.
    pub(super) reply: oneshot::Sender<Vec<Option<CellReader>>>,
}

pub(super) struct Refresher {
    pub(super) members: Members,
    pub(super) deps: Deps,
    pub(super) source: Source,
    pub(super) schedule: Schedule,
    pub(super) writer: CellWriter,
    pub(super) status: watch::Sender<Status>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) held: Option<Held>,
    /// To those who buy their token with this one.
    pub(super) link: Link,
    pub(super) refusals: watch::Receiver<u64>,
    /// Wait for the result of the next fetch, or of the one under way.
    pub(super) askers: Vec<oneshot::Sender<Result<(), RefreshError>>>,
    /// Digest of the credential files as they were last read.
    pub(super) credentials: [u8; 32],
    pub(super) looked: Instant,
    pub(super) last_error: Option<String>,
    /// Came in where it could not be dealt with: during a fetch.
    pub(super) reconfigure: Option<Reconfigure>,
    pub(super) stopping: bool,
    /// What other processes left is not looked at before this: the store is in trouble.
    pub(super) adopt_from: Instant,
    /// When what could not be written is tried again.
    pub(super) save_from: Instant,
    /// The newest generation that was renewed at once because it was suspect. Only once: else an API that rejects all and
    /// a token endpoint that loses its answers would drive each other on.
    pub(super) hurried: u64,
}

/// The token in the cell, as far as the next one is compared with it.
pub(super) struct Held {
    token: Secret,
    generation: u64,
    fetched_at: SystemTime,
}

impl Refresher {
    /// Ends when all handles are gone, or on [`Command::Stop`]; an exchange under way is let finish, within the
    /// provider's `timeout`.
    pub(super) async fn run(mut self) {
        self.recover().await;
        while !self.stopping {
            if let Some(asked) = self.reconfigure.take() {
                self.reconfigure(asked).await;
            }
            let now = self.deps.clock.now();
            match self.schedule.decide(now) {
                Decision::Fetch => {
                    if let Some(turn) = self.turn().await {
                        // Boxed while it lasts: 9 KB of the 11 KB that each refresher would hold.
                        Box::pin(self.fetch()).await;
                        drop(turn);
                    }
                }
                Decision::Wait { next, wake } => {
                    self.tell(now, next);
                    self.wait(wake).await;
                }
            }
        }
        self.link.tell_none();
        if let Err(error) = self.source.save_again().await {
            error!(
                provider = self.lead().name,
                "what is not in the store is lost with this process: {error}"
            );
        }
    }

    /// Takes up what an earlier process left. Nothing is sent before the store has been read.
    async fn recover(&mut self) {
        while !self.stopping {
            match self.source.load().await {
                Ok(None) => return,
                Ok(Some(access)) => {
                    let now = self.deps.clock.now();
                    let life = resumed_life(&access, self.lead(), now, (self.deps.random)());
                    if life.usable(now) {
                        self.resume(access, life).await;
                    }
                    return;
                }
                Err(error) => {
                    warn!(provider = self.lead().name, "{error}");
                    self.last_error = Some(error.to_string());
                    let now = self.deps.clock.now();
                    let next = now.boot + STORE_RETRY;
                    self.writer.set_outlook(Outlook::Failed {
                        class: Class::Transient,
                        next,
                    });
                    self.tell(now, Some(next));
                    self.wait_for_store().await;
                }
            }
        }
    }

    async fn resume(&mut self, access: SavedAccess, life: Life) {
        match self.members.injections(&access.token).await {
            Ok(injections) => {
                info!(provider = self.lead().name, "took a token from the store");
                self.schedule.adopted(life);
                self.source.took_up(&access.bought_with);
                self.publish(access.token, access.fetched_at, &life, injections, false);
            }
            Err(error) => warn!(provider = self.lead().name, "stored token: {error}"),
        }
    }

    async fn wait_for_store(&mut self) {
        let retry = Instant::now() + STORE_RETRY;
        loop {
            let command = tokio::select! {
                () = sleep_until(retry) => return,
                command = self.commands.recv() => command,
            };
            match command {
                None | Some(Command::Stop) => {
                    self.stopping = true;
                    return;
                }
                Some(Command::Refresh(reply)) => {
                    let reason = self.last_error.clone().unwrap_or_default();
                    let _ = reply.send(Err(RefreshError::Failed(reason)));
                }
                Some(Command::Reconfigure(asked)) => self.reconfigure(asked).await,
            }
        }
    }

    /// Until something happens, at most `wake`.
    async fn wait(&mut self, wake: Duration) {
        let watching = self.source.is_static() || self.schedule.waits_for_credentials();
        let wake = if watching { wake.min(FILE_POLL) } else { wake };
        let save_in = self.save_from.saturating_duration_since(Instant::now());
        let wake = if self.source.owes() {
            wake.min(save_in)
        } else {
            wake
        };
        let left_by_others = self.source.left_by_others();
        let adopt_from = self.adopt_from;
        let inner_changed = self.source.inner_changed();
        tokio::select! {
            refused = self.link.refused(&mut self.refusals) => self.rejected(refused),
            () = inner_changed => {
                debug!(provider = self.lead().name, "a token that this one is bought with is another now");
                self.inner_changed();
            }
            () = async { sleep_until(adopt_from).await; left_by_others.await } => self.take_up().await,
            rejected = self.writer.rejection() => self.rejected(rejected),
            command = self.commands.recv() => self.command(command),
            () = sleep(wake) => {}
        }
        // Not only when the sleep ends: an API that rejects every request would keep it from ever ending.
        if watching && self.looked.elapsed() >= FILE_POLL {
            self.look_at_files().await;
        }
        if self.source.owes() && self.save_from <= Instant::now() {
            self.save_again().await;
        }
    }

    async fn save_again(&mut self) {
        self.save_from = Instant::now() + STORE_RETRY;
        match self.source.save_again().await {
            Ok(()) => {
                info!(provider = self.lead().name, "the store is written again");
                self.last_error = None;
            }
            Err(error) => self.complain(error.to_string()),
        }
    }

    /// Another process left something, a login most likely: its token is used from now on.
    async fn take_up(&mut self) {
        let taken = match self.source.take_up().await {
            Ok(taken) => taken,
            Err(error) => {
                self.adopt_from = Instant::now() + STORE_RETRY;
                return self.complain(error.to_string());
            }
        };
        if let Some(access) = taken.access
            && self.log_in(access).await
        {
            self.last_error = None;
        } else if taken.refresh_token {
            info!(provider = self.lead().name, "took up a refresh token");
            self.schedule.credentials_changed();
        }
        for refused in taken.refused {
            self.complain(refused.to_string());
        }
    }

    /// Whether the token is of use.
    async fn log_in(&mut self, access: SavedAccess) -> bool {
        let now = self.deps.clock.now();
        let life = resumed_life(&access, self.lead(), now, (self.deps.random)());
        if !life.usable(now) {
            return false;
        }
        match self.members.injections(&access.token).await {
            Ok(injections) => {
                info!(provider = self.lead().name, "took up the token of a login");
                self.schedule.succeeded(life, false, now);
                self.source.took_up(&access.bought_with);
                self.publish(access.token, access.fetched_at, &life, injections, false);
                true
            }
            Err(error) => {
                self.complain(format!("the token of a login: {error}"));
                false
            }
        }
    }

    fn complain(&mut self, reason: String) {
        if self.last_error.as_ref() != Some(&reason) {
            warn!(provider = self.lead().name, "{reason}");
        }
        self.last_error = Some(reason);
    }

    fn rejected(&mut self, generation: u64) {
        let now = self.deps.clock.now();
        let current = self.held.as_ref().map(|held| held.generation);
        // Zero: a request only found its token expired, and the schedule will see that for itself.
        if generation == 0 || current != Some(generation) {
            return;
        }
        let at = match self.writer.is_suspect() {
            true => {
                self.hurried = generation;
                self.schedule.rejected_suspect(now)
            }
            false => self.schedule.rejected(now),
        };
        let Some(at) = at else {
            return;
        };
        debug!(provider = self.lead().name, generation, "token rejected");
        if at > now.boot {
            self.writer.set_outlook(Outlook::Failed {
                class: Class::Transient,
                next: at,
            });
        }
    }

    /// A token that only a person can renew is not given up for it: it is good until the API says otherwise.
    fn inner_changed(&mut self) {
        let answers_blame = self.source.inner_seen();
        if self.schedule.usable(self.deps.clock.now()) && !self.source.renews_by_itself() {
            return;
        }
        match answers_blame {
            true => self.schedule.blamed_input_changed(),
            false => self.schedule.input_changed(),
        }
    }

    fn command(&mut self, command: Option<Command>) {
        match command {
            None | Some(Command::Stop) => self.stopping = true,
            Some(Command::Refresh(reply)) => {
                match self.schedule.by_hand(self.deps.clock.now()) {
                    Ok(()) => self.askers.push(reply),
                    // Nobody left to tell is fine.
                    Err(retry_after) => {
                        let _ = reply.send(Err(RefreshError::TooSoon { retry_after }));
                    }
                }
            }
            Some(Command::Reconfigure(asked)) => self.reconfigure = Some(asked),
        }
    }

    /// The token stays: it is the identity's, and that is the same. What the vendor refused may go now.
    async fn reconfigure(&mut self, Reconfigure { group, reply }: Reconfigure) {
        let old = Arc::clone(self.members.lead());
        let places = self.members.replace(group);
        let lead = Arc::clone(self.members.lead());
        let now = self.deps.clock.now();
        info!(provider = lead.name, "reconfigured");
        self.writer.set_gated(lead.life.single_active);
        self.source.set_provider(Arc::clone(&lead));
        self.schedule.restart();
        let rules_changed = old.life != lead.life;
        if rules_changed {
            self.schedule.set_rules(lead.life.clone());
        }
        if self.source.asks_nobody() && old.source != lead.source {
            self.schedule.credentials_changed();
        }
        if let Some(Held {
            token, fetched_at, ..
        }) = &self.held
            && let Some(life) = self.schedule.life()
        {
            let (token, fetched_at, mut life) = (token.clone(), *fetched_at, *life);
            if rules_changed {
                life = life.under(&lead.life, fetched_at, now, (self.deps.random)());
                self.schedule.adopted(life);
            }
            self.reissue(token, fetched_at, &life).await;
        }
        self.tell(now, self.schedule.next(now));
        let reader = |place: Option<Place>| place.map(|place| self.writer.reader(place));
        // Nobody to take them: the process is ending.
        let _ = reply.send(places.into_iter().map(reader).collect());
    }

    /// Puts the current token in the cell once more, in the form of each place.
    async fn reissue(&mut self, token: Secret, fetched_at: SystemTime, life: &Life) {
        let injections = self.members.injections(&token).await;
        self.note(fetched_at, life);
        match injections {
            Ok(injections) => {
                let generation = self.held.as_ref().map_or(0, |held| held.generation);
                self.link.tell(&token, generation, life);
                self.writer.replace(Arc::new(Token {
                    generation,
                    injections,
                    wall_deadline: life.wall_deadline,
                    boot_deadline: life.boot_deadline,
                }));
            }
            // It cannot be sent as it should be: as good as none. The next fetch tells why.
            Err(error) => {
                warn!(provider = self.lead().name, "{error}");
                self.link.tell_none();
                self.writer.clear(Outlook::Soon);
                self.schedule.lost();
            }
        }
    }

    fn note(&self, fetched_at: SystemTime, life: &Life) {
        for member in self.members.iter() {
            let expiry = life.expires_at.map_or(f64::INFINITY, unix_seconds);
            member.metrics.expiry.set(expiry);
            member.metrics.fetched_at.set(unix_seconds(fetched_at));
        }
    }

    async fn look_at_files(&mut self) {
        self.looked = Instant::now();
        let seen = self.source.fingerprint().await;
        if std::mem::replace(&mut self.credentials, seen) != seen {
            debug!(provider = self.lead().name, "credential file changed");
            self.schedule.credentials_changed();
        }
    }

    /// Waits for a turn with the vendor; `None` if something else comes up before.
    async fn turn(&mut self) -> Option<Turn> {
        let lead = Arc::clone(self.members.lead());
        let TokenSource::Endpoint(endpoint) = &lead.source else {
            return Some(Turn::default());
        };
        if self.source.takes_turns() {
            return Some(Turn::default());
        }
        tokio::select! {
            biased;
            // First: who is told to stop starts nothing.
            command = self.commands.recv() => {
                self.command(command);
                None
            }
            turn = self.deps.fetcher.turn(endpoint) => Some(turn),
        }
    }

    async fn fetch(&mut self) {
        let started = self.deps.clock.now();
        self.schedule.started(started);
        self.writer.set_outlook(Outlook::Soon);
        self.tell(started, None);
        self.credentials = self.source.fingerprint().await;
        let began = Instant::now();
        // What the source remembers is only ever replaced as a whole: a panic leaves it sound, and
        // a defect in reading one answer costs that fetch, not the provider for good.
        let fetched = catch_unwind(self.source.fetch())
            .await
            .unwrap_or(Err(Failure::Fetch(FetchError::Defect)));
        let took = began.elapsed();
        let result = match fetched {
            Ok(fetched) => self.adopt(fetched).await,
            Err(failure) => Err(failure),
        };
        self.source.settled();
        self.reopen(&result);
        self.count(&result, took);
        let result = result.map_err(|failure| self.fail(failure));
        // First the status, then those who asked: whoever looks after a refresh sees what it brought.
        let now = self.deps.clock.now();
        self.tell(now, self.schedule.next(now));
        self.answer(&result);
    }

    /// Where there is no new token, the old one goes on: the gate must not stay closed, whatever went wrong.
    fn reopen(&self, result: &Result<(), Failure>) {
        let Err(failure) = result else {
            return;
        };
        let may_be_dead = match failure {
            Failure::Fetch(error) => error.may_have_issued(),
            Failure::LoginRequired(_) => false,
        };
        let held = self.held.as_ref().map_or(0, |held| held.generation);
        let suspect = may_be_dead || self.writer.is_suspect();
        self.writer
            .gatekeeper()
            .open(self.lead().life.single_active && suspect && self.hurried < held);
    }

    /// A vendor's yes becomes the cell's token.
    async fn adopt(&mut self, fetched: Fetched) -> Result<(), Failure> {
        let now = self.deps.clock.now();
        let random = (self.deps.random)();
        let life = Life::new(
            fetched.issued.expiry,
            &self.lead().life,
            fetched.sent,
            random,
        );
        let token = fetched.issued.access_token.clone();
        let injections = self.members.injections(&token).await;
        if life.usable(now)
            && let Ok(injections) = injections
        {
            let same = self.held.as_ref().is_some_and(|held| held.token == token);
            self.schedule.succeeded(life, same, now);
            self.publish(token, fetched.sent.wall, &life, injections, same);
            self.last_error = None;
            self.log(&life, same, now);
            if let Err(failure) = self.source.keep(&fetched, &life).await {
                self.last_error = Some(failure.to_string());
                self.save_from = Instant::now() + STORE_RETRY;
            }
            return Ok(());
        }
        // Its refresh token is good all the same, and the old one may be dead by now.
        let _ = self.source.keep(&fetched, &life).await;
        injections?;
        Err(FetchError::DeadOnArrival.into())
    }

    fn publish(
        &mut self,
        token: Secret,
        fetched_at: SystemTime,
        life: &Life,
        injections: Box<[Injection]>,
        same: bool,
    ) {
        let last = self.held.as_ref().map_or(0, |held| held.generation);
        let generation = if same { last } else { last + 1 };
        self.writer.publish(
            Arc::new(Token {
                generation,
                injections,
                wall_deadline: life.wall_deadline,
                boot_deadline: life.boot_deadline,
            }),
            Outlook::Settled,
        );
        self.link.tell(&token, generation, life);
        self.note(fetched_at, life);
        self.held = Some(Held {
            token,
            generation,
            fetched_at,
        });
    }

    /// What follows from a failure; the text of it, for whoever asked.
    fn fail(&mut self, failure: Failure) -> String {
        let now = self.deps.clock.now();
        let (class, retry_after, reason) = match failure {
            Failure::Fetch(error) => (error.class(), error.retry_after(), error.to_string()),
            Failure::LoginRequired(reason) => {
                self.schedule.needs_login();
                (Class::Permanent, None, format!("login required: {reason}"))
            }
        };
        self.schedule
            .failed(class, retry_after, now, (self.deps.random)());
        let next = self.schedule.next(now);
        let wait = next.map(|next| next.saturating_sub(now.boot));
        warn!(
            provider = self.lead().name,
            ?class,
            failures = self.schedule.failures(),
            retry_in = wait.map(tracing::field::debug),
            "no new token: {reason}"
        );
        self.writer.set_outlook(match next {
            None => Outlook::LoginRequired,
            Some(next) => Outlook::Failed { class, next },
        });
        self.last_error = Some(reason.clone());
        reason
    }

    /// Tells everybody who asked before or during the fetch: its result is theirs.
    fn answer(&mut self, result: &Result<(), String>) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Refresh(reply) => self.askers.push(reply),
                Command::Reconfigure(asked) => self.reconfigure = Some(asked),
                Command::Stop => self.stopping = true,
            }
        }
        for asker in self.askers.drain(..) {
            let _ = asker.send(result.clone().map_err(RefreshError::Failed));
        }
    }

    fn count(&self, result: &Result<(), Failure>, took: Duration) {
        if self.source.asks_nobody() {
            return;
        }
        for member in self.members.iter() {
            let metrics = &member.metrics;
            match result {
                Ok(()) => metrics.fetched.inc(),
                Err(Failure::Fetch(error)) => match error.class() {
                    Class::Transient => metrics.fetch_transient.inc(),
                    Class::Permanent => metrics.fetch_permanent.inc(),
                },
                Err(Failure::LoginRequired(_)) => metrics.fetch_permanent.inc(),
            }
            metrics.fetch_duration.observe(took.as_secs_f64());
        }
    }

    fn log(&self, life: &Life, same: bool, now: Now) {
        let next = self.schedule.next(now);
        let seconds = |time: Duration| time.as_secs();
        info!(
            provider = self.lead().name,
            expires_in_s = life.left(now).map(seconds),
            refresh_in_s = next.map(|next| seconds(next.saturating_sub(now.boot))),
            unchanged = same,
            "token fetched"
        );
    }

    /// Status and state metric, as of now.
    fn tell(&self, now: Now, next: Option<Duration>) {
        let state = self.state(now);
        for member in self.members.iter() {
            member.metrics.set_state(state);
        }
        let next_fetch_at =
            next.and_then(|next| now.wall.checked_add(next.saturating_sub(now.boot)));
        let status = Status {
            state,
            generation: self.held.as_ref().map_or(0, |held| held.generation),
            expires_at: self.schedule.life().and_then(|life| life.expires_at),
            fetched_at: self.held.as_ref().map(|held| held.fetched_at),
            next_fetch_at,
            failures: self.schedule.failures(),
            last_error: self.last_error.clone(),
        };
        self.status.send_if_modified(|told| {
            let changed = *told != status;
            *told = status;
            changed
        });
    }

    fn state(&self, now: Now) -> State {
        match &self.held {
            Some(_) if self.schedule.usable(now) => match self.schedule.failures() {
                0 => State::Valid,
                _ => State::Stale,
            },
            _ if self.schedule.login_required() => State::LoginRequired,
            Some(_) => State::Expired,
            None => State::Missing,
        }
    }

    /// Whose credentials and life-cycle keys count for all.
    fn lead(&self) -> &Provider {
        self.members.lead()
    }
}
