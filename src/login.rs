//! Control flow: interactive logins.
//!
//! For grants with a one-time input from a person: an authorization code from the browser (RFC 6749
//! §4.1 with PKCE, RFC 7636, over a loopback redirect, RFC 8252), a code from a text message, a
//! device code (RFC 8628) or a first refresh token. Beside a running proxy, the result is left in
//! the store for the proxy to adopt (see [`store`](super::store)).

mod authorization;
mod device;
mod redirect;
mod response;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::config::{Endpoint, LifeCycle, Provider, TokenSource};
use crate::dialect::Variables;
use crate::provider::chain::Tokens;
use crate::provider::discovery::discover;
use crate::provider::exchange::{Fetch, Fetched};
use crate::provider::inputs::{self, InputError};
use crate::provider::source::{Failure, Source};
use crate::secret::Secret;
use crate::store::{Store, StoreError};
use crate::token::schedule::Life;

pub use authorization::{Authorization, Return};
pub use device::{DeviceCode, DeviceToken};

/// Variables that the browser or the server supplies.
const OBTAINED: [&str; 4] = ["code", "redirect_uri", "code_verifier", "device_code"];

/// Variables shown while typed; all others are hidden.
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

/// A login of one provider.
#[derive(Debug)]
pub struct Login {
    provider: Arc<Provider>,
    /// The endpoint from the issuer's metadata, once discovered.
    found: Option<Endpoint>,
}

/// A variable that the person must enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredInput {
    pub name: String,
    /// Whether input must be hidden while typed.
    pub secret: bool,
}

/// Result of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    pub expires_at: Option<SystemTime>,
    /// Whether the token can be renewed without another login.
    pub renewable: bool,
}

/// Failure of a login. The text is for the person who logs in, and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("provider `{0}` has a configured token (access_token) and needs no login")]
    Static(String),
    #[error(
        "provider `{provider}` needs no login: grant `{grant}` has every variable that it needs"
    )]
    NoInputNeeded { provider: String, grant: String },
    #[error("providers.{0}.client_id is missing: the authorization request needs it")]
    NoClientId(String),
    #[error("providers.{provider}.redirect_uri: {reason}")]
    RedirectUri { provider: String, reason: String },
    #[error("cannot listen for the browser on {address}: {reason}; try another --port")]
    Listen { address: String, reason: String },
    #[error("no redirect from the browser within {} min: start over", .0 / 60)]
    TimedOut(u64),
    #[error("the code was not entered in time: start over")]
    CodeExpired,
    #[error("the authorization server refused: {0}")]
    Denied(String),
    #[error(
        "this is not the redirect of this login: {0}. \
         Start over and paste the complete last address of the browser"
    )]
    WrongRedirect(&'static str),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Refused(String),
    #[error(
        "the vendor issued a token, but it could not be saved: {0}. \
         The one-time input is spent: fix the store and log in again"
    )]
    NotSaved(StoreError),
}

impl Login {
    /// Fails if the provider needs no input from a person.
    pub fn new(provider: Arc<Provider>) -> Result<Self, LoginError> {
        let login = Self {
            provider,
            found: None,
        };
        let endpoint = login.endpoint()?;
        if !login.begins_elsewhere() && login.asks().is_empty() {
            return Err(LoginError::NoInputNeeded {
                provider: login.provider.name.clone(),
                grant: endpoint.plan.grant.clone(),
            });
        }
        Ok(login)
    }

    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Reads the issuer's metadata if the login begins with a browser or a device code. Call before
    /// [`Self::asks`], which leaves out what the browser supplies. Cancel safe.
    pub async fn discover(&mut self, fetcher: &dyn Fetch, clock: &Clock) -> Result<(), LoginError> {
        let endpoint = self.endpoint()?;
        if let Some(issuer) = &endpoint.issuer
            && (endpoint.plan.spends("code") || self.is_for_device())
        {
            let found = discover(endpoint, issuer, fetcher, clock).await;
            self.found = Some(found.map_err(|error| LoginError::Refused(error.to_string()))?);
        }
        Ok(())
    }

    /// Returns the variables to enter, in order; codes are last, since they expire.
    pub fn asks(&self) -> Vec<RequiredInput> {
        let Ok(endpoint) = self.endpoint() else {
            return Vec::new();
        };
        let one_time = &endpoint.plan.one_time;
        let mut names = endpoint.plan.required_variables();
        names
            .retain(|name| !self.provider.variables.contains_key(name) && !one_time.contains(name));
        (names.into_iter().chain(one_time.iter().cloned()))
            .filter(|name| !(self.begins_elsewhere() && OBTAINED.contains(&name.as_str())))
            .map(|name| RequiredInput {
                secret: !VISIBLE.contains(&name.as_str()),
                name,
            })
            .collect()
    }

    /// Returns the authorization endpoint; `None` if this login needs no browser.
    pub fn authorization_url(&self) -> Option<&str> {
        self.endpoint().ok()?.authorization_url.as_deref()
    }

    /// Sends the grant with `given`, once, and saves the result. A one-time input is durably marked
    /// as spent before it is sent. Not cancel safe.
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
            // The code goes to the server that issued it, even if the metadata have changed since.
            .with_found(self.found);
        source.load().await?;
        let fetched = source.login(given).await?;
        keep(&mut source, &fetched, &rules).await
    }

    /// Returns whether a browser or a device code brings the one-time input.
    fn begins_elsewhere(&self) -> bool {
        self.authorization_url().is_some() || self.is_for_device()
    }

    fn endpoint(&self) -> Result<&Endpoint, LoginError> {
        match (&self.provider.source, &self.found) {
            (TokenSource::Endpoint(_), Some(found)) => Ok(found),
            (TokenSource::Endpoint(endpoint), None) => Ok(endpoint),
            (TokenSource::Static { .. } | TokenSource::SelfSigned(_), _) => {
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
    let kept = source.keep(fetched, &life).await;
    kept.map_err(LoginError::NotSaved)?;
    Ok(LoggedIn {
        expires_at: life.expires_at,
        renewable: source.has_refresh_token(),
    })
}

/// Reads a variable of the provider; `None` if the configuration does not have it.
async fn variable(provider: &Provider, name: &str) -> Result<Option<Secret>, LoginError> {
    let Some(value) = provider.variables.get(name) else {
        return Ok(None);
    };
    let key = format!("providers.{}.{name}", provider.name);
    Ok(Some(inputs::read(&key, value).await?.to_text()))
}

impl From<Failure> for LoginError {
    fn from(failure: Failure) -> Self {
        Self::Refused(match failure {
            Failure::Fetch(error) => error.to_string(),
            Failure::LoginRequired(reason) => reason,
        })
    }
}
