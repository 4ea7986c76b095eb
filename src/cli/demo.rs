//! `cupbearer demo`: a plain HTTP client, the proxy as `run` runs it, and five fake vendors.

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
use crate::config::{Config, NoEnvironment};
use crate::demo::setup::Setup;
use crate::demo::vendors::{Event, FakeVendor, Kind, What};
use trouble::PlannedFault;

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

    /// Make a vendor misbehave: VENDOR=down, half-closed, slow, 500 (any status), html, garbage,
    /// empty, huge, control-bytes, reject, or revoked (its tokens die). From the start; with @5s
    /// from 5 s after the table, with @5s+40s for 40 s. A request each second shows the effect
    #[arg(
        long,
        value_name = "VENDOR=FAULT[@TIME]",
        value_delimiter = ',',
        env = "CUPBEARER_FAULT"
    )]
    fault: Vec<PlannedFault>,
}

pub(super) fn run(args: &DemoArgs, log: &LogArgs, out: &mut dyn Write) -> Result<(), Failure> {
    log.start("warn")?;
    let signals = Signals::listen(&[])?;
    super::tokio_runtime()?.block_on(play(args, signals, out))
}

async fn play(args: &DemoArgs, signals: Signals, out: &mut dyn Write) -> Result<(), Failure> {
    let started = Instant::now();
    let (events, mut seen) = mpsc::unbounded_channel();
    let setup = Setup::start(events).await.map_err(Failure::runtime)?;
    for vendor in setup.vendors() {
        let mut faults = args
            .fault
            .iter()
            .filter(|planned| planned.vendor == vendor.kind());
        vendor.set_fault(faults.find_map(PlannedFault::initial));
    }
    let loopback = |port: u16| format!("127.0.0.1:{port}");
    let config = setup.config(&loopback(args.port), &loopback(args.admin_port));
    let (proxy, mut running) = Proxy::start(parsed(&config)?).await?;
    let front = Front::of(&proxy)?;
    // Shown with the bound ports, so that the commands can be copied.
    let config = setup.config(&front.listen, &front.admin);
    let saved = setup.save_config(&config).map_err(Failure::runtime)?;
    let tour = async {
        writeln!(
            out,
            "{INTRODUCTION}\nThe proxy's configuration, {}:\n\n{}",
            saved.display(),
            super::indented(&config)
        )?;
        let visited = visit_all(&setup, &front, out).await;
        // Failures on purpose do not end the demo.
        if args.once || (visited.is_err() && args.fault.is_empty()) {
            return visited;
        }
        writeln!(out, "{}", suggestions(&front))?;
        // The table has shown the earlier events.
        while seen.try_recv().is_ok() {}
        let mut timeline = Timeline { started, out };
        watch(&setup, &front.server, &args.fault, &mut seen, &mut timeline).await
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

fn parsed(config: &str) -> Result<Config, Failure> {
    Config::from_toml(config, &NoEnvironment).map_err(|problems| {
        let path = "the configuration of the demo".into();
        Failure::BadConfig { path, problems }
    })
}

/// Addresses of the demo's proxy.
struct Front {
    /// `host:port`
    listen: String,
    admin: String,
    server: Server,
}

impl Front {
    fn of(proxy: &Proxy) -> Result<Self, Failure> {
        let (Some(listen), Some(admin)) = (proxy.port(), proxy.admin) else {
            return Err(Failure::runtime("the demo's proxy has no port"));
        };
        let (listen, admin) = (listen.to_string(), admin.to_string());
        let server = Server::parse(&listen).map_err(Failure::runtime)?;
        Ok(Self {
            listen,
            admin,
            server,
        })
    }
}

const INTRODUCTION: &str = "\
Five vendors, five ways to ask for a token. Your app needs to know none of them:
it speaks plain HTTP to one local port.

  your app --plain HTTP--> cupbearer --TLS, with a token on it--> the vendor's API
                               |
                               +--TLS--> the vendor's token endpoint, in the vendor's own dialect

The vendors are fakes inside this process, as strict as the documents of the real ones.
";

/// Sends one request through each upstream and prints a table.
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
            "\nAll five worked. Tokens are fetched in the background: at start and before expiry."
        )?;
        return Ok(());
    }
    writeln!(out, "\n{}", failures.join("\n"))?;
    Err(Failure::Runtime(format!(
        "{} of {} vendors did not work",
        failures.len(),
        Kind::ALL.len()
    )))
}

/// One request and its response.
struct Visit {
    path: String,
    milliseconds: u128,
    answer: Result<Answer, GetError>,
}

async fn visit(kind: Kind, proxy: &Server) -> Visit {
    let resource = match kind {
        Kind::Cncn => "orders/42",
        Kind::Besender => "contacts?page=1",
        Kind::Ctcfile => "files/7",
        Kind::IdentityServer => "users/me",
        Kind::Passport => "profile",
    };
    let path = format!("/{kind}/{resource}");
    let started = Instant::now();
    let answer = proxy.get(&path).await;
    let milliseconds = started.elapsed().as_millis();
    Visit {
        path,
        milliseconds,
        answer,
    }
}

impl Visit {
    fn status(&self) -> String {
        match &self.answer {
            Ok(answer) => answer.status.as_u16().to_string(),
            Err(_) => "none".to_owned(),
        }
    }

    /// Parses the body; null if the body is not JSON.
    fn body(&self) -> Value {
        let answer = self.answer.as_ref().ok();
        let parsed = answer.and_then(|answer| serde_json::from_slice(&answer.body).ok());
        parsed.unwrap_or_default()
    }

    /// Returns the status, with the code of Cupbearer's own errors.
    fn outcome(&self) -> String {
        let (status, body) = (self.status(), self.body());
        let problem = body["type"].as_str().unwrap_or_default();
        match problem.strip_prefix("urn:cupbearer:error:") {
            Some(code) => format!("{status} ({code})"),
            None => status,
        }
    }

    /// Returns the number of the token that the API saw.
    fn token_number(&self) -> Option<u64> {
        let answer = self.answer.as_ref().ok()?;
        let accepted = answer.status == http::StatusCode::OK;
        accepted.then(|| self.body()["token_number"].as_u64())?
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
        let body = self.body();
        let cause = match (&self.answer, &body["type"], &body["detail"]) {
            (Err(error), ..) => error.to_string(),
            (_, Value::String(problem), Value::String(detail)) => format!("{problem}: {detail}"),
            (Ok(answer), ..) => format!("{} from the API", answer.status),
        };
        let mut reason = format!("{}: {cause}", vendor.kind());
        let mut refusals = vendor.refusals();
        // Retries are refused for the same reason.
        refusals.dedup();
        for refusal in refusals {
            reason.push_str("\n  the vendor's reason: ");
            reason.push_str(&refusal);
        }
        Some(reason)
    }
}

fn suggestions(front: &Front) -> String {
    let (url, admin) = (&front.listen, &front.admin);
    format!(
        "\nThe proxy keeps running. Try, from another terminal:\n\n    \
         curl -i http://{url}/cncn/orders/42\n    \
         curl -i http://{url}/besender/contacts -d '{{\"name\": \"测试\"}}'\n    \
         curl -i http://{url}/unknown             # an error of Cupbearer itself\n    \
         cupbearer status --admin http://{admin}\n    \
         http://{admin}/            # the admin page, for a browser; /metrics for Prometheus\n\n\
         What the vendors see from now on (tokens live for seconds here; Ctrl-C ends the demo):\n"
    )
}

/// Prints vendor events, planned faults and their effect on the app, until cancelled. Faulty
/// vendors get a request each second.
async fn watch(
    setup: &Setup,
    server: &Server,
    faults: &[PlannedFault],
    seen: &mut UnboundedReceiver<Event>,
    timeline: &mut Timeline<'_>,
) -> Result<(), Failure> {
    let begin = tokio::time::Instant::now();
    let mut changes = trouble::changes(faults).into_iter().peekable();
    let faulty: BTreeSet<Kind> = faults.iter().map(|planned| planned.vendor).collect();
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let (visited, mut visits) = mpsc::unbounded_channel();
    let mut outcomes = HashMap::new();
    loop {
        let next = changes.peek().map(|change| begin + change.at);
        tokio::select! {
            event = seen.recv() => match event {
                Some(event) => timeline.print(event.vendor, &event.what)?,
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(next.unwrap_or(begin)), if next.is_some() => {
                if let Some(change) = changes.next() {
                    change.apply(setup.vendors());
                    timeline.print(change.vendor, &change)?;
                }
            }
            _ = seconds.tick(), if !faulty.is_empty() => {
                for &kind in &faulty {
                    let (server, visited) = (server.clone(), visited.clone());
                    tokio::spawn(async move {
                        // Fails only once the demo is over.
                        drop(visited.send((kind, visit(kind, &server).await)));
                    });
                }
            }
            Some((kind, visit)) = visits.recv() => {
                let outcome = format!("the app gets {} for GET {}", visit.outcome(), visit.path);
                if outcomes.insert(kind, outcome.clone()).as_ref() != Some(&outcome) {
                    timeline.print(kind, &outcome)?;
                }
            }
        }
    }
}

/// Output with a time stamp on each line.
struct Timeline<'a> {
    started: Instant,
    out: &'a mut dyn Write,
}

impl Timeline<'_> {
    fn print(&mut self, vendor: Kind, what: &dyn fmt::Display) -> Result<(), Failure> {
        let at = self.started.elapsed().as_secs_f64();
        writeln!(self.out, "{at:8.1} s  {vendor:<14}  {what}")?;
        self.out.flush()?;
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_token_that_the_api_saw_is_success() {
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
