//! Rotation of a single-active token under load.
//!
//! The fake ctcfile vendor invalidates the previous token when it issues a new one, and responds 20
//! ms later. A constant load from keep-alive clients runs alternately without and with rotations.
//! The exit code is 1 if a requirement is broken.
//!
//! ```sh
//! cargo bench --bench rotation                  # 100 rotations in 100 s
//! cargo bench --bench rotation -- --quick       # 10 in 10 s
//! cargo bench --bench rotation -- --thousand    # 1,000, at the shortest interval of fetches
//! ```

#![allow(clippy::unwrap_used, reason = "a failed benchmark may panic")]

mod ask;
mod load;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use ask::{ask, connect};
use bytes::Bytes;
use cupbearer::app::{self, Shutdown};
use cupbearer::config::{Config, Listen, ProcessEnvironment};
use cupbearer::demo::authority::{Authority, Offer};
use cupbearer::demo::vendors::{Credential, FakeVendor, Fault, Kind, Options};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use load::{Load, Report, merge, name, print, under_load};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Duration of a token request.
const EXCHANGE: Duration = Duration::from_millis(20);
/// The time that the proxy may add to [`EXCHANGE`].
const OVERHEAD: Duration = Duration::from_millis(5);
/// Each round runs without and with rotations. Results are medians of the rounds.
const ROUNDS: u32 = 5;

/// The work of each round.
struct Plan {
    rotations: u32,
    every: Duration,
    still: Duration,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if !has("--bench") {
        // `cargo test --all-targets` starts benchmarks, too, but must not take minutes.
        return ExitCode::SUCCESS;
    }
    let (rotations, every, still) = match (has("--quick"), has("--thousand")) {
        (true, _) => (2, 1000, 2),
        // `schedule::MIN_GAP` is 400 ms.
        (_, true) => (200, 425, 20),
        _ => (20, 1000, 20),
    };
    let plan = Plan {
        rotations,
        every: Duration::from_millis(every),
        still: Duration::from_secs(still),
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    if runtime.unwrap().block_on(measure(&plan)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Returns whether every requirement was met. The vendor runs in this thread; the proxy and the
/// apps have threads of their own.
async fn measure(plan: &Plan) -> bool {
    let authority = Authority::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let options = Options {
        life: None,
        api: Offer::default(),
        events: None,
    };
    let vendor = FakeVendor::start(&authority, Kind::Ctcfile, options).await;
    let vendor = vendor.unwrap();
    vendor.set_fault(Some(Fault::Slow(EXCHANGE)));
    let config = config(&vendor, &format!("tls = {{ ca_file = {ca_file:?} }}"));
    let (stop, stopped) = oneshot::channel();
    let (tell, bound) = oneshot::channel();
    let proxy = thread::spawn(move || {
        let config = Config::from_toml(&config, &ProcessEnvironment).unwrap();
        let proxy = app::bind(config).unwrap();
        let Listen::Tcp(listen) = proxy.listeners()[0] else {
            panic!("the listener is not TCP");
        };
        tell.send((listen, proxy.admin().unwrap())).unwrap();
        proxy.run(async { stopped.await.unwrap_or(Shutdown::Interrupt) })
    });
    let (listen, admin) = bound.await.unwrap();
    until_ready(admin).await;

    let issued = vendor.counters().issued;
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        let still = under_load(listen, sleep(plan.still)).await.1;
        let (done, moving) = under_load(listen, rotate(admin, plan)).await;
        rounds.add(done, still, moving);
    }
    let issued = vendor.counters().issued - issued;
    println!("without rotation, {:?}:", plan.still * ROUNDS);
    print(&rounds.still);
    let rotations = plan.rotations * ROUNDS;
    println!("\n{rotations} rotations, one each {:?}:", plan.every);
    print(&rounds.moving);
    println!("\nrotations done: {}; tokens issued: {issued}", rounds.done);
    println!("rejected by the API: {}", vendor.counters().api_rejected);
    for line in samples(admin).await {
        println!("{line}");
    }
    let all_done = rounds.done == rotations && issued == u64::from(rotations);
    if !all_done {
        println!("BROKEN: {rotations} rotations were asked for");
    }
    let kept = rounds.judge() && all_done;
    stop.send(Shutdown::Interrupt).unwrap();
    tokio::task::spawn_blocking(move || proxy.join().unwrap().unwrap())
        .await
        .unwrap();
    kept
}

fn config(vendor: &FakeVendor, tls: &str) -> String {
    let mut text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [upstreams.ctcfile]\nurl = {:?}\nprovider = \"ctcfile\"\n{tls}\n\
         [providers.ctcfile]\ndialect = \"ctcfile\"\ntoken_url = {:?}\n\
         min_interval = \"400ms\"\n{tls}\n",
        vendor.api_url(),
        vendor.token_url(),
    );
    for (key, credential) in vendor.kind().credentials() {
        let _ = match credential {
            Credential::Text(value) => writeln!(text, "{key} = {value:?}"),
            Credential::Integer(value) => writeln!(text, "{key} = {value}"),
        };
    }
    text
}

/// Rotates the token. Returns how often that succeeded.
async fn rotate(admin: SocketAddr, plan: &Plan) -> u32 {
    let mut ticks = interval(plan.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = connect(admin).await;
    let mut done = 0;
    for _ in 0..plan.rotations {
        ticks.tick().await;
        let request = Request::post("/-/refresh/ctcfile").header("x-cupbearer", "1");
        done +=
            u32::from(ask(&mut client, request, Bytes::new()).await.unwrap().0 == StatusCode::OK);
    }
    // The last rotation lasts a whole interval as well.
    ticks.tick().await;
    done
}

/// Statistics of all rounds, with the longest hold of each round.
#[derive(Default)]
struct Rounds {
    done: u32,
    still: Report,
    moving: Report,
    holds: BTreeMap<Load, Vec<Duration>>,
    /// Longest holds without rotations: the share of the machine.
    stalls: BTreeMap<Load, Vec<Duration>>,
}

impl Rounds {
    fn add(&mut self, done: u32, still: Report, moving: Report) {
        self.done += done;
        for (longest, report) in [(&mut self.holds, &moving), (&mut self.stalls, &still)] {
            for (load, seen) in report {
                longest.entry(*load).or_default().push(seen.longest_hold());
            }
        }
        merge(&mut self.still, still);
        merge(&mut self.moving, moving);
    }

    fn judge(self) -> bool {
        println!();
        let mut kept = true;
        for load in [Load::Get, Load::Post, Load::Upload] {
            let (hold, stall) = (median(&self.holds[&load]), median(&self.stalls[&load]));
            let wrong = self.still[&load].wrong() + self.moving[&load].wrong();
            let good = wrong == 0 && hold <= EXCHANGE + OVERHEAD;
            // Uploads cannot be replayed, so for uploads the limit is only a goal.
            let verdict = match (good, load) {
                (true, _) => "kept",
                (false, Load::Upload) => "goal missed",
                (false, _) => "BROKEN",
            };
            kept &= verdict != "BROKEN";
            println!(
                "{verdict}: {}: {wrong} without a 200; \
                 longest hold {hold:.1?} (without rotation {stall:.1?})",
                name(load)
            );
        }
        kept
    }
}

fn median(rounds: &[Duration]) -> Duration {
    let mut sorted = rounds.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

async fn until_ready(admin: SocketAddr) {
    let mut client = connect(admin).await;
    while ask(&mut client, Request::get("/readyz"), Bytes::new())
        .await
        .unwrap()
        .0
        != StatusCode::OK
    {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Returns the proxy's samples of token fetches, rejections and replays.
async fn samples(admin: SocketAddr) -> Vec<String> {
    let mut client = connect(admin).await;
    let request = Request::get("/metrics")
        .header("host", "localhost")
        .body(Full::default());
    let response = client.send_request(request.unwrap()).await.unwrap();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let wanted = [
        "cupbearer_token_fetches_total{",
        "cupbearer_token_rejections_total{",
        "cupbearer_replays_total{",
    ];
    let lines = std::str::from_utf8(&text).unwrap().lines();
    let lines = lines.filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    lines.map(str::to_owned).collect()
}
