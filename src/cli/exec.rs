//! `cupbearer exec -- CMD`: runs a command, and the proxy for as long as the command runs.
//!
//! For development: the proxy uses the production configuration on free ports. The command's
//! environment holds the upstreams' URLs and never the credentials.

mod child;
mod environment;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep, timeout};

use super::admin::reachable;
use super::background::Proxy;
use super::config_file::ConfigArgs;
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
use crate::provider::offline::{self, Harm};
use child::{Child, Signals};

/// Time limit for the status of a proxy that already runs.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// Interval of readiness checks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Also set http_proxy: requests for http://HOST of a host route get the token of that route
    #[arg(long, env = "CUPBEARER_HTTP_PROXY")]
    http_proxy: bool,

    /// How long to wait for the tokens; then exec fails without starting the command
    #[arg(
        long,
        value_name = "TIME",
        value_parser = config::duration,
        default_value = "30s",
        env = "CUPBEARER_WAIT"
    )]
    wait: Duration,

    /// Run even if that may invalidate the tokens of a running proxy with the same configuration
    #[arg(long, env = "CUPBEARER_FORCE")]
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
    let environment = RecordingEnvironment::default();
    let loaded = args.config.load_with(&environment)?;
    let config = loaded.with_commands_checked()?.config;
    log.start("warn")?;
    core_dumps::disable();
    warn_of_kills(&config, &mut io::stderr());
    let hidden = environment.credentials(&config);
    let admin = config.server.admin;
    let config = on_free_ports(config, args.http_proxy)?;
    super::tokio_runtime()?.block_on(async {
        if let Some(admin) = admin.filter(|_| !args.force) {
            refuse_harm(&config, admin).await?;
        }
        run_with_proxy(args, config, &hidden).await
    })
}

/// Refuses providers of a running proxy whose tokens two processes would keep killing. A file store
/// is locked against a second process; a store in memory is not.
async fn refuse_harm(config: &Config, admin: SocketAddr) -> Result<(), Failure> {
    let providers = config.providers.iter().map(|it| (it, offline::harm(it)));
    let mut harmed = providers.filter(|(_, harm)| *harm != Harm::None).peekable();
    if harmed.peek().is_none() {
        return Ok(());
    }
    let admin = reachable(admin);
    let Some(running) = report(admin).await else {
        return Ok(());
    };
    let shared = harmed.find(|(ours, _)| running.providers.iter().any(|it| it.name == ours.name));
    let Some((provider, harm)) = shared else {
        return Ok(());
    };
    let why = match harm {
        Harm::SpendsOneTimeInput => "its one-time input can be sent by only one of them",
        Harm::SpendsRefreshToken => "each would spend the other's refresh token",
        Harm::KillsToken | Harm::None => "its vendor would kill the token of one for the other's",
    };
    Err(Failure::Runtime(format!(
        "the command was not started: the proxy at {admin} has provider {} as well, and {why}; \
         use that proxy for the command, or stop it; --force starts anyway",
        provider.name
    )))
}

/// Returns the status of the proxy at `admin`; `None` if there is none.
async fn report(admin: SocketAddr) -> Option<Report> {
    let server = Server::parse(&admin.to_string()).ok()?;
    let answer = timeout(STATUS_TIMEOUT, server.get("/status")).await;
    serde_json::from_slice(&answer.ok()?.ok()?.body).ok()
}

async fn run_with_proxy(args: &ExecArgs, config: Config, hidden: &[String]) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(Failure::runtime)?;
    let upstreams = config.upstreams.clone();
    let (proxy, mut running) = Proxy::start(config).await?;
    let outcome = tokio::select! {
        outcome = wait_and_run(args, &proxy, &upstreams, hidden, &mut signals) => outcome,
        ended = running.ended() => Err(ended),
    };
    // The command's error is reported before the proxy's.
    let stopped = running.stop().await;
    outcome.and(stopped)
}

async fn wait_and_run(
    args: &ExecArgs,
    proxy: &Proxy,
    upstreams: &[Arc<Upstream>],
    hidden: &[String],
    signals: &mut Signals,
) -> Result<(), Failure> {
    let (Some(port), Some(admin)) = (proxy.port(), proxy.admin) else {
        return Err(Failure::runtime("the proxy has no port"));
    };
    tokio::select! {
        ready = wait_for_tokens(admin, args.wait) => ready?,
        signal = signals.next() => return Err(Failure::Exit(child::code_of_signal(signal))),
    }
    let variables = environment::variables(upstreams, port, args.http_proxy)?;
    let child = Child::start(&args.command, &variables, hidden)?;
    match child.supervise(signals).await.map_err(Failure::runtime)? {
        0 => Ok(()),
        code => Err(Failure::Exit(code)),
    }
}

async fn wait_for_tokens(admin: SocketAddr, limit: Duration) -> Result<(), Failure> {
    let server = Server::parse(&admin.to_string()).map_err(Failure::runtime)?;
    let deadline = Instant::now() + limit;
    let mut progress = Progress::on_stderr();
    loop {
        let answer = server.get("/status").await.map_err(Failure::runtime)?;
        let report: Report = serde_json::from_slice(&answer.body).map_err(Failure::runtime)?;
        if report.ready {
            return Ok(());
        }
        let mut reasons = Vec::new();
        let waiting = |it: &&ProviderReport| it.required && it.generation == 0;
        for provider in report.providers.iter().filter(waiting) {
            let name = &provider.name;
            if provider.state == "login_required" {
                return Err(Failure::Runtime(format!(
                    "provider {name} needs a login first: cupbearer login {name}"
                )));
            }
            reasons.push(match &provider.last_error {
                Some(error) => format!("{name}: {error}"),
                None => name.clone(),
            });
        }
        let reasons = reasons.join("; ");
        if Instant::now() >= deadline {
            return Err(Failure::Runtime(format!(
                "the command was not started, for there is no token yet: {reasons}"
            )));
        }
        progress.show(&format!("waiting for tokens: {reasons}"));
        sleep(POLL_INTERVAL).await;
    }
}

/// Warns for single-active providers: processes elsewhere may use the same credentials.
fn warn_of_kills(config: &Config, to: &mut dyn io::Write) {
    for provider in &config.providers {
        if provider.life.single_active && matches!(provider.source, TokenSource::Endpoint(_)) {
            let name = &provider.name;
            // The command runs even if standard error is closed.
            let _ = writeln!(
                to,
                "warning: fetching a token of provider {name} kills the one in use elsewhere"
            );
        }
    }
}

/// Moves all listeners to free ports. Upstreams without a URL on the common port get their own.
fn on_free_ports(mut config: Config, http_proxy: bool) -> Result<Config, Failure> {
    if matches!(config.server.client_auth, Some(ClientAuth::PeerUid(_))) {
        return Err(Failure::runtime(
            "server.client_auth.peer_uid works only with Unix sockets, and exec listens on ports; \
             use a configuration without server.client_auth.peer_uid",
        ));
    }
    config.server.listen = vec![Listen::Tcp(ANY_PORT)];
    config.server.admin = Some(ANY_PORT);
    // Held until all ports are chosen, so that all differ.
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
        let listener = TcpListener::bind(ANY_PORT).map_err(Failure::runtime)?;
        let address = listener.local_addr().map_err(Failure::runtime)?;
        taken.push(listener);
        Arc::make_mut(upstream).route = Route::Listen(Listen::Tcp(address));
    }
    Ok(config)
}

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The process's environment; records the variables that the configuration reads.
#[derive(Default)]
struct RecordingEnvironment(Mutex<BTreeSet<String>>);

impl Environment for RecordingEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(name.to_owned());
        ProcessEnvironment.var(name)
    }
}

impl RecordingEnvironment {
    /// Returns the recorded variables to hide from the command: all but egress proxies and
    /// [`open_variables`].
    fn credentials(&self, config: &Config) -> Vec<String> {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open_variables(config);
        let private = |name: &&String| {
            !name.to_ascii_lowercase().ends_with("_proxy") && !open.contains(*name)
        };
        read.iter().filter(private).cloned().collect()
    }
}

/// Provider variables that hold no secret.
const NAMES: [&str; 2] = ["client_id", "username"];

/// Returns the environment variables that the command may see: [`NAMES`], such as `USER`, and the
/// command's own key for the proxy. A variable that also holds a secret is not one of them.
fn open_variables(config: &Config) -> BTreeSet<&String> {
    let (mut open, mut secret) = (BTreeSet::new(), BTreeSet::new());
    if let Some(ClientAuth::Header { value, .. }) = &config.server.client_auth {
        open.extend(name_of(value));
    }
    for provider in &config.providers {
        for (name, value) in &provider.variables {
            let public = NAMES.contains(&name.as_str());
            let set = if public { &mut open } else { &mut secret };
            set.extend(name_of(value));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_the_configuration_reads_are_hidden_except_proxies() {
        let environment = RecordingEnvironment::default();
        let config =
            Config::from_toml("[providers.p]\naccess_token = 't'\n", &environment).unwrap();
        for name in ["HTTPS_PROXY", "no_proxy", "CLIENT_SECRET"] {
            environment.var(name);
        }
        assert_eq!(environment.credentials(&config), ["CLIENT_SECRET"]);
    }

    #[test]
    fn user_names_and_the_commands_own_key_are_not_hidden() {
        let text = "server.client_auth = { header = 'X-Key', value = { env = 'APP_KEY' } }\n\
             [providers.p]\ndialect = 'oauth2'\ngrant = 'password'\n\
             token_url = 'https://127.0.0.1:1/'\n\
             client_id = { env = 'BOTH' }\nclient_secret = { env = 'BOTH' }\n\
             username = { env = 'USER' }\npassword = { env = 'PASS' }\n";
        let environment = RecordingEnvironment::default();
        let all_set = |name: &str| {
            environment.var(name);
            (!name.to_ascii_lowercase().ends_with("_proxy")).then(|| "x".to_owned())
        };
        let config = Config::from_toml(text, &all_set).unwrap();
        assert_eq!(environment.credentials(&config), ["BOTH", "PASS"]);
    }

    #[test]
    fn single_active_providers_are_warned_about() {
        let provider = |name: &str, dialect: &str| {
            format!(
                "[providers.{name}]\ndialect = '{dialect}'\nclient_id = 'c'\nclient_secret = 's'\n\
                 token_url = 'https://127.0.0.1:1/{name}'\n"
            )
        };
        let text = provider("single", "ctcfile") + &provider("plain", "oauth2");
        let config = Config::from_toml(&text, &RecordingEnvironment::default()).unwrap();
        let mut warnings = Vec::new();
        warn_of_kills(&config, &mut warnings);
        let warnings = String::from_utf8(warnings).unwrap();
        assert_eq!(warnings.lines().count(), 1);
        assert!(warnings.contains("provider single "), "{warnings}");
    }

    #[test]
    fn ports_are_free_and_all_different() {
        let text = "[providers.p]\naccess_token = 't'\n\
             [upstreams.a]\nurl = 'http://127.0.0.1:1'\nprovider = 'p'\n\
             route = { listen = '127.0.0.1:8081' }\n\
             [upstreams.b]\nurl = 'http://127.0.0.1:1'\nprovider = 'p'\n\
             route = { host = 'b.test' }\n\
             [upstreams.c]\nurl = 'http://127.0.0.1:1'\nprovider = 'p'\n\
             route = { path_prefix = '/c' }\n";
        let config = || Config::from_toml(text, &RecordingEnvironment::default()).unwrap();
        let routes = |config: Config| -> Vec<Route> {
            config.upstreams.iter().map(|it| it.route.clone()).collect()
        };
        let moved = on_free_ports(config(), false).unwrap();
        assert_eq!(moved.server.listen, [Listen::Tcp(ANY_PORT)]);
        let [Route::Listen(a), Route::Listen(b), Route::PathPrefix(_)] = &routes(moved)[..] else {
            panic!("wrong routes");
        };
        assert_ne!(a, b);
        let kept = routes(on_free_ports(config(), true).unwrap());
        assert_eq!(kept[1], Route::Host("b.test".to_owned()));
    }
}
