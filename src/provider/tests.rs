//! Tests of the refresher with a scripted vendor, on paused time.

mod chained;
mod issuer;
mod killed;
mod renewal;

use std::sync::Mutex;

use tokio::time::sleep;

use super::testing::{
    CLIENT_CREDENTIALS, FakeFetch, FakeVendor, Log, PASSWORD, REFRESH_TOKEN, Reply, SMS, endpoint,
    literal, provider, static_provider,
};
use super::*;
use crate::clock::{Clock, test::TestClock};
use crate::config::Value;
use crate::dialect::FailureClass;
use crate::metrics::Metrics;
use crate::provider::chain::Tokens;
use crate::provider::exchange::{Fetch, Pending};
use crate::store::{FileStore, Keys, MemoryStore, Saved, StateKey, Store, StoreError};
use crate::token::cell::{Replayability, Token, Unavailable};

const WAIT: Duration = Duration::from_secs(10);

struct World {
    vendor: Arc<FakeVendor>,
    clock: TestClock,
    metrics: Arc<Metrics>,
    deps: Deps,
    started: Instant,
}

impl World {
    fn new(always: Reply) -> Self {
        Self::with_store(always, Arc::new(MemoryStore::default()))
    }

    fn with_store(always: Reply, store: Arc<dyn Store>) -> Self {
        let test = TestClock::new();
        let clock = Clock::Test(test.clone());
        let started = Instant::now();
        let vendor = FakeVendor::new(clock.clone(), always);
        let metrics = Arc::new(Metrics::new());
        let deps = Deps {
            tokens: Tokens::default(),
            store,
            fetcher: Arc::new(FakeFetch(Arc::clone(&vendor), started)),
            clock,
            metrics: Arc::clone(&metrics),
            random: || 0.5,
        };
        Self {
            vendor,
            clock: test,
            metrics,
            deps,
            started,
        }
    }

    fn spawn(&self, provider: Provider) -> Handle {
        spawn(vec![Arc::new(provider)], self.deps.clone()).remove(0)
    }

    fn metric(&self, name: &str, label: (&str, &str)) -> f64 {
        let labels = [("provider", "x"), label];
        let name = format!("cupbearer_{name}");
        self.metrics.value(&name, &labels).unwrap()
    }
}

/// A provider with a repeatable grant.
fn simple() -> Provider {
    provider("x", CLIENT_CREDENTIALS, |_| {})
}

/// The credential that a request would carry.
fn sent(handle: &Handle, token: &Token) -> String {
    let reader = handle.reader();
    let (_, value) = &reader.injection(token).headers[0];
    value.to_str().unwrap().to_owned()
}

fn current(handle: &Handle) -> Option<String> {
    let token = handle.reader().current()?;
    Some(sent(handle, &token))
}

#[tokio::test(start_paused = true)]
async fn first_token_is_fetched_at_start_and_wakes_waiters() {
    let world = World::new(Reply::Token("t1", 3600));
    let handle = world.spawn(simple());
    assert_eq!(handle.status().state, State::Missing);
    let token = handle.reader().newer(0, WAIT).await.unwrap();
    assert_eq!(sent(&handle, &token), "Bearer t1");
    assert_eq!(world.started.elapsed(), Duration::from_millis(20));
    assert!(handle.first_token().await);
    let status = handle.status();
    assert_eq!((status.state, status.generation), (State::Valid, 1));
    assert!(status.next_fetch_at < status.expires_at);
    assert_eq!(world.metric("token_state", ("state", "valid")), 1.0);
    assert_eq!(world.metric("token_fetches_total", ("result", "ok")), 1.0);
}

#[tokio::test(start_paused = true)]
async fn token_is_refreshed_before_each_expiry() {
    let world = World::new(Reply::Fresh(100));
    let handle = world.spawn(simple());
    assert!(handle.first_token().await);
    for _ in 0..1000 {
        assert!(current(&handle).is_some());
        sleep(Duration::from_secs(1)).await;
    }
    // A token of 100 s is refreshed after 79 s: a fifth before the end, plus jitter.
    assert_eq!(world.vendor.count(), 13);
}

#[tokio::test(start_paused = true)]
async fn token_lives_of_one_second_and_ten_years_work() {
    for (life, run, most) in [(1, 60, 130), (10 * 365 * 24 * 3600, 30 * 24 * 3600, 1)] {
        let world = World::new(Reply::Fresh(life));
        let handle = world.spawn(simple());
        assert!(handle.first_token().await);
        let step = Duration::from_secs(run) / 1000;
        for _ in 0..1000 {
            assert!(current(&handle).is_some(), "life {life}");
            sleep(step).await;
        }
        let count = world.vendor.count();
        assert!(count <= most, "{count} fetches");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_refresh_keeps_the_token_until_it_expires() {
    let world = World::new(Reply::Refuse(FailureClass::Transient, "down"));
    world.vendor.then([Reply::Token("t1", 100)]);
    let handle = world.spawn(simple());
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(98)).await;
    assert!(world.vendor.count() > 3);
    assert_eq!(current(&handle).as_deref(), Some("Bearer t1"));
    assert_eq!(handle.status().state, State::Stale);
    assert_eq!(world.metric("token_state", ("state", "stale")), 1.0);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(current(&handle), None);
    assert_eq!(handle.status().state, State::Expired);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(world.metric("token_state", ("state", "expired")), 1.0);
    // Recovery within one step of the backoff.
    world.vendor.always(Reply::Token("t2", 100));
    sleep(Duration::from_secs(61)).await;
    assert_eq!(current(&handle).as_deref(), Some("Bearer t2"));
    let status = handle.status();
    assert_eq!((status.state, status.failures), (State::Valid, 0));
    assert_eq!(status.last_error, None);
}

#[tokio::test(start_paused = true)]
async fn permanent_failures_back_off_longer_than_transient_ones() {
    let an_hour = Duration::from_secs(3600);
    for (class, at_least, at_most) in [
        (FailureClass::Transient, 80, 200),
        (FailureClass::Permanent, 4, 4),
    ] {
        let world = World::new(Reply::Refuse(class, "no"));
        let _handle = world.spawn(simple());
        sleep(an_hour).await;
        let count = world.vendor.count();
        assert!(
            (at_least..=at_most).contains(&count),
            "{count} of {class:?}"
        );
    }
}

/// An account must not be locked out, for any mix of failures and any number of requests.
#[tokio::test(start_paused = true)]
async fn wrong_password_is_sent_3_times_in_30_minutes_and_28_times_a_day() {
    for mixed in [
        None,
        Some(Reply::Refuse(FailureClass::Transient, "500")),
        Some(Reply::Lost),
    ] {
        let world = World::new(Reply::Refuse(FailureClass::Permanent, "invalid_grant"));
        if let Some(reply) = mixed {
            let refused = Reply::Refuse(FailureClass::Permanent, "invalid_grant");
            let mix = (0..50).flat_map(|_| [refused.clone(), reply.clone()]);
            world.vendor.then(mix);
        }
        let handle = world.spawn(provider("x", PASSWORD, |_| {}));
        for _ in 0..2 * 24 * 60 {
            assert!(handle.reader().newer(0, Duration::ZERO).await.is_err());
            handle.reader().reject(0);
            handle.reader().reject(1);
            sleep(Duration::from_secs(60)).await;
        }
        let sent: Vec<Duration> = world.vendor.calls().iter().map(|call| call.at).collect();
        let most = |window: Duration| {
            let within = |start: &Duration| {
                let end = *start + window;
                sent.iter()
                    .filter(|at| **at >= *start && **at < end)
                    .count()
            };
            sent.iter().map(within).max().unwrap()
        };
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert_eq!(most(minutes(30)), 3);
        assert!(
            (24..=28).contains(&most(minutes(24 * 60))),
            "{}",
            most(minutes(24 * 60))
        );
    }
}

/// A failed dial sends nothing: the old token stays in use and no request waits.
#[tokio::test(start_paused = true)]
async fn failed_dial_keeps_the_gate_open() {
    let world = World::new(Reply::Fresh(3600));
    let handle = world.spawn(single_active());
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(10)).await;
    world.vendor.always(Reply::NoDial);
    world.vendor.dialling_takes(Duration::from_secs(3));
    let refreshing = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.refresh().await })
    };
    while !refreshing.is_finished() {
        assert!(!is_closed(&handle));
        assert!(!handle.reader().is_closed(Replayability::Unrepeatable));
        sleep(Duration::from_millis(50)).await;
    }
    assert!(refreshing.await.unwrap().is_err());
    assert!(!is_closed(&handle));
    // The token is not suspect either: its rejection waits for the backoff.
    handle.reader().reject(1);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(world.vendor.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn retry_after_delays_the_next_fetch() {
    let world = World::new(Reply::Token("t1", 100));
    world.vendor.then([Reply::RetryAfter(50)]);
    let handle = world.spawn(simple());
    assert!(handle.first_token().await);
    assert_eq!(world.vendor.calls()[1].at, Duration::from_millis(50_020));
}

#[tokio::test(start_paused = true)]
async fn concurrent_waiters_share_one_fetch() {
    let world = World::new(Reply::Token("t1", 3600));
    world.vendor.takes(Duration::from_secs(2));
    let handle = world.spawn(simple());
    let mut waiters = JoinSet::new();
    for number in 0..200 {
        let handle = handle.clone();
        waiters.spawn(async move {
            sleep(Duration::from_millis(number * 9)).await;
            if number % 2 == 0 {
                handle.reader().newer(0, WAIT).await.is_ok()
            } else {
                handle.refresh().await.is_ok()
            }
        });
    }
    assert!(waiters.join_all().await.iter().all(|ok| *ok));
    assert_eq!(world.vendor.count(), 1);
    assert_eq!(world.vendor.most_in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiters_fail_at_once_if_no_token_can_come_in_time() {
    let world = World::new(Reply::Refuse(FailureClass::Permanent, "invalid_client"));
    let handle = world.spawn(simple());
    let error = handle.reader().newer(0, WAIT).await.err().unwrap();
    let Unavailable::Permanent { retry_after } = error else {
        panic!("{error:?}");
    };
    assert_eq!(retry_after, Duration::from_secs(300));
    assert_eq!(world.started.elapsed(), Duration::from_millis(20));
    assert_eq!(handle.status().state, State::Missing);
    let words = handle.status().last_error.unwrap();
    assert!(
        words.contains("vendor.test") && words.contains("invalid_client"),
        "{words}"
    );
}

#[tokio::test(start_paused = true)]
async fn unchanged_token_keeps_its_generation_and_backs_off() {
    let world = World::new(Reply::Token("t1", 3600));
    let handle = world.spawn(simple());
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(handle.status().generation, 1);
    assert!(world.vendor.count() < 35, "{}", world.vendor.count());
}

#[tokio::test(start_paused = true)]
async fn rejected_generation_is_renewed_once() {
    let world = World::new(Reply::Fresh(36_000));
    let handle = world.spawn(simple());
    let reader = handle.reader();
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(60)).await;
    for _ in 0..100 {
        reader.reject(1);
    }
    let token = reader.newer(1, WAIT).await.unwrap();
    assert_eq!(token.generation, 2);
    // A late rejection of a replaced generation.
    reader.reject(1);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.vendor.count(), 2);
    // A renewal waits for min_interval after a fetch.
    reader.reject(2);
    assert_eq!(reader.newer(2, WAIT).await.unwrap().generation, 3);
    reader.reject(3);
    assert_eq!(reader.newer(3, WAIT).await.unwrap().generation, 4);
    let calls = world.vendor.calls();
    assert_eq!(calls[3].at - calls[2].at, Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn rejections_back_off_if_the_vendor_returns_the_same_token() {
    let world = World::new(Reply::Token("t1", 36_000));
    let handle = world.spawn(simple());
    let reader = handle.reader();
    assert!(handle.first_token().await);
    for _ in 0..600 {
        reader.reject(1);
        assert!(reader.newer(1, WAIT).await.is_err());
        assert!(current(&handle).is_some());
        sleep(Duration::from_secs(1)).await;
    }
    let count = world.vendor.count();
    assert!((3..12).contains(&count), "{count} fetches");
}

#[tokio::test(start_paused = true)]
async fn suspend_costs_one_fetch_and_no_request() {
    let world = World::new(Reply::Fresh(3600));
    let handle = world.spawn(simple());
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(60)).await;
    world.clock.suspend(Duration::from_secs(8 * 3600));
    assert_eq!(current(&handle), None);
    let before = Instant::now();
    let token = handle.reader().newer(0, WAIT).await.unwrap();
    assert_eq!(token.generation, 2);
    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!(world.vendor.count(), 2);
    // The suspend is noticed without any request.
    world.clock.suspend(Duration::from_secs(8 * 3600));
    sleep(Duration::from_secs(31)).await;
    assert_eq!(world.vendor.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn wall_clock_steps_never_release_an_expired_token() {
    for step in [-3600, 3600] {
        let world = World::new(Reply::Fresh(1800));
        let handle = world.spawn(simple());
        assert!(handle.first_token().await);
        sleep(Duration::from_secs(100)).await;
        world.clock.step_wall(step);
        let token = handle.reader().newer(0, WAIT).await.unwrap();
        // A step forward makes the token look expired; a step back must not extend its life.
        assert_eq!(token.generation, if step > 0 { 2 } else { 1 });
        world
            .vendor
            .always(Reply::Refuse(FailureClass::Transient, "down"));
        sleep(Duration::from_secs(1800)).await;
        assert_eq!(current(&handle), None);
    }
}

#[tokio::test(start_paused = true)]
async fn manual_refresh_returns_after_the_fetch() {
    let world = World::new(Reply::Fresh(3600));
    let handle = world.spawn(simple());
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(1)).await;
    let RefreshError::TooSoon { retry_after } = handle.refresh().await.unwrap_err() else {
        panic!("it was too soon");
    };
    sleep(retry_after).await;
    assert_eq!(handle.refresh().await, Ok(()));
    assert_eq!(handle.status().generation, 2);
    world
        .vendor
        .always(Reply::Refuse(FailureClass::Permanent, "invalid_client"));
    sleep(WAIT).await;
    let RefreshError::Failed(reason) = handle.refresh().await.unwrap_err() else {
        panic!("the vendor refused");
    };
    assert!(reason.contains("invalid_client"), "{reason}");
    // A manual refresh ends a permanent backoff.
    world.vendor.always(Reply::Fresh(3600));
    sleep(WAIT).await;
    assert_eq!(handle.refresh().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn changed_credential_file_ends_a_permanent_backoff() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "wrong").unwrap();
    let world = World::new(Reply::Refuse(FailureClass::Permanent, "invalid_client"));
    let handle = world.spawn(provider("x", CLIENT_CREDENTIALS, |provider| {
        let value = Value::File(path.clone());
        provider.variables.insert("client_secret".to_owned(), value);
    }));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.vendor.count(), 1);
    world.vendor.always(Reply::Token("t1", 3600));
    std::fs::write(&path, "right\n").unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(current(&handle).as_deref(), Some("Bearer t1"));
    let body = &world.vendor.calls()[1].body;
    assert!(body.ends_with("client_secret=right"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn missing_credential_file_is_named_and_nothing_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let world = World::new(Reply::Token("t1", 3600));
    let handle = world.spawn(provider("x", CLIENT_CREDENTIALS, |provider| {
        let value = Value::File(path.clone());
        provider.variables.insert("client_secret".to_owned(), value);
    }));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.vendor.count(), 0);
    let words = handle.status().last_error.unwrap();
    assert!(words.contains("providers.x.client_secret"), "{words}");
    std::fs::write(&path, "there").unwrap();
    sleep(Duration::from_secs(61)).await;
    assert!(current(&handle).is_some());
}

#[tokio::test(start_paused = true)]
async fn token_that_arrives_expired_is_never_used() {
    let world = World::new(Reply::Fresh(1));
    world.vendor.takes(Duration::from_millis(1500));
    let handle = world.spawn(simple());
    for _ in 0..100 {
        assert_eq!(current(&handle), None);
        sleep(Duration::from_millis(100)).await;
    }
    assert!(
        handle
            .status()
            .last_error
            .unwrap()
            .contains("already expired")
    );
    assert_eq!(world.metric("token_fetches_total", ("result", "ok")), 0.0);
}

#[tokio::test(start_paused = true)]
async fn panic_costs_one_fetch() {
    let world = World::new(Reply::Fresh(3600));
    world.vendor.then([Reply::Panic]);
    let handle = world.spawn(simple());
    assert!(handle.first_token().await);
    assert_eq!(world.vendor.count(), 2);
}

/// Rejections keep the refresher busy, but credential files are still checked.
#[tokio::test(start_paused = true)]
async fn changed_file_is_noticed_during_many_rejections() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "dead").unwrap();
    let world = World::new(Reply::Fresh(1));
    let handle = world.spawn(static_provider("x", Value::File(path.clone())));
    assert!(handle.first_token().await);
    std::fs::write(&path, "alive").unwrap();
    for _ in 0..40 {
        handle.reader().reject(1);
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(current(&handle).as_deref(), Some("Bearer alive"));
}

#[tokio::test(start_paused = true)]
async fn providers_of_one_identity_share_the_token_but_not_the_injection() {
    let world = World::new(Reply::Token("t1", 3600));
    let other = CLIENT_CREDENTIALS.replace("Authorization = \"Bearer ", "X-Token = \"");
    let named = |name: &str, dialect: &str| {
        Arc::new(provider(name, dialect, |provider| {
            endpoint(provider).identity = "one".to_owned();
        }))
    };
    let both = [named("b", &other), named("a", CLIENT_CREDENTIALS)];
    let mut groups = groups(&both);
    assert_eq!(groups.len(), 1);
    let handles = spawn(groups.remove(0), world.deps.clone());
    assert_eq!(handles[0].name(), "a");
    for (handle, expected) in handles.iter().zip(["Bearer t1", "t1"]) {
        let token = handle.reader().newer(0, WAIT).await.unwrap();
        assert_eq!(sent(handle, &token), expected);
    }
    assert_eq!(world.vendor.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_the_fetch_in_flight_and_starts_no_other() {
    let world = World::new(Reply::Token("t1", 1));
    world.vendor.takes(Duration::from_millis(500));
    let handle = world.spawn(simple());
    sleep(Duration::from_millis(100)).await;
    handle.stop().await;
    assert_eq!(world.started.elapsed(), Duration::from_millis(500));
    sleep(WAIT).await;
    assert_eq!(world.vendor.count(), 1);
    assert!(handle.refresh().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn stop_all_waits_longer_for_unrepeatable_requests_and_concurrently() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let world = World::with_store(Reply::Pair("t2", "r2", 100), Arc::clone(&store));
    world.vendor.then([Reply::Pair("t1", "r1", 100)]);
    let spends = world.spawn(provider("x", PASSWORD, |_| {}));
    assert!(spends.first_token().await);
    world.vendor.takes(Duration::from_secs(6));
    sleep(WAIT).await;
    assert_eq!(world.vendor.count(), 1);
    // Three requests in flight, one of them with a refresh token.
    let refresh = tokio::spawn({
        let spends = spends.clone();
        async move { spends.refresh().await }
    });
    let others = ["y", "z"].map(|name| world.spawn(provider(name, CLIENT_CREDENTIALS, |_| {})));
    sleep(Duration::from_millis(100)).await;
    assert_eq!(world.vendor.count(), 4);
    let [y, z] = others;
    let began = Instant::now();
    stop_all(vec![y.clone(), z], Duration::from_secs(2)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    stop_all(vec![y, spends.clone()], Duration::from_secs(2)).await;
    assert_eq!(began.elapsed(), Duration::from_millis(5900));
    assert_eq!(refresh.await.unwrap(), Ok(()));
    let key = StateKey::new(&identity(spends.provider()));
    let kept = store.load(&key).await.unwrap().unwrap();
    assert_eq!(kept.refresh_token, Some("r2".into()));
}

#[tokio::test(start_paused = true)]
async fn stop_during_the_dial_spends_nothing() {
    let world = World::new(Reply::Pair("t1", "r1", 100));
    world.vendor.dialling_takes(Duration::from_secs(1));
    let handle = world.spawn(sms("123456"));
    sleep(Duration::from_millis(100)).await;
    handle.stop_within(Duration::from_secs(2)).await;
    assert_eq!(world.started.elapsed(), Duration::from_secs(1));
    assert_eq!(world.vendor.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn refresher_ends_with_its_last_handle() {
    let world = World::new(Reply::Fresh(10));
    let handle = world.spawn(simple());
    assert!(handle.first_token().await);
    drop(handle);
    let count = world.vendor.count();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(world.vendor.count(), count);
}

/// Random faults for an hour at a time: valid tokens are used until they expire, expired ones
/// never, and recovery is noticed within one step of the backoff.
#[tokio::test(start_paused = true)]
async fn random_faults_never_release_an_expired_token() {
    for seed in 0..10 {
        let mut luck = fastrand::Rng::with_seed(seed);
        let world = World::new(Reply::Fresh(30));
        let handle = world.spawn(simple());
        assert!(handle.first_token().await);
        let issued = |count: usize| world.vendor.calls()[count - 1].at;
        let mut last = (1, issued(1));
        for _ in 0..3600 {
            world.vendor.always(match luck.u32(0..6) {
                0 => Reply::Fresh(30),
                1 => Reply::Refuse(FailureClass::Transient, "500"),
                2 => Reply::Lost,
                3 => Reply::NoDial,
                4 => Reply::RetryAfter(luck.u64(0..5)),
                _ => Reply::Panic,
            });
            world.vendor.takes(Duration::from_millis(luck.u64(0..3000)));
            sleep(Duration::from_secs(1)).await;
            let generation = handle.status().generation;
            if generation != last.0 {
                // The current token names the request that fetched it.
                let token = current(&handle).unwrap();
                let (_, number) = token.rsplit_once('-').unwrap();
                last = (generation, issued(number.parse().unwrap()));
            }
            let age = world.started.elapsed() - last.1;
            let usable = age < Duration::from_secs(29);
            assert_eq!(
                current(&handle).is_some(),
                usable,
                "seed {seed}, age {age:?}"
            );
        }
        world.vendor.always(Reply::Fresh(30));
        sleep(Duration::from_secs(64)).await;
        assert!(current(&handle).is_some(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn refresh_token_is_rotated_and_a_dead_one_falls_back_to_the_grant() {
    let world = World::new(Reply::Pair("t5", "r5", 100));
    world.vendor.then([
        Reply::Pair("t1", "r1", 100),
        Reply::Pair("t2", "r2", 100),
        // A response without a refresh token keeps the old one.
        Reply::Token("t3", 100),
        Reply::Refuse(FailureClass::Permanent, "invalid_grant"),
    ]);
    let handle = world.spawn(provider("x", PASSWORD, |_| {}));
    sleep(Duration::from_secs(300)).await;
    let bodies: Vec<String> = world
        .vendor
        .calls()
        .into_iter()
        .map(|call| call.body)
        .collect();
    let password = "grant_type=password&client_id=joelhy&password=hunter2";
    assert_eq!(
        bodies,
        [
            password,
            "grant_type=refresh_token&refresh_token=r1",
            "grant_type=refresh_token&refresh_token=r2",
            "grant_type=refresh_token&refresh_token=r2",
            password,
        ]
    );
    assert_eq!(current(&handle).as_deref(), Some("Bearer t5"));
}

#[tokio::test(start_paused = true)]
async fn invalid_client_keeps_the_refresh_token() {
    let world = World::new(Reply::Refuse(FailureClass::Permanent, "invalid_client"));
    world.vendor.then([Reply::Pair("t1", "r1", 100)]);
    let _handle = world.spawn(provider("x", PASSWORD, |_| {}));
    sleep(Duration::from_secs(90)).await;
    let calls = world.vendor.calls();
    assert_eq!(calls.len(), 2);
    assert!(calls[1].body.ends_with("refresh_token=r1"));
}

#[tokio::test(start_paused = true)]
async fn refresh_token_is_ignored_without_a_refresh_section() {
    let world = World::new(Reply::Pair("t1", "r1", 100));
    let refresh = "[refresh]\n\
        form = { grant_type = \"refresh_token\", refresh_token = \"{refresh_token}\" }\n";
    assert!(PASSWORD.contains(refresh));
    let dialect = PASSWORD.replace(refresh, "");
    let _handle = world.spawn(provider("x", &dialect, |_| {}));
    sleep(Duration::from_secs(170)).await;
    let calls = world.vendor.calls();
    assert!(calls.len() > 1);
    assert!(calls.iter().all(|call| call.body.contains("password")));
}

fn with_refresh_token(token: &str) -> Provider {
    provider("x", REFRESH_TOKEN, |provider| {
        let value = literal(token);
        provider.variables.insert("refresh_token".to_owned(), value);
    })
}

#[tokio::test(start_paused = true)]
async fn stored_refresh_token_is_used_until_another_is_configured() {
    let world = World::new(Reply::Token("t", 100));
    world.vendor.then([
        Reply::Pair("t1", "r1", 36_000),
        Reply::Pair("t2", "r2", 36_000),
    ]);
    let last = |world: &World| world.vendor.calls().last().unwrap().body.clone();
    for (configured, sent) in [
        ("seed", "seed"),
        ("seed", "r1"),
        ("seed", "r2"),
        ("new", "new"),
    ] {
        let handle = world.spawn(with_refresh_token(configured));
        assert!(handle.first_token().await);
        assert!(
            last(&world).ends_with(&format!("refresh_token={sent}")),
            "{}",
            last(&world)
        );
        handle.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn dead_refresh_token_without_a_fallback_needs_a_login() {
    let world = World::new(Reply::Refuse(FailureClass::Permanent, "invalid_grant"));
    let handle = world.spawn(with_refresh_token("seed"));
    let error = handle.reader().newer(0, WAIT).await.err();
    assert_eq!(error, Some(Unavailable::LoginRequired));
    assert_eq!(handle.status().state, State::LoginRequired);
    sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(world.vendor.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn new_refresh_token_is_stored_before_its_use() {
    let store = Arc::new(Recording::default());
    let world = World::with_store(Reply::Fresh(100), Arc::clone(&store) as Arc<dyn Store>);
    world
        .vendor
        .then([Reply::Pair("t1", "r1", 100), Reply::Pair("t2", "r2", 100)]);
    let _handle = world.spawn(provider("x", PASSWORD, |_| {}));
    sleep(Duration::from_secs(90)).await;
    let stored = |token: &str| {
        let writes = store.writes.lock().unwrap();
        let found = writes.iter().find(|(_, saved)| {
            saved
                .refresh_token
                .as_ref()
                .is_some_and(|kept| kept.expose() == token)
        });
        found.map(|(at, _)| *at - world.started)
    };
    let used = world.vendor.calls()[1].at;
    assert!(stored("r1").unwrap() < used);
    assert!(stored("r2").is_some());
}

#[tokio::test(start_paused = true)]
async fn failed_store_withholds_no_token() {
    let store = Arc::new(Recording::default());
    store.fail(true);
    let world = World::with_store(
        Reply::Pair("t1", "r1", 100),
        Arc::clone(&store) as Arc<dyn Store>,
    );
    let handle = world.spawn(provider("x", PASSWORD, |_| {}));
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(current(&handle).as_deref(), Some("Bearer t1"));
    assert!(handle.status().last_error.unwrap().contains("store"));
    // The write is repeated as soon as the store works again, long before the next exchange.
    store.fail(false);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.vendor.count(), 1);
    let refresh_tokens = || {
        let writes = store.writes.lock().unwrap().clone();
        let texts = writes.into_iter().map(|(_, saved)| saved.refresh_token);
        texts.flatten().collect::<Vec<_>>()
    };
    assert_eq!(refresh_tokens(), ["r1".into()]);
    assert_eq!(handle.status().last_error, None);

    // The write is also repeated before a stop.
    store.fail(true);
    world.vendor.always(Reply::Pair("t2", "r2", 100));
    handle.refresh().await.unwrap();
    store.fail(false);
    handle.stop().await;
    assert_eq!(refresh_tokens(), ["r1".into(), "r2".into()]);
}

#[tokio::test(start_paused = true)]
async fn unsaved_refresh_token_is_saved_before_it_is_sent() {
    let store = Arc::new(Recording::default());
    store.fail(true);
    let world = World::with_store(
        Reply::Pair("t1", "r1", 100),
        Arc::clone(&store) as Arc<dyn Store>,
    );
    let handle = world.spawn(provider("x", PASSWORD, |_| {}));
    assert!(handle.first_token().await);
    sleep(Duration::from_millis(5010)).await;
    store.fail(false);
    world.vendor.takes(Duration::from_secs(1));
    let refresh = tokio::spawn(async move { handle.refresh().await });
    sleep(Duration::from_millis(500)).await;
    assert_eq!(world.vendor.count(), 2);
    assert_eq!(store.writes.lock().unwrap().len(), 1);
    assert_eq!(refresh.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn costly_and_long_lived_tokens_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open = || FileStore::open(folder.path().to_owned(), Keys::new(Vec::new())).unwrap();
    let two_days = 2 * 24 * 3600;
    for (name, single_active, life, kept) in [
        ("a", false, two_days, true),
        ("b", true, 3600, true),
        ("c", false, 3600, false),
    ] {
        let named = || {
            provider(name, CLIENT_CREDENTIALS, |provider| {
                provider.life.single_active = single_active;
            })
        };
        let store = open();
        let world = World::with_store(Reply::Fresh(life), Arc::new(store));
        let handle = world.spawn(named());
        assert!(handle.first_token().await);
        handle.stop().await;
        drop((world, handle));
        let world = World::with_store(Reply::Fresh(life), Arc::new(open()));
        let handle = world.spawn(named());
        assert!(handle.first_token().await);
        assert_eq!(world.vendor.count(), usize::from(!kept), "{name}");
        assert_eq!(current(&handle).as_deref(), Some("Bearer hunter2-token-1"));
        handle.stop().await;
    }
}

fn sms(code: &str) -> Provider {
    provider("x", SMS, |provider| {
        provider.variables.insert("sms".to_owned(), literal(code));
    })
}

#[tokio::test(start_paused = true)]
async fn one_time_input_is_never_sent_twice() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    // The response is lost: the vendor may have accepted the input.
    let world = World::with_store(Reply::Lost, Arc::clone(&store));
    let handle = world.spawn(sms("123456"));
    let error = handle.reader().newer(0, WAIT).await.err();
    assert_eq!(error, Some(Unavailable::LoginRequired));
    sleep(WAIT).await;
    assert!(handle.refresh().await.is_err());
    handle.stop().await;
    assert_eq!(world.vendor.count(), 1);

    // The input is not sent after a restart either; a new one is.
    let world = World::with_store(Reply::Pair("t1", "r1", 3600), Arc::clone(&store));
    let handle = world.spawn(sms("123456"));
    let error = handle.reader().newer(0, WAIT).await.err();
    assert_eq!(error, Some(Unavailable::LoginRequired));
    assert_eq!(world.vendor.count(), 0);
    handle.stop().await;
    let handle = world.spawn(sms("654321"));
    assert!(handle.first_token().await);
    assert_eq!(world.vendor.calls()[0].body, "grant_type=sms&sms=654321");
    // Later fetches use the refresh token.
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(
        world.vendor.calls()[1].body,
        "grant_type=refresh_token&refresh_token=r1"
    );
}

#[tokio::test(start_paused = true)]
async fn only_an_error_code_ends_a_refresh_token_without_a_fallback() {
    let dialect = SMS.replace("[response]", "[response]\npermanent = [\"44\"]");
    for (code, ends) in [
        ("403", false),
        ("blocked", false),
        ("44", true),
        ("invalid_grant", true),
    ] {
        let world = World::new(Reply::Refuse(FailureClass::Permanent, code));
        world.vendor.then([Reply::Pair("t1", "r1", 100)]);
        let handle = world.spawn(provider("x", &dialect, |provider| {
            let value = literal("123456");
            provider.variables.insert("sms".to_owned(), value);
        }));
        sleep(Duration::from_secs(24 * 3600)).await;
        let ended = handle.status().state == State::LoginRequired;
        assert_eq!((ended, world.vendor.count() == 2), (ends, ends), "{code}");
        assert!(
            world.vendor.count() < 40,
            "{code}: {}",
            world.vendor.count()
        );
        if !ends {
            world.vendor.always(Reply::Pair("t2", "r2", 100));
            sleep(Duration::from_secs(3600)).await;
            assert_eq!(current(&handle).as_deref(), Some("Bearer t2"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_time_input_is_marked_after_the_dial_and_before_it_is_sent() {
    let store = Arc::new(Recording::default());
    let world = World::with_store(
        Reply::Pair("t1", "r1", 3600),
        Arc::clone(&store) as Arc<dyn Store>,
    );
    world.vendor.then([Reply::NoDial]);
    world.vendor.takes(Duration::from_secs(1));
    let _handle = world.spawn(sms("123456"));
    sleep(Duration::from_millis(100)).await;
    assert!(store.writes.lock().unwrap().is_empty());
    sleep(Duration::from_millis(900)).await;
    // The request is in flight.
    assert_eq!(world.vendor.count(), 1);
    let writes = store.writes.lock().unwrap().clone();
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].1.spent.len(), 1);
    assert!(writes[0].0 - world.started <= world.vendor.calls()[0].at);
}

#[tokio::test(start_paused = true)]
async fn one_time_input_that_cannot_be_marked_is_not_sent() {
    let store = Arc::new(Recording::default());
    store.fail(true);
    let world = World::with_store(
        Reply::Pair("t1", "r1", 3600),
        Arc::clone(&store) as Arc<dyn Store>,
    );
    let handle = world.spawn(sms("123456"));
    sleep(WAIT).await;
    assert_eq!(world.vendor.count(), 0);
    assert!(handle.status().last_error.unwrap().contains("not sent"));
    store.fail(false);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(world.vendor.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn missing_one_time_input_needs_a_login_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sms");
    let world = World::new(Reply::Pair("t1", "r1", 3600));
    let handle = world.spawn(provider("x", SMS, |_| {}));
    let error = handle.reader().newer(0, WAIT).await.err();
    assert_eq!(error, Some(Unavailable::LoginRequired));
    assert_eq!(handle.status().state, State::LoginRequired);
    handle.stop().await;

    std::fs::write(&path, "111111").unwrap();
    world.vendor.then([Reply::Lost]);
    let handle = world.spawn(provider("x", SMS, |provider| {
        provider
            .variables
            .insert("sms".to_owned(), Value::File(path.clone()));
    }));
    sleep(WAIT).await;
    assert_eq!(handle.status().state, State::LoginRequired);
    std::fs::write(&path, "222222").unwrap();
    sleep(Duration::from_secs(3)).await;
    assert!(current(&handle).is_some());
    assert_eq!(world.vendor.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn changed_static_token_file_is_used_within_5_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let world = World::new(Reply::Fresh(1));
    let handle = world.spawn(static_provider("x", Value::File(path.clone())));
    sleep(WAIT).await;
    assert_eq!(handle.status().state, State::Missing);
    std::fs::write(&path, "one\n").unwrap();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(current(&handle).as_deref(), Some("Bearer one"));
    for (text, generation) in [("two", 2), ("three", 3)] {
        sleep(Duration::from_secs(60)).await;
        std::fs::write(&path, text).unwrap();
        sleep(Duration::from_secs(5)).await;
        assert_eq!(current(&handle), Some(format!("Bearer {text}")));
        assert_eq!(handle.status().generation, generation);
    }
    assert_eq!(world.vendor.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn static_jwt_expires_by_its_exp_claim() {
    use base64::Engine as _;
    let world = World::new(Reply::Fresh(1));
    let encode = |text: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
    let jwt = format!("{}.{}.c2ln", encode("{}"), encode(r#"{"exp":1767225700}"#));
    let handle = world.spawn(static_provider("x", literal(&jwt)));
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(98)).await;
    assert!(current(&handle).is_some());
    sleep(Duration::from_secs(2)).await;
    assert_eq!(current(&handle), None);
    assert_eq!(handle.status().state, State::Expired);
}

#[tokio::test(start_paused = true)]
async fn no_secret_in_logs_or_status() {
    let log = Log::default();
    let _guard = log.capture();
    let world = World::new(Reply::Refuse(FailureClass::Permanent, "invalid_grant"));
    world.vendor.then([
        Reply::Pair("hunter2-a", "hunter2-r", 100),
        Reply::Refuse(FailureClass::Transient, "down"),
        Reply::Lost,
        Reply::NoDial,
    ]);
    let handle = world.spawn(provider("x", PASSWORD, |_| {}));
    assert!(handle.first_token().await);
    handle.reader().reject(1);
    sleep(Duration::from_secs(1000)).await;
    let _ = handle.refresh().await;
    let told = format!("{:?} {:?}", handle.status(), handle.provider());
    let (metrics, _) = world.metrics.render();
    tracing::warn!("positive control");
    let logged = log.text();
    for (text, control) in [
        (&logged, "positive control"),
        (&logged, "token fetched"),
        (&logged, "invalid_grant"),
        (&told, "vendor.test"),
        (&metrics, "cupbearer_token_state"),
    ] {
        assert!(text.contains(control), "{control} is not in: {text}");
    }
    for text in [&logged, &metrics] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let told = told.replace("hunter2-query", "");
    assert!(!told.contains("hunter2"), "{told}");
}

/// Records every write, and fails on demand.
#[derive(Default)]
struct Recording {
    inner: MemoryStore,
    failing: Mutex<bool>,
    writes: Mutex<Vec<(Instant, Saved)>>,
}

impl Recording {
    fn fail(&self, failing: bool) {
        *self.failing.lock().unwrap() = failing;
    }
}

impl Store for Recording {
    fn load<'a>(&'a self, key: &'a StateKey) -> Pending<'a, Result<Option<Saved>, StoreError>> {
        self.inner.load(key)
    }

    fn save<'a>(
        &'a self,
        key: &'a StateKey,
        saved: &'a Saved,
    ) -> Pending<'a, Result<(), StoreError>> {
        if *self.failing.lock().unwrap() {
            let error = StoreError::Io {
                action: "write",
                path: "/state".into(),
                reason: "disk full".to_owned(),
            };
            return Box::pin(std::future::ready(Err(error)));
        }
        let write = (Instant::now(), saved.clone());
        self.writes.lock().unwrap().push(write);
        self.inner.save(key, saved)
    }
}

/// Reconfigures with other keys of the same identity.
async fn reconfigured(running: &[Handle], group: Vec<Provider>) -> Vec<Handle> {
    let group = group.into_iter().map(Arc::new).collect();
    reconfigure(running, group).await.unwrap()
}

/// Adds a header to the injection of the dialect.
fn also(name: &str, identity: &Provider, header: &str) -> Provider {
    let dialect = CLIENT_CREDENTIALS.replace(
        "headers = { Authorization",
        &format!("headers = {{ {header} = \"{{access_token}}\", Authorization"),
    );
    let mut provider = provider(name, &dialect, |_| {});
    let source = identity.source.clone();
    provider.source = source;
    provider
}

#[tokio::test(start_paused = true)]
async fn changed_secret_keeps_the_token_and_is_sent_next_time() {
    let world = World::new(Reply::Fresh(100));
    let handle = world.spawn(simple());
    assert!(handle.first_token().await);
    let token = current(&handle);
    let mut changed = simple();
    let secret = literal("hunter3");
    changed.variables.insert("client_secret".to_owned(), secret);
    let handle = reconfigured(&[handle], vec![changed]).await.remove(0);
    assert_eq!(current(&handle), token);
    assert_eq!(world.vendor.count(), 1);
    sleep(Duration::from_secs(100)).await;
    let calls = world.vendor.calls();
    assert!(calls[0].body.contains("hunter2") && calls[1].body.contains("hunter3"));
    assert_eq!(handle.status().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn reconfiguration_ends_the_backoff_after_a_refusal() {
    let world = World::new(Reply::Refuse(FailureClass::Permanent, "invalid_client"));
    let handle = world.spawn(simple());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.vendor.count(), 1);
    world.vendor.always(Reply::Token("t1", 3600));
    let handle = reconfigured(&[handle], vec![simple()]).await.remove(0);
    let token = handle.reader().newer(0, WAIT).await.unwrap();
    assert_eq!(sent(&handle, &token), "Bearer t1");
    assert_eq!(world.vendor.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn changed_life_cycle_keys_apply_to_the_current_token() {
    let world = World::new(Reply::Fresh(1000));
    let handle = world.spawn(simple());
    assert!(handle.first_token().await);
    let expires_at = handle.status().expires_at;
    let mut changed = simple();
    changed.life.refresh_before = Some(Duration::from_secs(900));
    let handle = reconfigured(&[handle], vec![changed]).await.remove(0);
    assert_eq!(handle.status().expires_at, expires_at);
    sleep(Duration::from_secs(101)).await;
    assert_eq!(world.vendor.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn reconfiguration_waits_for_the_exchange_in_flight() {
    let world = World::new(Reply::Fresh(100));
    world.vendor.takes(Duration::from_secs(5));
    let handle = world.spawn(simple());
    sleep(Duration::from_secs(1)).await;
    let handle = reconfigured(&[handle], vec![simple()]).await.remove(0);
    assert_eq!(world.started.elapsed(), Duration::from_secs(5));
    assert!(current(&handle).is_some());
    sleep(Duration::from_secs(500)).await;
    assert_eq!(world.vendor.most_in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn old_readers_stay_valid_after_reconfiguration() {
    let world = World::new(Reply::Fresh(100));
    let first = simple();
    let headers = |reader: &CellReader| -> Vec<String> {
        let token = reader.current().unwrap();
        let injection = reader.injection(&token);
        let names = injection.headers.iter().map(|(name, _)| name.to_string());
        names.collect()
    };
    let old = world.spawn(first.clone());
    assert!(old.first_token().await);
    let reader = old.reader();
    assert_eq!(headers(&reader), ["authorization"]);

    let group = vec![also("w", &first, "X-W"), also("x", &first, "X-X")];
    let handles = reconfigured(&[old], group).await;
    for _ in 0..2 {
        assert_eq!(headers(&reader), ["authorization"]);
        assert_eq!(headers(&handles[0].reader()), ["x-w", "authorization"]);
        assert_eq!(headers(&handles[1].reader()), ["x-x", "authorization"]);
        // Unchanged after the next token.
        sleep(Duration::from_secs(100)).await;
    }
    let names = ["w", "x"].map(|name| ("provider", name));
    for name in names {
        let fetched = world
            .metrics
            .value("cupbearer_token_fetched_timestamp_seconds", &[name]);
        assert!(fetched.unwrap() > 0.0);
    }

    // Unchanged injections keep their readers; a member index without readers is reused.
    drop(reader);
    let group = vec![also("w", &first, "X-W"), also("y", &first, "X-Y")];
    let next = reconfigured(&handles, group).await;
    assert!(next[0].reader().is_same(&handles[0].reader()));
    assert!(!next[1].reader().is_same(&handles[1].reader()));
    let token = next[1].reader().current().unwrap();
    assert_eq!(token.injections.len(), 3);
    assert_eq!(headers(&next[1].reader()), ["x-y", "authorization"]);
    assert_eq!(headers(&handles[1].reader()), ["x-x", "authorization"]);
}

#[tokio::test(start_paused = true)]
async fn changed_static_token_is_used_at_once() {
    let world = World::new(Reply::NoDial);
    let handle = world.spawn(static_provider("x", literal("key-1")));
    assert!(handle.first_token().await);
    let group = vec![static_provider("x", literal("key-2"))];
    let handle = reconfigured(&[handle], group).await.remove(0);
    let token = handle.reader().newer(1, WAIT).await.unwrap();
    assert_eq!(sent(&handle, &token), "Bearer key-2");
}

#[tokio::test(start_paused = true)]
async fn reconfiguration_of_an_ended_refresher_fails() {
    let world = World::new(Reply::Fresh(100));
    let handle = world.spawn(simple());
    handle.stop().await;
    assert!(
        reconfigure(&[handle], vec![Arc::new(simple())])
            .await
            .is_none()
    );
}

fn single_active() -> Provider {
    provider("x", CLIENT_CREDENTIALS, |provider| {
        provider.life.single_active = true;
        provider.life.min_interval = Duration::from_millis(1);
    })
}

fn is_closed(handle: &Handle) -> bool {
    handle.reader().is_closed(Replayability::Replayable)
}

/// The lost response may hold the token that killed the current one.
#[tokio::test(start_paused = true)]
async fn lost_response_of_a_single_active_vendor_is_requested_again_at_once() {
    let world = World::new(Reply::Fresh(3600));
    let handle = world.spawn(single_active());
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(10)).await;
    world.vendor.then([Reply::Lost, Reply::Fresh(3600)]);
    let start = Instant::now();
    handle.refresh().await.unwrap();
    // Two exchanges of 20 ms.
    assert_eq!(start.elapsed(), Duration::from_millis(40));
    assert_eq!(current(&handle).unwrap(), "Bearer hunter2-token-3");
    assert!(!is_closed(&handle));
}

#[tokio::test(start_paused = true)]
async fn gate_opens_after_every_failure() {
    let refused = Reply::Refuse(FailureClass::Permanent, "invalid_client");
    for (replies, sent) in [
        (vec![Reply::NoDial], 0),
        (vec![Reply::Panic], 1),
        // A refusal is not repeated.
        (vec![refused], 1),
        (vec![Reply::RetryAfter(60)], 1),
        (vec![Reply::Lost, Reply::NoDial], 1),
        (vec![Reply::Lost, Reply::Lost], 2),
    ] {
        let world = World::new(Reply::Fresh(3600));
        let handle = world.spawn(single_active());
        assert!(handle.first_token().await);
        sleep(Duration::from_secs(10)).await;
        world.vendor.then(replies.clone());
        assert!(handle.refresh().await.is_err(), "{replies:?}");
        assert!(!is_closed(&handle), "{replies:?}");
        assert!(current(&handle).is_some(), "{replies:?}");
        assert_eq!(world.vendor.count(), 1 + sent, "{replies:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rejection_of_a_suspect_token_renews_at_once_and_only_once() {
    let world = World::new(Reply::Fresh(3600));
    let handle = world.spawn(single_active());
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(10)).await;
    // After many failures, the next attempt is far away.
    world.vendor.always(Reply::NoDial);
    assert!(handle.refresh().await.is_err());
    sleep(Duration::from_secs(300)).await;
    world.vendor.always(Reply::Lost);
    while world.vendor.count() < 3 {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(1)).await;
    world.vendor.then([Reply::Lost, Reply::Lost]);
    let reader = handle.reader();
    for expected in [5, 5, 5] {
        reader.reject(1);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.vendor.count(), expected);
    }
    assert!(current(&handle).is_some());
}

#[tokio::test(start_paused = true)]
async fn request_rejected_with_a_suspect_token_waits_for_the_renewal() {
    let world = World::new(Reply::Fresh(3600));
    let handle = world.spawn(single_active());
    assert!(handle.first_token().await);
    sleep(Duration::from_secs(10)).await;
    world.vendor.then([Reply::Lost, Reply::Lost]);
    assert!(handle.refresh().await.is_err());
    let reader = handle.reader();
    reader.reject(1);
    let start = Instant::now();
    let token = reader.newer(1, WAIT).await.unwrap();
    assert_eq!(token.generation, 2);
    assert!(start.elapsed() < Duration::from_millis(500));
    assert_eq!(world.vendor.count(), 4);
}
