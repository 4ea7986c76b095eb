//! `cupbearer check`: is the configuration right, and, with `--online`, do the vendors agree?

mod online;

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::chained::Purse;
use super::config_file::{ConfigArgs, Loaded};
use super::failure::Failure;
use super::log::LogArgs;
use super::progress::Progress;
use super::run::address;
use super::table::Table;
use super::words;
use crate::config::{Config, LifeCycle, Provider, Route, Scheme, TokenSource, Upstream};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Really fetch a token from every provider, and show request, answer and schedule without secrets
    #[arg(long, env = "CUPBEARER_ONLINE", hide_env_values = true, value_parser = BoolishValueParser::new())]
    online: bool,

    /// With --online: also where fetching kills the token in use (single active) or spends a one-time input
    #[arg(long, env = "CUPBEARER_FORCE", hide_env_values = true, value_parser = BoolishValueParser::new())]
    force: bool,

    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &CheckArgs, log: &LogArgs, out: &mut dyn Write) -> Result<(), Failure> {
    if args.force && !args.online {
        return Err(Failure::Usage("--force goes with --online".to_owned()));
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Runtime(error.to_string()))?;
    let mut failed = Vec::new();
    let mut purse = Purse::default();
    for provider in inner_first(config) {
        writeln!(out, "\n{}", provider.name)?;
        if let Some(reason) = reason_to_skip(provider).filter(|_| !force) {
            writeln!(out, "  skipped: {reason}; --force fetches nevertheless")?;
            continue;
        }
        let mut progress = Progress::on_stderr();
        progress.show("waiting for the answer");
        let report = runtime.block_on(async {
            match purse.of(config, provider).await {
                Ok(tokens) => online::fetch(provider, &tokens).await,
                Err(failure) => online::Report::failed(failure.to_string()),
            }
        });
        drop(progress);
        for (what, text) in &report.lines {
            write_field(out, what, text)?;
        }
        match &report.outcome {
            Ok(_) => writeln!(out, "  ok")?,
            Err(reason) => {
                writeln!(out, "  FAILED: {reason}")?;
                failed.push(provider.name.as_str());
            }
        }
        purse.put(provider, report.outcome);
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Runtime(format!(
        "no token from: {}",
        failed.join(", ")
    )))
}

/// All providers, those before the others whose tokens the others are bought with: so each is asked for once.
fn inner_first(config: &Config) -> Vec<&Arc<Provider>> {
    fn visit<'c>(
        config: &'c Config,
        provider: &'c Arc<Provider>,
        seen: &mut Vec<&'c Arc<Provider>>,
    ) {
        if seen.iter().any(|known| known.name == provider.name) {
            return;
        }
        for name in provider.bought_with() {
            // The configuration has checked that this ends.
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

/// Why fetching once more could do harm.
fn reason_to_skip(provider: &Provider) -> Option<&'static str> {
    let TokenSource::Endpoint(endpoint) = &provider.source else {
        return None;
    };
    if provider.life.single_active {
        return Some("the vendor kills the token in use when a new one is fetched");
    }
    // Many vendors rotate refresh tokens: the one that this fetch brought would be lost with the process.
    let spends_refresh_token = endpoint.plan.required_variables().contains("refresh_token");
    (spends_refresh_token || !endpoint.plan.one_time.is_empty())
        .then_some("its input may be good for one use only")
}

/// `what` in a column; further lines of `text` below each other.
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
        let (from, grant, renewed) = match &provider.source {
            TokenSource::Static { .. } => (
                "the configuration".to_owned(),
                "-".to_owned(),
                "when it changes".to_owned(),
            ),
            TokenSource::Made(_) => (
                "nobody: it is signed here".to_owned(),
                "-".to_owned(),
                renewal(&provider.life),
            ),
            TokenSource::Endpoint(endpoint) => (
                format!(
                    "{}{}",
                    origin(endpoint.token_url.scheme, &endpoint.token_url.authority),
                    without_query(&endpoint.path_and_query)
                ),
                endpoint.plan.grant.clone(),
                renewal(&provider.life),
            ),
        };
        providers.row([provider.name.clone(), from, grant, renewed]);
    }
    let mut upstreams = Table::new(["UPSTREAM", "ROUTE", "TO", "PROVIDER"]);
    for upstream in &config.upstreams {
        upstreams.row([
            upstream.name.clone(),
            route(&upstream.route),
            target(upstream),
            upstream.provider.clone(),
        ]);
    }
    format!("{providers}\n{upstreams}")
}

/// Secrets may stand in the query of a token URL.
fn without_query(path_and_query: &str) -> &str {
    path_and_query.split('?').next().unwrap_or_default()
}

/// The rules of DESIGN.md §2 in words.
fn renewal(life: &LifeCycle) -> String {
    let mut rule = match life.refresh_before {
        Some(before) => format!("{} before it expires", words::duration(before)),
        None if life.single_active => "after 4/5 of its life, at most 5 min ahead".to_owned(),
        None => "after 4/5 of its life, at most 1 h ahead".to_owned(),
    };
    if let Some(ttl) = life.ttl {
        rule.push_str(&format!(
            "; {} if no expiry is stated",
            words::duration(ttl)
        ));
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

fn target(upstream: &Upstream) -> String {
    let Upstream {
        origin: to,
        base_path,
        ..
    } = upstream;
    format!("{}{base_path}", origin(to.scheme, &to.authority))
}

fn origin(scheme: Scheme, authority: &str) -> String {
    match scheme {
        Scheme::Http => format!("http://{authority}"),
        Scheme::Https => format!("https://{authority}"),
    }
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
    fn renewal_rules_in_words() {
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
    fn fields_of_many_lines_stay_in_their_column() {
        let mut out = Vec::new();
        write_field(&mut out, "request", "POST /x\nAccept: y").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "  request    POST /x\n             Accept: y\n"
        );
    }
}
