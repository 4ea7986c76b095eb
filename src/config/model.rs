//! The types of a checked configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;

use super::egress::{Egress, EgressProxy};
use super::origin::{Origin, Url};
use super::problems::Problem;
use super::units::Written;
use crate::dialect::{ExchangePlan, InjectPlan, LocalTokenPlan, RejectRules, Var};
use crate::secret::Secret;

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub store: Store,
    /// Sorted by name.
    pub providers: Vec<Arc<Provider>>,
    /// Sorted by name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Problems that do not prevent the start.
    pub warnings: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub listen: Vec<Listen>,
    /// `None` for `admin = "off"`.
    pub admin: Option<SocketAddr>,
    pub workers: usize,
    /// Limit on client connections of the whole process.
    pub max_connections: usize,
    /// Limit from the first byte of a request head to its last, and from accept to the first byte.
    pub header_timeout: Duration,
    /// Limit on a stalled transfer of a request or response body with the app.
    pub body_timeout: BodyTimeout,
    /// Limit on an app's keep-alive connection without a request.
    pub idle_timeout: Duration,
    /// Time after SIGTERM in which listeners still accept while `/readyz` already fails.
    pub shutdown_delay: Duration,
    /// Limit on draining requests in flight after `shutdown_delay`.
    pub shutdown_grace: Duration,
    /// Additional `Host` values to accept: lower case, with a port only if the file states one.
    pub allow_hosts: Vec<String>,
    /// Cross-site `Origin` values to accept.
    pub allow_origins: Vec<String>,
    pub client_auth: Option<ClientAuth>,
    /// Whether the proxy sends `Via`.
    pub via: bool,
    pub access_log: bool,
    /// Whether `POST /quitquitquit` on the admin port ends the process.
    pub quitquitquit: bool,
}

/// Limits on a body transfer in which no bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyTimeout {
    /// Limit for a body whose length was announced.
    pub announced: Duration,
    /// Limit for any other body. `None` means unlimited: event and gRPC streams may stay silent.
    pub streaming: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    /// Writes the address as the file does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The proof that an app may use the proxy.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientAuth {
    /// A header that must hold this value; the proxy does not forward the header.
    Header { name: HeaderName, value: Value },
    /// User ids that may connect to a Unix socket listener.
    PeerUid(Vec<u32>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub kind: StoreKind,
    /// 32-byte keys. The first key seals; every key opens.
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
    /// A JWT that the proxy signs itself, a new one for every renewal.
    SelfSigned(Box<LocalTokenPlan>),
}

#[derive(Clone, PartialEq)]
pub struct Endpoint {
    /// The issuer's own URL, together with `path_and_query`, until discovery replaces both.
    pub token_url: Origin,
    /// Path and query of the token URL, starting with `/`. The query may hold credentials; do not
    /// log it.
    pub path_and_query: String,
    /// RFC 6749 §3.1 authorization endpoint with its query, for grants with a `code`.
    pub authorization_url: Option<String>,
    /// RFC 8628 §3.1 device authorization endpoint.
    pub device_authorization_url: Option<String>,
    /// Source of the endpoint URLs (RFC 8414), instead of configured ones.
    pub issuer: Option<Box<Issuer>>,
    /// Permits plain HTTP off loopback.
    pub allow_http: bool,
    pub plan: ExchangePlan,
    /// Limit on one token request, including the dial.
    pub timeout: Duration,
    pub tls: Tls,
    pub egress: Option<EgressProxy>,
    /// Chooses the egress proxy for hosts that the issuer states.
    pub egress_later: Egress,
    pub browser: BrowserRules,
    /// token_url, grant, client_id, subject variables, scope, audience, resource. Providers of one
    /// identity share a cell and a refresher. Holds no secret; hash it for use as a file name.
    pub identity: String,
}

/// Issuer metadata that constrains the authorization request and its redirect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrowserRules {
    /// The issuer lists its challenge methods without S256 (RFC 7636 §4.2).
    pub lacks_s256: bool,
    /// The only issuer whose redirect is accepted, if known (RFC 9207 §2.4).
    pub issuer: Option<String>,
    /// The issuer promises to name itself in every redirect.
    pub names_issuer: bool,
}

/// An authorization server that publishes its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Issuer {
    /// The identifier as the file writes it; the metadata must repeat it exactly (RFC 8414 §3.3).
    pub text: String,
    /// Metadata paths in trial order: RFC 8414 §3.1, OpenID Connect Discovery 1.0 §4.
    pub well_known: [String; 2],
    /// Usable `auth_method`s and their plans, preferred first; empty if the provider sets the key.
    pub choices: Vec<(String, ExchangePlan)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LifeCycle {
    /// `None` derives the margin from the token's lifetime.
    pub refresh_before: Option<Duration>,
    pub min_interval: Duration,
    pub ttl: Option<Duration>,
    pub single_active: bool,
    pub required: bool,
}

/// The source of a credential or variable.
#[derive(Clone, PartialEq)]
pub enum Value {
    Literal(Var),
    /// Read once, with the configuration: a process's environment does not change.
    Env {
        name: String,
        value: Secret,
    },
    /// Read again at every fetch, less one trailing newline.
    File(PathBuf),
    /// Run at every fetch without a shell; the value is stdout less one trailing newline.
    Command(Vec<String>),
    /// The token that another provider holds at the moment of the fetch.
    Provider {
        name: String,
        /// The [`Provider::identity`] of that provider.
        identity: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Roots to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key for mTLS.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Name for SNI and certificate verification, instead of the URL's host.
    pub server_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    pub name: String,
    pub origin: Origin,
    /// Path of the upstream's URL without a trailing slash; empty for the root.
    pub base_path: String,
    /// Name of a provider in [`Config::providers`].
    pub provider: String,
    pub route: Route,
    /// An empty list allows every request.
    pub allow: Vec<AllowRule>,
    pub http: HttpVersion,
    /// Host and port to dial; names and `Host` stay the origin's.
    pub connect_to: Option<(String, u16)>,
    pub tls: Tls,
    pub egress: Option<EgressProxy>,
    /// Limit on DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Limit from the end of the request to the response head.
    pub response_timeout: Duration,
    /// Limit on a stalled body transfer with the upstream.
    pub body_timeout: BodyTimeout,
    /// Lifetime of an unused pooled connection.
    pub idle_timeout: Duration,
    pub token_wait: Duration,
    /// Bytes of a request body to buffer for a replay; 0 disables replays.
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
    /// Lower case; with a port only if the file states one.
    Host(String),
    /// A listener that serves only this upstream.
    Listen(Listen),
    CatchAll,
}

/// One entry of `allow`, such as `"GET /v1/**"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// `None` for `*`.
    pub method: Option<Method>,
    /// Percent-encoded literals, `*` for one segment, a final `**` for any number. A trailing slash
    /// is an empty last segment.
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
    /// Returns the key by which providers share a token; unique for static and self-made tokens.
    pub fn identity(&self) -> String {
        match &self.source {
            TokenSource::Endpoint(endpoint) => endpoint.identity.clone(),
            TokenSource::Static { .. } => format!("static\n{}", self.name),
            TokenSource::SelfSigned(_) => format!("made\n{}", self.name),
        }
    }

    /// Returns the names of the providers whose tokens this provider's variables use, each once.
    pub fn chained_providers(&self) -> Vec<String> {
        let names = self.variables.values().filter_map(|value| match value {
            Value::Provider { name, .. } => Some(name.clone()),
            _ => None,
        });
        BTreeSet::from_iter(names).into_iter().collect()
    }
}

impl Endpoint {
    /// Returns a copy with the token URL that the issuer states.
    ///
    /// Host-specific settings do not move to another host: `at` chooses the egress proxy again and
    /// drops `tls.server_name`. `ca_file` and the client certificate stay.
    ///
    /// # Errors
    ///
    /// The error completes "its … ".
    pub fn at(&self, url: &str) -> Result<Self, &'static str> {
        let url = Url::from_text(url).map_err(|_| "is no URL")?;
        if url.origin.needs_permission() && !self.allow_http {
            return Err("is a plain http:// URL, which would send credentials unencrypted");
        }
        let mut found = self.clone();
        found.path_and_query = url.path_and_query();
        found.egress = self.egress_later.to(&url.origin, self.egress.as_ref())?;
        if url.origin.host != self.token_url.host {
            found.tls.server_name = None;
        }
        found.token_url = url.origin;
        Ok(found)
    }

    /// Returns the token URL without its query.
    pub fn address(&self) -> String {
        let path = self.path_and_query.split('?').next().unwrap_or_default();
        format!("{}{path}", self.token_url.url())
    }
}

impl fmt::Debug for Endpoint {
    /// Omits the token URL's query: some vendors take credentials there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("token_url", &self.address())
            .field("plan", &self.plan)
            .field("timeout", &self.timeout)
            .field("tls", &self.tls)
            .field("egress", &self.egress)
            .field("identity", &self.identity)
            .finish()
    }
}

impl fmt::Debug for Value {
    /// Shows the source, not the value; of a command only the program, as arguments may be secret.
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
