//! `cupbearer demo`: the product working in one command.
//!
//! Five fake vendors behind, a plain HTTP client in front, and between them the proxy exactly as `run` runs it.

mod trouble;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::background::Proxy;
use super::failure::Failure;
use super::http::{Answer, GetError, Server};
use super::log::LogArgs;
use super::signals::Signals;
use super::table::Table;
use super::words;
use crate::config::{Config, Environment};
use crate::demo::setup::Setup;
use crate::demo::vendors::{Event, FakeVendor, Kind, What};
use trouble::Trouble;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// End after the table, with exit code 0 only if all five vendors worked
    #[arg(long, env = "CUPBEARER_ONCE")]
    once: bool,

    /// The proxy's port; 0 takes a free one
    #[arg(long, default_value_t = 0, env = "CUPBEARER_PORT")]
    port: u16,

    /// The admin page's port; 0 takes a free one
    #[arg(long, default_value_t = 0, env = "CUPBEARER_ADMIN_PORT")]
    admin_port: u16,

    /// A vendor that misbehaves: VENDOR=down, half-closed, slow, 500 (any status), html, garbage, empty, huge, control-bytes,
    /// reject, or revoked (its tokens die). From the start; with @5s from 5 s after the table, with @5s+40s for 40 s. A
    /// request each second shows what the app sees meanwhile
    #[arg(
        long,
        value_name = "VENDOR=FAULT[@TIME]",
        value_delimiter = ',',
        env = "CUPBEARER_FAULT"
    )]
    fault: Vec<Trouble>,
}

pub(super) fn run(args: &DemoArgs, log: &LogArgs, out: &mut dyn Write) -> Result<(), Failure> {
    log.start("warn")?;
    let signals = Signals::listen(&[])?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(runtime)?
        .block_on(play(args, signals, out))
}

async fn play(args: &DemoArgs, signals: Signals, out: &mut dyn Write) -> Result<(), Failure> {
    let started = Instant::now();
    let (events, mut seen) = mpsc::unbounded_channel();
    let setup = Setup::start(events).await.map_err(runtime)?;
    for vendor in setup.vendors() {
        let mut troubles = (args.fault.iter()).filter(|trouble| trouble.vendor == vendor.kind());
        vendor.set_fault(troubles.find_map(Trouble::at_the_start));
    }
    let loopback = |port: u16| format!("127.0.0.1:{port}");
    let config = setup.config(&loopback(args.port), &loopback(args.admin_port));
    let (proxy, mut running) = Proxy::start(parsed(&config)?).await?;
    let front = Front::of(&proxy)?;
    // With the ports that were taken, so that what is shown can be copied.
    let config = setup.config(&front.listen, &front.admin);
    let saved = setup.save_config(&config).map_err(runtime)?;
    let tour = async {
        writeln!(
            out,
            "{INTRODUCTION}\nThe proxy's configuration, {}:\n\n{}",
            saved.display(),
            indented(&config)
        )?;
        let visited = visit_all(&setup, &front, out).await;
        // What is wrong on purpose is what one wants to watch.
        if args.once || (visited.is_err() && args.fault.is_empty()) {
            return visited;
        }
        writeln!(out, "{}", suggestions(&front))?;
        // What happened before is in the table.
        while seen.try_recv().is_ok() {}
        let show = Show {
            setup: &setup,
            server: &front.server,
            started,
        };
        show.watch(&args.fault, &mut seen, out).await
    };
    let outcome = tokio::select! {
        outcome = tour => outcome,
        ended = running.ended() => Err(ended),
        _signal = signals.first() => Ok(()),
    };
    if !args.once {
        writeln!(out, "\nStopping.")?;
    }
    running.stop().await?;
    outcome
}

/// The demo must not depend on where it runs: an egress proxy of the environment cannot reach our loopback.
struct NoEnvironment;

impl Environment for NoEnvironment {
    fn var(&self, _name: &str) -> Option<String> {
        None
    }
}

fn parsed(config: &str) -> Result<Config, Failure> {
    Config::from_toml(config, &NoEnvironment).map_err(|problems| {
        let path = "the configuration of the demo".into();
        Failure::BadConfig { path, problems }
    })
}

/// Where the demo's proxy is, as people write it.
struct Front {
    /// `host:port`
    listen: String,
    admin: String,
    server: Server,
}

impl Front {
    fn of(proxy: &Proxy) -> Result<Self, Failure> {
        let (Some(listen), Some(admin)) = (proxy.port(), proxy.admin) else {
            return Err(Failure::Runtime("the demo's proxy has no port".to_owned()));
        };
        let listen = listen.to_string();
        let server = Server::parse(&listen).map_err(|error| Failure::Runtime(error.to_string()))?;
        Ok(Self {
            listen,
            admin: admin.to_string(),
            server,
        })
    }
}

const INTRODUCTION: &str = "\
Five vendors, five ways to ask for a token. Your app knows none of them: it speaks plain HTTP to one local port.

  your app --plain HTTP--> cupbearer --TLS, with a token on it--> the vendor's API
                               |
                               +--TLS--> the vendor's token endpoint, in the vendor's own dialect

The vendors are fakes inside this process, as strict as the documents of the real ones.
";

/// One request through each upstream, as a table.
async fn visit_all(setup: &Setup, front: &Front, out: &mut dyn Write) -> Result<(), Failure> {
    let mut table = Table::new([
        "VENDOR",
        "HOW IT IS ASKED",
        "TOKEN LIFE",
        "GET",
        "STATUS",
        "MS",
        "TOKEN SEEN BY API",
    ]);
    let mut failures = Vec::new();
    for vendor in setup.vendors() {
        let visit = visit(vendor.kind(), &front.server).await;
        table.row([
            vendor.kind().to_string(),
            vendor.kind().asks_by().to_owned(),
            words::duration(vendor.life()),
            visit.path.clone(),
            visit.status(),
            visit.milliseconds.to_string(),
            visit.verdict(),
        ]);
        if let Some(reason) = visit.failure(vendor) {
            failures.push(reason);
        }
    }
    write!(out, "{table}")?;
    if failures.is_empty() {
        writeln!(
            out,
            "\nAll five worked. Tokens are fetched in the background: at start, and then ahead of their end."
        )?;
        return Ok(());
    }
    writeln!(out)?;
    for failure in &failures {
        writeln!(out, "{failure}")?;
    }
    Err(Failure::Runtime(format!(
        "{} of {} vendors did not work",
        failures.len(),
        Kind::ALL.len()
    )))
}

/// What came of one request.
struct Visit {
    path: String,
    milliseconds: u128,
    answer: Result<Answer, GetError>,
}

async fn visit(kind: Kind, proxy: &Server) -> Visit {
    let path = format!("/{kind}{}", path(kind));
    let started = Instant::now();
    let answer = proxy.get(&path).await;
    Visit {
        path,
        milliseconds: started.elapsed().as_millis(),
        answer,
    }
}

fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Cncn => "/orders/42",
        Kind::Besender => "/contacts?page=1",
        Kind::Ctcfile => "/files/7",
        Kind::IdentityServer => "/users/me",
        Kind::Passport => "/profile",
    }
}

impl Visit {
    fn status(&self) -> String {
        match &self.answer {
            Ok(answer) => answer.status.as_u16().to_string(),
            Err(_) => "none".to_owned(),
        }
    }

    /// As the app sees it, in a word or two.
    fn outcome(&self) -> String {
        let code = || {
            let answer = self.answer.as_ref().ok()?;
            let body: Value = serde_json::from_slice(&answer.body).ok()?;
            let code = body["type"]
                .as_str()?
                .strip_prefix("urn:cupbearer:error:")?;
            Some(format!("{} ({code})", answer.status.as_u16()))
        };
        code().unwrap_or_else(|| self.status())
    }

    /// The number of the token that the API saw.
    fn token_number(&self) -> Option<u64> {
        let answer = self.answer.as_ref().ok()?;
        if answer.status != http::StatusCode::OK {
            return None;
        }
        let body: Value = serde_json::from_slice(&answer.body).ok()?;
        body["token_number"].as_u64()
    }

    fn verdict(&self) -> String {
        match self.token_number() {
            Some(number) => format!("yes, no. {number}"),
            None => "no".to_owned(),
        }
    }

    fn failure(&self, vendor: &FakeVendor) -> Option<String> {
        if self.token_number().is_some() {
            return None;
        }
        let told = match &self.answer {
            Err(error) => error.to_string(),
            Ok(answer) => {
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                match (&body["type"], &body["detail"]) {
                    (Value::String(problem), Value::String(detail)) => {
                        format!("{problem}: {detail}")
                    }
                    _ => format!("{} from the API", answer.status),
                }
            }
        };
        let mut reason = format!("{}: {told}", vendor.kind());
        let mut refusals = vendor.refusals();
        // Retries are refused for the same reason.
        refusals.dedup();
        for refusal in refusals {
            reason.push_str("\n  what the vendor found wrong: ");
            reason.push_str(&refusal);
        }
        Some(reason)
    }
}

fn suggestions(front: &Front) -> String {
    let (url, admin) = (&front.listen, &front.admin);
    format!(
        "\nIt stays up. Try, from another terminal:\n\n    \
         curl -i http://{url}/cncn/orders/42\n    \
         curl -i http://{url}/besender/contacts -d '{{\"name\": \"测试\"}}'\n    \
         curl -i http://{url}/nobody              # Cupbearer's own errors cannot be taken for a vendor's\n    \
         cupbearer status --admin http://{admin}\n    \
         http://{admin}/            # the admin page, for a browser; /metrics for Prometheus\n\n\
         What the vendors see from now on (tokens live for seconds here; Ctrl-C ends it):\n"
    )
}

/// What is to be seen after the table.
struct Show<'a> {
    setup: &'a Setup,
    server: &'a Server,
    started: Instant,
}

impl Show<'_> {
    /// One line for each thing that a vendor saw, until somebody stops it. Vendors in trouble are asked for something each second.
    async fn watch(
        &self,
        troubles: &[Trouble],
        seen: &mut UnboundedReceiver<Event>,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let begin = tokio::time::Instant::now();
        let mut changes = trouble::changes(troubles).into_iter().peekable();
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut outcomes = HashMap::new();
        loop {
            let next = changes.peek().map(|change| begin + change.at);
            tokio::select! {
                event = seen.recv() => match event {
                    Some(event) => self.line(event.vendor, &event.what, out)?,
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(next.unwrap_or(begin)), if next.is_some() => {
                    if let Some(change) = changes.next() {
                        change.make(self.setup.vendors());
                        self.line(change.vendor, &change, out)?;
                    }
                }
                _ = seconds.tick(), if !troubles.is_empty() => {
                    for kind in troubled(troubles) {
                        let (server, tell) = (self.server.clone(), tell.clone());
                        tokio::spawn(async move {
                            let visit = visit(kind, &server).await;
                            // An error means that the show is over.
                            drop(tell.send((kind, visit)));
                        });
                    }
                }
                Some((kind, visit)) = told.recv() => {
                    let outcome = format!("the app gets {} for GET {}", visit.outcome(), visit.path);
                    if outcomes.insert(kind, outcome.clone()).as_ref() != Some(&outcome) {
                        self.line(kind, &outcome, out)?;
                    }
                }
            }
        }
    }

    fn line(
        &self,
        vendor: Kind,
        what: &dyn fmt::Display,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let at = self.started.elapsed().as_secs_f64();
        writeln!(out, "{at:8.1} s  {vendor:<14}  {what}")?;
        out.flush()?;
        Ok(())
    }
}

fn troubled(troubles: &[Trouble]) -> BTreeSet<Kind> {
    troubles.iter().map(|trouble| trouble.vendor).collect()
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokenIssued {
                number,
                grant,
                life,
            } => write!(
                f,
                "issued token no. {number}, good for {} ({grant})",
                words::duration(*life)
            ),
            Self::TokenRefused { reason } => write!(f, "refused to issue a token: {reason}"),
            Self::ApiServed { number, request } => {
                write!(f, "API served {request} with token no. {number}")
            }
            Self::ApiRejected { request, reason } => write!(f, "API rejected {request}: {reason}"),
        }
    }
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("    {line}").trim_end().to_owned() + "\n")
        .collect()
}

fn runtime(error: impl fmt::Display) -> Failure {
    Failure::Runtime(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_token_that_the_api_saw_counts() {
        let (events, _seen) = mpsc::unbounded_channel();
        let setup = Setup::start(events).await.unwrap();
        let vendor = &setup.vendors()[0];
        let visit = |status: u16, body: &'static str| Visit {
            path: "/cncn".to_owned(),
            milliseconds: 1,
            answer: Ok(Answer {
                status: http::StatusCode::from_u16(status).unwrap(),
                body: body.as_bytes().into(),
            }),
        };
        let good = visit(200, r#"{"token":"accepted","token_number":1}"#);
        assert_eq!(
            (good.verdict().as_str(), good.failure(vendor)),
            ("yes, no. 1", None)
        );
        let problem = visit(
            503,
            r#"{"type":"urn:x","detail":"no token","token_number":1}"#,
        );
        assert_eq!(problem.verdict(), "no");
        assert_eq!(problem.failure(vendor).unwrap(), "cncn: urn:x: no token");
        let html = visit(200, "<html>");
        assert_eq!(html.failure(vendor).unwrap(), "cncn: 200 OK from the API");
    }
}
