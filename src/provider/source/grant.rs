//! CONTROL, grant: whether the grant or the refresh token is sent next, and what is left to send once that is refused.
//!
//! The rules of one-time inputs and refresh tokens (DESIGN.md §6.8):
//! - a one-time input is marked as spent, durably, before it is [sent](super::send), and never sent again whatever happens;
//! - a refresh token is used only where the dialect has `[refresh]`, or the grant itself takes one;
//! - a dead refresh token falls back to the grant where that is repeatable.

use std::sync::Arc;

use tracing::info;
use zeroize::Zeroizing;

use super::{Failure, REFRESH_TOKEN, Source};
use crate::config::Endpoint;
use crate::dialect::{RequestPlan, Var, Variables};
use crate::provider::exchange::{FetchError, Fetched};
use crate::secret::Secret;

/// The request that is to be sent.
enum Ask<'a> {
    Grant {
        request: &'a RequestPlan,
        /// What its one-time inputs leave behind in the store.
        spends: Option<String>,
    },
    Refresh {
        request: &'a RequestPlan,
        token: Secret,
    },
}

impl Source {
    pub(super) async fn exchange(&mut self, endpoint: &Endpoint) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        let variables = self.variables(endpoint, &provider.variables).await?;
        // The last moment to keep a refresh token that this may spend. A store that fails withholds no token.
        let _ = self.save_again().await;
        self.note_seed(endpoint, &variables);
        let dead = match self.choose(endpoint, &variables)? {
            Ask::Grant { request, spends } => {
                return self.grant(endpoint, request, variables, spends).await;
            }
            Ask::Refresh { request, token } => {
                let mut variables = variables.clone();
                variables.insert(REFRESH_TOKEN.to_owned(), Var::Text(token));
                match self.send(endpoint, request, &variables, None).await {
                    Err(error) if self.is_dead(endpoint, &error) => error,
                    result => return Ok(result?),
                }
            }
        };
        if !endpoint.plan.one_time.is_empty() {
            // It stays in the store: should the vendor be wrong, a restart or a refresh by hand tries it once more.
            return Err(Failure::LoginRequired(format!(
                "the refresh token was refused: {dead}"
            )));
        }
        info!(
            provider = self.provider.name,
            "the refresh token was refused ({dead}): starting over with the grant"
        );
        let mut saved = self.saved.clone();
        saved.refresh_token = None;
        // A failure is already logged, and would only bring the dead token back after a restart.
        let _ = self.save(saved).await;
        self.grant(endpoint, &endpoint.plan.request, variables, None)
            .await
    }

    pub(super) async fn grant(
        &mut self,
        endpoint: &Endpoint,
        request: &RequestPlan,
        mut variables: Variables,
        spends: Option<String>,
    ) -> Result<Fetched, Failure> {
        let takes_refresh_token = self.grant_takes_refresh_token(endpoint);
        if takes_refresh_token && let Some(stored) = &self.saved.refresh_token {
            variables.insert(REFRESH_TOKEN.to_owned(), Var::Text(stored.clone()));
        }
        let one_time = spends.is_some();
        match self
            .send(endpoint, request, &variables, spends.clone())
            .await
        {
            Ok(fetched) => Ok(fetched),
            // RFC 6749 §5.2: the refresh token is the grant here, and only a new one can help.
            Err(error) if takes_refresh_token && error.is_invalid_grant() => Err(
                Failure::LoginRequired(format!("the refresh token was refused: {error}")),
            ),
            Err(error) if one_time && self.is_spent(spends.as_deref()) => {
                if endpoint.plan.refresh.is_some() && self.saved.refresh_token.is_some() {
                    return Err(Failure::Fetch(error));
                }
                Err(Failure::LoginRequired(format!(
                    "the one-time input was sent and is spent, but brought no token: {error}"
                )))
            }
            Err(error) => Err(Failure::Fetch(error)),
        }
    }

    /// `None` for a grant without one-time inputs, and while one of them is not there.
    pub(super) fn one_time_digest(
        &self,
        endpoint: &Endpoint,
        variables: &Variables,
    ) -> Option<String> {
        let names = &endpoint.plan.one_time;
        if names.is_empty() {
            return None;
        }
        let texts: Vec<(&str, Zeroizing<String>)> = names
            .iter()
            .map(|name| Some((name.as_str(), var_text(variables.get(name)?))))
            .collect::<Option<_>>()?;
        let pairs = texts.iter().map(|(name, text)| (*name, text.as_str()));
        Some(self.key.digest(pairs))
    }

    /// A configured refresh token that is not the one the stored chain began with is newer than the chain.
    pub(super) fn note_seed(&mut self, endpoint: &Endpoint, variables: &Variables) {
        if !self.grant_takes_refresh_token(endpoint) {
            return;
        }
        let seed = variables
            .get(REFRESH_TOKEN)
            .map(|var| self.key.digest([(REFRESH_TOKEN, var_text(var).as_str())]));
        if seed.is_some() && seed != self.saved.seed {
            self.saved.seed = seed;
            self.saved.refresh_token = None;
            self.unsaved = true;
        }
    }

    pub(super) fn grant_takes_refresh_token(&self, endpoint: &Endpoint) -> bool {
        endpoint.plan.required_variables().contains(REFRESH_TOKEN)
    }

    pub(super) fn is_spent(&self, digest: Option<&str>) -> bool {
        digest.is_some_and(|digest| self.saved.spent.contains(digest))
    }

    fn choose<'a>(
        &self,
        endpoint: &'a Endpoint,
        variables: &Variables,
    ) -> Result<Ask<'a>, Failure> {
        let plan = &endpoint.plan;
        let grant = |spends| Ask::Grant {
            request: &plan.request,
            spends,
        };
        let input = self.one_time_digest(endpoint, variables);
        if let Some(digest) = input
            .as_ref()
            .filter(|digest| !self.saved.spent.contains(*digest))
        {
            return Ok(grant(Some(digest.clone())));
        }
        if let (Some(request), Some(token)) = (&plan.refresh, &self.saved.refresh_token) {
            return Ok(Ask::Refresh {
                request,
                token: token.clone(),
            });
        }
        if plan.one_time.is_empty() {
            let lacks_refresh_token = self.grant_takes_refresh_token(endpoint)
                && self.saved.refresh_token.is_none()
                && !variables.contains_key(REFRESH_TOKEN);
            if lacks_refresh_token {
                return Err(Failure::LoginRequired(format!(
                    "a refresh token is missing; `cupbearer login {}` asks for one",
                    self.provider.name
                )));
            }
            return Ok(grant(None));
        }
        let inputs = plan.one_time.join(", ");
        let what = match input {
            Some(_) => format!("the one-time input ({inputs}) is already spent"),
            None => format!("a one-time input is missing: {inputs}"),
        };
        Err(Failure::LoginRequired(format!(
            "{what}; `cupbearer login {}` brings a new one",
            self.provider.name
        )))
    }

    /// Whether the refresh token is given up. Where the grant cannot be repeated that is the end until somebody logs in,
    /// so that the vendor has to say it in words: a firewall's 403 and a gateway's 404 only make the next attempt wait.
    fn is_dead(&self, endpoint: &Endpoint, error: &FetchError) -> bool {
        let says_so = || {
            let code = error.code();
            error.is_invalid_grant()
                || code.is_some_and(|it| endpoint.plan.response.is_permanent(it))
        };
        error.kills_refresh_token() && (endpoint.plan.one_time.is_empty() || says_so())
    }
}

fn var_text(var: &Var) -> Zeroizing<String> {
    Zeroizing::new(match var {
        Var::Text(secret) => secret.expose().to_owned(),
        Var::Integer(number) => number.to_string(),
        Var::Boolean(truth) => truth.to_string(),
    })
}
