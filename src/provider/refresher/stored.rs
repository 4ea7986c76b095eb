//! A refresher's store operations: resume at start, adopt what other processes left, repeat failed
//! writes.

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{Command, Refresher, STORE_RETRY};
use crate::dialect::FailureClass;
use crate::provider::source::resumed_life;
use crate::status::RefreshError;
use crate::store::SavedAccess;
use crate::token::cell::FetchStatus;

impl Refresher {
    /// Resumes from the store. Nothing is sent before the store has been read.
    pub(super) async fn recover(&mut self) {
        while !self.stopping {
            match self.source.load().await {
                Ok(access) => {
                    if let Some(access) = access {
                        self.use_stored(access, "the stored token").await;
                    }
                    return;
                }
                Err(error) => {
                    warn!(provider = self.lead().name, "{error}");
                    self.last_error = Some(error.to_string());
                    let now = self.deps.clock.now();
                    let next = now.boot + STORE_RETRY;
                    self.writer.set_status(FetchStatus::Failed {
                        class: FailureClass::Transient,
                        next,
                    });
                    self.publish_status(now, Some(next));
                    self.wait_for_store().await;
                }
            }
        }
    }

    /// Publishes a token from the store; `what` names the token in messages. Returns whether the
    /// token is usable.
    async fn use_stored(&mut self, access: SavedAccess, what: &str) -> bool {
        let now = self.deps.clock.now();
        let life = resumed_life(&access, self.lead(), now, (self.deps.random)());
        if !life.usable(now) {
            return false;
        }
        match self.members.injections(&access.token).await {
            Ok(injections) => {
                info!(provider = self.lead().name, "using {what}");
                self.schedule.succeeded(life, false, now);
                self.source.took_up(&access.bought_with);
                self.publish(access.token, access.fetched_at, &life, injections, false);
                true
            }
            Err(error) => {
                self.report_error(format!("{what}: {error}"));
                false
            }
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
                Some(Command::Refresh(reply)) => {
                    let reason = self.last_error.clone().unwrap_or_default();
                    let _ = reply.send(Err(RefreshError::Failed(reason)));
                }
                Some(Command::Reconfigure(asked)) => self.reconfigure(asked).await,
                None | Some(Command::Stop) => return self.command(command),
            }
        }
    }

    pub(super) async fn save_again(&mut self) {
        self.save_from = Instant::now() + STORE_RETRY;
        match self.source.save_again().await {
            Ok(()) => {
                info!(provider = self.lead().name, "the store is writable again");
                self.last_error = None;
            }
            Err(error) => self.report_error(error.to_string()),
        }
    }

    /// Adopts what another process left in the store, most likely a login.
    pub(super) async fn adopt_stored(&mut self) {
        let taken = match self.source.take_up().await {
            Ok(taken) => taken,
            Err(error) => {
                self.adopt_from = Instant::now() + STORE_RETRY;
                return self.report_error(error.to_string());
            }
        };
        if let Some(access) = taken.access
            && self.use_stored(access, "the token of a login").await
        {
            self.last_error = None;
        } else if taken.refresh_token {
            info!(
                provider = self.lead().name,
                "using a new refresh token from the store"
            );
            self.schedule.credentials_changed();
        }
        for refused in taken.refused {
            self.report_error(refused.to_string());
        }
    }
}
