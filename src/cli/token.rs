//! `cupbearer token`: what is known of a provider's token; with `--show`, the token itself for a script.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use clap::builder::BoolishValueParser;
use http::StatusCode;

use super::admin::AdminArgs;
use super::config_file::Loaded;
use super::failure::Failure;
use super::log::LogArgs;
use super::{core_dumps, login, words};
use crate::admin::{ProviderReport, Report};
use crate::clock::Clock;
use crate::config::{Config, Provider, StoreKind, TokenSource};
use crate::provider::chain::Tokens;
use crate::provider::exchange::HttpFetch;
use crate::provider::login::LoginError;
use crate::provider::outside::{self, Harm, Stored};
use crate::provider::store::{self, Beside, Store};
use crate::secret::Secret;
use crate::upstream::tls::TlsProfiles;

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// A provider of the configuration
    #[arg(value_name = "PROVIDER")]
    provider: String,

    /// Print the token, and nothing else, to standard output; fetched if the store has none
    #[arg(long, env = "CUPBEARER_SHOW", hide_env_values = true, value_parser = BoolishValueParser::new())]
    show: bool,

    /// With --show: fetch one even if that may take the running proxy's token from it
    #[arg(long, env = "CUPBEARER_FORCE", hide_env_values = true, value_parser = BoolishValueParser::new())]
    force: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &TokenArgs, log: &LogArgs, out: &mut dyn Write) -> Result<(), Failure> {
    if args.force && !args.show {
        return Err(Failure::Usage("--force goes with --show".to_owned()));
    }
    let Loaded { config, .. } = args.admin.config.load()?;
    let provider = login::provider(&config, &args.provider)?;
    log.start("warn")?;
    core_dumps::disable();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    runtime.block_on(async {
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

/// What a proxy that runs with this configuration says of the provider.
enum Running {
    Yes(Box<ProviderReport>),
    /// Nothing listens at its admin port.
    No,
    /// Why it cannot be told.
    Unknown(String),
}

async fn running(args: &TokenArgs) -> Running {
    use super::http::GetError;
    let server = match args.admin.server() {
        Ok(server) => server,
        Err(failure) => return Running::Unknown(failure.to_string()),
    };
    let answer = match server.get("/status").await {
        Ok(answer) if answer.status == StatusCode::OK => answer,
        Ok(answer) => return Running::Unknown(format!("/status answered {}", answer.status)),
        Err(GetError::Connect { source, .. })
            if source.kind() == std::io::ErrorKind::ConnectionRefused =>
        {
            return Running::No;
        }
        Err(error) => return Running::Unknown(error.to_string()),
    };
    let Ok(report) = serde_json::from_slice::<Report>(&answer.body) else {
        return Running::Unknown("what answers there is another program".to_owned());
    };
    let mut providers = report.providers.into_iter();
    match providers.find(|provider| provider.name == args.provider) {
        Some(provider) => Running::Yes(Box::new(provider)),
        None => Running::Unknown("it runs with another configuration".to_owned()),
    }
}

/// `None` where nothing is stored, or the store is one process's memory.
async fn stored(config: &Config, provider: &Provider) -> Result<Option<Stored>, Failure> {
    if config.store.kind == StoreKind::Memory {
        return Ok(None);
    }
    let store = store::visit(&config.store).await.map_err(failed)?;
    let stored = outside::stored(provider, &config.providers, &store, &Clock::System).await;
    stored.map_err(failed)
}

/// From the store if it has one that is good, else fetched.
async fn token(
    args: &TokenArgs,
    config: &Config,
    provider: Arc<Provider>,
) -> Result<Secret, Failure> {
    let stored = stored(config, &provider).await?;
    let good = stored
        .and_then(|stored| stored.access)
        .filter(|access| access.usable);
    if let Some(access) = good {
        return Ok(access.token);
    }
    let clock = Clock::System;
    let fetcher = Arc::new(HttpFetch::new(TlsProfiles::new(), clock.clone()));
    if let TokenSource::Static { .. } = provider.source {
        let read = outside::fetch(provider, None, fetcher, clock, Tokens::default()).await;
        return read.map_err(failed);
    }
    let store = match &config.store.kind {
        StoreKind::Memory => None,
        StoreKind::File { .. } => match store::beside(&config.store).await.map_err(failed)? {
            Beside::Ours(store) => Some(Arc::new(store) as Arc<dyn Store>),
            Beside::Visited { .. } => None,
        },
    };
    let harm = outside::harm(&provider);
    if store.is_none() {
        let in_use = match (&config.store.kind, running(args).await) {
            // Its holder is a proxy, whatever the admin port says.
            (StoreKind::File { .. }, _) => true,
            (StoreKind::Memory, running) => !matches!(running, Running::No),
        };
        refuse(&provider.name, harm, in_use, args.force).map_err(Failure::Runtime)?;
    }
    eprintln!(
        "warning: the store has no token of {} that is good: asking the vendor for one{}",
        provider.name,
        consequence(harm)
    );
    let tokens = super::chained::tokens(config, &provider).await?;
    let fetched = outside::fetch(provider, store, fetcher, clock, tokens).await;
    fetched.map_err(failed)
}

/// Whether a fetch that the running proxy knows nothing of must not be.
fn refuse(name: &str, harm: Harm, in_use: bool, force: bool) -> Result<(), String> {
    let why = match harm {
        Harm::None => return Ok(()),
        Harm::SpendsOneTimeInput => {
            return Err(format!(
                "the store has no token of {name} that is good, and its one-time input is not for this: see `cupbearer status` and `cupbearer login`"
            ));
        }
        Harm::KillsToken => "its vendor would kill the token that the proxy is using",
        Harm::SpendsRefreshToken => "that may use up the proxy's refresh token",
    };
    match (in_use, force) {
        (false, _) | (_, true) => Ok(()),
        (true, false) => Err(format!(
            "no token of {name} is fetched, for {why}, and one seems to be running; --force fetches nevertheless"
        )),
    }
}

/// Of a fetch, for whoever uses the credential elsewhere.
fn consequence(harm: Harm) -> &'static str {
    match harm {
        Harm::KillsToken => ", which kills the one before, wherever that is in use",
        Harm::SpendsRefreshToken => ", which may use up a refresh token that others have, too",
        Harm::None | Harm::SpendsOneTimeInput => "",
    }
}

fn describe(config: &Config, running: &Running, stored: Option<&Stored>) -> String {
    let proxy = match running {
        Running::Yes(report) => of_report(report),
        Running::No => "is not running".to_owned(),
        Running::Unknown(reason) => format!("unknown: {reason}"),
    };
    let store = match (&config.store.kind, stored) {
        (StoreKind::Memory, _) => "the proxy's memory (store.kind = \"memory\")".to_owned(),
        (StoreKind::File { .. }, None) => "has nothing of it".to_owned(),
        (StoreKind::File { .. }, Some(stored)) => of_store(stored, SystemTime::now()),
    };
    format!("proxy  {proxy}\nstore  {store}\n")
}

fn of_report(report: &ProviderReport) -> String {
    let mut text = format!("{}, no. {}", report.state, report.generation);
    for (what, seconds) in [
        ("expires", report.expires_in_seconds),
        ("next fetch", report.next_fetch_in_seconds),
    ] {
        if let Some(seconds) = seconds {
            text.push_str(&format!(", {what} {}", from_now(seconds)));
        }
    }
    if let Some(error) = &report.last_error {
        text.push_str(&format!("; last error: {error}"));
    }
    text
}

fn of_store(stored: &Stored, now: SystemTime) -> String {
    let mut parts = vec![match &stored.access {
        None => "no access token".to_owned(),
        Some(access) => {
            let age = now.duration_since(access.fetched_at).unwrap_or_default();
            let mut text = format!("access token fetched {} ago", words::duration(age));
            match access.expires_at.map(|at| at.duration_since(now)) {
                None => text.push_str(", states no end"),
                Some(Ok(left)) => text.push_str(&format!(", expires in {}", words::duration(left))),
                Some(Err(_)) => text.push_str(", expired"),
            }
            if access.outdated {
                text.push_str(", bought with a token that is another now");
            }
            text
        }
    }];
    parts.push(match stored.has_refresh_token {
        true => "a refresh token".to_owned(),
        false => "no refresh token".to_owned(),
    });
    if stored.spent > 0 {
        parts.push(format!("{} one-time input(s) spent", stored.spent));
    }
    parts.join("; ")
}

fn from_now(seconds: i64) -> String {
    let span = words::duration(Duration::from_secs(seconds.unsigned_abs()));
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("in {span}"),
        _ => format!("{span} ago"),
    }
}

fn failed(error: impl Into<LoginError>) -> Failure {
    Failure::Runtime(error.into().to_string())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use clap::Parser;
    use tempfile::TempDir;

    use super::*;
    use crate::config::Environment;
    use crate::demo::authority::Authority;
    use crate::demo::vendors::{Credential, FakeVendor, Kind, Options};
    use crate::metrics::Metrics;
    use crate::provider::outside::StoredToken;
    use crate::provider::{self, Deps};

    struct NoEnvironment;

    impl Environment for NoEnvironment {
        fn var(&self, _name: &str) -> Option<String> {
            None
        }
    }

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        args: TokenArgs,
    }

    /// Nothing listens on port 1, so nothing runs there.
    fn args(words: &[&str]) -> TokenArgs {
        let all = [&["token", "x", "--admin", "127.0.0.1:1"], words].concat();
        Words::try_parse_from(all).unwrap().args
    }

    /// A vendor of this kind, and a configuration for it with a store of its own.
    async fn world(kind: Kind, store: bool) -> (FakeVendor, Config, TempDir) {
        let authority = Authority::new().unwrap();
        let vendor = FakeVendor::start(&authority, kind, Options::default())
            .await
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, authority.pem()).unwrap();
        let mut text = format!(
            "[providers.x]\ndialect = '{kind}'\ntoken_url = {:?}\ntls = {{ ca_file = {ca_file:?} }}\n",
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
        // Single active: what another fetch would kill.
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
    async fn a_token_that_is_fetched_while_nobody_runs_is_kept_where_that_is_due() {
        for (kind, fetches) in [(Kind::Ctcfile, 1), (Kind::Cncn, 2)] {
            let (vendor, config, _folder) = world(kind, true).await;
            for _ in 0..2 {
                shown(&config, &["--show"]).await.unwrap();
            }
            assert_eq!(vendor.counters().issued, fetches, "{kind}");
        }
    }

    /// The proxy is there but its store has no token: only force takes the vendor's only one from it.
    #[tokio::test]
    async fn nothing_is_fetched_that_would_kill_the_token_in_use() {
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
    async fn a_memory_store_is_nobody_elses() {
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
    fn a_running_proxys_token_is_not_killed_by_the_way() {
        assert_eq!(refuse("x", Harm::None, true, false), Ok(()));
        for harm in [Harm::KillsToken, Harm::SpendsRefreshToken] {
            let reason = refuse("x", harm, true, false).unwrap_err();
            assert!(reason.contains("--force"), "{reason}");
            assert_eq!(refuse("x", harm, true, true), Ok(()));
            assert_eq!(refuse("x", harm, false, false), Ok(()));
        }
        // Never, whatever is asked for.
        assert!(refuse("x", Harm::SpendsOneTimeInput, false, true).is_err());
    }

    #[test]
    fn whoever_kills_a_token_is_told() {
        assert!(consequence(Harm::KillsToken).contains("kills the one before"));
        assert_eq!(consequence(Harm::None), "");
    }

    #[test]
    fn the_stores_words() {
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
            of_store(&stored, now),
            "access token fetched 1 min ago, expires in 2 h 5 min; a refresh token; 2 one-time input(s) spent"
        );
        let later = now + Duration::from_secs(8_000);
        assert!(of_store(&stored, later).contains(", expired;"));
        stored.access.as_mut().unwrap().outdated = true;
        let told = of_store(&stored, now);
        assert!(
            told.contains(", bought with a token that is another now;"),
            "{told}"
        );
    }
}
