//! 10,000 upstreams and 1,000 providers in one configuration, compared with one of each.
//!
//! Measures start, CPU per request, memory, first fetches, the admin port and reloads under load.
//! The exit code is 1 if a requirement is broken.
//!
//! ```sh
//! cargo bench --bench scale
//! cargo bench --bench scale -- --quick       # a tenth of the size
//! ```

#![allow(clippy::unwrap_used, reason = "a failed benchmark may panic")]

mod ask;
mod process;
mod vendor;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ask::{ask, connect};
use bytes::Bytes;
use cupbearer::app::{self, ConfigFile, Shutdown};
use cupbearer::config::{Config, Listen, ProcessEnvironment};
use cupbearer::demo::authority::Authority;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use process::{on_cpu, workers};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::sleep;
use vendor::Vendor;

const START: Duration = Duration::from_secs(2);
const CPU_RATIO: f64 = 1.1;
/// Each round measures both sizes. The result is the median of the ratios.
const ROUNDS: usize = 9;
const REQUESTS: usize = 3_000;
const RELOADS: usize = 5;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if !has("--bench") {
        // `cargo test --all-targets` starts benchmarks, too, but must not take minutes.
        return ExitCode::SUCCESS;
    }
    let (upstreams, providers) = match has("--quick") {
        true => (1_000, 100),
        false => (10_000, 1_000),
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    if runtime.unwrap().block_on(measure(upstreams, providers)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Returns whether every requirement was met.
async fn measure(upstreams: usize, providers: usize) -> bool {
    let authority = Authority::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let vendor = Vendor::start(&authority);
    let size = |upstreams, providers| Size {
        upstreams,
        providers,
        vendor: vendor.address,
        ca: ca.clone(),
    };
    let start = |name: &str, size: Size| App::start(folder.path().join(name), size);
    // `small` keeps running, so that the next app does not reuse its memory.
    let small = start("small.toml", size(1, 1)).await;
    let wide = start("wide.toml", size(upstreams, 1)).await;
    let per_upstream = wide.grown.saturating_sub(small.grown) / upstreams;
    wide.stop().await;
    let deep = start("deep.toml", size(1, providers)).await;
    until_fetched(&deep, providers).await;
    let per_provider = rss().saturating_sub(deep.before) / providers;
    deep.stop().await;

    vendor.forget();
    let large = start("large.toml", size(upstreams, providers)).await;
    let mut kept = judge(
        "start to the first 200",
        large.started <= START,
        &format!(
            "{:.0?} (read and checked {:.0?}, bound {:.0?}; one of each {:.0?})",
            large.started, large.read, large.bound, small.started
        ),
    );
    let (all, slowest) = until_fetched(&large, providers).await;
    println!(
        "first tokens: all {providers} after {all:.0?}; at most {} concurrent connections; \
         the admin port responded within {slowest:.0?}",
        vendor.most()
    );
    println!(
        "memory: {per_upstream} bytes for each upstream, \
         {per_provider} for each provider with its token"
    );
    report_admin(&large).await;
    kept &= compare(&small, &large, upstreams).await;
    kept &= reload(&large).await;
    small.stop().await;
    large.stop().await;
    kept
}

fn judge(what: &str, good: bool, figure: &str) -> bool {
    println!("{}: {what}: {figure}", if good { "kept" } else { "BROKEN" });
    good
}

/// Compares requests to the only upstream with requests to one of many.
async fn compare(small: &App, large: &App, upstreams: usize) -> bool {
    let path = format!("/u{}/x", upstreams / 2);
    let mut ratios = Vec::with_capacity(ROUNDS);
    for (app, path) in [(small, "/u0/x"), (large, path.as_str())] {
        app.cpu_per_request(path).await;
    }
    let mut last = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        let one = small.cpu_per_request("/u0/x").await;
        let many = large.cpu_per_request(&path).await;
        ratios.push(many.as_secs_f64() / one.as_secs_f64());
        last = (one, many);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ROUNDS / 2];
    judge(
        "CPU for each request against one upstream",
        ratio <= CPU_RATIO,
        &format!("{ratio:.3} ({:.1?} and {:.1?})", last.0, last.1),
    )
}

/// Reloads changed upstreams and secrets under load.
async fn reload(app: &App) -> bool {
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let (listen, stopped, count) = (app.listen, Arc::clone(&stop), Arc::clone(&answered));
    let load = thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(apps(listen, &stopped, &count))
    });
    let text = std::fs::read_to_string(&app.file).unwrap();
    let mut times = Vec::with_capacity(RELOADS);
    for round in 0..RELOADS {
        let text = text
            .replace(
                "client_secret = \"s\"",
                &format!("client_secret = \"s{round}\""),
            )
            .replace(
                "[upstreams.u1]\n",
                &format!("[upstreams.u1]\nreplay_limit = {round}\n"),
            )
            .replace("[upstreams.u2]\n", &format!("[upstreams.v{round}]\n"));
        std::fs::write(&app.file, text).unwrap();
        let mut client = connect(app.admin).await;
        let request = Request::post("/-/reload").header("x-cupbearer", "1");
        let (status, took) = ask(&mut client, request, Bytes::new()).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        times.push(took);
    }
    stop.store(true, Ordering::Relaxed);
    let (failed, slowest) = load.join().unwrap();
    times.sort_unstable();
    judge(
        "reloads under load",
        failed == 0,
        &format!(
            "{failed} of {} requests failed, the slowest took {slowest:.0?}; a reload took {:.0?}",
            answered.load(Ordering::Relaxed),
            times[RELOADS / 2]
        ),
    )
}

/// Sends requests on four kept connections. Returns the number of failures and the maximum latency.
async fn apps(listen: SocketAddr, stop: &AtomicBool, answered: &AtomicUsize) -> (usize, Duration) {
    let app = async |path: &str| {
        let mut client = connect(listen).await;
        let (mut failed, mut slowest) = (0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            match ask(&mut client, Request::get(path), Bytes::new()).await {
                Ok((StatusCode::OK, took)) => slowest = slowest.max(took),
                Ok(_) => failed += 1,
                Err(_) => {
                    failed += 1;
                    client = connect(listen).await;
                }
            }
            answered.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(2)).await;
        }
        (failed, slowest)
    };
    let (a, b, c, d) = tokio::join!(app("/u0/x"), app("/u1/x"), app("/u5/x"), app("/u77/x"));
    [a, b, c, d]
        .into_iter()
        .fold((0, Duration::ZERO), |all, one| {
            (all.0 + one.0, all.1.max(one.1))
        })
}

async fn report_admin(app: &App) {
    for path in ["/metrics", "/status"] {
        let mut client = connect(app.admin).await;
        let started = Instant::now();
        let request = Request::get(path).header("host", "localhost");
        let answer = client.send_request(request.body(Full::default()).unwrap());
        let body = answer.await.unwrap().into_body().collect().await.unwrap();
        let size = body.to_bytes().len();
        println!("{path}: {} KiB in {:.0?}", size / 1024, started.elapsed());
    }
}

/// Waits until every provider has a token. Returns the time since the start and the maximum latency
/// of the admin port.
async fn until_fetched(app: &App, providers: usize) -> (Duration, Duration) {
    let mut client = connect(app.admin).await;
    let mut slowest = Duration::ZERO;
    loop {
        let (status, took) = ask(&mut client, Request::get("/readyz?strict"), Bytes::new())
            .await
            .unwrap();
        slowest = slowest.max(took);
        if status == StatusCode::OK {
            return (app.at.elapsed(), slowest);
        }
        assert!(
            app.at.elapsed() < Duration::from_secs(60),
            "{providers} tokens"
        );
        sleep(Duration::from_millis(5)).await;
    }
}

struct Size {
    upstreams: usize,
    providers: usize,
    vendor: SocketAddr,
    ca: PathBuf,
}

impl Size {
    fn config(&self) -> String {
        let mut text = "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n".to_owned();
        let (vendor, tls) = (self.vendor, format!("tls = {{ ca_file = {:?} }}", self.ca));
        for n in 0..self.providers {
            let _ = writeln!(
                text,
                "[providers.p{n}]\ntoken_url = \"https://{vendor}/token\"\n\
                 client_id = \"c{n}\"\nclient_secret = \"s\"\n{tls}"
            );
        }
        for n in 0..self.upstreams {
            let provider = n % self.providers;
            let _ = writeln!(
                text,
                "[upstreams.u{n}]\nurl = \"https://{vendor}/api\"\n\
                 provider = \"p{provider}\"\nroute = {{ path_prefix = \"/u{n}\" }}\n\
                 http = \"1.1\"\n{tls}"
            );
        }
        text
    }
}

struct App {
    file: PathBuf,
    listen: SocketAddr,
    admin: SocketAddr,
    at: Instant,
    read: Duration,
    bound: Duration,
    /// Time to the first 200, including the token fetch.
    started: Duration,
    /// Resident memory before the start, and its growth until the first 200, in bytes.
    before: usize,
    grown: usize,
    /// Directory of the worker thread in `/proc`.
    worker: PathBuf,
    stop: oneshot::Sender<Shutdown>,
    thread: JoinHandle<()>,
}

impl App {
    async fn start(file: PathBuf, size: Size) -> Self {
        std::fs::write(&file, size.config()).unwrap();
        let before = rss();
        let others = workers(std::process::id());
        let (stop, stopped) = oneshot::channel();
        let (tell, bound) = oneshot::channel();
        let at = Instant::now();
        let path = file.clone();
        let thread = thread::spawn(move || {
            let text = std::fs::read_to_string(&path).unwrap();
            let config = Config::from_toml(&text, &ProcessEnvironment).unwrap();
            drop(text);
            let watched = ConfigFile::new(path, ProcessEnvironment);
            let read = at.elapsed();
            let bound = app::bind(config).unwrap().watch(watched);
            let Listen::Tcp(listen) = bound.listeners()[0] else {
                panic!("the listener is not TCP");
            };
            let admin = bound.admin().unwrap();
            tell.send((listen, admin, read, at.elapsed())).unwrap();
            bound
                .run(async { stopped.await.unwrap_or(Shutdown::Interrupt) })
                .unwrap();
        });
        let (listen, admin, read, bound) = bound.await.unwrap();
        let path = format!("/u{}/x", size.upstreams - 1);
        let (status, _) = ask(&mut connect(listen).await, Request::get(path), Bytes::new())
            .await
            .unwrap();
        assert_eq!(status, StatusCode::OK);
        let worker = workers(std::process::id())
            .into_iter()
            .find(|path| !others.contains(path));
        Self {
            file,
            listen,
            admin,
            at,
            read,
            bound,
            started: at.elapsed(),
            before,
            grown: rss().saturating_sub(before),
            worker: worker.unwrap(),
            stop,
            thread,
        }
    }

    async fn cpu_per_request(&self, path: &str) -> Duration {
        let mut client = connect(self.listen).await;
        let before = on_cpu(&self.worker);
        for _ in 0..REQUESTS {
            let (status, _) = ask(&mut client, Request::get(path), Bytes::new())
                .await
                .unwrap();
            assert_eq!(status, StatusCode::OK);
        }
        (on_cpu(&self.worker) - before) / REQUESTS as u32
    }

    async fn stop(self) {
        self.stop.send(Shutdown::Interrupt).unwrap();
        tokio::task::spawn_blocking(move || self.thread.join().unwrap())
            .await
            .unwrap();
    }
}

/// Returns the resident memory of this process, in bytes.
fn rss() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() * 1024
}
