//! CONTROL, keep: what is remembered over restarts, and what other processes leave for us.

use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::Source;
use crate::clock::Now;
use crate::config::{Endpoint, Provider, TokenSource};
use crate::provider::exchange::{FetchError, Fetched};
use crate::provider::schedule::Life;
use crate::provider::store::{Saved, SavedAccess, StoreError};

/// Access tokens that live longer are kept over restarts.
const LONG_LIVED: Duration = Duration::from_secs(24 * 3600);

/// What [`Source::take_up`] brought.
#[derive(Debug)]
pub(in crate::provider) struct TakenUp {
    /// A token that we did not have.
    pub(in crate::provider) access: Option<SavedAccess>,
    /// Whether there is another refresh token.
    pub(in crate::provider) refresh_token: bool,
    /// What could not be opened.
    pub(in crate::provider) refused: Vec<StoreError>,
}

impl Source {
    /// Reads what an earlier process left. Must succeed before anything is sent: without it, a spent input might be
    /// sent again.
    pub(in crate::provider) async fn load(&mut self) -> Result<Option<SavedAccess>, StoreError> {
        if self.asks_nobody() {
            return Ok(None);
        }
        let adopted = self.store.adopt(&self.key).await?;
        for refused in adopted.refused {
            error!(provider = self.provider.name, "{refused}");
        }
        self.saved = match adopted.saved {
            Some(saved) => saved,
            None => self.store.load(&self.key).await?.unwrap_or_default(),
        };
        Ok(self.saved.access.clone())
    }

    /// Waits until another process has left something to [take up](Self::take_up). Borrows nothing: the caller goes on
    /// with the source meanwhile. Cancel safe.
    pub(in crate::provider) fn left_by_others(&self) -> impl Future<Output = ()> + use<> {
        let (store, key) = (Arc::clone(&self.store), self.key.clone());
        let never = self.asks_nobody();
        async move {
            match never {
                true => std::future::pending().await,
                false => store.left(&key).await,
            }
        }
    }

    /// Makes what another process left, a login most likely, ours.
    pub(in crate::provider) async fn take_up(&mut self) -> Result<TakenUp, StoreError> {
        if self.unsaved {
            // What is only in memory would be lost: adopting starts from what is on disk.
            self.write().await?;
        }
        let adopted = self.store.adopt(&self.key).await?;
        let before = match adopted.saved {
            Some(saved) => std::mem::replace(&mut self.saved, saved),
            None => self.saved.clone(),
        };
        Ok(TakenUp {
            access: self
                .saved
                .access
                .clone()
                .filter(|access| before.access.as_ref() != Some(access)),
            refresh_token: self.saved.refresh_token != before.refresh_token,
            refused: adopted.refused,
        })
    }

    /// Keeps what must outlive the token, durably: a new refresh token is on disk before it is first used.
    /// The error is for the status; the token is good without it.
    pub(in crate::provider) async fn keep(
        &mut self,
        fetched: &Fetched,
        life: &Life,
    ) -> Result<(), StoreError> {
        let provider = Arc::clone(&self.provider);
        let TokenSource::Endpoint(endpoint) = &provider.source else {
            return Ok(());
        };
        let mut saved = self.saved.clone();
        if let Some(token) = &fetched.issued.refresh_token
            && (endpoint.plan.refresh.is_some() || self.grant_takes_refresh_token(endpoint))
        {
            saved.refresh_token = Some(token.clone());
        }
        saved.access = self
            .is_worth_keeping(endpoint, fetched, life)
            .then(|| SavedAccess {
                token: fetched.issued.access_token.clone(),
                fetched_at: fetched.sent.wall,
                expires_at: life.expires_at,
                bought_with: self.inner.bought_with(),
            });
        self.save(saved).await
    }

    /// Whether a write failed, and nothing was written since.
    pub(in crate::provider) fn owes(&self) -> bool {
        self.owed
    }

    /// Writes what could not be written. Not logged: the first failure was.
    pub(in crate::provider) async fn save_again(&mut self) -> Result<(), StoreError> {
        match self.owed {
            true => self.write().await,
            false => Ok(()),
        }
    }

    pub(in crate::provider) fn has_refresh_token(&self) -> bool {
        self.saved.refresh_token.is_some()
    }

    /// Without anything that a person has to bring.
    pub(in crate::provider) fn renews_by_itself(&self) -> bool {
        match &self.provider.source {
            TokenSource::Static { .. } | TokenSource::Made(_) => true,
            TokenSource::Endpoint(endpoint) => renews_by_itself(endpoint, &self.saved),
        }
    }

    pub(super) async fn save(&mut self, saved: Saved) -> Result<(), StoreError> {
        if saved == self.saved && !self.unsaved {
            return Ok(());
        }
        self.saved = saved;
        let written = self.write().await;
        if let Err(failure) = &written {
            error!(provider = self.provider.name, "{failure}");
        }
        written
    }

    /// On failure nothing was sent, so nothing counts as spent.
    pub(super) async fn save_before_sending(&mut self, saved: Saved) -> Result<(), FetchError> {
        match self.store.save(&self.key, &saved).await {
            Ok(()) => {}
            Err(StoreError::Claimed) => {
                // It is spent all the same, by others, and recorded as such.
                self.saved = saved;
                return Err(FetchError::Store(StoreError::Claimed.to_string()));
            }
            Err(failure) => return Err(FetchError::Store(failure.to_string())),
        }
        self.saved = saved;
        self.unsaved = false;
        self.owed = false;
        Ok(())
    }

    fn is_worth_keeping(&self, endpoint: &Endpoint, fetched: &Fetched, life: &Life) -> bool {
        let long_lived = life
            .expires_at
            .and_then(|at| at.duration_since(fetched.sent.wall).ok())
            .is_some_and(|life| life > LONG_LIVED);
        long_lived || self.provider.life.single_active || !endpoint.plan.one_time.is_empty()
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        let written = self.store.save(&self.key, &self.saved).await;
        self.unsaved = written.is_err();
        self.owed = written.is_err();
        written
    }
}

/// As [`Source::renews_by_itself`], with what is stored.
pub(in crate::provider) fn renews_by_itself(endpoint: &Endpoint, saved: &Saved) -> bool {
    let plan = &endpoint.plan;
    plan.one_time.is_empty() || (plan.refresh.is_some() && saved.refresh_token.is_some())
}

/// What of a stored access token is still good.
pub(in crate::provider) fn resumed_life(
    access: &SavedAccess,
    provider: &Provider,
    now: Now,
    random: f64,
) -> Life {
    Life::resumed(
        access.fetched_at,
        access.expires_at,
        &provider.life,
        now,
        random,
    )
}
