//! The refresher: the one task per identity that keeps a token cell filled.
//!
//! A loop over [`schedule`](crate::token::schedule). Only the refresher sends token requests, so at
//! most one fetch per identity is in flight (single flight).

mod members;
mod report;
mod stored;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, info, warn};

use crate::catch_unwind::catch_unwind;
use crate::config::{Provider, TokenSource};
use crate::dialect::{FailureClass, Injection};
use crate::provider::chain::Link;
use crate::provider::deps::Deps;
use crate::provider::exchange::{FetchError, Fetched, Turn};
use crate::provider::source::{Failure, Source};
use crate::secret::Secret;
use crate::status::{RefreshError, Status};
use crate::token::cell::{CellReader, CellWriter, FetchStatus, Token};
use crate::token::schedule::{Decision, Life, Schedule};

pub(super) use members::{Members, injection};

/// How often to check credential files after a refusal, and a static token's file at any time.
const FILE_POLL: Duration = Duration::from_secs(2);

/// Retry interval of a failed store operation.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// A request from a [`Handle`](super::Handle) to its refresher.
pub(super) enum Command {
    Refresh(oneshot::Sender<Result<(), RefreshError>>),
    Reconfigure(Reconfigure),
    Stop,
}

/// Replaces the providers of the identity, or their keys.
pub(super) struct Reconfigure {
    pub(super) group: Vec<Arc<Provider>>,
    /// A reader for each provider; `None` where the old reader stays.
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
    /// Passes the token to the providers that are chained to this one.
    pub(super) link: Link,
    pub(super) refusals: watch::Receiver<u64>,
    /// Callers that wait for the result of the current or next fetch.
    pub(super) askers: Vec<oneshot::Sender<Result<(), RefreshError>>>,
    /// Digest of the credential files at the last check.
    pub(super) credentials: [u8; 32],
    pub(super) looked: Instant,
    pub(super) last_error: Option<String>,
    /// Arrived during a fetch.
    pub(super) reconfigure: Option<Reconfigure>,
    pub(super) stopping: bool,
    /// Earliest time to adopt what other processes left; later after a store failure.
    pub(super) adopt_from: Instant,
    /// Earliest time to repeat a failed store write.
    pub(super) save_from: Instant,
    /// The newest suspect generation that was renewed at once. Only once each: otherwise an API
    /// that rejects all tokens and a token endpoint that loses its responses would form a loop.
    pub(super) hurried: u64,
}

/// The token in the cell.
pub(super) struct Held {
    token: Secret,
    generation: u64,
    fetched_at: SystemTime,
}

impl Refresher {
    /// Runs until all handles are dropped or [`Command::Stop`] arrives. Finishes a fetch under way,
    /// within the provider's `timeout`.
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
                        // Boxed: 9 KB of the 11 KB that each refresher would hold all the time.
                        Box::pin(self.fetch()).await;
                        drop(turn);
                    }
                }
                Decision::Wait { next, wake } => {
                    self.publish_status(now, next);
                    self.wait(wake).await;
                }
            }
        }
        self.link.tell_none();
        if let Err(error) = self.source.save_again().await {
            error!(
                provider = self.lead().name,
                "unsaved tokens are lost when this process ends: {error}"
            );
        }
    }

    /// Waits for the next event, at most `wake`, and handles it.
    async fn wait(&mut self, mut wake: Duration) {
        let watching = self.source.is_static() || self.schedule.waits_for_credentials();
        if watching {
            wake = wake.min(FILE_POLL);
        }
        if self.source.owes() {
            wake = wake.min(self.save_from.saturating_duration_since(Instant::now()));
        }
        let stored_update = self.source.stored_update();
        let adopt_from = self.adopt_from;
        let inner_changed = self.source.inner_changed();
        tokio::select! {
            refused = self.link.refused(&mut self.refusals) => self.rejected(refused),
            () = inner_changed => self.inner_changed(),
            () = async { sleep_until(adopt_from).await; stored_update.await } => {
                self.adopt_stored().await;
            }
            rejected = self.writer.rejection() => self.rejected(rejected),
            command = self.commands.recv() => self.command(command),
            () = sleep(wake) => {}
        }
        // After every event: an API that rejects every request would keep the sleep from ending.
        if watching && self.looked.elapsed() >= FILE_POLL {
            self.check_credential_files().await;
        }
        if self.source.owes() && self.save_from <= Instant::now() {
            self.save_again().await;
        }
    }

    fn rejected(&mut self, generation: u64) {
        let now = self.deps.clock.now();
        // Zero: a request only found its token expired, which the schedule detects by itself.
        if generation == 0 || generation != self.generation() {
            return;
        }
        let suspect = self.writer.is_suspect();
        if suspect {
            self.hurried = generation;
        }
        let Some(at) = self.schedule.rejected(suspect, now) else {
            return;
        };
        debug!(provider = self.lead().name, generation, "token rejected");
        if at > now.boot {
            self.writer.set_status(FetchStatus::Failed {
                class: FailureClass::Transient,
                next: at,
            });
        }
    }

    /// A usable token that needs a login to renew is kept until the API rejects it.
    fn inner_changed(&mut self) {
        debug!(
            provider = self.lead().name,
            "the token of a chained provider has changed"
        );
        let blamed = self.source.inner_seen();
        if self.source.renews_by_itself() || !self.schedule.usable(self.deps.clock.now()) {
            self.schedule.input_changed(blamed);
        }
    }

    fn command(&mut self, command: Option<Command>) {
        match command {
            None | Some(Command::Stop) => self.stopping = true,
            Some(Command::Refresh(reply)) => {
                match self.schedule.request_refresh(self.deps.clock.now()) {
                    Ok(()) => self.askers.push(reply),
                    Err(retry_after) => {
                        let _ = reply.send(Err(RefreshError::TooSoon { retry_after }));
                    }
                }
            }
            Some(Command::Reconfigure(asked)) => self.reconfigure = Some(asked),
        }
    }

    /// Keeps the token, since the identity is the same, and resets the backoff.
    async fn reconfigure(&mut self, Reconfigure { group, reply }: Reconfigure) {
        let old = Arc::clone(self.members.lead());
        let indices = self.members.replace(group);
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
        if self.source.is_offline() && old.source != lead.source {
            self.schedule.credentials_changed();
        }
        if let (Some(held), Some(&life)) = (&self.held, self.schedule.life()) {
            let mut life = life;
            if rules_changed {
                life = life.under(&lead.life, held.fetched_at, now, (self.deps.random)());
                self.schedule.set_life(Some(life));
            }
            self.republish(&life).await;
        }
        self.publish_status(now, self.schedule.next(now));
        let readers = indices.into_iter();
        let readers = readers.map(|index| index.map(|index| self.writer.reader(index)));
        // Fails only while the process is shutting down.
        let _ = reply.send(readers.collect());
    }

    /// Publishes the current token again, with the injections of the current members.
    async fn republish(&mut self, life: &Life) {
        let Some(held) = &self.held else {
            return;
        };
        let injections = self.members.injections(&held.token).await;
        self.record_life(held.fetched_at, life);
        match injections {
            Ok(injections) => {
                self.link.tell(&held.token, held.generation, life);
                self.writer.replace(Arc::new(Token {
                    generation: held.generation,
                    injections,
                    deadline: life.deadline,
                }));
            }
            // The token cannot be sent as configured, so it is dropped; the next fetch reports why.
            Err(error) => {
                warn!(provider = self.lead().name, "{error}");
                self.link.tell_none();
                self.writer.clear(FetchStatus::Soon);
                self.schedule.set_life(None);
            }
        }
    }

    async fn check_credential_files(&mut self) {
        self.looked = Instant::now();
        let seen = self.source.fingerprint().await;
        if std::mem::replace(&mut self.credentials, seen) != seen {
            debug!(provider = self.lead().name, "credential file changed");
            self.schedule.credentials_changed();
        }
    }

    /// Waits for a permit of the endpoint's host; `None` if a command arrives first.
    async fn turn(&mut self) -> Option<Turn> {
        let lead = Arc::clone(self.members.lead());
        let endpoint = match &lead.source {
            TokenSource::Endpoint(endpoint) if !self.source.takes_turns() => endpoint,
            _ => return Some(Turn::default()),
        };
        tokio::select! {
            biased;
            // First, so that no fetch starts after a stop command.
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
        self.writer.set_status(FetchStatus::Soon);
        self.publish_status(started, None);
        self.credentials = self.source.fingerprint().await;
        let began = Instant::now();
        // Unwind safe: the source replaces its state only as a whole. A bug in reading one response
        // costs that fetch, not the provider.
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
        // Status before replies: a caller that reads the status after a refresh sees its result.
        let now = self.deps.clock.now();
        self.publish_status(now, self.schedule.next(now));
        self.answer_refreshes(&result);
    }

    /// Opens the gate after any failure: without a new token, the old one stays in use.
    fn reopen(&self, result: &Result<(), Failure>) {
        let Err(failure) = result else {
            return;
        };
        let may_be_dead = matches!(failure, Failure::Fetch(error) if error.may_have_issued());
        let suspect = self.lead().life.single_active
            && (may_be_dead || self.writer.is_suspect())
            && self.hurried < self.generation();
        self.writer.gatekeeper().open(suspect);
    }

    /// Publishes an issued token and saves what must outlive the process.
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
            self.log_fetched(&life, same, now);
            if let Err(failure) = self.source.keep(&fetched, &life).await {
                self.last_error = Some(failure.to_string());
                self.save_from = Instant::now() + STORE_RETRY;
            }
            return Ok(());
        }
        // The new refresh token is valid all the same, and the old one may no longer be.
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
        let generation = self.generation() + u64::from(!same);
        let published = Token {
            generation,
            injections,
            deadline: life.deadline,
        };
        self.writer
            .publish(Arc::new(published), FetchStatus::Settled);
        self.link.tell(&token, generation, life);
        self.record_life(fetched_at, life);
        self.held = Some(Held {
            token,
            generation,
            fetched_at,
        });
    }

    /// Schedules the next attempt after a failure. Returns the reason, free of secrets.
    fn fail(&mut self, failure: Failure) -> String {
        let now = self.deps.clock.now();
        let (class, retry_after, reason) = match failure {
            Failure::Fetch(error) => (error.class(), error.retry_after(), error.to_string()),
            Failure::LoginRequired(reason) => {
                self.schedule.needs_login();
                (
                    FailureClass::Permanent,
                    None,
                    format!("login required: {reason}"),
                )
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
        self.writer.set_status(match next {
            None => FetchStatus::LoginRequired,
            Some(next) => FetchStatus::Failed { class, next },
        });
        self.last_error = Some(reason.clone());
        reason
    }

    /// Sends the fetch's result to all callers that asked before or during the fetch.
    fn answer_refreshes(&mut self, result: &Result<(), String>) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Refresh(reply) => self.askers.push(reply),
                other => self.command(Some(other)),
            }
        }
        for asker in self.askers.drain(..) {
            let _ = asker.send(result.clone().map_err(RefreshError::Failed));
        }
    }

    /// The generation of the token in the cell, 0 before the first.
    fn generation(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.generation)
    }

    /// The provider whose credentials and life-cycle keys apply to all members.
    fn lead(&self) -> &Provider {
        self.members.lead()
    }
}
