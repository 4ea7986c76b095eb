//! Configuration: the file as it is written (`config/file.rs`) becomes a typed, cross-checked [`Config`].
//!
//! Everything that can be wrong is found here, all of it in one go, each with its key path and a hint and
//! never with a value; what the rest of the program gets cannot be wrong any more.

mod assemble;
mod chain;
mod context;
mod dialects;
mod egress;
mod file;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod identity;
mod origin;
mod problems;
mod provider;
mod read;
mod routes;
mod server;
mod units;
mod upstream;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;

use crate::dialect::{ExchangePlan, InjectPlan, MadePlan, RejectRules, Var};
use crate::secret::Secret;

pub use egress::Egress;
pub use files::named_files;
pub use origin::is_loopback;

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub store: Store,
    /// In the order of their names.
    pub providers: Vec<Arc<Provider>>,
    /// In the order of their names.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Worth telling the user, no reason to stop.
    pub warnings: Vec<Problem>,
}

/// Something wrong in the configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Dotted key path: `providers.cncn.client_secret`.
    pub path: String,
    /// What is wrong; never quotes a value.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub listen: Vec<Listen>,
    /// `None` for `admin = "off"`.
    pub admin: Option<SocketAddr>,
    pub workers: usize,
    /// Client connections of the whole process.
    pub max_connections: usize,
    /// For a request's head, from its first byte; also how long a fresh connection may stay silent.
    pub header_timeout: Duration,
    /// How long the app may neither send more of a body nor take more of one.
    pub body_timeout: Patience,
    /// How long a keep-alive connection of the app may stay idle between requests.
    pub idle_timeout: Duration,
    /// After SIGTERM: how long connections are still accepted while `/readyz` already says no.
    pub shutdown_delay: Duration,
    /// How long requests in flight may take to end after that.
    pub shutdown_grace: Duration,
    /// More `Host` values to accept, lower case, without port unless written with one.
    pub allow_hosts: Vec<String>,
    /// Cross-site `Origin` values to accept.
    pub allow_origins: Vec<String>,
    pub client_auth: Option<ClientAuth>,
    /// Whether `Via` is sent.
    pub via: bool,
    /// Whether each request is logged.
    pub access_log: bool,
    /// Whether `POST /quitquitquit` on the admin port ends the process.
    pub quitquitquit: bool,
}

/// How long a body may stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Where its length was stated before.
    pub known: Duration,
    /// Where it was not. `None`: for ever; events, gRPC streams and the like are quiet for as long as there is nothing to say.
    pub unknown: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    /// As it is written in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How an app proves that it may use the proxy.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientAuth {
    /// The header must hold this value; it is not forwarded.
    Header { name: HeaderName, value: Value },
    /// Only these users may connect to a Unix socket listener.
    PeerUid(Vec<u32>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub kind: StoreKind,
    /// 32-byte keys; the first seals, all open.
    pub keys: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    Memory,
    File { path: PathBuf },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    pub name: String,
    pub source: TokenSource,
    pub inject: InjectPlan,
    pub reject: RejectRules,
    pub variables: BTreeMap<String, Value>,
    pub life: LifeCycle,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TokenSource {
    /// An API key, a personal access token, a projected service-account token.
    Static {
        access_token: Value,
    },
    Endpoint(Box<Endpoint>),
    /// A JWT that signs for itself: made here, afresh for every renewal.
    Made(Box<MadePlan>),
}

#[derive(Clone, PartialEq)]
pub struct Endpoint {
    pub token_url: Origin,
    /// Path and query of the token URL, starting with `/`. Never logged with its query.
    pub path_and_query: String,
    /// RFC 6749 §3.1, where `login` sends the browser; whole, with its query. Only for grants with a `code`.
    pub authorization_url: Option<String>,
    /// RFC 8628 §3.1, where `login` asks for a device code.
    pub device_authorization_url: Option<String>,
    /// Where the addresses are found instead (RFC 8414). Until then `token_url` and path are the issuer's own.
    pub issuer: Option<Box<Issuer>>,
    /// Whether plain HTTP off loopback is permitted.
    pub allow_http: bool,
    pub plan: ExchangePlan,
    /// Of one whole token request, dial included.
    pub timeout: Duration,
    pub tls: Tls,
    pub egress: Option<EgressProxy>,
    /// For hosts that the issuer states.
    pub egress_later: Egress,
    /// Of the issuer's metadata, what the browser's part of a login needs.
    pub browser: BrowserRules,
    /// token_url, grant, client_id, subject variables, scope, audience, resource (DESIGN.md §2). Providers of
    /// one identity share a cell and a refresher. Holds no secret; hash it before it becomes a file name.
    pub identity: String,
}

/// What an issuer says of its authorization endpoint besides where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrowserRules {
    /// It lists its challenge methods, and S256 (RFC 7636 §4.2) is not among them.
    pub lacks_s256: bool,
    /// The issuer, where it is known: another one's redirect is not taken (RFC 9207 §2.4).
    pub issuer: Option<String>,
    /// It says that each redirect names it.
    pub names_issuer: bool,
}

/// An authorization server that says itself where its endpoints are.
#[derive(Clone, Debug, PartialEq)]
pub struct Issuer {
    /// As it is written, which is how its metadata must write it (RFC 8414 §3.3).
    pub text: String,
    /// Paths of its metadata, in the order in which they are tried: RFC 8414 §3.1, OpenID Connect Discovery 1.0 §4.
    pub well_known: [String; 2],
    /// What could be sent, by `auth_method`, in the order of preference; empty where the provider says which one.
    pub choices: Vec<(String, ExchangePlan)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LifeCycle {
    /// `None`: the default of DESIGN.md §2, by the token's life.
    pub refresh_before: Option<Duration>,
    pub min_interval: Duration,
    pub ttl: Option<Duration>,
    pub single_active: bool,
    pub required: bool,
}

/// A credential or variable: where it comes from.
#[derive(Clone, PartialEq)]
pub enum Value {
    Literal(Var),
    /// Read once, when the configuration is loaded: a process's environment does not change.
    Env {
        name: String,
        value: Secret,
    },
    /// Read again at every fetch; one trailing newline is dropped.
    File(PathBuf),
    /// Run at every fetch, without a shell; its standard output, one trailing newline dropped.
    Command(Vec<String>),
    /// The token of another provider, as of the moment of the fetch.
    Provider {
        name: String,
        /// Of that provider: what it shares its token by.
        identity: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

/// Where connections go and what the peer is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub scheme: Scheme,
    /// Lower case; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// For `Host` and `:authority`: brackets around IPv6, the port only if it is not the scheme's default.
    pub authority: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Instead of the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key for mTLS: both or neither.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// For SNI and the name check, instead of the URL's host.
    pub server_name: Option<String>,
}

/// An HTTP proxy that is asked to `CONNECT` to the origin.
#[derive(Clone, Debug, PartialEq)]
pub struct EgressProxy {
    pub host: String,
    pub port: u16,
    /// `Proxy-Authorization`, if the proxy's URL held credentials.
    pub authorization: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    pub name: String,
    pub origin: Origin,
    /// Path of the upstream's URL without a trailing slash; empty for the root.
    pub base_path: String,
    /// A provider of [`Config::providers`].
    pub provider: String,
    pub route: Route,
    /// Empty: everything is allowed.
    pub allow: Vec<AllowRule>,
    pub http: HttpVersion,
    /// Dial this instead of the origin; names and `Host` stay the origin's.
    pub connect_to: Option<(String, u16)>,
    pub tls: Tls,
    pub egress: Option<EgressProxy>,
    /// For DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// From the end of the request to the head of the response.
    pub response_timeout: Duration,
    /// How long the upstream may send nothing in the middle of a body.
    pub body_timeout: Patience,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    pub token_wait: Duration,
    /// Bytes of request body that are kept for a replay; 0 = never replay.
    pub replay_limit: usize,
    pub max_in_flight: Option<usize>,
    pub existing_credential: ExistingCredential,
    pub rewrite_redirects: bool,
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    pub remove_headers: Vec<HeaderName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Starts with `/`, has no trailing slash.
    PathPrefix(String),
    /// Lower case; without port unless written with one.
    Host(String),
    /// A listener of its own.
    Listen(Listen),
    CatchAll,
}

/// One `"GET /v1/**"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// `None` for `*`.
    pub method: Option<Method>,
    /// Path segments: a literal as it is written in requests (percent-encoded where need be), `*` for one segment,
    /// `**` (last only) for any number. The last is empty where the path ends in a slash; `/` alone is one such.
    pub segments: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    Auto,
    Http1,
    Http2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExistingCredential {
    Replace,
    Keep,
    Reject,
}

impl Provider {
    /// What providers have in common that share a token. One that asks nobody for it shares its own with nobody.
    pub fn identity(&self) -> String {
        match &self.source {
            TokenSource::Endpoint(endpoint) => endpoint.identity.clone(),
            TokenSource::Static { .. } => format!("static\n{}", self.name),
            TokenSource::Made(_) => format!("made\n{}", self.name),
        }
    }

    /// The providers whose tokens this one's is bought with.
    pub fn bought_with(&self) -> Vec<String> {
        chain::needed(self)
    }
}

impl Endpoint {
    /// The same with another token URL, which the issuer states. The error completes "its … ".
    ///
    /// What belongs to a host is that host's: the way out is chosen anew, and `tls.server_name` is only for the host that it
    /// was written for. `ca_file` and client certificate are the provider's, wherever it goes.
    pub fn at(&self, url: &str) -> Result<Self, &'static str> {
        let url = <origin::Url as units::Written>::from_text(url).map_err(|_| "is no URL")?;
        if url.origin.needs_permission() && !self.allow_http {
            return Err("is a plain http:// URL, which would send credentials unencrypted");
        }
        let egress = self.egress_later.to(&url.origin, self.egress.as_ref())?;
        let mut found = Self {
            path_and_query: url.path_and_query(),
            egress,
            ..self.clone()
        };
        if url.origin.host != self.token_url.host {
            found.tls.server_name = None;
        }
        found.token_url = url.origin;
        Ok(found)
    }

    /// The token URL without its query.
    pub fn address(&self) -> String {
        let path = self.path_and_query.split('?').next().unwrap_or_default();
        format!("{}{path}", self.token_url.url())
    }
}

impl fmt::Debug for Endpoint {
    /// Without the token URL's query: some vendors take credentials there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path_and_query.split('?').next().unwrap_or_default();
        f.debug_struct("Endpoint")
            .field("token_url", &self.token_url)
            .field("path", &path)
            .field("plan", &self.plan)
            .field("timeout", &self.timeout)
            .field("tls", &self.tls)
            .field("egress", &self.egress)
            .field("identity", &self.identity)
            .finish()
    }
}

impl fmt::Debug for Value {
    /// Where the value comes from, never what it is: of a command only the program, lest an argument is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal([redacted])"),
            Self::Env { name, .. } => write!(f, "Env({name:?})"),
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Command(command) => write!(f, "Command({:?})", command.first()),
            Self::Provider { name, .. } => write!(f, "Provider({name:?})"),
        }
    }
}

/// The process environment, so that tests can bring their own.
pub trait Environment {
    fn var(&self, name: &str) -> Option<String>;
}

/// The real one.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// A duration as the file writes it (`30s`, `250ms`), for flags. The error says what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|complaint| complaint.message)
}

impl Config {
    /// Reads and checks a configuration. Relative paths in it are taken relative to the working directory.
    ///
    /// # Errors
    ///
    /// All problems at once, in the order of their paths; at least one.
    pub fn from_toml(text: &str, env: &dyn Environment) -> Result<Self, Vec<Problem>> {
        assemble::config(text, env)
    }
}

#[cfg(test)]
mod tests;
