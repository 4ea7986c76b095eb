//! A token endpoint fails in every way, one after the other, under constant load from apps. No
//! request fails before the token expires, every request fails closed afterwards, and requests
//! succeed within one step of the backoff once the vendor recovers.
//!
//! About eight seconds, or as many as `CUPBEARER_SOAK_SECONDS` says. `CUPBEARER_SOAK_SEED` repeats a run's order.

use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cupbearer::demo::vendors::{FakeVendor, Fault, Kind};
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::client::Client;
use crate::harness::{App, World, with_app};

const LIFE: Duration = Duration::from_secs(2);
/// A token is used until this long before its expiry: L/20.
const MARGIN: Duration = Duration::from_millis(100);
/// Of the provider.
const TIMEOUT: Duration = Duration::from_millis(300);
/// For a machine that does other things besides.
const SLACK: Duration = Duration::from_millis(250);

/// All of them are transient.
const FAULTS: [Fault; 6] = [
    Fault::Down,
    Fault::HalfClosed,
    Fault::Slow(Duration::from_secs(10)),
    Fault::Status(500),
    Fault::Garbage,
    Fault::Html,
];

/// What became of one request.
#[derive(Debug)]
struct Sample {
    began: Instant,
    ended: Instant,
    status: u16,
    code: String,
}

type Samples = Arc<Mutex<Vec<Sample>>>;

#[tokio::test]
async fn a_token_endpoint_that_fails_in_every_way() {
    let length = Duration::from_secs(from_environment("CUPBEARER_SOAK_SECONDS").unwrap_or(8));
    let seed = from_environment("CUPBEARER_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("CUPBEARER_SOAK_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new();
    let vendor = world.vendor(Kind::Besender, Some(LIFE)).await;
    let timeout = format!("timeout = \"{}ms\"", TIMEOUT.as_millis());
    let config = world.vendor_config(&vendor, &timeout, "token_wait = \"50ms\"");
    with_app(&config, async |app| {
        app.ready().await;
        let samples = Samples::default();
        let mut apps = JoinSet::new();
        for _ in 0..4 {
            apps.spawn(ask_for_ever(app.connect().await, Arc::clone(&samples)));
        }
        let began = Instant::now();
        let (mut served, mut refused) = (0, 0);
        // The first outage outlasts the token, so that both promises are put to the test however short the run is.
        let mut outage = LIFE * 3 / 2;
        while began.elapsed() < length {
            let round = Round::run(app, &vendor, &mut random, outage).await;
            let taken = std::mem::take(&mut *samples.lock().unwrap());
            for sample in &taken {
                round.judge(sample);
                served += u32::from(sample.status == 200);
                refused += u32::from(sample.status == 503);
            }
            outage = Duration::from_millis(random.u64(100..3500));
        }
        apps.abort_all();
        assert!(
            served > 100 && refused > 100,
            "{served} served, {refused} refused"
        );
        // Fail closed: nothing was sent without a token that the vendor knows.
        assert_eq!(vendor.counters().api_rejected, 0, "{:?}", vendor.refusals());
        assert_eq!(fetches(app, "permanent").await, 0);
    })
    .await;
}

/// One outage: what was promised about the requests around it.
struct Round {
    faults: Vec<Fault>,
    /// The end of the token that was there when the outage began.
    token_ends: Instant,
    recovered: Instant,
}

impl Round {
    /// Begins with a token in hand, ends when there is a new one.
    async fn run(
        app: &App,
        vendor: &FakeVendor,
        random: &mut fastrand::Rng,
        outage: Duration,
    ) -> Self {
        let mut ticks = interval(Duration::from_millis(5));
        let failed_before = fetches(app, "transient").await;
        let began = Instant::now();
        let (mut faults, mut next) = (Vec::new(), began);
        while began.elapsed() < outage {
            if Instant::now() >= next {
                let fault = FAULTS[random.usize(..FAULTS.len())];
                vendor.set_fault(Some(fault));
                faults.push(fault);
                next += Duration::from_millis(random.u64(50..500));
            }
            ticks.tick().await;
        }
        // Read now: a fetch that was under way when the outage began has long ended.
        let token_ends = token_ends(app).await;
        let fetched = fetches(app, "ok").await;
        let over = Instant::now();
        vendor.set_fault(None);
        let bound = loop {
            let failures = fetches(app, "transient").await - failed_before;
            // Without a failure, the refresh comes in its own time. The last attempt may have begun before the end.
            let bound = TIMEOUT + SLACK + if failures == 0 { LIFE } else { step(failures) };
            if fetches(app, "ok").await > fetched {
                break bound;
            }
            assert!(
                over.elapsed() < bound,
                "no recovery after {failures} failures: {faults:?}"
            );
            ticks.tick().await;
        };
        let recovered = Instant::now();
        assert!(
            recovered - over < bound,
            "{:?}, {faults:?}",
            recovered - over
        );
        Self {
            faults,
            token_ends,
            recovered,
        }
    }

    fn judge(&self, sample: &Sample) {
        let Self {
            faults,
            token_ends,
            recovered,
        } = self;
        let told = format!(
            "{sample:?}; the token ended at {token_ends:?}, recovered at {recovered:?} from {faults:?}"
        );
        let refused = sample.status == 503 && sample.code == "token_unavailable";
        assert!(refused || sample.status == 200, "{told}");
        if sample.ended + SLACK < *token_ends {
            assert_eq!(sample.status, 200, "too early: {told}");
        }
        if sample.began > *token_ends + SLACK && sample.ended + SLACK < *recovered {
            assert_eq!(sample.status, 503, "too late: {told}");
        }
    }
}

/// The backoff's pause after so many failures, at most.
fn step(failures: u64) -> Duration {
    Duration::from_secs(1 << (failures - 1).min(6)).min(Duration::from_secs(60))
}

async fn ask_for_ever(mut client: Client, samples: Samples) {
    let mut ticks = interval(Duration::from_millis(5));
    loop {
        ticks.tick().await;
        let began = Instant::now();
        let answer = client.get("/besender/x").await;
        samples.lock().unwrap().push(Sample {
            began,
            ended: Instant::now(),
            status: answer.status.as_u16(),
            code: answer.code(),
        });
    }
}

async fn fetches(app: &App, result: &str) -> u64 {
    let name =
        format!("cupbearer_token_fetches_total{{provider=\"besender\",result=\"{result}\"}}");
    app.metric(&name).await as u64
}

async fn token_ends(app: &App) -> Instant {
    let expiry = app
        .metric("cupbearer_token_expiry_timestamp_seconds{provider=\"besender\"}")
        .await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // In the past, most often.
    let ago = now.as_secs_f64() - expiry + MARGIN.as_secs_f64();
    if ago < 0.0 {
        Instant::now() + Duration::from_secs_f64(-ago)
    } else {
        Instant::now() - Duration::from_secs_f64(ago)
    }
}

fn from_environment<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number")),
    )
}
