//! `cupbearer login`: asks for what only a person can give, and puts what comes of it where the proxy finds it.

mod browser;
mod prompt;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use tokio::time::{Instant, sleep};

use super::config_file::{ConfigArgs, Loaded};
use super::failure::Failure;
use super::log::LogArgs;
use super::{core_dumps, words};
use crate::clock::Clock;
use crate::config::{Config, Provider};
use crate::dialect::{Var, Variables};
use crate::provider::chain::Tokens;
use crate::provider::exchange::{Fetch, HttpFetch};
use crate::provider::login::{LoggedIn, Login, LoginError, Return};
use crate::provider::store::{self, Beside, Store, VisitorStore};
use crate::upstream::tls::TlsProfiles;
use prompt::Prompt;

const STORED: &str = "It is in the store: `cupbearer run` uses it.";

/// The proxy looks every second.
const ADOPTION: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// A provider of the configuration
    #[arg(value_name = "PROVIDER")]
    provider: String,

    /// Listen for the browser on this port of loopback [default: that of redirect_uri, else any]
    #[arg(
        long,
        value_name = "PORT",
        env = "CUPBEARER_PORT",
        hide_env_values = true,
        default_value_t = 0,
        hide_default_value = true
    )]
    port: u16,

    /// Do not open a browser, only print where to go
    #[arg(long, env = "CUPBEARER_NO_BROWSER", hide_env_values = true, value_parser = BoolishValueParser::new())]
    no_browser: bool,

    /// Read every answer from standard input, a line each: also the address that the browser ends at
    #[arg(long, env = "CUPBEARER_FROM_STDIN", hide_env_values = true, value_parser = BoolishValueParser::new())]
    from_stdin: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &LoginArgs, log: &LogArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Loaded { config, .. } = args.config.load()?;
    let provider = provider(&config, &args.provider)?;
    log.start("warn")?;
    core_dumps::disable();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    let prompt = Prompt::standard(args.from_stdin);
    let done = runtime.block_on(log_in(args, &config, provider, &prompt));
    // Who still waits for a line need not be waited for.
    runtime.shutdown_background();
    let (logged_in, told) = done?;
    writeln!(out, "Logged in to {}: {}.", args.provider, token(logged_in))?;
    writeln!(out, "{told}")?;
    Ok(())
}

/// The provider of that name.
pub(super) fn provider(config: &Config, name: &str) -> Result<Arc<Provider>, Failure> {
    let mut providers = config.providers.iter();
    let found = providers.find(|provider| provider.name == name);
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = config
            .providers
            .iter()
            .map(|provider| provider.name.as_str())
            .collect();
        Failure::Usage(format!(
            "the configuration has no provider `{name}`; it has {}",
            names.join(", ")
        ))
    })
}

async fn log_in(
    args: &LoginArgs,
    config: &Config,
    provider: Arc<Provider>,
    prompt: &Prompt,
) -> Result<(LoggedIn, &'static str), Failure> {
    let mut login = Login::new(provider).map_err(failed)?;
    // Before anybody does anything: could its result be kept? Not held while people think, or `run` could not start.
    drop(store::beside(&config.store).await.map_err(failed)?);
    let clock = Clock::System;
    let fetcher: Arc<dyn Fetch> = Arc::new(HttpFetch::new(TlsProfiles::new(), clock.clone()));
    login.discover(&*fetcher, &clock).await.map_err(failed)?;
    let mut given = Variables::new();
    for ask in login.asks() {
        let value = prompt.ask(&ask.name, ask.secret).await?;
        given.insert(ask.name, Var::Text(value));
    }
    let tokens = super::chained::tokens(config, login.provider()).await?;
    if login.is_for_device() {
        return device(args, config, login, given, prompt, fetcher, tokens).await;
    }
    if login.authorization_url().is_some() {
        given.extend(authorize(args, &login, prompt).await?);
    }
    match store::beside(&config.store).await.map_err(failed)? {
        Beside::Ours(store) => {
            let store: Arc<dyn Store> = Arc::new(store);
            let done = login.finish(given, store, fetcher, clock, tokens).await;
            Ok((done.map_err(failed)?, STORED))
        }
        Beside::Visited { store, .. } => {
            let ours: Arc<dyn Store> = Arc::new(store.clone());
            let done = login.finish(given, ours, fetcher, clock, tokens).await;
            Ok((done.map_err(failed)?, adopted(&store).await))
        }
    }
}

/// A code that is typed elsewhere.
async fn device(
    args: &LoginArgs,
    config: &Config,
    login: Login,
    given: Variables,
    prompt: &Prompt,
    fetcher: Arc<dyn Fetch>,
    tokens: Tokens,
) -> Result<(LoggedIn, &'static str), Failure> {
    let clock = Clock::System;
    let code = login
        .device(Arc::clone(&fetcher), clock.clone(), tokens.clone())
        .await
        .map_err(failed)?;
    let url = code.complete.as_deref().unwrap_or(&code.verification_uri);
    let opened =
        !args.no_browser && !args.from_stdin && url.starts_with("https://") && browser::open(url);
    let first = match opened {
        true => "Your browser has been opened. If it shows nothing, go to",
        false => "On any device, go to",
    };
    prompt.tell(&format!(
        "{first}\n\n    {}\n\nand enter the code\n\n    {}\n\nWaiting until that is done (Ctrl-C ends it).",
        code.verification_uri, code.user_code
    ));
    // Without the store: whoever holds it keeps `run` from starting.
    let polled = login.poll(
        code,
        given,
        Arc::clone(&fetcher),
        clock.clone(),
        tokens.clone(),
    );
    let brought = polled.await.map_err(failed)?;
    match store::beside(&config.store).await.map_err(failed)? {
        Beside::Ours(store) => {
            let store: Arc<dyn Store> = Arc::new(store);
            let done = login.keep(brought, store, fetcher, clock, tokens).await;
            Ok((done.map_err(failed)?, STORED))
        }
        Beside::Visited { store, .. } => {
            let ours: Arc<dyn Store> = Arc::new(store.clone());
            let done = login.keep(brought, ours, fetcher, clock, tokens).await;
            Ok((done.map_err(failed)?, adopted(&store).await))
        }
    }
}

async fn authorize(args: &LoginArgs, login: &Login, prompt: &Prompt) -> Result<Variables, Failure> {
    let authorization = login
        .authorize(args.port, args.from_stdin)
        .await
        .map_err(failed)?;
    let url = &authorization.url;
    let opened = !args.no_browser && browser::open(url);
    let first = match opened {
        true => "Your browser has been opened. If it shows nothing, go to",
        false => "Open this in your browser:",
    };
    prompt.tell(&format!("{first}\n\n    {url}\n"));
    match authorization.back.clone() {
        Return::Loopback(address) => {
            prompt.tell(&format!(
                "Waiting for it to come back to {address} (Ctrl-C ends it).\n\
                 A browser on another machine does not get here: use --from-stdin there."
            ));
            authorization.wait().await.map_err(failed)
        }
        Return::ByHand => {
            prompt.tell(
                "Then paste the whole address that it ends at, even if that page does not load.",
            );
            let address = prompt.ask("address", false).await?;
            authorization.take(&address).map_err(failed)
        }
    }
}

/// Whether the running proxy has taken it up, in words.
async fn adopted(store: &VisitorStore) -> &'static str {
    let deadline = Instant::now() + ADOPTION;
    while Instant::now() < deadline {
        if store.all_adopted() {
            return "The running proxy has it.";
        }
        sleep(Duration::from_millis(100)).await;
    }
    "It lies in the store, but the process that holds it has not taken it up yet: see `cupbearer status` and its log."
}

fn token(logged_in: LoggedIn) -> String {
    let life = logged_in
        .expires_at
        .and_then(|at| at.duration_since(Clock::System.now().wall).ok());
    let life = match life {
        Some(left) => format!("the token is good for {}", words::duration(left)),
        None => "the token states no end".to_owned(),
    };
    match logged_in.renewable {
        true => format!("{life}, and is renewed by itself"),
        false => format!("{life}; there is no refresh token, so then another login is needed"),
    }
}

fn failed(error: impl Into<LoginError>) -> Failure {
    Failure::Runtime(error.into().to_string())
}
