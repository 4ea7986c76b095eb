//! `cupbearer exec -- CMD`: a command with the proxy in front of it, for as long as the command runs.
//!
//! For development: the configuration of production, on free ports, so that nothing has to be stopped or edited first. The
//! command is told by its environment where the upstreams are, and never gets the credentials.

mod child;
mod environment;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use tokio::time::{Instant, sleep, timeout};

use super::admin::reachable;
use super::background::{Proxy, Running};
use super::config_file::{ConfigArgs, Loaded};
use super::core_dumps;
use super::failure::Failure;
use super::http::Server;
use super::log::LogArgs;
use super::progress::Progress;
use crate::admin::{ProviderReport, Report};
use crate::config::{
    self, ClientAuth, Config, Environment, Listen, ProcessEnvironment, Route, TokenSource,
    Upstream, Value,
};
use crate::provider::outside::{self, Harm};
use child::{Child, Signals};

/// How long a proxy that is running may take to say so.
const ANSWER: Duration = Duration::from_secs(3);

/// How often the proxy is asked whether its tokens are there.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Also set http_proxy, for apps that know the vendor's host: requests for http://HOST of a route by host get its token
    #[arg(long, env = "CUPBEARER_HTTP_PROXY", hide_env_values = true, value_parser = BoolishValueParser::new())]
    http_proxy: bool,

    /// How long to wait for the tokens before the command is given up
    #[arg(
        long,
        value_name = "TIME",
        value_parser = config::duration,
        default_value = "30s",
        env = "CUPBEARER_WAIT",
        hide_env_values = true
    )]
    wait: Duration,

    /// Run even if that may take the token of a proxy that runs with the same configuration from it
    #[arg(long, env = "CUPBEARER_FORCE", hide_env_values = true, value_parser = BoolishValueParser::new())]
    force: bool,

    #[command(flatten)]
    config: ConfigArgs,

    /// The command and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

pub(super) fn run(args: &ExecArgs, log: &LogArgs) -> Result<(), Failure> {
    let asked = Asked::default();
    let Loaded { config, .. } = args.config.load_with(&asked)?.with_commands_checked()?;
    log.start("warn")?;
    core_dumps::disable();
    warn_of_kills(&config, &mut io::stderr());
    let hidden = asked.credentials(&config);
    let runs_on = config.server.admin;
    let config = on_free_ports(config, args.http_proxy)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(runtime)?
        .block_on(async {
            if let Some(admin) = runs_on.filter(|_| !args.force) {
                refuse_harm(&config, admin).await?;
            }
            play(args, config, &hidden).await
        })
}

/// Two processes that fetch with one credential may kill each other's tokens without end; a store on disk keeps the second
/// from starting, memory does not.
async fn refuse_harm(config: &Config, admin: SocketAddr) -> Result<(), Failure> {
    let mut harmed = config.providers.iter();
    if harmed.all(|it| outside::harm(it) == Harm::None) {
        return Ok(());
    }
    let admin = reachable(admin);
    let Some(running) = report(admin).await else {
        return Ok(());
    };
    let same = |it: &&Arc<config::Provider>| {
        let mut theirs = running.providers.iter();
        outside::harm(it) != Harm::None && theirs.any(|theirs| theirs.name == it.name)
    };
    let Some(provider) = config.providers.iter().find(same) else {
        return Ok(());
    };
    let why = match outside::harm(provider) {
        Harm::SpendsOneTimeInput => "its one-time input is good for one of them",
        Harm::SpendsRefreshToken => "each would use up the other's refresh token",
        Harm::KillsToken | Harm::None => "its vendor would kill the token of each for the other's",
    };
    Err(Failure::Runtime(format!(
        "the command was not started: the proxy at {admin} has provider {} as well, and {why}; let the command use that \
         proxy, or stop it; --force starts nevertheless",
        provider.name
    )))
}

/// What the proxy there says of itself; `None` if there is none.
async fn report(admin: SocketAddr) -> Option<Report> {
    let server = Server::parse(&admin.to_string()).ok()?;
    let answer = timeout(ANSWER, server.get("/status")).await.ok()?.ok()?;
    serde_json::from_slice(&answer.body).ok()
}

async fn play(args: &ExecArgs, config: Config, hidden: &[String]) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(runtime)?;
    let upstreams = config.upstreams.clone();
    let (proxy, mut running) = Proxy::start(config).await?;
    let outcome = tokio::select! {
        outcome = wait_and_run(args, &proxy, &upstreams, hidden, &mut signals) => outcome,
        ended = running.ended() => Err(ended),
    };
    stop(running, outcome).await
}

async fn wait_and_run(
    args: &ExecArgs,
    proxy: &Proxy,
    upstreams: &[Arc<Upstream>],
    hidden: &[String],
    signals: &mut Signals,
) -> Result<(), Failure> {
    let (Some(port), Some(admin)) = (proxy.port(), proxy.admin) else {
        return Err(Failure::Runtime("the proxy has no port".to_owned()));
    };
    tokio::select! {
        ready = wait_for_tokens(admin, args.wait) => ready?,
        signal = signals.next() => return Err(Failure::Exit(child::code_of_signal(signal))),
    }
    let variables = environment::variables(upstreams, port, args.http_proxy)?;
    let child = Child::start(&args.command, &variables, hidden)?;
    match child.supervise(signals).await.map_err(runtime)? {
        0 => Ok(()),
        code => Err(Failure::Exit(code)),
    }
}

/// The command's outcome matters more than how the proxy ends.
async fn stop(running: Running, outcome: Result<(), Failure>) -> Result<(), Failure> {
    let stopped = running.stop().await;
    outcome.and(stopped)
}

async fn wait_for_tokens(admin: SocketAddr, limit: Duration) -> Result<(), Failure> {
    let server = Server::parse(&admin.to_string()).map_err(runtime)?;
    let deadline = Instant::now() + limit;
    let mut progress = Progress::on_stderr();
    loop {
        let answer = server.get("/status").await.map_err(runtime)?;
        let report: Report = serde_json::from_slice(&answer.body).map_err(runtime)?;
        if report.ready {
            return Ok(());
        }
        let waiting = report.providers.iter().filter(|it| is_waited_for(it));
        let login = waiting.clone().find(|it| it.state == "login_required");
        if let Some(provider) = login {
            let name = &provider.name;
            return Err(Failure::Runtime(format!(
                "provider {name} needs a login first: cupbearer login {name}"
            )));
        }
        let reasons: Vec<String> = waiting.map(reason).collect();
        let reasons = reasons.join("; ");
        if Instant::now() >= deadline {
            return Err(Failure::Runtime(format!(
                "the command was not started, for there is no token yet: {reasons}"
            )));
        }
        progress.show(&format!("waiting for tokens: {reasons}"));
        sleep(LOOK).await;
    }
}

fn is_waited_for(provider: &ProviderReport) -> bool {
    provider.required && provider.generation == 0
}

fn reason(provider: &ProviderReport) -> String {
    match &provider.last_error {
        Some(error) => format!("{}: {error}", provider.name),
        None => provider.name.clone(),
    }
}

/// What runs here may have the same credentials as what runs elsewhere.
fn warn_of_kills(config: &Config, to: &mut dyn io::Write) {
    let fetched = |it: &&Arc<config::Provider>| matches!(it.source, TokenSource::Endpoint(_));
    for provider in config.providers.iter().filter(fetched) {
        if provider.life.single_active {
            // Nobody to tell it to: the command runs all the same.
            let _ = writeln!(
                to,
                "warning: the vendor of provider {} kills the token in use elsewhere when one is fetched here",
                provider.name
            );
        }
    }
}

/// The same configuration where nothing else listens. What cannot be told by a URL on the common port gets a port of its own.
fn on_free_ports(mut config: Config, http_proxy: bool) -> Result<Config, Failure> {
    if matches!(config.server.client_auth, Some(ClientAuth::PeerUid(_))) {
        return Err(Failure::Runtime(
            "exec listens on ports, and server.client_auth.peer_uid can only check who connects to a Unix socket; \
             use a configuration without it"
                .to_owned(),
        ));
    }
    config.server.listen = vec![Listen::Tcp(ANY_PORT)];
    config.server.admin = Some(ANY_PORT);
    // Held until all are chosen, so that no two are the same.
    let mut taken = Vec::new();
    for upstream in &mut config.upstreams {
        let own = match &upstream.route {
            Route::Listen(_) => true,
            Route::Host(_) => !http_proxy,
            Route::PathPrefix(_) | Route::CatchAll => false,
        };
        if !own {
            continue;
        }
        let listener = TcpListener::bind(ANY_PORT).map_err(runtime)?;
        let address = listener.local_addr().map_err(runtime)?;
        taken.push(listener);
        Arc::make_mut(upstream).route = Route::Listen(Listen::Tcp(address));
    }
    Ok(config)
}

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The process's environment, and which of its variables the configuration took: these hold credentials, which are not the
/// command's business.
#[derive(Default)]
struct Asked(Mutex<BTreeSet<String>>);

impl Environment for Asked {
    fn var(&self, name: &str) -> Option<String> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(name.to_owned());
        ProcessEnvironment.var(name)
    }
}

impl Asked {
    /// Without those that name egress proxies, which are for everybody, and those that hold no secret or one that is the
    /// command's own.
    fn credentials(&self, config: &Config) -> Vec<String> {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open_variables(config);
        let private = |name: &&String| {
            !name.to_ascii_lowercase().ends_with("_proxy") && !open.contains(*name)
        };
        asked.iter().filter(private).cloned().collect()
    }
}

/// What says who somebody is, and no more.
const NAMES: [&str; 2] = ["client_id", "username"];

/// Variables of the environment that a command may have: names such as `USER`, and what it shows to the proxy itself.
/// One that is also used for anything else is none of them.
fn open_variables(config: &Config) -> BTreeSet<&String> {
    let (mut open, mut secret) = (BTreeSet::new(), BTreeSet::new());
    if let Some(ClientAuth::Header { value, .. }) = &config.server.client_auth {
        open.extend(name_of(value));
    }
    for provider in &config.providers {
        for (name, value) in &provider.variables {
            let kind = match NAMES.contains(&name.as_str()) {
                true => &mut open,
                false => &mut secret,
            };
            kind.extend(name_of(value));
        }
        if let TokenSource::Static { access_token } = &provider.source {
            secret.extend(name_of(access_token));
        }
    }
    open.difference(&secret).copied().collect()
}

fn name_of(value: &Value) -> Option<&String> {
    match value {
        Value::Env { name, .. } => Some(name),
        _ => None,
    }
}

fn runtime(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::Runtime(error.into().to_string())
}

/// Kept apart from [`runtime`]: an I/O error of ours is no closed standard output.
impl From<child::StartError> for Failure {
    fn from(error: child::StartError) -> Self {
        match error.source.kind() {
            io::ErrorKind::NotFound => Self::NotStarted(error.to_string(), 127),
            _ => Self::NotStarted(error.to_string(), 126),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_the_configuration_took_are_hidden_and_proxies_are_not() {
        let asked = Asked::default();
        let config = Config::from_toml("[providers.p]\naccess_token = 't'\n", &asked).unwrap();
        for name in ["HTTPS_PROXY", "no_proxy", "CLIENT_SECRET"] {
            asked.var(name);
        }
        assert_eq!(asked.credentials(&config), ["CLIENT_SECRET"]);
    }

    #[test]
    fn what_names_somebody_and_what_the_command_shows_the_proxy_are_not_hidden() {
        struct All(Asked);
        impl Environment for All {
            fn var(&self, name: &str) -> Option<String> {
                self.0.var(name);
                (!name.to_ascii_lowercase().ends_with("_proxy")).then(|| "x".to_owned())
            }
        }
        let text = "server.client_auth = { header = 'X-Key', value = { env = 'APP_KEY' } }\n\
             [providers.p]\ndialect = 'oauth2'\ngrant = 'password'\ntoken_url = 'https://127.0.0.1:1/'\n\
             client_id = { env = 'BOTH' }\nclient_secret = { env = 'BOTH' }\n\
             username = { env = 'USER' }\npassword = { env = 'PASS' }\n";
        let asked = All(Asked::default());
        let config = Config::from_toml(text, &asked).unwrap();
        assert_eq!(asked.0.credentials(&config), ["BOTH", "PASS"]);
    }

    #[test]
    fn a_token_that_dies_elsewhere_is_warned_of() {
        let provider = |name: &str, dialect: &str| {
            format!(
                "[providers.{name}]\ndialect = '{dialect}'\ntoken_url = 'https://127.0.0.1:1/{name}'\nclient_id = 'c'\nclient_secret = 's'\n"
            )
        };
        let text = provider("single", "ctcfile") + &provider("plain", "oauth2");
        let config = Config::from_toml(&text, &Asked::default()).unwrap();
        let mut told = Vec::new();
        warn_of_kills(&config, &mut told);
        let told = String::from_utf8(told).unwrap();
        assert_eq!(told.lines().count(), 1);
        assert!(told.contains("provider single "), "{told}");
    }

    #[test]
    fn ports_are_free_and_all_different() {
        let text = "[providers.p]\naccess_token = 't'\n\
             [upstreams.a]\nurl = 'http://127.0.0.1:1'\nprovider = 'p'\nroute = { listen = '127.0.0.1:8081' }\n\
             [upstreams.b]\nurl = 'http://127.0.0.1:1'\nprovider = 'p'\nroute = { host = 'b.test' }\n\
             [upstreams.c]\nurl = 'http://127.0.0.1:1'\nprovider = 'p'\nroute = { path_prefix = '/c' }\n";
        let config = || Config::from_toml(text, &Asked::default()).unwrap();
        let routes = |config: Config| -> Vec<Route> {
            config.upstreams.iter().map(|it| it.route.clone()).collect()
        };
        let moved = on_free_ports(config(), false).unwrap();
        assert_eq!(moved.server.listen, [Listen::Tcp(ANY_PORT)]);
        let [Route::Listen(a), Route::Listen(b), Route::PathPrefix(_)] = &routes(moved)[..] else {
            panic!("not what was asked for");
        };
        assert_ne!(a, b);
        let kept = routes(on_free_ports(config(), true).unwrap());
        assert_eq!(kept[1], Route::Host("b.test".to_owned()));
    }
}
