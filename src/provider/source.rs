//! CONTROL, source: which request to send now, with what, and what to keep of the answer.
//!
//! The rules of one-time inputs and refresh tokens live here (DESIGN.md §6.8):
//! - a one-time input is marked as spent, durably, before it is sent, and never sent again whatever happens;
//! - a refresh token is used only where the dialect has `[refresh]`, or the grant itself takes one;
//! - a dead refresh token falls back to the grant where that is repeatable.
//!
//! So does the order of a single-active exchange (DESIGN.md §6.5): dial, close the gate, send.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::clock::{Clock, Now};
use crate::config::{Endpoint, Provider, TokenSource, Value};
use crate::dialect::{MadePlan, Problem, RequestPlan, Var, Variables};
use crate::provider::cell::Gatekeeper;
use crate::provider::chain::{Inner, Tokens};
use crate::provider::discovery::discover;
use crate::provider::exchange::{
    Answered, Call, Fetch, FetchError, Fetched, Line, Turn, frozen, prepare,
};
use crate::provider::schedule::Life;
use crate::provider::store::{Saved, SavedAccess, StateKey, Store, StoreError};
use crate::provider::{identity, inputs, static_token};
use crate::secret::Secret;

/// Access tokens that live longer are kept over restarts.
const LONG_LIVED: Duration = Duration::from_secs(24 * 3600);

const REFRESH_TOKEN: &str = "refresh_token";

const NO_LOGIN: &str = "a provider that is given its token has no login";

/// Where one identity's tokens come from, and what is remembered between two of them.
pub(super) struct Source {
    provider: Arc<Provider>,
    key: StateKey,
    store: Arc<dyn Store>,
    fetcher: Arc<dyn Fetch>,
    clock: Clock,
    saved: Saved,
    /// The last write to the store failed: the next one is due even if nothing changes.
    unsaved: bool,
    /// It holds something that only the memory has, such as the one refresh token that is good.
    owed: bool,
    /// What is closed while a single-active token is exchanged; none where no requests are served.
    gate: Option<Gatekeeper>,
    tokens: Tokens,
    /// The tokens that this one is bought with.
    inner: Inner,
    /// What the issuer said of itself, until something goes wrong with it.
    found: Option<Box<Endpoint>>,
    errand: Arc<Errand>,
}

/// What whoever ends a [`Source`] and the source itself know of each other.
#[derive(Debug, Default)]
pub(super) struct Errand {
    /// Nothing is to be sent any more.
    ending: AtomicBool,
    /// What was sent last cannot be sent again, and what it brings is not kept yet.
    spends: AtomicBool,
}

/// Why there is no new token.
#[derive(Debug)]
pub(super) enum Failure {
    Fetch(FetchError),
    /// Nothing is left that could be sent; the reason, for people.
    LoginRequired(String),
}

impl<E: Into<FetchError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Fetch(error.into())
    }
}

/// What [`Source::take_up`] brought.
#[derive(Debug)]
pub(super) struct TakenUp {
    /// A token that we did not have.
    pub(super) access: Option<SavedAccess>,
    /// Whether there is another refresh token.
    pub(super) refresh_token: bool,
    /// What could not be opened.
    pub(super) refused: Vec<StoreError>,
}

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
    pub(super) fn new(
        provider: Arc<Provider>,
        store: Arc<dyn Store>,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        tokens: Tokens,
    ) -> Self {
        let key = StateKey::new(&identity(&provider));
        let inner = Inner::new(&provider, key.clone(), &tokens);
        Self {
            provider,
            key,
            store,
            fetcher,
            clock,
            saved: Saved::default(),
            unsaved: false,
            owed: false,
            gate: None,
            tokens,
            inner,
            found: None,
            errand: Arc::default(),
        }
    }

    /// Closes this cell's gate before each exchange that kills the token in it. It is opened by whoever publishes the
    /// result; a failure opens it at once.
    pub(super) fn with_gate(mut self, gate: Gatekeeper) -> Self {
        self.gate = Some(gate);
        self
    }

    /// What the issuer said of itself just now.
    pub(super) fn with_found(mut self, found: Option<Endpoint>) -> Self {
        self.found = found.map(Box::new);
        self
    }

    pub(super) fn errand(&self) -> Arc<Errand> {
        Arc::clone(&self.errand)
    }

    /// What was sent last has ended, and what came of it is kept.
    pub(super) fn settled(&self) {
        self.errand.spends.store(false, Ordering::SeqCst);
    }

    /// Another configuration of the same identity: what is remembered stays.
    pub(super) fn set_provider(&mut self, provider: Arc<Provider>) {
        self.inner.replace(&provider, &self.tokens);
        self.found = None;
        self.provider = provider;
    }

    /// Waits until a token that this one was bought with is another. Cancel safe.
    pub(super) fn inner_changed(&self) -> impl Future<Output = ()> + use<> {
        self.inner.changed()
    }

    /// Such a change is told once: what is bought next is bought with what is there then. Answers whether it is what came of
    /// our own report that the vendor refused it.
    pub(super) fn inner_seen(&mut self) -> bool {
        self.inner.seen()
    }

    /// By provider, what the last token was bought with, as the store keeps it.
    pub(super) fn bought_with(&self) -> BTreeMap<String, String> {
        self.inner.bought_with()
    }

    /// The token in use is one that another process bought with these.
    pub(super) fn took_up(&mut self, bought_with: &BTreeMap<String, String>) {
        self.inner.resume(bought_with);
    }

    /// Reads what an earlier process left. Must succeed before anything is sent: without it, a spent input might be
    /// sent again.
    pub(super) async fn load(&mut self) -> Result<Option<SavedAccess>, StoreError> {
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
    pub(super) fn left_by_others(&self) -> impl Future<Output = ()> + use<> {
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
    pub(super) async fn take_up(&mut self) -> Result<TakenUp, StoreError> {
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

    /// The grant with what a person has just given for it, and nothing else: the store's refresh token stays untouched,
    /// for a running proxy may be using it. Not cancel safe.
    pub(super) async fn login(&mut self, given: Variables) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        let TokenSource::Endpoint(endpoint) = &provider.source else {
            return Err(Failure::LoginRequired(NO_LOGIN.to_owned()));
        };
        let endpoint = &*self.endpoint(endpoint).await?;
        let mut configured = provider.variables.clone();
        configured.retain(|name, _| !given.contains_key(name));
        let mut variables = self.variables(endpoint, &configured).await?;
        self.note_seed(endpoint, &variables);
        if let Some(token) = given.get(REFRESH_TOKEN) {
            // From here on it is the head of the chain; saved with the answer, whether that holds a newer one or not.
            self.saved.refresh_token = Some(token.to_text());
            self.unsaved = true;
        }
        variables.extend(given);
        let spends = self.one_time_digest(endpoint, &variables);
        if self.is_spent(spends.as_deref()) {
            let inputs = endpoint.plan.one_time.join(", ");
            return Err(Failure::LoginRequired(format!(
                "the one-time input ({inputs}) was sent before, and is never sent twice: get a new one"
            )));
        }
        self.grant(endpoint, &endpoint.plan.request, variables, spends)
            .await
    }

    /// The grant with what a person has given for it elsewhere (RFC 8628 §3.4): asked again and again until they have, so
    /// that nothing of it is spent by asking.
    pub(super) async fn poll(&mut self, given: Variables) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        let TokenSource::Endpoint(endpoint) = &provider.source else {
            return Err(Failure::LoginRequired(NO_LOGIN.to_owned()));
        };
        let endpoint = &*self.endpoint(endpoint).await?;
        let mut variables = self.variables(endpoint, &provider.variables).await?;
        variables.extend(given);
        let fetched = self.send(endpoint, &endpoint.plan.request, &variables, None);
        Ok(fetched.await?)
    }

    /// The device authorization request (RFC 8628 §3.1), and its answer if that is a good one.
    pub(super) async fn ask_for_device(&mut self) -> Result<Answered, Failure> {
        let provider = Arc::clone(&self.provider);
        let TokenSource::Endpoint(configured) = &provider.source else {
            return Err(Failure::LoginRequired(NO_LOGIN.to_owned()));
        };
        let unusable = |message: &str| {
            FetchError::Request(Problem {
                path: format!("providers.{}.device_authorization_url", provider.name),
                message: message.to_owned(),
            })
        };
        let endpoint = &*self.endpoint(configured).await?;
        let variables = self.variables(endpoint, &provider.variables).await?;
        let (Some(plan), Some(url)) = (&endpoint.plan.device, &endpoint.device_authorization_url)
        else {
            return Err(unusable(
                "is missing: the grant begins with a device code, and neither the provider nor its issuer says where to \
                 ask for one",
            )
            .into());
        };
        // From where the user's own host is known: the token endpoint may be on another one.
        let at = configured.at(url).map_err(unusable)?;
        // An assertion is for the authorization server, whichever of its endpoints it is sent to.
        let frozen = frozen(self.clock.now(), endpoint.address());
        let asked = prepare(&at, plan, &variables, &frozen)?;
        let deadline = Instant::now() + at.timeout;
        let line = self.fetcher.dial(&at, deadline).await?;
        let answered = line.ask(&at, asked.request, deadline).await?;
        if answered.status.is_success() {
            return Ok(answered);
        }
        let secrets: Vec<_> = asked.secrets.iter().collect();
        let answer = answered.answer(self.clock.now());
        let refusal = endpoint.plan.response.refused(answer, &secrets);
        Err(FetchError::Refused {
            host: at.token_url.authority,
            refusal,
        }
        .into())
    }

    /// A new token: whatever the source needs for it is sent now. Not cancel safe.
    pub(super) async fn fetch(&mut self) -> Result<Fetched, Failure> {
        let provider = Arc::clone(&self.provider);
        match &provider.source {
            TokenSource::Static { access_token } => {
                let now = self.clock.now();
                Ok(static_token::read(&provider.name, access_token, now).await?)
            }
            TokenSource::Made(plan) => self.make(plan).await,
            TokenSource::Endpoint(endpoint) => {
                let result = match self.endpoint(endpoint).await {
                    Ok(endpoint) => self.exchange(&endpoint).await,
                    Err(error) => Err(error.into()),
                };
                // A server that is in trouble is still where it was.
                if let Err(Failure::Fetch(error)) = &result
                    && error.doubts_address()
                {
                    self.found = None;
                }
                match &result {
                    Ok(_) => self.inner.succeeded(),
                    Err(Failure::Fetch(error)) if error.refuses_credentials() => self.inner.blame(),
                    Err(_) => {}
                }
                result
            }
        }
    }

    /// Keeps what must outlive the token, durably: a new refresh token is on disk before it is first used.
    /// The error is for the status; the token is good without it.
    pub(super) async fn keep(&mut self, fetched: &Fetched, life: &Life) -> Result<(), StoreError> {
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
    pub(super) fn owes(&self) -> bool {
        self.owed
    }

    /// Writes what could not be written. Not logged: the first failure was.
    pub(super) async fn save_again(&mut self) -> Result<(), StoreError> {
        match self.owed {
            true => self.write().await,
            false => Ok(()),
        }
    }

    /// Changes when a credential file does.
    pub(super) async fn fingerprint(&self) -> [u8; 32] {
        match &self.provider.source {
            TokenSource::Static { access_token } => inputs::fingerprint([access_token]).await,
            TokenSource::Endpoint(_) | TokenSource::Made(_) => {
                inputs::fingerprint(self.provider.variables.values()).await
            }
        }
    }

    pub(super) fn has_refresh_token(&self) -> bool {
        self.saved.refresh_token.is_some()
    }

    /// Without anything that a person has to bring.
    pub(super) fn renews_by_itself(&self) -> bool {
        match &self.provider.source {
            TokenSource::Static { .. } | TokenSource::Made(_) => true,
            TokenSource::Endpoint(endpoint) => renews_by_itself(endpoint, &self.saved),
        }
    }

    /// Whether this waits for its turns by itself, each request for that of the host that it goes to: the refresher takes the
    /// turn of all others. Whoever waits for another's token must not hold the turn that the other waits for, and where an
    /// issuer is asked first, only that one's words say whose the next turn is.
    pub(super) fn takes_turns(&self) -> bool {
        let by_issuer = || match &self.provider.source {
            TokenSource::Endpoint(endpoint) => endpoint.issuer.is_some(),
            TokenSource::Static { .. } | TokenSource::Made(_) => false,
        };
        !self.inner.is_none() || by_issuer()
    }

    /// Whatever it waits for, no other turn is held meanwhile.
    async fn turn(&self, endpoint: &Endpoint) -> Turn {
        match self.takes_turns() {
            true => self.fetcher.turn(endpoint).await,
            false => Turn::default(),
        }
    }

    pub(super) fn is_static(&self) -> bool {
        matches!(self.provider.source, TokenSource::Static { .. })
    }

    /// Nothing is sent for it, and nothing kept.
    pub(super) fn asks_nobody(&self) -> bool {
        !matches!(self.provider.source, TokenSource::Endpoint(_))
    }

    async fn make(&self, plan: &MadePlan) -> Result<Fetched, Failure> {
        let variables = inputs::resolve(&self.provider.name, &self.provider.variables).await?;
        let sent = self.clock.now();
        let issued = plan.make(&variables, &frozen(sent, String::new()));
        let issued = issued.map_err(FetchError::Request)?;
        Ok(Fetched { issued, sent })
    }

    /// As configured, or as the issuer says.
    async fn endpoint<'a>(
        &mut self,
        endpoint: &'a Endpoint,
    ) -> Result<Cow<'a, Endpoint>, FetchError> {
        let Some(issuer) = &endpoint.issuer else {
            return Ok(Cow::Borrowed(endpoint));
        };
        if self.found.is_none() {
            let _turn = self.turn(endpoint).await;
            let found = discover(endpoint, issuer, &*self.fetcher, &self.clock).await?;
            info!(
                provider = self.provider.name,
                token_url = found.address(),
                auth_method = found.plan.auth_method,
                "the issuer's metadata were read"
            );
            self.found = Some(Box::new(found));
        }
        Ok(match &self.found {
            Some(found) => Cow::Owned((**found).clone()),
            None => Cow::Borrowed(endpoint),
        })
    }

    /// What is configured, and the tokens that it names; those are waited for.
    async fn variables(
        &mut self,
        endpoint: &Endpoint,
        configured: &BTreeMap<String, Value>,
    ) -> Result<Variables, FetchError> {
        let missing = |provider| FetchError::Chained { provider };
        let clock = self.clock.clone();
        self.inner
            .wait(endpoint.timeout, || clock.now())
            .await
            .map_err(missing)?;
        let mut variables = inputs::resolve(&self.provider.name, configured).await?;
        self.inner
            .fill(configured, self.clock.now(), &mut variables)
            .map_err(missing)?;
        Ok(variables)
    }

    async fn exchange(&mut self, endpoint: &Endpoint) -> Result<Fetched, Failure> {
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

    async fn grant(
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

    /// Dials, marks what will be spent, sends.
    async fn send(
        &mut self,
        endpoint: &Endpoint,
        request: &RequestPlan,
        variables: &Variables,
        spends: Option<String>,
    ) -> Result<Fetched, FetchError> {
        let fetcher = Arc::clone(&self.fetcher);
        let _turn = self.turn(endpoint).await;
        let deadline = Instant::now() + endpoint.timeout;
        let line = fetcher.dial(endpoint, deadline).await?;
        // In this order: whoever ends this sees that it spends, or is seen here.
        let uses_up = spends.is_some() || variables.contains_key(REFRESH_TOKEN);
        self.errand.spends.store(uses_up, Ordering::SeqCst);
        if self.errand.ending.load(Ordering::SeqCst) {
            self.errand.spends.store(false, Ordering::SeqCst);
            return Err(FetchError::Ending);
        }
        let repeatable = spends.is_none();
        if let Some(digest) = spends {
            let mut saved = self.saved.clone();
            saved.spent.insert(digest);
            self.save_before_sending(saved).await?;
        }
        let call = Call {
            endpoint,
            request,
            variables,
        };
        match &self.gate {
            Some(gate) if self.provider.life.single_active => {
                self.send_alone(gate, line, call, deadline, repeatable)
                    .await
            }
            _ => line.send(call, deadline).await,
        }
    }

    /// Sends while no request is on its way with the token that this kills. After a success the gate is still closed.
    async fn send_alone(
        &self,
        gate: &Gatekeeper,
        line: Box<dyn Line>,
        call: Call<'_>,
        deadline: Instant,
        repeatable: bool,
    ) -> Result<Fetched, FetchError> {
        let began = Instant::now();
        gate.close().await;
        // The time-out is the vendor's; for how long our requests keep it waiting is not its matter.
        let deadline = deadline + began.elapsed();
        let mut result = line.send(call, deadline).await;
        let mut suspect = result.as_ref().is_err_and(FetchError::may_have_issued);
        if suspect && repeatable {
            info!(
                provider = self.provider.name,
                "the token request was sent and its answer lost: sending it once more"
            );
            let deadline = Instant::now() + call.endpoint.timeout;
            result = match self.fetcher.dial(call.endpoint, deadline).await {
                Ok(line) => line.send(call, deadline).await,
                Err(error) => Err(error),
            };
        }
        if let Err(error) = &result {
            suspect |= error.may_have_issued();
            gate.open(suspect);
        }
        result
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

    /// `None` for a grant without one-time inputs, and while one of them is not there.
    fn one_time_digest(&self, endpoint: &Endpoint, variables: &Variables) -> Option<String> {
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
    fn note_seed(&mut self, endpoint: &Endpoint, variables: &Variables) {
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

    fn grant_takes_refresh_token(&self, endpoint: &Endpoint) -> bool {
        endpoint.plan.required_variables().contains(REFRESH_TOKEN)
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

    fn is_spent(&self, digest: Option<&str>) -> bool {
        digest.is_some_and(|digest| self.saved.spent.contains(digest))
    }

    fn is_worth_keeping(&self, endpoint: &Endpoint, fetched: &Fetched, life: &Life) -> bool {
        let long_lived = life
            .expires_at
            .and_then(|at| at.duration_since(fetched.sent.wall).ok())
            .is_some_and(|life| life > LONG_LIVED);
        long_lived || self.provider.life.single_active || !endpoint.plan.one_time.is_empty()
    }

    async fn save(&mut self, saved: Saved) -> Result<(), StoreError> {
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

    async fn write(&mut self) -> Result<(), StoreError> {
        let written = self.store.save(&self.key, &self.saved).await;
        self.unsaved = written.is_err();
        self.owed = written.is_err();
        written
    }

    /// On failure nothing was sent, so nothing counts as spent.
    async fn save_before_sending(&mut self, saved: Saved) -> Result<(), FetchError> {
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
}

impl Errand {
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    pub(super) fn spends(&self) -> bool {
        self.spends.load(Ordering::SeqCst)
    }
}

/// As [`Source::renews_by_itself`], with what is stored.
pub(super) fn renews_by_itself(endpoint: &Endpoint, saved: &Saved) -> bool {
    let plan = &endpoint.plan;
    plan.one_time.is_empty() || (plan.refresh.is_some() && saved.refresh_token.is_some())
}

/// What of a stored access token is still good.
pub(super) fn resumed_life(
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

fn var_text(var: &Var) -> Zeroizing<String> {
    Zeroizing::new(match var {
        Var::Text(secret) => secret.expose().to_owned(),
        Var::Integer(number) => number.to_string(),
        Var::Boolean(truth) => truth.to_string(),
    })
}
