//! A constant load from keep-alive clients, and its statistics. 80 % of the requests are GETs, 10 %
//! are small POSTs, and 10 % are uploads of 1 MiB.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::ask::{ask, connect};

const CLIENTS: u64 = 20;
/// Time between requests of a client. In total 400 requests a second with 40 MiB/s of uploads.
const PERIOD: Duration = Duration::from_millis(50);
const UPLOAD: usize = 1024 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    Get,
    Post,
    Upload,
}

/// Statistics of one kind of request.
#[derive(Default)]
pub(crate) struct Seen {
    latencies: Vec<Duration>,
    statuses: BTreeMap<StatusCode, u32>,
    broken: u32,
}

pub(crate) type Report = BTreeMap<Load, Seen>;

/// Runs the load in a separate thread until `work` ends.
pub(crate) async fn under_load<T>(
    listen: SocketAddr,
    work: impl Future<Output = T>,
) -> (T, Report) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let apps = thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let clients = (0..CLIENTS).map(|number| client(listen, number, Arc::clone(&stopped)));
            let mut clients: JoinSet<Report> = clients.collect();
            let mut all = Report::new();
            while let Some(report) = clients.join_next().await {
                merge(&mut all, report.unwrap());
            }
            all
        })
    });
    let result = work.await;
    stop.store(true, Ordering::Relaxed);
    let report = tokio::task::spawn_blocking(move || apps.join().unwrap());
    (result, report.await.unwrap())
}

async fn client(listen: SocketAddr, number: u64, stop: Arc<AtomicBool>) -> Report {
    // Clients start spread over the period, at different steps of the mix.
    sleep(PERIOD * number as u32 / CLIENTS as u32).await;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let upload = Bytes::from(vec![b'u'; UPLOAD]);
    let mut report = Report::new();
    let mut sender = connect(listen).await;
    for turn in number.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        ticks.tick().await;
        let (load, method, body) = match turn % 10 {
            3 => (Load::Upload, Method::POST, upload.clone()),
            8 => (
                Load::Post,
                Method::POST,
                Bytes::from_static(b"{\"small\":true}"),
            ),
            _ => (Load::Get, Method::GET, Bytes::new()),
        };
        let request = Request::builder().method(method).uri("/load");
        let seen = report.entry(load).or_default();
        match ask(&mut sender, request, body).await {
            Ok((status, took)) => {
                *seen.statuses.entry(status).or_default() += 1;
                seen.latencies.push(took);
            }
            Err(_) => {
                seen.broken += 1;
                sender = connect(listen).await;
            }
        }
    }
    report
}

pub(crate) fn merge(all: &mut Report, more: Report) {
    for (load, seen) in more {
        all.entry(load).or_default().add(seen);
    }
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.broken += other.broken;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.latencies.sort_unstable();
    }

    fn quantile(&self, part: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * part).round() as usize;
        self.latencies.get(at).copied().unwrap_or_default()
    }

    fn count(&self, status: StatusCode) -> u32 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Returns the number of requests without a 200.
    pub(crate) fn wrong(&self) -> u32 {
        let wrong = self
            .statuses
            .iter()
            .filter(|(status, _)| **status != StatusCode::OK);
        wrong.map(|(_, count)| count).sum::<u32>() + self.broken
    }

    /// Returns the maximum latency minus the median.
    pub(crate) fn longest_hold(&self) -> Duration {
        self.quantile(1.0) - self.quantile(0.5)
    }
}

pub(crate) fn name(load: Load) -> &'static str {
    match load {
        Load::Get => "GET",
        Load::Post => "small POST",
        Load::Upload => "1 MiB upload",
    }
}

pub(crate) fn print(report: &Report) {
    println!(
        "  {:13} {:>7} {:>5} {:>5} {:>6} {:>9} {:>9} {:>9}",
        "", "all", "401", "503", "other", "p50 ms", "p99 ms", "max ms"
    );
    for (load, seen) in report {
        let (rejected, held) = (
            seen.count(StatusCode::UNAUTHORIZED),
            seen.count(StatusCode::SERVICE_UNAVAILABLE),
        );
        let milliseconds = |part| seen.quantile(part).as_secs_f64() * 1e3;
        println!(
            "  {:13} {:>7} {rejected:>5} {held:>5} {:>6} {:>9.2} {:>9.2} {:>9.2}",
            name(*load),
            seen.latencies.len() as u32 + seen.broken,
            seen.wrong() - rejected - held,
            milliseconds(0.5),
            milliseconds(0.99),
            milliseconds(1.0),
        );
    }
}
