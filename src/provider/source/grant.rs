//! Control flow: the choice between grant and refresh token, and the fallback after a refusal.
//!
//! - A one-time input is durably marked as spent before it is [sent](super::send), and never sent
//!   again.
//! - A refresh token is used only if the dialect has `[refresh]` or the grant takes one.
//! - A refresh that names `{access_token}` renews that token, until the vendor refuses or the life
//!   grows no more: then the grant is next.
//! - A dead refresh token falls back to the grant if the grant is repeatable.

use std::sync::Arc;

use tracing::info;

use super::state::{ACCESS_TOKEN, Failure, REFRESH_TOKEN, Renewable, Source};
use crate::config::Endpoint;
use crate::dialect::{RequestPlan, Var, Variables};
use crate::provider::exchange::{FetchError, Fetched};
use crate::secret::Secret;

/// The next request.
enum ChosenRequest<'a> {
    Grant {
        request: &'a RequestPlan,
        /// Digest that marks its one-time inputs as spent.
        spends: Option<String>,
    },
    Refresh {
        request: &'a RequestPlan,
        /// [`REFRESH_TOKEN`] or [`ACCESS_TOKEN`].
        variable: &'static str,
        token: Secret,
    },
}

impl Source {
    pub(crate) async fn exchange(&mut self, endpoint: &Endpoint) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        let variables = self.variables(endpoint, &provider.variables).await?;
        // Last chance to save a refresh token that this exchange may spend. A failed store
        // withholds no token.
        let _ = self.save_again().await;
        self.note_seed(endpoint, &variables);
        let dead = match self.choose(endpoint, &variables)? {
            ChosenRequest::Grant { request, spends } => {
                return self.grant(endpoint, request, variables, spends).await;
            }
            ChosenRequest::Refresh {
                request,
                variable,
                token,
            } => {
                let mut variables = variables.clone();
                variables.insert(variable.to_owned(), Var::Text(token));
                match self.send(endpoint, request, &variables, None).await {
                    // The access token itself cannot be renewed: it is dead, or at its longest life.
                    Err(error) if variable == ACCESS_TOKEN && error.refuses_credentials() => {
                        self.renewable = None;
                        error
                    }
                    Err(error) if self.is_dead(endpoint, &error) => error,
                    result => return Ok(result?),
                }
            }
        };
        if !endpoint.plan.one_time.is_empty() {
            // The refresh token stays in the store: a restart or a manual refresh tries it once
            // more.
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
        // A failed save is already logged; after a restart it only brings the dead token back.
        let _ = self.save(saved).await;
        self.grant(endpoint, &endpoint.plan.request, variables, None)
            .await
    }

    pub(crate) async fn grant(
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
        let sent = self.send(endpoint, request, &variables, spends.clone());
        let error = match sent.await {
            Ok(fetched) => return Ok(fetched),
            Err(error) => error,
        };
        let can_refresh = endpoint.plan.refresh.is_some() && self.saved.refresh_token.is_some();
        // RFC 6749 §5.2: the refresh token is the grant here, and only a new one can help.
        Err(if takes_refresh_token && error.is_invalid_grant() {
            Failure::LoginRequired(format!("the refresh token was refused: {error}"))
        } else if self.is_spent(spends.as_deref()) && !can_refresh {
            Failure::LoginRequired(format!(
                "the one-time input is spent, but its exchange failed: {error}"
            ))
        } else {
            Failure::Fetch(error)
        })
    }

    /// Returns `None` if the grant has no one-time input or one of them is missing.
    pub(crate) fn one_time_digest(
        &self,
        endpoint: &Endpoint,
        variables: &Variables,
    ) -> Option<String> {
        let names = &endpoint.plan.one_time;
        let texts = names
            .iter()
            .map(|name| Some((name, variables.get(name)?.to_text())));
        let texts: Vec<(&String, Secret)> = texts.collect::<Option<_>>()?;
        let pairs = texts
            .iter()
            .map(|(name, text)| (name.as_str(), text.expose()));
        (!texts.is_empty()).then(|| self.key.digest(pairs))
    }

    /// Replaces the stored refresh token if the configured one is not its ancestor, and so is
    /// newer.
    pub(crate) fn note_seed(&mut self, endpoint: &Endpoint, variables: &Variables) {
        if !self.grant_takes_refresh_token(endpoint) {
            return;
        }
        let seed = variables
            .get(REFRESH_TOKEN)
            .map(|var| self.key.digest([(REFRESH_TOKEN, var.to_text().expose())]));
        if seed.is_some() && seed != self.saved.seed {
            self.saved.seed = seed;
            self.saved.refresh_token = None;
            self.unsaved = true;
        }
    }

    pub(crate) fn grant_takes_refresh_token(&self, endpoint: &Endpoint) -> bool {
        endpoint.plan.required_variables().contains(REFRESH_TOKEN)
    }

    pub(crate) fn is_spent(&self, digest: Option<&str>) -> bool {
        digest.is_some_and(|digest| self.saved.spent.contains(digest))
    }

    fn choose<'a>(
        &self,
        endpoint: &'a Endpoint,
        variables: &Variables,
    ) -> Result<ChosenRequest<'a>, Failure> {
        let plan = &endpoint.plan;
        let grant = |spends| ChosenRequest::Grant {
            request: &plan.request,
            spends,
        };
        let input = self.one_time_digest(endpoint, variables);
        if input.is_some() && !self.is_spent(input.as_deref()) {
            return Ok(grant(input));
        }
        if let Some(request) = &plan.refresh
            && let Some((variable, token)) = self.renewed_token(request)
        {
            return Ok(ChosenRequest::Refresh {
                request,
                variable,
                token,
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

    /// Returns the token that a refresh sends, if there is one.
    fn renewed_token(&self, request: &RequestPlan) -> Option<(&'static str, Secret)> {
        if !request.names_access_token() {
            return Some((REFRESH_TOKEN, self.saved.refresh_token.clone()?));
        }
        let now = self.clock.now().wall;
        let lives = |held: &&Renewable| held.expires_at.is_none_or(|end| end > now);
        let held = self.renewable.as_ref().filter(lives)?;
        Some((ACCESS_TOKEN, held.token.clone()))
    }

    /// Returns whether to give up the refresh token. Where the grant cannot be repeated, this ends
    /// renewal until the next login, so the response must carry an error code: the 403 of a
    /// firewall or the 404 of a gateway only delays the next attempt.
    fn is_dead(&self, endpoint: &Endpoint, error: &FetchError) -> bool {
        let is_permanent = |code| endpoint.plan.response.is_permanent(code);
        error.kills_refresh_token()
            && (endpoint.plan.one_time.is_empty()
                || error.is_invalid_grant()
                || error.code().is_some_and(is_permanent))
    }
}
