//! `cupbearer status`: the state of the running proxy, as tables.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use clap::Args;
use http::StatusCode;

use super::admin::AdminArgs;
use super::failure::Failure;
use super::http::Server;
use super::table::{Colour, Paint, Table};
use super::words;
use crate::admin::{ProviderReport, Report, UpstreamReport};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print the admin port's JSON unchanged
    #[arg(long, env = "CUPBEARER_JSON")]
    json: bool,

    /// Refresh every two seconds, until Ctrl-C
    #[arg(long, conflicts_with = "json", env = "CUPBEARER_WATCH")]
    watch: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

/// Interval of `--watch`.
const INTERVAL: Duration = Duration::from_secs(2);

/// Clears the screen and the scrollback.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

pub(super) fn run(args: &StatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let server = args.admin.server()?;
    let terminal = io::stdout().is_terminal();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let coloured = terminal && !no_colour;
    if !args.watch {
        return show(args, &server, coloured, out);
    }
    loop {
        let mut screen = Vec::new();
        let shown = show(args, &server, coloured, &mut screen);
        if terminal {
            write!(out, "{CLEAR}")?;
        }
        out.write_all(&screen)?;
        // The proxy may be restarting.
        if let Err(failure) = shown {
            writeln!(out, "{failure}")?;
        }
        out.flush()?;
        std::thread::sleep(INTERVAL);
    }
}

fn show(
    args: &StatusArgs,
    server: &Server,
    coloured: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let answer = super::tokio_runtime()?
        .block_on(server.get("/status"))
        .map_err(|error| Failure::Runtime(format!("{error}; is the proxy running?")))?;
    if answer.status != StatusCode::OK {
        return Err(Failure::Runtime(format!(
            "the admin port answered {} to /status",
            answer.status
        )));
    }
    if args.json {
        out.write_all(&answer.body)?;
        if !answer.body.ends_with(b"\n") {
            writeln!(out)?;
        }
        return Ok(());
    }
    let report: Report = serde_json::from_slice(&answer.body).map_err(|_| {
        Failure::runtime("the response is not from this version of Cupbearer; try --json")
    })?;
    out.write_all(render(&report, coloured).as_bytes())?;
    Ok(())
}

fn state_colour(state: &str) -> Option<Colour> {
    match state {
        "valid" => Some(Colour::Green),
        "stale" => Some(Colour::Yellow),
        "expired" | "missing" | "login_required" => Some(Colour::Red),
        _ => None,
    }
}

/// Colours the count of Cupbearer's errors.
fn error_colour(count: &str) -> Option<Colour> {
    let count: u64 = count.parse().ok()?;
    (count > 0).then_some(Colour::Red)
}

fn render(report: &Report, coloured: bool) -> String {
    let up = match report.uptime_seconds {
        0 => "less than 1 s".to_owned(),
        seconds => words::duration(Duration::from_secs(seconds)),
    };
    let ready = match (report.ready, report.pending.as_slice()) {
        (true, _) => "ready".to_owned(),
        (false, []) => "not ready".to_owned(),
        (false, pending) => format!("not ready: {}", pending.join("; ")),
    };
    let mut text = format!("cupbearer {}, up for {up}, {ready}\n", report.version);
    for listener in &report.listeners {
        let _ = writeln!(text, "listening on {listener}");
    }
    for problem in &report.config_problems {
        let _ = writeln!(text, "the last reload was refused: {problem}");
    }
    let paint = |column, colour| coloured.then_some(Paint { column, colour });
    let providers = providers(&report.providers).painted(paint(1, state_colour));
    let upstreams = upstreams(&report.upstreams).painted(paint(5, error_colour));
    let _ = write!(text, "\n{providers}\n{upstreams}");
    text
}

fn providers(providers: &[ProviderReport]) -> Table<7> {
    let mut table = Table::new([
        "PROVIDER",
        "TOKEN",
        "NO.",
        "EXPIRES",
        "NEXT FETCH",
        "FAILURES",
        "LAST ERROR",
    ]);
    for provider in providers {
        table.row([
            provider.name.clone(),
            provider.state.clone(),
            provider.generation.to_string(),
            from_now(provider.expires_in_seconds),
            from_now(provider.next_fetch_in_seconds),
            provider.failures.to_string(),
            provider
                .last_error
                .clone()
                .unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

fn upstreams(upstreams: &[UpstreamReport]) -> Table<7> {
    let mut table = Table::new([
        "UPSTREAM", "ROUTE", "URL", "PROVIDER", "REQUESTS", "ERRORS", "REJECTED",
    ]);
    for upstream in upstreams {
        table.row([
            upstream.name.clone(),
            upstream.route.clone(),
            upstream.url.clone(),
            upstream.provider.clone(),
            upstream.requests.to_string(),
            upstream.errors.to_string(),
            upstream.token_rejections.to_string(),
        ]);
    }
    table
}

fn from_now(seconds: Option<i64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), words::from_now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_states_are_red_on_a_terminal_only() {
        let report = Report {
            providers: vec![ProviderReport {
                name: "x".to_owned(),
                state: "login_required".to_owned(),
                ..ProviderReport::default()
            }],
            ..Report::default()
        };
        let text = render(&report, true);
        assert!(text.contains("\x1b[31mlogin_required\x1b[0m"), "{text:?}");
        assert!(!render(&report, false).contains('\x1b'));
    }

    #[test]
    fn a_report_renders_as_tables() {
        let report = Report {
            version: "1.2.3".to_owned(),
            uptime_seconds: 7_500,
            pending: vec!["no token yet from x".to_owned()],
            listeners: vec!["http://127.0.0.1:8080".to_owned()],
            config_problems: vec!["providers.x: is missing".to_owned()],
            providers: vec![
                ProviderReport {
                    name: "cncn".to_owned(),
                    state: "valid".to_owned(),
                    generation: 3,
                    expires_in_seconds: Some(14),
                    next_fetch_in_seconds: Some(0),
                    ..ProviderReport::default()
                },
                ProviderReport {
                    name: "x".to_owned(),
                    state: "expired".to_owned(),
                    expires_in_seconds: Some(-60),
                    failures: 2,
                    last_error: Some("HTTP 400: 用户名或密码错误".to_owned()),
                    ..ProviderReport::default()
                },
            ],
            upstreams: vec![UpstreamReport {
                name: "cncn".to_owned(),
                route: "path /cncn".to_owned(),
                url: "https://a.test/api".to_owned(),
                provider: "cncn".to_owned(),
                requests: 7,
                ..UpstreamReport::default()
            }],
            ..Report::default()
        };
        let young = Report {
            version: "1.2.3".to_owned(),
            ready: true,
            ..Report::default()
        };
        assert!(
            render(&young, false).starts_with("cupbearer 1.2.3, up for less than 1 s, ready\n")
        );
        let text = render(&report, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "cupbearer 1.2.3, up for 2 h 5 min, not ready: no token yet from x",
                "listening on http://127.0.0.1:8080",
                "the last reload was refused: providers.x: is missing",
                "",
                "PROVIDER  TOKEN    NO.  EXPIRES    NEXT FETCH  FAILURES  LAST ERROR",
                "cncn      valid    3    in 14 s    now         0         -",
                "x         expired  0    1 min ago  -           2         HTTP 400: 用户名或密码错误",
                "",
                "UPSTREAM  ROUTE       URL                 PROVIDER  REQUESTS  ERRORS  REJECTED",
                "cncn      path /cncn  https://a.test/api  cncn      7         0       0",
            ]
        );
    }
}
