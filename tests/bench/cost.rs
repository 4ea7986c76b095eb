//! CPU time of the worker thread per request, by HTTP version of the upstream, number of
//! connections and size of the response body.
//!
//! Every round measures all rows. The result of a row is the median of the rounds, and its ratio to
//! the first row. The README compares the results with other proxies.
//!
//! ```sh
//! cargo bench --bench cost
//! cargo bench --bench cost -- --quick
//! cargo bench --bench cost -- --program target/release/cupbearer
//! ```
//!
//! The last command measures a program instead of the library, including effects of its linking.

#![allow(clippy::unwrap_used, reason = "a failed benchmark may panic")]

mod ask;
mod process;
#[allow(dead_code, reason = "only another benchmark uses the counters")]
mod vendor;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use ask::{ask, connect};
use bytes::Bytes;
use cupbearer::app::{self, Shutdown};
use cupbearer::config::{Config, Listen, ProcessEnvironment};
use cupbearer::demo::authority::Authority;
use http::{Request, StatusCode};
use process::{on_cpu, workers};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use vendor::Vendor;

const KIB: usize = 1024;

/// HTTP version of the upstream, connections of apps, bytes of the response, requests in a round.
const ROWS: &[(&str, usize, usize, usize)] = &[
    ("1.1", 1, KIB, 4_000),
    ("2", 1, KIB, 4_000),
    ("1.1", 32, KIB, 8_000),
    ("2", 32, KIB, 8_000),
    ("1.1", 8, 64 * KIB, 2_000),
    ("2", 8, 64 * KIB, 2_000),
    ("1.1", 2, 1024 * KIB, 200),
    ("2", 2, 1024 * KIB, 200),
];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if !has("--bench") {
        // `cargo test --all-targets` starts benchmarks, too, but must not take minutes.
        return;
    }
    let program = arguments.iter().position(|name| name == "--program");
    let program = program.map(|at| arguments.get(at + 1).expect("--program takes a path"));
    let (rounds, part) = if has("--quick") { (1, 10) } else { (7, 1) };
    let authority = Authority::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let vendor = Vendor::start(&authority);
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(async {
        let config = config(vendor.address, &ca);
        let proxy = match program {
            Some(program) => Proxy::program(program, &config, folder.path()).await,
            None => Proxy::start(config).await,
        };
        let mut seen = vec![Vec::with_capacity(rounds); ROWS.len()];
        // The first round is a warm-up.
        for round in 0..=rounds {
            for (row, seen) in ROWS.iter().zip(&mut seen) {
                let cost = proxy.cost(row, part).await;
                if round > 0 {
                    seen.push(cost);
                }
            }
        }
        report(seen);
        proxy.stop().await;
    });
}

fn report(seen: Vec<Vec<Duration>>) {
    println!("upstream  connections       body   CPU/request    ratio   CPU/GB");
    let mut first = None;
    for ((version, connections, size, _), mut costs) in ROWS.iter().zip(seen) {
        costs.sort_unstable();
        let median = costs[costs.len() / 2].as_secs_f64();
        let ratio = median / *first.get_or_insert(median);
        println!(
            "HTTP/{version:<3} {connections:>12} {:>6} KiB {:>10.1} us {ratio:>8.2} {:>6.2} s",
            size / KIB,
            median * 1e6,
            median / *size as f64 * 1e9,
        );
    }
}

fn config(vendor: SocketAddr, ca: &Path) -> String {
    let tls = format!("tls = {{ ca_file = {ca:?} }}");
    let upstream = |name: &str, version: &str| {
        format!(
            "[upstreams.{name}]\nurl = \"https://api.test/api\"\nconnect_to = \"{vendor}\"\n\
             provider = \"p\"\nroute = {{ path_prefix = \"/{version}\" }}\n\
             http = \"{version}\"\n{tls}\n"
        )
    };
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n\
         [providers.p]\ntoken_url = \"https://{vendor}/token\"\n\
         client_id = \"c\"\nclient_secret = \"s\"\n{tls}\n{}{}",
        upstream("h1", "1.1"),
        upstream("h2", "2")
    )
}

struct Proxy {
    listen: SocketAddr,
    /// Directory of the worker thread in `/proc`.
    worker: PathBuf,
    running: Running,
}

enum Running {
    Thread(oneshot::Sender<Shutdown>, thread::JoinHandle<()>),
    Program(Program),
}

/// Kills the program when dropped, even by a panic.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // The program may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Proxy {
    async fn start(config: String) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (tell, bound) = oneshot::channel();
        let thread = thread::spawn(move || {
            let config = Config::from_toml(&config, &ProcessEnvironment).unwrap();
            let bound = app::bind(config).unwrap();
            let Listen::Tcp(listen) = bound.listeners()[0] else {
                panic!("the listener is not TCP");
            };
            tell.send(listen).unwrap();
            bound
                .run(async { stopped.await.unwrap_or(Shutdown::Interrupt) })
                .unwrap();
        });
        let listen = bound.await.unwrap();
        Self::ready(listen, Running::Thread(stop, thread)).await
    }

    async fn program(program: &str, config: &str, folder: &Path) -> Self {
        let file = folder.join("config.toml");
        std::fs::write(
            &file,
            config.replace("[server]", "[server]\nadmin = \"off\""),
        )
        .unwrap();
        let child = Command::new(program)
            .args(["run", "--log", "info", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn();
        let mut program = Program(child.unwrap());
        let mut log = BufReader::new(program.0.stderr.take().unwrap()).lines();
        let listen = log
            .by_ref()
            .find_map(|line| {
                let line = line.unwrap();
                let (_, rest) = line.split_once("listening on http://")?;
                // Lines are JSON if the log is not a terminal.
                let address = rest.split(['"', ' ']).next()?;
                Some(address.parse().unwrap())
            })
            .expect("the program listens before it ends");
        // A full pipe would block the program.
        thread::spawn(|| log.for_each(drop));
        Self::ready(listen, Running::Program(program)).await
    }

    async fn ready(listen: SocketAddr, running: Running) -> Self {
        requests(listen, "/1.1/1024".to_owned(), 1).await;
        let process = match &running {
            Running::Thread(..) => std::process::id(),
            Running::Program(program) => program.0.id(),
        };
        Self {
            listen,
            worker: workers(process).pop().unwrap(),
            running,
        }
    }

    /// Returns the CPU time of one request.
    async fn cost(&self, row: &(&str, usize, usize, usize), part: usize) -> Duration {
        let (version, connections, size, requests_of_all) = row;
        let each = (requests_of_all / part / connections).max(1);
        let before = on_cpu(&self.worker);
        let mut apps: JoinSet<()> = (0..*connections)
            .map(|_| requests(self.listen, format!("/{version}/{size}"), each))
            .collect();
        while let Some(app) = apps.join_next().await {
            app.unwrap();
        }
        (on_cpu(&self.worker) - before) / (each * connections) as u32
    }

    async fn stop(self) {
        let end = move || match self.running {
            Running::Thread(stop, thread) => {
                stop.send(Shutdown::Interrupt).unwrap();
                thread.join().unwrap();
            }
            Running::Program(mut program) => {
                let pid = rustix::process::Pid::from_child(&program.0);
                rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
                assert!(program.0.wait().unwrap().success());
            }
        };
        tokio::task::spawn_blocking(end).await.unwrap();
    }
}

/// Sends requests one after another on one connection.
async fn requests(listen: SocketAddr, path: String, count: usize) {
    let mut client = connect(listen).await;
    for _ in 0..count {
        let request = Request::get(path.as_str());
        let (status, _) = ask(&mut client, request, Bytes::new()).await.unwrap();
        assert_eq!(status, StatusCode::OK);
    }
}
