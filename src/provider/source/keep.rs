//! Control flow: state that survives a restart, and updates of other processes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::error;

use super::state::{Renewable, Source};
use crate::clock::Now;
use crate::config::{Endpoint, Provider, TokenSource};
use crate::provider::exchange::{FetchError, Fetched};
use crate::store::{Saved, SavedAccess, StoreError};
use crate::token::schedule::Life;

/// Access tokens with a longer life are saved.
const LONG_LIVED: Duration = Duration::from_secs(24 * 3600);

/// Lives are stated in whole seconds: a renewal that adds no more than one has added nothing.
const WHOLE_SECOND: Duration = Duration::from_secs(1);

/// Result of [`Source::take_up`].
#[derive(Debug)]
pub(crate) struct TakenUp {
    /// A new access token.
    pub(crate) access: Option<SavedAccess>,
    /// Whether the refresh token changed.
    pub(crate) refresh_token: bool,
    /// Errors of updates that could not be opened.
    pub(crate) refused: Vec<StoreError>,
}

impl Source {
    /// Loads the stored state. Must succeed before anything is sent: otherwise a spent input could
    /// be sent again.
    pub(crate) async fn load(&mut self) -> Result<Option<SavedAccess>, StoreError> {
        if self.is_offline() {
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
        self.renewable = self.saved.access.as_ref().map(Renewable::from);
        Ok(self.saved.access.clone())
    }

    /// Waits until another process has left an update for [`Self::take_up`]. Borrows nothing, so
    /// that the caller can use the source meanwhile. Cancel safe.
    pub(crate) fn stored_update(&self) -> impl Future<Output = ()> + use<> {
        let (store, key) = (Arc::clone(&self.store), self.key.clone());
        let never = self.is_offline();
        async move {
            match never {
                true => std::future::pending().await,
                false => store.wait_for_update(&key).await,
            }
        }
    }

    /// Adopts the update of another process, most likely a login.
    pub(crate) async fn take_up(&mut self) -> Result<TakenUp, StoreError> {
        if self.unsaved {
            // Adoption starts from the record on disk and would lose unsaved state.
            self.write().await?;
        }
        let adopted = self.store.adopt(&self.key).await?;
        let before = match adopted.saved {
            Some(saved) => std::mem::replace(&mut self.saved, saved),
            None => self.saved.clone(),
        };
        let access = self.saved.access.clone();
        if let Some(access) = &access {
            self.renewable = Some(access.into());
        }
        Ok(TakenUp {
            access: access.filter(|access| before.access.as_ref() != Some(access)),
            refresh_token: self.saved.refresh_token != before.refresh_token,
            refused: adopted.refused,
        })
    }

    /// Saves what must outlive the token, durably: a new refresh token is on disk before its first
    /// use. The error is only for the status; the token is usable without the store.
    pub(crate) async fn keep(&mut self, fetched: &Fetched, life: &Life) -> Result<(), StoreError> {
        let provider = Arc::clone(&self.provider);
        let TokenSource::Endpoint(endpoint) = &provider.source else {
            return Ok(());
        };
        self.note_renewable(fetched, life);
        let mut saved = self.saved.clone();
        if let Some(token) = &fetched.issued.refresh_token
            && (endpoint.plan.refresh.is_some() || self.grant_takes_refresh_token(endpoint))
        {
            saved.refresh_token = Some(token.clone());
        }
        let worth_keeping = self.is_worth_keeping(endpoint, fetched, life);
        saved.access = worth_keeping.then(|| SavedAccess {
            token: fetched.issued.access_token.clone(),
            fetched_at: fetched.sent.wall,
            expires_at: life.expires_at,
            bought_with: self.inner.bought_with(),
        });
        self.save(saved).await
    }

    /// Returns whether a failed write has not been repeated yet.
    pub(crate) fn owes(&self) -> bool {
        self.owed
    }

    /// Repeats a failed write. Logs nothing: the first failure was logged.
    pub(crate) async fn save_again(&mut self) -> Result<(), StoreError> {
        match self.owed {
            true => self.write().await,
            false => Ok(()),
        }
    }

    pub(crate) fn has_refresh_token(&self) -> bool {
        self.saved.refresh_token.is_some()
    }

    /// Returns whether the token can be renewed without a login.
    pub(crate) fn renews_by_itself(&self) -> bool {
        match &self.provider.source {
            TokenSource::Static { .. } | TokenSource::SelfSigned(_) => true,
            TokenSource::Endpoint(endpoint) => renews_by_itself(endpoint, &self.saved),
        }
    }

    pub(crate) async fn save(&mut self, saved: Saved) -> Result<(), StoreError> {
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

    /// Saves the mark of a spent input. After a failure nothing is sent, so nothing is spent.
    pub(crate) async fn save_before_sending(&mut self, saved: Saved) -> Result<(), FetchError> {
        let written = self.store.save(&self.key, &saved).await;
        // A claimed input is spent by another process, and recorded as such.
        if matches!(written, Ok(()) | Err(StoreError::Claimed)) {
            self.saved = saved;
        }
        written.map_err(|failure| FetchError::Store(failure.to_string()))?;
        self.unsaved = false;
        self.owed = false;
        Ok(())
    }

    /// Holds the token for its renewal, unless a renewal has just failed to prolong its life.
    fn note_renewable(&mut self, fetched: &Fetched, life: &Life) {
        let new = Renewable {
            token: fetched.issued.access_token.clone(),
            expires_at: life.expires_at,
        };
        let old = self.renewable.as_ref();
        let is_at_its_end = old.is_some_and(|old| {
            let end = |at: Option<SystemTime>| at.map(|at| at - WHOLE_SECOND);
            old.token == new.token
                && new.expires_at.is_some()
                && end(new.expires_at) <= old.expires_at
        });
        self.renewable = (!is_at_its_end).then_some(new);
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

/// Returns whether the token can be renewed without a login, given the stored state.
pub(crate) fn renews_by_itself(endpoint: &Endpoint, saved: &Saved) -> bool {
    let plan = &endpoint.plan;
    let refreshes =
        plan.refresh
            .as_ref()
            .is_some_and(|refresh| match refresh.names_access_token() {
                true => saved.access.is_some(),
                false => saved.refresh_token.is_some(),
            });
    plan.one_time.is_empty() || refreshes
}

impl From<&SavedAccess> for Renewable {
    fn from(access: &SavedAccess) -> Self {
        Self {
            token: access.token.clone(),
            expires_at: access.expires_at,
        }
    }
}

/// Returns the rest of a stored access token's life.
pub(crate) fn resumed_life(
    access: &SavedAccess,
    provider: &Provider,
    now: Now,
    random: f64,
) -> Life {
    let (fetched_at, expires_at) = (access.fetched_at, access.expires_at);
    Life::resumed(fetched_at, expires_at, &provider.life, now, random)
}
