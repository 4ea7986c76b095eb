//! `cupbearer token`: the state of a provider's token; with `--show`, the token for a script.

use std::io::Write;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use http::StatusCode;

use super::admin::AdminArgs;
use super::chained::{InnerTokens, stored, usable_token};
use super::config_file::Loaded;
use super::failure::Failure;
use super::http::GetError;
use super::log::LogArgs;
use super::{core_dumps, login, words};
use crate::admin::{ProviderReport, Report};
use crate::clock::Clock;
use crate::config::{Config, Provider, StoreKind, TokenSource};
use crate::provider::chain::Tokens;
use crate::provider::exchange::HttpFetch;
use crate::provider::offline::{self, Harm, Stored};
use crate::secret::Secret;
use crate::upstream::tls::TlsProfiles;

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// A provider of the configuration
    #[arg(value_name = "PROVIDER")]
    provider: String,

    /// Print only the token, to standard output; fetch one if the store has no usable token
    #[arg(long, env = "CUPBEARER_SHOW")]
    show: bool,

    /// With --show: fetch even if that may invalidate the running proxy's token
    #[arg(long, env = "CUPBEARER_FORCE")]
    force: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &TokenArgs, log: &LogArgs, out: &mut dyn Write) -> Result<(), Failure> {
    if args.force && !args.show {
        return Err(Failure::Usage("--force needs --show".to_owned()));
    }
    let Loaded { config, .. } = args.admin.config.load()?;
    let provider = login::provider(&config, &args.provider)?;
    log.start("warn")?;
    core_dumps::disable();
    super::tokio_runtime()?.block_on(async {
        if args.show {
            let token = token(args, &config, provider).await?;
            writeln!(out, "{}", token.expose())?;
            return Ok(());
        }
        let running = running(args).await;
        let stored = stored(&config, &provider).await?;
        write!(out, "{}", describe(&config, &running, stored.as_ref()))?;
        Ok(())
    })
}

/// The provider's state at the admin port of this configuration's proxy.
enum Running {
    Yes(Box<ProviderReport>),
    /// No process listens on the admin port.
    No,
    /// The reason.
    Unknown(String),
}

async fn running(args: &TokenArgs) -> Running {
    let server = match args.admin.server() {
        Ok(server) => server,
        Err(failure) => return Running::Unknown(failure.to_string()),
    };
    let answer = match server.get("/status").await {
        Ok(answer) if answer.status == StatusCode::OK => answer,
        Ok(answer) => return Running::Unknown(format!("/status answered {}", answer.status)),
        Err(GetError::Connect(_, source))
            if source.kind() == std::io::ErrorKind::ConnectionRefused =>
        {
            return Running::No;
        }
        Err(error) => return Running::Unknown(error.to_string()),
    };
    let Ok(report) = serde_json::from_slice::<Report>(&answer.body) else {
        return Running::Unknown("another program listens on the admin port".to_owned());
    };
    let mut providers = report.providers.into_iter();
    match providers.find(|provider| provider.name == args.provider) {
        Some(provider) => Running::Yes(Box::new(provider)),
        None => Running::Unknown("the proxy runs with another configuration".to_owned()),
    }
}

/// Returns the stored token if it is usable, else fetches one.
async fn token(
    args: &TokenArgs,
    config: &Config,
    provider: Arc<Provider>,
) -> Result<Secret, Failure> {
    if let Some(token) = usable_token(config, &provider).await? {
        return Ok(token);
    }
    let clock = Clock::System;
    let fetcher = Arc::new(HttpFetch::new(TlsProfiles::new(), clock.clone()));
    if let TokenSource::Static { .. } = provider.source {
        let read = offline::fetch(provider, None, fetcher, clock, Tokens::default()).await;
        return read.map_err(Failure::runtime);
    }
    let (store, in_use) = match &config.store.kind {
        StoreKind::Memory => (None, !matches!(running(args).await, Running::No)),
        StoreKind::File { .. } => match login::open_store(config).await? {
            (store, None) => (Some(store), false),
            // A proxy holds the store, whatever the admin port says.
            (_, Some(_)) => (None, true),
        },
    };
    let harm = offline::harm(&provider);
    if store.is_none() {
        refuse_harm(&provider.name, harm, in_use, args.force).map_err(Failure::Runtime)?;
    }
    let (name, consequence) = (&provider.name, consequence(harm));
    eprintln!("warning: no usable stored token for {name}; fetching a new one{consequence}");
    let tokens = InnerTokens::default().of(config, &provider).await?;
    let fetched = offline::fetch(provider, store, fetcher, clock, tokens).await;
    fetched.map_err(Failure::runtime)
}

/// Refuses a fetch that could harm a running proxy.
fn refuse_harm(name: &str, harm: Harm, in_use: bool, force: bool) -> Result<(), String> {
    let why = match harm {
        Harm::None => return Ok(()),
        Harm::SpendsOneTimeInput => {
            return Err(format!(
                "no usable stored token for {name}, and fetching one would spend a one-time input; \
                 see `cupbearer status` and `cupbearer login`"
            ));
        }
        Harm::KillsToken => "the vendor would kill the token that the proxy uses",
        Harm::SpendsRefreshToken => "the fetch may spend the proxy's refresh token",
    };
    if force || !in_use {
        return Ok(());
    }
    Err(format!(
        "no token of {name} was fetched: a proxy seems to be running, and {why}; \
         --force fetches anyway"
    ))
}

/// Warns other users of the same credentials.
fn consequence(harm: Harm) -> &'static str {
    match harm {
        Harm::KillsToken => ", which kills the one before, wherever it is in use",
        Harm::SpendsRefreshToken => ", which may spend a refresh token that is also used elsewhere",
        Harm::None | Harm::SpendsOneTimeInput => "",
    }
}

fn describe(config: &Config, running: &Running, stored: Option<&Stored>) -> String {
    let proxy = match running {
        Running::Yes(report) => describe_report(report),
        Running::No => "is not running".to_owned(),
        Running::Unknown(reason) => format!("unknown: {reason}"),
    };
    let store = match (&config.store.kind, stored) {
        (StoreKind::Memory, _) => "the proxy's memory (store.kind = \"memory\")".to_owned(),
        (StoreKind::File { .. }, None) => "no record".to_owned(),
        (StoreKind::File { .. }, Some(stored)) => describe_stored(stored, SystemTime::now()),
    };
    format!("proxy  {proxy}\nstore  {store}\n")
}

fn describe_report(report: &ProviderReport) -> String {
    let mut text = format!("{}, no. {}", report.state, report.generation);
    for (what, seconds) in [
        ("expires", report.expires_in_seconds),
        ("next fetch", report.next_fetch_in_seconds),
    ] {
        if let Some(seconds) = seconds {
            text.push_str(&format!(", {what} {}", words::from_now(seconds)));
        }
    }
    if let Some(error) = &report.last_error {
        text.push_str(&format!("; last error: {error}"));
    }
    text
}

fn describe_stored(stored: &Stored, now: SystemTime) -> String {
    let mut text = match &stored.access {
        None => "no access token".to_owned(),
        Some(access) => {
            let age = words::duration(now.duration_since(access.fetched_at).unwrap_or_default());
            let expiry = match access.expires_at.map(|at| at.duration_since(now)) {
                None => "no expiry stated".to_owned(),
                Some(Ok(left)) => format!("expires in {}", words::duration(left)),
                Some(Err(_)) => "expired".to_owned(),
            };
            let outdated = match access.outdated {
                true => ", bought with a token that has been replaced",
                false => "",
            };
            format!("access token fetched {age} ago, {expiry}{outdated}")
        }
    };
    text.push_str(match stored.has_refresh_token {
        true => "; a refresh token",
        false => "; no refresh token",
    });
    if stored.spent > 0 {
        text.push_str(&format!("; {} one-time input(s) spent", stored.spent));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use clap::Parser;
    use tempfile::TempDir;

    use super::*;
    use crate::config::NoEnvironment;
    use crate::demo::authority::Authority;
    use crate::demo::vendors::{Credential, FakeVendor, Kind, Options};
    use crate::metrics::Metrics;
    use crate::provider::offline::StoredToken;
    use crate::provider::{self, Deps};
    use crate::store;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        args: TokenArgs,
    }

    /// No process listens on port 1.
    fn args(words: &[&str]) -> TokenArgs {
        let all = [&["token", "x", "--admin", "127.0.0.1:1"], words].concat();
        Words::try_parse_from(all).unwrap().args
    }

    /// Starts a vendor and returns a configuration for it, with a file store if `store`.
    async fn world(kind: Kind, store: bool) -> (FakeVendor, Config, TempDir) {
        let authority = Authority::new().unwrap();
        let vendor = FakeVendor::start(&authority, kind, Options::default())
            .await
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, authority.pem()).unwrap();
        let mut text = format!(
            "[providers.x]\ndialect = '{kind}'\ntoken_url = {:?}\n\
             tls = {{ ca_file = {ca_file:?} }}\n",
            vendor.token_url()
        );
        for (key, credential) in kind.credentials() {
            text.push_str(&match credential {
                Credential::Text(value) => format!("{key} = {value:?}\n"),
                Credential::Integer(value) => format!("{key} = {value}\n"),
            });
        }
        if store {
            let path = folder.path().join("state");
            text.push_str(&format!("[store]\nkind = 'file'\npath = {path:?}\n"));
        }
        let config = Config::from_toml(&text, &NoEnvironment).unwrap();
        (vendor, config, folder)
    }

    async fn shown(config: &Config, words: &[&str]) -> Result<String, String> {
        let provider = Arc::clone(&config.providers[0]);
        let token = token(&args(words), config, provider).await;
        token
            .map(|token| token.expose().to_owned())
            .map_err(|failure| failure.to_string())
    }

    async fn proxy(config: &Config) -> provider::Handle {
        let clock = Clock::System;
        let deps = Deps::new(
            store::open(&config.store).await.unwrap(),
            Arc::new(HttpFetch::new(TlsProfiles::new(), clock.clone())),
            clock,
            Arc::new(Metrics::new()),
        );
        let handle = provider::spawn(config.providers.clone(), deps).remove(0);
        assert!(handle.first_token().await);
        handle
    }

    #[tokio::test]
    async fn the_running_proxys_token_comes_from_its_store() {
        // Single active: another fetch would kill the proxy's token.
        let (vendor, config, _folder) = world(Kind::Ctcfile, true).await;
        let proxy = proxy(&config).await;
        let token = shown(&config, &["--show"]).await.unwrap();
        assert_eq!(shown(&config, &["--show"]).await, Ok(token));
        assert_eq!(vendor.counters().issued, 1);
        let stored = stored(&config, &config.providers[0]).await.unwrap();
        let text = describe(&config, &Running::No, stored.as_ref());
        assert!(text.contains("store  access token fetched"), "{text}");
        proxy.stop().await;
    }

    #[tokio::test]
    async fn without_a_proxy_costly_tokens_are_stored_and_cheap_ones_are_not() {
        for (kind, fetches) in [(Kind::Ctcfile, 1), (Kind::Cncn, 2)] {
            let (vendor, config, _folder) = world(kind, true).await;
            for _ in 0..2 {
                shown(&config, &["--show"]).await.unwrap();
            }
            assert_eq!(vendor.counters().issued, fetches, "{kind}");
        }
    }

    #[tokio::test]
    async fn only_force_fetches_a_token_that_kills_the_running_proxys() {
        let (vendor, config, _folder) = world(Kind::Ctcfile, true).await;
        let path = match &config.store.kind {
            StoreKind::File { path } => path.clone(),
            StoreKind::Memory => panic!("a file store"),
        };
        let proxy = proxy(&config).await;
        for entry in std::fs::read_dir(path).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|suffix| suffix == "json") {
                std::fs::remove_file(file).unwrap();
            }
        }
        let error = shown(&config, &["--show"]).await.unwrap_err();
        assert!(error.contains("kill the token"), "{error}");
        assert_eq!(vendor.counters().issued, 1);
        shown(&config, &["--show", "--force"]).await.unwrap();
        assert_eq!(vendor.counters().issued, 2);
        proxy.stop().await;
    }

    #[tokio::test]
    async fn a_memory_store_is_never_read() {
        let (vendor, config, _folder) = world(Kind::Ctcfile, false).await;
        assert!(matches!(running(&args(&[])).await, Running::No));
        shown(&config, &["--show"]).await.unwrap();
        assert_eq!(vendor.counters().issued, 1);
        let text = describe(&config, &Running::No, None);
        assert_eq!(
            text,
            "proxy  is not running\nstore  the proxy's memory (store.kind = \"memory\")\n"
        );
    }

    #[test]
    fn harm_to_a_running_proxy_needs_force_and_one_time_inputs_are_never_spent() {
        assert_eq!(refuse_harm("x", Harm::None, true, false), Ok(()));
        for harm in [Harm::KillsToken, Harm::SpendsRefreshToken] {
            let reason = refuse_harm("x", harm, true, false).unwrap_err();
            assert!(reason.contains("--force"), "{reason}");
            assert_eq!(refuse_harm("x", harm, true, true), Ok(()));
            assert_eq!(refuse_harm("x", harm, false, false), Ok(()));
        }
        assert!(refuse_harm("x", Harm::SpendsOneTimeInput, false, true).is_err());
    }

    #[test]
    fn a_fetch_that_kills_a_token_is_announced() {
        assert!(consequence(Harm::KillsToken).contains("kills the one before"));
        assert_eq!(consequence(Harm::None), "");
    }

    #[test]
    fn stored_tokens_are_described_with_age_and_expiry() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut stored = Stored {
            access: Some(StoredToken {
                token: "hunter2".into(),
                fetched_at: now - Duration::from_secs(60),
                expires_at: Some(now + Duration::from_secs(7_500)),
                outdated: false,
                usable: true,
            }),
            has_refresh_token: true,
            spent: 2,
        };
        assert_eq!(
            describe_stored(&stored, now),
            "access token fetched 1 min ago, expires in 2 h 5 min; a refresh token; \
             2 one-time input(s) spent"
        );
        let later = now + Duration::from_secs(8_000);
        assert!(describe_stored(&stored, later).contains(", expired;"));
        stored.access.as_mut().unwrap().outdated = true;
        let told = describe_stored(&stored, now);
        assert!(
            told.contains(", bought with a token that has been replaced;"),
            "{told}"
        );
    }
}
