//! `cupbearer check`: checks the configuration and, with `--online`, fetches every token once.

mod online;

use std::io::Write;
use std::sync::Arc;

use clap::Args;

use super::chained::InnerTokens;
use super::config_file::{ConfigArgs, Loaded};
use super::failure::Failure;
use super::log::LogArgs;
use super::progress::Progress;
use super::run::address;
use super::table::Table;
use super::words;
use crate::config::{Config, LifeCycle, Origin, Provider, Route, Scheme, TokenSource};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Fetch a token from every provider; show request, answer and schedule without secrets
    #[arg(long, env = "CUPBEARER_ONLINE")]
    online: bool,

    /// With --online: fetch even if that kills the token in use or spends a one-time input
    #[arg(long, env = "CUPBEARER_FORCE")]
    force: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &CheckArgs, log: &LogArgs, out: &mut dyn Write) -> Result<(), Failure> {
    if args.force && !args.online {
        return Err(Failure::Usage("--force needs --online".to_owned()));
    }
    let Loaded { path, config } = args.config.load()?.with_commands_checked()?;
    write!(out, "{}", summary(&config))?;
    writeln!(out, "\n{} is fine.", path.display())?;
    if !args.online {
        return Ok(());
    }
    log.start("warn")?;
    fetch_all(&config, args.force, out)
}

fn fetch_all(config: &Config, force: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let runtime = super::tokio_runtime()?;
    let mut failed = Vec::new();
    let mut inner_tokens = InnerTokens::default();
    for provider in inner_first(config) {
        writeln!(out, "\n{}", provider.name)?;
        if let Some(reason) = reason_to_skip(provider).filter(|_| !force) {
            writeln!(out, "  skipped: {reason}; --force fetches anyway")?;
            continue;
        }
        let mut progress = Progress::on_stderr();
        progress.show("waiting for the answer");
        let (lines, outcome) = runtime.block_on(async {
            match inner_tokens.of(config, provider).await {
                Ok(tokens) => online::fetch(provider, &tokens).await,
                Err(failure) => (Vec::new(), Err(failure.to_string())),
            }
        });
        drop(progress);
        for (what, text) in &lines {
            write_field(out, what, text)?;
        }
        match &outcome {
            Ok(_) => writeln!(out, "  ok")?,
            Err(reason) => {
                writeln!(out, "  FAILED: {reason}")?;
                failed.push(provider.name.as_str());
            }
        }
        inner_tokens.record(provider, outcome);
    }
    if failed.is_empty() {
        return Ok(());
    }
    let failed = failed.join(", ");
    Err(Failure::Runtime(format!("no token from: {failed}")))
}

/// Orders providers so that inner ones come first, and each is fetched once.
fn inner_first(config: &Config) -> Vec<&Arc<Provider>> {
    fn visit<'c>(
        config: &'c Config,
        provider: &'c Arc<Provider>,
        seen: &mut Vec<&'c Arc<Provider>>,
    ) {
        if seen.iter().any(|known| known.name == provider.name) {
            return;
        }
        for name in provider.chained_providers() {
            // `Config` rejects cycles.
            if let Some(inner) = config.providers.iter().find(|it| it.name == name) {
                visit(config, inner, seen);
            }
        }
        seen.push(provider);
    }
    let mut seen = Vec::new();
    for provider in &config.providers {
        visit(config, provider, &mut seen);
    }
    seen
}

/// Returns why a fetch could do harm.
fn reason_to_skip(provider: &Provider) -> Option<&'static str> {
    let TokenSource::Endpoint(endpoint) = &provider.source else {
        return None;
    };
    if provider.life.single_active {
        return Some("the vendor kills the token in use when a new one is fetched");
    }
    // Vendors that rotate refresh tokens would issue one that is lost with this process.
    let spends_refresh_token = endpoint.plan.required_variables().contains("refresh_token");
    (spends_refresh_token || !endpoint.plan.one_time.is_empty())
        .then_some("its input may be good for one use only")
}

/// Writes `what` as a label, and the lines of `text` below each other.
fn write_field(out: &mut dyn Write, what: &str, text: &str) -> Result<(), Failure> {
    for (number, line) in text.lines().enumerate() {
        let label = if number == 0 { what } else { "" };
        writeln!(out, "  {label:<9}  {line}")?;
    }
    Ok(())
}

fn summary(config: &Config) -> String {
    let mut providers = Table::new(["PROVIDER", "TOKEN FROM", "GRANT", "RENEWED"]);
    for provider in &config.providers {
        let (from, grant) = match &provider.source {
            TokenSource::Static { .. } => ("the configuration".to_owned(), "-"),
            TokenSource::SelfSigned(_) => ("local signing".to_owned(), "-"),
            TokenSource::Endpoint(endpoint) => {
                let path = without_query(&endpoint.path_and_query);
                (url(&endpoint.token_url, path), &*endpoint.plan.grant)
            }
        };
        let renewed = match &provider.source {
            TokenSource::Static { .. } => "when it changes".to_owned(),
            TokenSource::SelfSigned(_) | TokenSource::Endpoint(_) => renewal(&provider.life),
        };
        providers.row([provider.name.clone(), from, grant.to_owned(), renewed]);
    }
    let mut upstreams = Table::new(["UPSTREAM", "ROUTE", "TO", "PROVIDER"]);
    for upstream in &config.upstreams {
        upstreams.row([
            upstream.name.clone(),
            route(&upstream.route),
            url(&upstream.origin, &upstream.base_path),
            upstream.provider.clone(),
        ]);
    }
    format!("{providers}\n{upstreams}")
}

/// Drops the query of a token URL, which may hold secrets.
fn without_query(path_and_query: &str) -> &str {
    path_and_query.split('?').next().unwrap_or_default()
}

/// Describes when a token is renewed.
fn renewal(life: &LifeCycle) -> String {
    let mut rule = match life.refresh_before {
        Some(before) => format!("{} before it expires", words::duration(before)),
        None => {
            let ahead = if life.single_active { "5 min" } else { "1 h" };
            format!("after 4/5 of its life, at most {ahead} ahead")
        }
    };
    if let Some(ttl) = life.ttl.map(words::duration) {
        rule.push_str(&format!("; {ttl} if no expiry is stated"));
    }
    if life.single_active {
        rule.push_str("; single active");
    }
    rule
}

fn route(route: &Route) -> String {
    match route {
        Route::PathPrefix(prefix) => format!("{prefix}/…"),
        Route::Host(host) => format!("Host: {host}"),
        Route::Listen(listen) => address(listen),
        Route::CatchAll => "everything else".to_owned(),
    }
}

fn url(origin: &Origin, path: &str) -> String {
    let scheme = match origin.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    format!("{scheme}://{}{path}", origin.authority)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn life(refresh_before: Option<u64>, single_active: bool) -> LifeCycle {
        LifeCycle {
            refresh_before: refresh_before.map(Duration::from_secs),
            min_interval: Duration::from_secs(5),
            ttl: None,
            single_active,
            required: true,
        }
    }

    #[test]
    fn renewal_rules_are_described() {
        assert_eq!(
            renewal(&life(Some(90), false)),
            "1 min 30 s before it expires"
        );
        assert_eq!(
            renewal(&life(None, false)),
            "after 4/5 of its life, at most 1 h ahead"
        );
        let single = LifeCycle {
            ttl: Some(Duration::from_secs(3600)),
            ..life(None, true)
        };
        assert_eq!(
            renewal(&single),
            "after 4/5 of its life, at most 5 min ahead; 1 h if no expiry is stated; single active"
        );
    }

    #[test]
    fn queries_of_token_urls_are_not_shown() {
        assert_eq!(without_query("/token?secret=x"), "/token");
        assert_eq!(without_query("/token"), "/token");
    }

    #[test]
    fn further_lines_of_a_field_are_aligned() {
        let mut out = Vec::new();
        write_field(&mut out, "request", "POST /x\nAccept: y").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "  request    POST /x\n             Accept: y\n"
        );
    }
}
