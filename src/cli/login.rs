//! `cupbearer login`: asks a person for one-time input and stores the token for the proxy.

mod browser;
mod prompt;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::chained::InnerTokens;
use super::config_file::{ConfigArgs, Loaded};
use super::failure::Failure;
use super::log::LogArgs;
use super::{core_dumps, words};
use crate::clock::Clock;
use crate::config::{Config, Provider};
use crate::dialect::{Var, Variables};
use crate::login::{DeviceToken, LoggedIn, Login, Return};
use crate::provider::chain::Tokens;
use crate::provider::exchange::{Fetch, HttpFetch};
use crate::store::{self, OpenedStore, Store, VisitorStore};
use crate::upstream::tls::TlsProfiles;
use prompt::Prompt;

/// How long to wait for the proxy, which checks the store every second.
const ADOPTION: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// A provider of the configuration
    #[arg(value_name = "PROVIDER")]
    provider: String,

    /// Listen for the browser on this loopback port [default: that of redirect_uri, else any]
    #[arg(
        long,
        value_name = "PORT",
        env = "CUPBEARER_PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    port: u16,

    /// Only print the address, do not open a browser
    #[arg(long, env = "CUPBEARER_NO_BROWSER")]
    no_browser: bool,

    /// Read every answer from standard input, one per line, also the browser's final address
    #[arg(long, env = "CUPBEARER_FROM_STDIN")]
    from_stdin: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &LoginArgs, log: &LogArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Loaded { config, .. } = args.config.load()?;
    let provider = provider(&config, &args.provider)?;
    log.start("warn")?;
    core_dumps::disable();
    let runtime = super::tokio_runtime()?;
    let prompt = Prompt::standard(args.from_stdin);
    let done = runtime.block_on(log_in(args, &config, provider, &prompt));
    // Does not wait for a thread that still reads standard input.
    runtime.shutdown_background();
    let (logged_in, outcome) = done?;
    let token = describe(&logged_in);
    writeln!(out, "Logged in to {}: {token}.\n{outcome}", args.provider)?;
    Ok(())
}

/// Returns the provider of that name.
pub(super) fn provider(config: &Config, name: &str) -> Result<Arc<Provider>, Failure> {
    let found = config.providers.iter().find(|it| it.name == name);
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = config.providers.iter().map(|it| &*it.name).collect();
        let names = names.join(", ");
        Failure::Usage(format!(
            "the configuration has no provider `{name}`; it has {names}"
        ))
    })
}

/// Returns the outcome for people, too.
async fn log_in(
    args: &LoginArgs,
    config: &Config,
    provider: Arc<Provider>,
    prompt: &Prompt,
) -> Result<(LoggedIn, &'static str), Failure> {
    let mut login = Login::new(provider).map_err(Failure::runtime)?;
    // Reports an unusable store before anyone acts. Not held meanwhile, or `run` could not start.
    drop(open_store(config).await?);
    let clock = Clock::System;
    let fetcher: Arc<dyn Fetch> = Arc::new(HttpFetch::new(TlsProfiles::new(), clock.clone()));
    let discovered = login.discover(&*fetcher, &clock).await;
    discovered.map_err(Failure::runtime)?;
    let mut given = Variables::new();
    for ask in login.asks() {
        let value = prompt.ask(&ask.name, ask.secret).await?;
        given.insert(ask.name, Var::Text(value));
    }
    let tokens = InnerTokens::default().of(config, login.provider()).await?;
    let (done, visitor) = if login.is_for_device() {
        let brought = wait_for_device(args, &login, given, &fetcher, &tokens).await?;
        let (store, visitor) = open_store(config).await?;
        (
            login.keep(brought, store, fetcher, clock, tokens).await,
            visitor,
        )
    } else {
        if login.authorization_url().is_some() {
            given.extend(authorize(args, &login, prompt).await?);
        }
        let (store, visitor) = open_store(config).await?;
        (
            login.finish(given, store, fetcher, clock, tokens).await,
            visitor,
        )
    };
    let logged_in = done.map_err(Failure::runtime)?;
    let outcome = match visitor {
        None => "The token is in the store; `cupbearer run` uses it.",
        Some(store) => wait_for_adoption(&store).await,
    };
    Ok((logged_in, outcome))
}

/// Opens the store; as a visitor if another process holds it.
pub(super) async fn open_store(
    config: &Config,
) -> Result<(Arc<dyn Store>, Option<VisitorStore>), Failure> {
    let opened = store::open_for_login(&config.store).await;
    Ok(match opened.map_err(Failure::runtime)? {
        OpenedStore::Ours(store) => (Arc::new(store), None),
        OpenedStore::Visited { store, .. } => (Arc::new(store.clone()), Some(store)),
    })
}

/// Shows a device code and waits until it is entered. Runs without the store, whose lock would keep
/// `run` from starting.
async fn wait_for_device(
    args: &LoginArgs,
    login: &Login,
    given: Variables,
    fetcher: &Arc<dyn Fetch>,
    tokens: &Tokens,
) -> Result<DeviceToken, Failure> {
    let code = login
        .device(Arc::clone(fetcher), Clock::System, tokens.clone())
        .await
        .map_err(Failure::runtime)?;
    let url = code.complete.as_deref().unwrap_or(&code.verification_uri);
    let opened =
        !args.no_browser && !args.from_stdin && url.starts_with("https://") && browser::open(url);
    eprintln!(
        "{}\n\n    {}\n\nand enter the code\n\n    {}\n\nWaiting for the code (Ctrl-C cancels).",
        instruction(opened, "On any device, go to"),
        code.verification_uri,
        code.user_code
    );
    let (fetcher, tokens) = (Arc::clone(fetcher), tokens.clone());
    let polled = login
        .poll(code, given, fetcher, Clock::System, tokens)
        .await;
    polled.map_err(Failure::runtime)
}

async fn authorize(args: &LoginArgs, login: &Login, prompt: &Prompt) -> Result<Variables, Failure> {
    let authorization = login.authorize(args.port, args.from_stdin).await;
    let authorization = authorization.map_err(Failure::runtime)?;
    let url = &authorization.url;
    let opened = !args.no_browser && browser::open(url);
    let instruction = instruction(opened, "Open this in your browser:");
    eprintln!("{instruction}\n\n    {url}\n");
    let variables = match &authorization.back {
        Return::Loopback(address) => {
            eprintln!(
                "Waiting for the browser to return to {address} (Ctrl-C cancels).\n\
                 A browser on another machine cannot reach this address: use --from-stdin then."
            );
            authorization.wait().await
        }
        Return::ByHand => {
            eprintln!(
                "Then paste the whole address that the browser ends at, \
                 even if that page does not load."
            );
            let address = prompt.ask("address", false).await?;
            authorization.take(&address)
        }
    };
    variables.map_err(Failure::runtime)
}

fn instruction(opened: bool, without_browser: &str) -> &str {
    match opened {
        true => "Your browser has been opened. If it shows nothing, go to",
        false => without_browser,
    }
}

/// Waits until the running proxy has adopted the token, and says whether it has.
async fn wait_for_adoption(store: &VisitorStore) -> &'static str {
    let deadline = Instant::now() + ADOPTION;
    while Instant::now() < deadline {
        if store.all_adopted() {
            return "The running proxy has adopted the token.";
        }
        sleep(Duration::from_millis(100)).await;
    }
    "The token is in the store, but the process that holds the store has not adopted it yet: \
     see `cupbearer status` and the log of that process."
}

fn describe(logged_in: &LoggedIn) -> String {
    let now = Clock::System.now().wall;
    let left = logged_in.expires_at.map(|at| at.duration_since(now));
    let life = match left.and_then(Result::ok) {
        Some(left) => format!("the token is valid for {}", words::duration(left)),
        None => "the token states no expiry".to_owned(),
    };
    match logged_in.renewable {
        true => format!("{life} and will be renewed"),
        false => format!("{life}; without a refresh token, another login is needed then"),
    }
}
