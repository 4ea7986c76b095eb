//! CONTROL, login: what only a person can give → one exchange → the store.
//!
//! For grants whose input is good for one use: a code from the browser (RFC 6749 §4.1 with PKCE, RFC 7636, over a
//! loopback redirect, RFC 8252), a code from a text message, a first refresh token. The exchange is the provider's own;
//! beside a running proxy its result is left for that to adopt (see [`store`](super::store)).

mod authorization;
mod device;
mod redirect;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::config::{Endpoint, LifeCycle, Provider, TokenSource};
use crate::dialect::Variables;
use crate::provider::chain::Tokens;
use crate::provider::discovery::discover;
use crate::provider::exchange::{Fetch, Fetched};
use crate::provider::inputs::InputError;
use crate::provider::schedule::Life;
use crate::provider::source::{Failure, Source};
use crate::provider::store::{Store, StoreError};

pub use authorization::{Authorization, Return};
pub use device::{Brought, DeviceCode};

/// What a browser or the server itself brings: nobody is asked for it.
const BROUGHT: [&str; 4] = ["code", "redirect_uri", "code_verifier", "device_code"];

/// Shown while it is typed; everything else is not.
const VISIBLE: [&str; 9] = [
    "client_id",
    "username",
    "scope",
    "audience",
    "resource",
    "redirect_uri",
    "phone",
    "open_id",
    "tenant",
];

/// A login that is about to begin.
#[derive(Debug)]
pub struct Login {
    provider: Arc<Provider>,
    /// As the issuer says, where one does.
    found: Option<Endpoint>,
}

/// A variable that a person is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub name: String,
    /// Must not be shown while it is typed.
    pub secret: bool,
}

/// What a login brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    pub expires_at: Option<SystemTime>,
    /// Whether the token can be renewed without another login.
    pub renewable: bool,
}

/// Why a login failed. The text is for the one who logs in, and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("provider `{0}` is given its token (access_token): there is nothing to log in to")]
    Static(String),
    #[error(
        "provider `{provider}` needs no login: grant `{grant}` has every variable that it needs"
    )]
    NothingToAsk { provider: String, grant: String },
    #[error("providers.{0}.client_id is missing: the authorization request needs it")]
    NoClientId(String),
    #[error("providers.{provider}.redirect_uri: {reason}")]
    RedirectUri { provider: String, reason: String },
    #[error("cannot listen for the browser on {address}: {reason}; try another --port")]
    Listen { address: String, reason: String },
    #[error("the browser did not come back within {} min: start over", .0 / 60)]
    TimedOut(u64),
    #[error("nobody typed the code in time: start over")]
    CodeExpired,
    #[error("the authorization server refused: {0}")]
    Denied(String),
    #[error(
        "that is not the address that this login leads to: {0}. Start over, and paste the last one whole"
    )]
    WrongReturn(&'static str),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Refused(String),
    /// A token without a place.
    #[error(
        "the vendor gave a token, but it could not be kept: {0}. Its one-time input is spent: mend that and log in anew"
    )]
    NotKept(StoreError),
}

// === impl Login ===

impl Login {
    /// # Errors
    ///
    /// For providers that have nothing to ask a person for.
    pub fn new(provider: Arc<Provider>) -> Result<Self, LoginError> {
        let login = Self {
            provider,
            found: None,
        };
        let endpoint = login.endpoint()?;
        if login.authorization_url().is_none() && !login.is_for_device() && login.asks().is_empty()
        {
            return Err(LoginError::NothingToAsk {
                provider: login.provider.name.clone(),
                grant: endpoint.plan.grant.clone(),
            });
        }
        Ok(login)
    }

    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Asks the issuer where this login begins, if it is to say so: where the browser is to be sent, or who gives device codes.
    /// To be done before [`Self::asks`]: what the browser brings nobody needs to type. Cancel safe.
    pub async fn discover(&mut self, fetcher: &dyn Fetch, clock: &Clock) -> Result<(), LoginError> {
        let endpoint = self.endpoint()?;
        if let Some(issuer) = &endpoint.issuer
            && (endpoint.plan.begins_with("code") || self.is_for_device())
        {
            let found = discover(endpoint, issuer, fetcher, clock).await;
            self.found = Some(found.map_err(|error| LoginError::Refused(error.to_string()))?);
        }
        Ok(())
    }

    /// What a person has to type, in the order to ask in; a code comes last, for it is the one that ages.
    pub fn asks(&self) -> Vec<Ask> {
        let Ok(endpoint) = self.endpoint() else {
            return Vec::new();
        };
        let one_time = &endpoint.plan.one_time;
        let brought = self.authorization_url().is_some() || self.is_for_device();
        let mut names: BTreeSet<String> = endpoint.plan.required_variables();
        names.retain(|name| !self.provider.variables.contains_key(name));
        names.retain(|name| !one_time.contains(name));
        let names = names.into_iter().chain(one_time.iter().cloned());
        names
            .filter(|name| !(brought && BROUGHT.contains(&name.as_str())))
            .map(|name| Ask {
                secret: !VISIBLE.contains(&name.as_str()),
                name,
            })
            .collect()
    }

    /// Where the browser is to be sent; `None` if this login needs none.
    pub fn authorization_url(&self) -> Option<&str> {
        self.endpoint().ok()?.authorization_url.as_deref()
    }

    /// Begins the browser's part: listens on `port` of loopback (0: any), unless the redirect goes elsewhere or `by_hand`
    /// says that a person will bring the address that the browser ends at.
    pub async fn authorize(&self, port: u16, by_hand: bool) -> Result<Authorization, LoginError> {
        Authorization::begin(&self.provider, self.endpoint()?, port, by_hand).await
    }

    /// Sends what was `given`, once, and keeps what comes of it. A one-time input is marked as spent, durably, before it
    /// leaves. Not cancel safe.
    pub async fn finish(
        self,
        given: Variables,
        store: Arc<dyn Store>,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        tokens: Tokens,
    ) -> Result<LoggedIn, LoginError> {
        let rules = self.provider.life.clone();
        let mut source = Source::new(self.provider, store, fetcher, clock, tokens)
            // The code goes to those who gave it, should the issuer say something else by now.
            .with_found(self.found);
        source.load().await?;
        let fetched = source.login(given).await?;
        keep(&mut source, &fetched, &rules).await
    }

    fn endpoint(&self) -> Result<&Endpoint, LoginError> {
        match (&self.provider.source, &self.found) {
            (TokenSource::Endpoint(_), Some(found)) => Ok(found),
            (TokenSource::Endpoint(endpoint), None) => Ok(endpoint),
            (TokenSource::Static { .. } | TokenSource::Made(_), _) => {
                Err(LoginError::Static(self.provider.name.clone()))
            }
        }
    }
}

async fn keep(
    source: &mut Source,
    fetched: &Fetched,
    rules: &LifeCycle,
) -> Result<LoggedIn, LoginError> {
    let life = Life::new(fetched.issued.expiry, rules, fetched.sent, 0.0);
    source
        .keep(fetched, &life)
        .await
        .map_err(LoginError::NotKept)?;
    Ok(LoggedIn {
        expires_at: life.expires_at,
        renewable: source.has_refresh_token(),
    })
}

impl From<Failure> for LoginError {
    fn from(failure: Failure) -> Self {
        Self::Refused(match failure {
            Failure::Fetch(error) => error.to_string(),
            Failure::LoginRequired(reason) => reason,
        })
    }
}
