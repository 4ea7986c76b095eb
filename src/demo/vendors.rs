//! Five fake vendors, each as strict as its document.
//!
//! A [`FakeVendor`] is a token endpoint and an API, each on its own port with TLS. The token
//! endpoint checks method, path, headers, encoding and credentials. The API responds with 401
//! unless a valid token is in exactly the right header. [`FakeVendor::refusals`] lists the reason
//! of every refusal, to explain failing tests. [`Fault`]s make a vendor misbehave.

mod api;
mod besender;
mod call;
mod cncn;
mod ctcfile;
mod fault;
mod identityserver;
mod ledger;
mod passport;
mod serve;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::authority::{Authority, AuthorityError, Offer};
use ledger::Ledger;

pub use fault::{Fault, UnknownFault};

/// A vendor whose document is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Cncn,
    Besender,
    Ctcfile,
    IdentityServer,
    Passport,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How long tokens live; by default as in the document.
    pub life: Option<Duration>,
    /// TLS options of the API. The token endpoint always offers HTTP/1.1 only.
    pub api: Offer,
    /// Receives all events, in order.
    pub events: Option<UnboundedSender<Event>>,
}

/// An observation of a vendor. Holds no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub vendor: Kind,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Tokens are numbered from 1.
    TokenIssued {
        number: u64,
        grant: String,
        life: Duration,
    },
    TokenRefused {
        reason: String,
    },
    /// The API served a request that carried this token.
    ApiServed {
        number: u64,
        request: String,
    },
    ApiRejected {
        request: String,
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub token_requests: u64,
    pub issued: u64,
    pub refused: u64,
    pub api_requests: u64,
    pub api_rejected: u64,
}

/// Why a vendor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("cannot listen on loopback: {0}")]
    Listen(#[from] std::io::Error),
}

/// A demo credential, which is valid for the fake vendor only and need not be kept secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    Text(&'static str),
    Integer(i64),
}

/// A running vendor. Dropping it stops it.
pub struct FakeVendor {
    token_addr: SocketAddr,
    api_addr: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Cncn,
        Self::Besender,
        Self::Ctcfile,
        Self::IdentityServer,
        Self::Passport,
    ];

    /// Returns the name, which is also the name of the built-in dialect.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cncn => "cncn",
            Self::Besender => "besender",
            Self::Ctcfile => "ctcfile",
            Self::IdentityServer => "identityserver",
            Self::Passport => "passport",
        }
    }

    /// Describes the vendor's token request for people.
    pub fn asks_by(self) -> &'static str {
        match self {
            Self::Cncn => "POST form, Basic with md5(secret)",
            Self::Besender => "POST JSON, client id a number",
            Self::Ctcfile => "GET, secret in query, single active",
            Self::IdentityServer => "POST form, password, then refresh",
            Self::Passport => "POST form, password, empty scope",
        }
    }

    pub fn token_path(self) -> &'static str {
        match self {
            Self::Cncn => cncn::PATH,
            Self::Besender => besender::PATH,
            Self::Ctcfile => ctcfile::PATH,
            Self::IdentityServer => identityserver::PATH,
            Self::Passport => passport::PATH,
        }
    }

    /// Returns the base path of the vendor's API.
    pub fn api_path(self) -> &'static str {
        match self {
            Self::Cncn | Self::Ctcfile | Self::Passport => "/api",
            Self::Besender => "/open/api/v1",
            Self::IdentityServer => "/v1",
        }
    }

    /// Returns the token lifetime in the vendor's document.
    pub fn documented_life(self) -> Duration {
        Duration::from_secs(match self {
            Self::Cncn | Self::Ctcfile | Self::IdentityServer => 3600,
            Self::Besender => 86_400,
            Self::Passport => 31_536_000,
        })
    }

    /// Returns the keys that a provider's table needs in addition to `dialect` and `token_url`.
    pub fn credentials(self) -> &'static [(&'static str, Credential)] {
        match self {
            Self::Cncn => cncn::CREDENTIALS,
            Self::Besender => besender::CREDENTIALS,
            Self::Ctcfile => ctcfile::CREDENTIALS,
            Self::IdentityServer => identityserver::CREDENTIALS,
            Self::Passport => passport::CREDENTIALS,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FakeVendor {
    /// Starts the vendor on two free loopback ports, as tasks of the current runtime.
    pub async fn start(
        authority: &Authority,
        kind: Kind,
        options: Options,
    ) -> Result<Self, StartError> {
        let names = ["127.0.0.1", "localhost"];
        let token_tls = authority.server(&names, Offer::default())?;
        let api_tls = authority.server(&names, options.api)?;
        let token_listener = TcpListener::bind("127.0.0.1:0").await?;
        let api_listener = TcpListener::bind("127.0.0.1:0").await?;
        let (token_addr, api_addr) = (token_listener.local_addr()?, api_listener.local_addr()?);
        let shared = Arc::new(Shared {
            kind,
            events: options.events,
            state: Mutex::new(State {
                fault: None,
                life: options.life.unwrap_or_else(|| kind.documented_life()),
                ledger: Ledger::new(kind),
                identity: identityserver::Accounts::default(),
                counters: Counters::default(),
                refusals: Vec::new(),
            }),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve::run(
            token_listener,
            token_tls,
            Role::Token,
            Arc::clone(&shared),
        ));
        tasks.spawn(serve::run(
            api_listener,
            api_tls,
            Role::Api,
            Arc::clone(&shared),
        ));
        Ok(Self {
            token_addr,
            api_addr,
            shared,
            _tasks: tasks,
        })
    }

    pub fn kind(&self) -> Kind {
        self.shared.kind
    }

    pub fn token_url(&self) -> String {
        format!("https://{}{}", self.token_addr, self.kind().token_path())
    }

    /// Returns the URL of the authorization endpoint, if the vendor has one.
    pub fn authorization_url(&self) -> Option<String> {
        let path = identityserver::AUTHORIZATION_PATH;
        (self.kind() == Kind::IdentityServer).then(|| format!("https://{}{path}", self.token_addr))
    }

    /// Returns the API's base URL; every path below it is served.
    pub fn api_url(&self) -> String {
        format!("https://{}{}", self.api_addr, self.kind().api_path())
    }

    pub fn counters(&self) -> Counters {
        self.shared.state().counters
    }

    /// Returns why requests were refused, by the token endpoint and the API: the last 1,000, oldest
    /// first.
    pub fn refusals(&self) -> Vec<String> {
        self.shared.state().refusals.clone()
    }

    /// Makes the token endpoint misbehave from the next request on; `None` ends that.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.shared.state().fault = fault;
    }

    /// Returns the lifetime of newly issued tokens.
    pub fn life(&self) -> Duration {
        self.shared.state().life
    }

    /// Sets the lifetime of tokens issued from now on.
    pub fn set_life(&self, life: Duration) {
        self.shared.state().life = life;
    }

    /// Revokes all tokens issued so far.
    pub fn kill_tokens(&self) {
        self.shared.state().ledger.kill("was revoked");
    }

    /// Adds a valid one-time input: an authorization code or an SMS code.
    pub fn add_one_time(&self, code: &str) {
        self.shared.state().identity.add_one_time(code);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Token,
    Api,
}

struct Shared {
    kind: Kind,
    events: Option<UnboundedSender<Event>>,
    state: Mutex<State>,
}

struct State {
    fault: Option<Fault>,
    life: Duration,
    ledger: Ledger,
    identity: identityserver::Accounts,
    counters: Counters,
    refusals: Vec<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, what: What) {
        if let Some(events) = &self.events {
            // The receiver may be gone.
            let _ = events.send(Event {
                vendor: self.kind,
                what,
            });
        }
    }
}

impl State {
    fn record_refusal(&mut self, reason: String) {
        const KEPT: usize = 1000;
        if self.refusals.len() == KEPT {
            self.refusals.remove(0);
        }
        self.refusals.push(reason);
    }
}
