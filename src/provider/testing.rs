//! Providers, vendors and a captured log for the tests of the control flow.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::clock::Clock;
use crate::config::{
    BrowserRules, Egress, Endpoint, LifeCycle, Origin, Provider, Scheme, Tls, TokenSource, Value,
};
use crate::dialect::{
    self, DialectToml, Expiry, Issued, Overrides, Plan, Refusal, RejectRules, Var,
};
use crate::dialect::{FailureClass, Source};
use crate::provider::exchange::{
    Fetch, FetchError, Fetched, Pending, RawResponse, TokenCall, TokenConnection,
};
use crate::upstream::connect::{ConnectError, Peer};

/// A provider of a dialect in TOML, changed by `configure`.
pub(crate) fn provider(
    name: &str,
    dialect: &str,
    configure: impl FnOnce(&mut Provider),
) -> Provider {
    let plan = compile(dialect);
    let mut provider = Provider {
        name: name.to_owned(),
        life: LifeCycle {
            refresh_before: None,
            min_interval: Duration::from_secs(5),
            ttl: None,
            single_active: plan.exchange.single_active,
            required: true,
        },
        source: TokenSource::Endpoint(Box::new(Endpoint {
            token_url: Origin {
                scheme: Scheme::Http,
                host: "127.0.0.1".to_owned(),
                port: 1,
                authority: "vendor.test".to_owned(),
            },
            path_and_query: "/token?secret=hunter2-query".to_owned(),
            authorization_url: None,
            device_authorization_url: None,
            issuer: None,
            allow_http: false,
            plan: plan.exchange,
            timeout: Duration::from_secs(10),
            tls: Tls::default(),
            egress: None,
            egress_later: Egress::default(),
            browser: BrowserRules::default(),
            identity: format!("identity of {name}"),
        })),
        inject: plan.inject,
        reject: plan.reject,
        variables: BTreeMap::new(),
    };
    for (name, value) in [("client_id", "joelhy"), ("client_secret", "hunter2")] {
        provider.variables.insert(name.to_owned(), literal(value));
    }
    configure(&mut provider);
    provider
}

pub(crate) fn static_provider(name: &str, access_token: Value) -> Provider {
    let mut provider = provider(name, CLIENT_CREDENTIALS, |_| {});
    provider.source = TokenSource::Static { access_token };
    provider.reject = RejectRules::default();
    provider
}

pub(crate) fn endpoint(provider: &mut Provider) -> &mut Endpoint {
    match &mut provider.source {
        TokenSource::Endpoint(endpoint) => endpoint,
        _ => panic!("no endpoint"),
    }
}

pub(crate) fn literal(text: &str) -> Value {
    Value::Literal(Var::Text(text.into()))
}

/// A repeatable grant without refresh.
pub(crate) const CLIENT_CREDENTIALS: &str = r#"
default_grant = "main"
[grants.main.form]
grant_type = "client_credentials"
client_id = "{client_id}"
client_secret = "{client_secret}"
[response]
token = "/access_token"
expires = "/expires_in"
error = "/error"
error_description = "/error_description"
[inject]
headers = { Authorization = "Bearer {access_token}" }
"#;

/// A repeatable grant with refresh.
pub(crate) const PASSWORD: &str = r#"
default_grant = "main"
[grants.main]
form = { grant_type = "password", client_id = "{client_id}", password = "{client_secret}" }
[refresh]
form = { grant_type = "refresh_token", refresh_token = "{refresh_token}" }
[response]
token = "/access_token"
expires = "/expires_in"
refresh_token = "/refresh_token"
error = "/error"
[inject]
headers = { Authorization = "Bearer {access_token}" }
"#;

/// A grant that spends its input.
pub(crate) const SMS: &str = r#"
default_grant = "main"
[grants.main]
form = { grant_type = "sms", sms = "{sms}" }
one_time = ["sms"]
[refresh]
form = { grant_type = "refresh_token", refresh_token = "{refresh_token}" }
[response]
token = "/access_token"
refresh_token = "/refresh_token"
[inject]
headers = { Authorization = "Bearer {access_token}" }
"#;

/// The `refresh_token` grant.
pub(crate) const REFRESH_TOKEN: &str = r#"
default_grant = "main"
[grants.main]
form = { grant_type = "refresh_token", refresh_token = "{refresh_token}" }
[response]
token = "/access_token"
refresh_token = "/refresh_token"
error = "/error"
[inject]
headers = { Authorization = "Bearer {access_token}" }
"#;

/// The name of a built-in dialect, or a dialect.
fn compile(dialect: &str) -> Plan {
    let mut user = BTreeMap::new();
    let name = if dialect.contains('\n') {
        user.insert(
            "test".to_owned(),
            toml::from_str::<DialectToml>(dialect).unwrap(),
        );
        "test"
    } else {
        dialect
    };
    dialect::compile(&Source {
        dialect: name,
        user: &user,
        overrides: &Overrides::default(),
        grant: None,
        auth_method: None,
    })
    .unwrap()
}

/// A scripted vendor that records its requests.
pub(crate) struct FakeVendor {
    clock: Clock,
    script: Mutex<Script>,
}

struct Script {
    calls: Vec<Asked>,
    answers: VecDeque<Reply>,
    /// Reply after the end of the script.
    always: Reply,
    takes: Duration,
    dialling_takes: Duration,
    in_flight: u32,
    most_in_flight: u32,
}

/// One request that the vendor received.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// Since the vendor was made.
    pub(crate) at: Duration,
    /// Body of the request.
    pub(crate) body: String,
}

#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Token and life in seconds.
    Token(&'static str, u64),
    /// A new token each time, with this life in seconds.
    Fresh(u64),
    /// Access token, refresh token, life in seconds.
    Pair(&'static str, &'static str, u64),
    Refuse(FailureClass, &'static str),
    RetryAfter(u64),
    /// The dial fails; nothing is sent.
    NoDial,
    /// The connection is lost after the request.
    Lost,
    /// The request panics.
    Panic,
}

impl FakeVendor {
    pub(crate) fn new(clock: Clock, always: Reply) -> Arc<Self> {
        Arc::new(Self {
            clock,
            script: Mutex::new(Script {
                calls: Vec::new(),
                answers: VecDeque::new(),
                always,
                takes: Duration::from_millis(20),
                dialling_takes: Duration::ZERO,
                in_flight: 0,
                most_in_flight: 0,
            }),
        })
    }

    pub(crate) fn then(&self, answers: impl IntoIterator<Item = Reply>) {
        self.script.lock().unwrap().answers.extend(answers);
    }

    pub(crate) fn always(&self, reply: Reply) {
        let mut script = self.script.lock().unwrap();
        script.answers.clear();
        script.always = reply;
    }

    pub(crate) fn takes(&self, time: Duration) {
        self.script.lock().unwrap().takes = time;
    }

    pub(crate) fn dialling_takes(&self, time: Duration) {
        self.script.lock().unwrap().dialling_takes = time;
    }

    pub(crate) fn calls(&self) -> Vec<Asked> {
        self.script.lock().unwrap().calls.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.calls().len()
    }

    pub(crate) fn most_in_flight(&self) -> u32 {
        self.script.lock().unwrap().most_in_flight
    }
}

/// Implements `Fetch` for a shared vendor.
pub(crate) struct FakeFetch(pub(crate) Arc<FakeVendor>, pub(crate) Instant);

struct FakeLine {
    vendor: Arc<FakeVendor>,
    reply: Reply,
    started: Instant,
}

impl Fetch for FakeFetch {
    fn dial<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        _deadline: Instant,
    ) -> Pending<'a, Result<Box<dyn TokenConnection>, FetchError>> {
        let (reply, takes) = {
            let mut script = self.0.script.lock().unwrap();
            let reply = script.answers.pop_front();
            let reply = reply.unwrap_or_else(|| script.always.clone());
            (reply, script.dialling_takes)
        };
        Box::pin(async move {
            sleep(takes).await;
            if let Reply::NoDial = reply {
                return Err(nobody_there(endpoint));
            }
            let line = FakeLine {
                vendor: Arc::clone(&self.0),
                reply,
                started: self.1,
            };
            Ok(Box::new(line) as Box<dyn TokenConnection>)
        })
    }
}

fn nobody_there(endpoint: &Endpoint) -> FetchError {
    let peer = Peer {
        host: endpoint.token_url.host.clone(),
        port: endpoint.token_url.port,
        egress: false,
    };
    let source = Arc::new(std::io::ErrorKind::ConnectionRefused.into());
    FetchError::Dial(ConnectError::Refused { peer, source })
}

impl TokenConnection for FakeLine {
    fn send<'a>(
        self: Box<Self>,
        call: TokenCall<'a>,
        _deadline: Instant,
    ) -> Pending<'a, Result<Fetched, FetchError>> {
        Box::pin(async move {
            let sent = self.vendor.clock.now();
            let frozen = dialect::Frozen {
                token_url: call.endpoint.address(),
                now: sent.wall,
                nonce: String::new(),
                uuid: String::new(),
            };
            let request = call.request.render(call.variables, &frozen).unwrap();
            let (number, takes) = {
                let mut script = self.vendor.script.lock().unwrap();
                script.calls.push(Asked {
                    at: self.started.elapsed(),
                    body: String::from_utf8(request.body.to_vec()).unwrap(),
                });
                script.in_flight += 1;
                script.most_in_flight = script.most_in_flight.max(script.in_flight);
                (script.calls.len(), script.takes)
            };
            sleep(takes).await;
            self.vendor.script.lock().unwrap().in_flight -= 1;
            let issued = self
                .reply
                .read(number, &call.endpoint.token_url.authority)?;
            Ok(Fetched { issued, sent })
        })
    }

    fn ask<'a>(
        self: Box<Self>,
        _endpoint: &'a Endpoint,
        _request: dialect::TokenRequest,
        _deadline: Instant,
    ) -> Pending<'a, Result<RawResponse, FetchError>> {
        unreachable!("a scripted vendor only gives tokens")
    }
}

impl Reply {
    fn read(&self, number: usize, host: &str) -> Result<Issued, FetchError> {
        let issued = |token: &str, refresh: Option<&str>, life: u64| Issued {
            access_token: token.into(),
            refresh_token: refresh.map(Into::into),
            expiry: match life {
                0 => Expiry::Unstated,
                life => Expiry::In(Duration::from_secs(life)),
            },
            warnings: Vec::new(),
        };
        let refused = |class, code: Option<&str>, retry_after| FetchError::Refused {
            host: host.to_owned(),
            refusal: Refusal {
                class,
                is_final: false,
                status: 400,
                code: code.map(str::to_owned),
                description: None,
                retry_after,
                detail: None,
            },
        };
        match self {
            Self::Token(token, life) => Ok(issued(token, None, *life)),
            Self::Fresh(life) => Ok(issued(&format!("hunter2-token-{number}"), None, *life)),
            Self::Pair(token, refresh, life) => Ok(issued(token, Some(refresh), *life)),
            Self::Refuse(class, code) => Err(refused(*class, Some(code), None)),
            Self::RetryAfter(seconds) => Err(refused(
                FailureClass::Transient,
                None,
                Some(Duration::from_secs(*seconds)),
            )),
            Self::Panic => panic!("as told"),
            Self::NoDial | Self::Lost => Err(FetchError::Broken {
                host: host.to_owned(),
                reason: "connection closed before message completed".to_owned(),
            }),
        }
    }
}

/// All log lines of this thread, at every level.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Captures logging until the guard is dropped.
    pub(crate) fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        tracing::subscriber::set_default(
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_ansi(false)
                .with_writer(move || log.clone())
                .finish(),
        )
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
