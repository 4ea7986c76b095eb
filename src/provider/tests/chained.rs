//! Tests of chained tokens: two refreshers with scripted vendors, on paused time.

use std::collections::BTreeMap;

use super::*;
use crate::config::Endpoint;
use crate::provider::exchange::{Fetch, FetchError, TokenConnection, Turn, Turns};
use crate::provider::offline;
use crate::store::SavedAccess;

/// A dialect that buys its token with that of provider `inner`.
const OUTER: &str = r#"
default_grant = "main"
[grants.main]
form = { subject_token = "{provider.inner}" }
[response]
token = "/access_token"
[inject]
headers = { Authorization = "Bearer {access_token}" }
"#;

fn inner() -> Provider {
    provider("inner", CLIENT_CREDENTIALS, |_| {})
}

fn outer() -> Provider {
    provider("x", OUTER, |provider| {
        provider.variables.clear();
        let value = Value::Provider {
            name: "inner".to_owned(),
            identity: "identity of inner".to_owned(),
        };
        provider
            .variables
            .insert("provider.inner".to_owned(), value);
    })
}

/// Another vendor for the outer token.
fn outer_vendor(world: &World, always: Reply) -> (Arc<FakeVendor>, Deps) {
    let vendor = FakeVendor::new(Clock::Test(world.clock.clone()), always);
    let deps = Deps {
        fetcher: Arc::new(FakeFetch(Arc::clone(&vendor), world.started)),
        ..world.deps.clone()
    };
    (vendor, deps)
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn outer_fetch_waits_for_the_first_inner_token() {
    let world = World::new(Reply::Fresh(3600));
    let (vendor, deps) = outer_vendor(&world, Reply::Token("bought", 3600));
    let outer = spawn(vec![Arc::new(outer())], deps).remove(0);
    seconds(3).await;
    assert_eq!(vendor.count(), 0);
    let _inner = world.spawn(inner());
    assert!(outer.first_token().await);
    assert_eq!(current(&outer).as_deref(), Some("Bearer bought"));
    assert_eq!(vendor.calls()[0].body, "subject_token=hunter2-token-1");
    assert_eq!(outer.status().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn new_inner_token_renews_the_outer_token() {
    let world = World::new(Reply::Fresh(100));
    let (vendor, deps) = outer_vendor(&world, Reply::Fresh(100_000));
    let _inner = world.spawn(inner());
    let outer = spawn(vec![Arc::new(outer())], deps).remove(0);
    assert!(outer.first_token().await);
    for _ in 0..1000 {
        assert!(current(&outer).is_some());
        seconds(1).await;
    }
    let (inner, bought) = (world.vendor.count(), vendor.calls());
    assert_eq!((inner, bought.len()), (13, 13));
    for (number, call) in bought.iter().enumerate() {
        let expected = format!("subject_token=hunter2-token-{}", number + 1);
        assert_eq!(call.body, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn unchanged_inner_token_renews_nothing() {
    let world = World::new(Reply::Token("hunter2-sticky", 100));
    let (vendor, deps) = outer_vendor(&world, Reply::Fresh(100_000));
    let _inner = world.spawn(inner());
    let outer = spawn(vec![Arc::new(outer())], deps).remove(0);
    assert!(outer.first_token().await);
    seconds(1000).await;
    assert!(world.vendor.count() > 5);
    assert_eq!(vendor.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn refused_inner_token_is_renewed_and_buys_the_outer_token() {
    let world = World::new(Reply::Fresh(3600));
    let (vendor, deps) = outer_vendor(&world, Reply::Token("bought", 3600));
    vendor.then([Reply::Refuse(FailureClass::Permanent, "invalid_token")]);
    let _inner = world.spawn(inner());
    let outer = spawn(vec![Arc::new(outer())], deps).remove(0);
    assert!(outer.first_token().await);
    // After min_interval, and not after the five minutes of a refusal.
    assert!(world.started.elapsed() < Duration::from_secs(10));
    let bodies: Vec<_> = vendor.calls().into_iter().map(|call| call.body).collect();
    let expected = [
        "subject_token=hunter2-token-1",
        "subject_token=hunter2-token-2",
    ];
    assert_eq!(bodies, expected);
}

#[tokio::test(start_paused = true)]
async fn refusal_for_another_reason_costs_one_inner_token() {
    let world = World::new(Reply::Fresh(100_000));
    let (vendor, deps) = outer_vendor(
        &world,
        Reply::Refuse(FailureClass::Permanent, "no_such_client"),
    );
    let _inner = world.spawn(inner());
    let outer = spawn(vec![Arc::new(outer())], deps).remove(0);
    seconds(2 * 3600).await;
    assert!(current(&outer).is_none());
    assert_eq!(world.vendor.count(), 2);
    // The backoff of refusals, plus one fetch for the new inner token.
    assert!((2..=8).contains(&vendor.count()), "{}", vendor.count());
}

#[tokio::test(start_paused = true)]
async fn short_inner_lives_do_not_shorten_the_backoff_of_a_refused_outer() {
    let world = World::new(Reply::Fresh(100));
    let (vendor, deps) = outer_vendor(
        &world,
        Reply::Refuse(FailureClass::Permanent, "wrong_password"),
    );
    let _inner = world.spawn(inner());
    let _outer = spawn(vec![Arc::new(outer())], deps).remove(0);
    seconds(24 * 3600).await;
    assert!(world.vendor.count() > 800, "the control");
    let times: Vec<_> = vendor.calls().iter().map(|call| call.at).collect();
    assert!((20..=28).contains(&times.len()), "{times:?}");
    for four in times.windows(4) {
        assert!(four[3] - four[0] >= Duration::from_secs(1800), "{four:?}");
    }
}

/// A vendor with real turns.
struct WithTurns(FakeFetch, Turns);

impl Fetch for WithTurns {
    fn turn<'a>(&'a self, _endpoint: &'a Endpoint) -> Pending<'a, Turn> {
        Box::pin(self.1.at("host"))
    }

    fn dial<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        deadline: Instant,
    ) -> Pending<'a, Result<Box<dyn TokenConnection>, FetchError>> {
        self.0.dial(endpoint, deadline)
    }
}

#[tokio::test(start_paused = true)]
async fn buyers_with_one_inner_token_wait_for_turns() {
    let world = World::new(Reply::Fresh(3600));
    let (vendor, deps) = outer_vendor(&world, Reply::Fresh(3600));
    let fetch = FakeFetch(Arc::clone(&vendor), world.started);
    let deps = Deps {
        fetcher: Arc::new(WithTurns(fetch, Turns::default())),
        ..deps
    };
    let _inner = world.spawn(inner());
    let many: Vec<_> = (0..100)
        .map(|number| {
            let mut outer = outer();
            endpoint(&mut outer).identity = format!("outer {number}");
            spawn(vec![Arc::new(outer)], deps.clone()).remove(0)
        })
        .collect();
    for outer in &many {
        assert!(outer.first_token().await);
    }
    assert_eq!(vendor.count(), 100);
    assert_eq!(vendor.most_in_flight(), 16);
}

#[tokio::test(start_paused = true)]
async fn missing_inner_token_sends_nothing_and_is_reported() {
    let world = World::new(Reply::Refuse(FailureClass::Permanent, "bad"));
    let (vendor, deps) = outer_vendor(&world, Reply::Fresh(3600));
    let _inner = world.spawn(inner());
    let outer = spawn(vec![Arc::new(outer())], deps).remove(0);
    seconds(600).await;
    assert_eq!(vendor.count(), 0);
    let told = outer.status().last_error.unwrap();
    assert!(told.contains("the token of provider `inner`"), "{told}");
    // The outer token follows at once, without regard to backoff.
    world.vendor.always(Reply::Fresh(3600));
    let before = world.started.elapsed();
    assert!(outer.first_token().await);
    assert!(world.started.elapsed() - before < Duration::from_secs(1300));
    assert_eq!(vendor.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn inner_token_is_never_logged() {
    let log = Log::default();
    let _guard = log.capture();
    let world = World::new(Reply::Fresh(100));
    let (vendor, deps) = outer_vendor(&world, Reply::Fresh(100));
    vendor.then([Reply::Refuse(FailureClass::Permanent, "invalid_token")]);
    let _inner = world.spawn(inner());
    let outer = spawn(vec![Arc::new(outer())], deps).remove(0);
    assert!(outer.first_token().await);
    seconds(300).await;
    assert!(log.text().contains("provider="), "the control");
    assert!(!log.text().contains("hunter2"));
}

/// Restarts with one store, and the requests of each process to both vendors.
struct Restart {
    store: Arc<dyn Store>,
    outer: Provider,
}

impl Restart {
    fn of(outer: Provider) -> Self {
        Self {
            store: Arc::new(MemoryStore::default()),
            outer,
        }
    }

    /// Returns the number of outer requests and the last one. The outer token is there from `start`
    /// on.
    async fn run(&self, inner_token: Reply, start: usize) -> (usize, Option<String>) {
        let world = World::with_store(inner_token, Arc::clone(&self.store));
        let (vendor, deps) = outer_vendor(&world, Reply::Fresh(100_000));
        let outer = spawn(vec![Arc::new(self.outer.clone())], deps).remove(0);
        seconds(1).await;
        assert_eq!(vendor.count(), 0, "nothing is bought without the inner one");
        assert_eq!(usize::from(current(&outer).is_some()), start);
        let inner = world.spawn(inner());
        assert!(inner.first_token().await && outer.first_token().await);
        seconds(600).await;
        assert!(current(&outer).is_some());
        stop_all(vec![outer, inner], Duration::ZERO).await;
        let last = vendor.calls().pop().map(|call| call.body);
        (vendor.count(), last)
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_only_a_changed_inner_token_renews_the_outer() {
    let kept = |single_active| {
        let mut outer = outer();
        outer.life.single_active = single_active;
        outer
    };
    let bought = |token: &str| (1, Some(format!("subject_token={token}")));
    // Saved because the token is single-active or long-lived.
    for single_active in [true, false] {
        let restart = Restart::of(kept(single_active));
        let first = restart.run(Reply::Token("one", 3600), 0).await;
        assert_eq!(first, bought("one"));
        let same = restart.run(Reply::Token("one", 3600), 1).await;
        assert_eq!(same, (0, None), "single active: {single_active}");
        let other = restart.run(Reply::Token("two", 3600), 1).await;
        assert_eq!(other, bought("two"), "single active: {single_active}");
        let again = restart.run(Reply::Token("two", 3600), 1).await;
        assert_eq!(again, (0, None), "single active: {single_active}");
    }
}

#[tokio::test(start_paused = true)]
async fn stored_token_with_unknown_inner_token_is_bought_again_once() {
    let restart = Restart::of(outer());
    restart.run(Reply::Token("one", 3600), 0).await;
    let key = StateKey::new("identity of x");
    let mut saved = restart.store.load(&key).await.unwrap().unwrap();
    let access = saved.access.as_mut().unwrap();
    assert_eq!(access.bought_with.len(), 1, "the control");
    access.bought_with.clear();
    restart.store.save(&key, &saved).await.unwrap();
    assert_eq!(restart.run(Reply::Token("one", 3600), 1).await.0, 1);
    assert_eq!(restart.run(Reply::Token("one", 3600), 1).await.0, 0);
}

#[tokio::test(start_paused = true)]
async fn record_holds_no_inner_token() {
    let restart = Restart::of(outer());
    restart.run(Reply::Token("hunter2-inner", 3600), 0).await;
    let saved = restart.store.load(&StateKey::new("identity of x")).await;
    let access = saved.unwrap().unwrap().access.unwrap();
    assert!(!format!("{:?}", access.bought_with).contains("hunter2"));
    assert_eq!(access.bought_with["inner"].len(), 64);
}

/// A grant that spends its input and authenticates with the token of provider `inner`.
const ONE_TIME: &str = r#"
default_grant = "main"
[grants.main]
form = { subject_token = "{provider.inner}", sms = "{sms}" }
one_time = ["sms"]
[response]
token = "/access_token"
[inject]
headers = { Authorization = "Bearer {access_token}" }
"#;

#[tokio::test(start_paused = true)]
async fn token_that_needs_a_login_outlives_its_inner_token() {
    let mut once = provider("x", ONE_TIME, |_| {});
    once.variables = outer().variables;
    once.variables.insert("sms".to_owned(), literal("123456"));
    let restart = Restart::of(once);
    assert_eq!(restart.run(Reply::Fresh(100), 0).await.0, 1);
    // Neither at run time nor after a restart: the input is spent, and its token is still valid.
    let world = World::with_store(Reply::Fresh(100), Arc::clone(&restart.store));
    let (vendor, deps) = outer_vendor(&world, Reply::Fresh(100_000));
    let _inner = world.spawn(inner());
    let outer = spawn(vec![Arc::new(restart.outer.clone())], deps).remove(0);
    seconds(1000).await;
    assert_eq!((world.vendor.count(), vendor.count()), (13, 0));
    let status = outer.status();
    assert_eq!((status.state, status.last_error), (State::Valid, None));
}

/// The stored outer token as another process sees it.
async fn looked_at(restart: &Restart, links: &[Provider]) -> offline::StoredToken {
    let all: Vec<_> = links.iter().cloned().map(Arc::new).collect();
    let clock = Clock::Test(TestClock::new());
    let stored = offline::stored(&restart.outer, &all, &*restart.store, &clock).await;
    stored.unwrap().unwrap().access.unwrap()
}

impl Restart {
    /// Saves a token of another provider.
    async fn keep(
        &self,
        identity: &str,
        token: &str,
        life: u64,
        bought_with: BTreeMap<String, String>,
    ) {
        let fetched_at = Clock::Test(TestClock::new()).now().wall;
        let saved = Saved {
            access: Some(SavedAccess {
                token: token.into(),
                fetched_at,
                expires_at: Some(fetched_at + Duration::from_secs(life)),
                bought_with,
            }),
            ..Saved::default()
        };
        let key = StateKey::new(identity);
        self.store.save(&key, &saved).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn stored_token_is_outdated_once_the_store_has_another_inner_token() {
    let restart = Restart::of(outer());
    restart.run(Reply::Token("one", 3600), 0).await;
    let links = [inner(), outer()];
    let none = BTreeMap::new;
    assert!(
        looked_at(&restart, &links).await.usable,
        "the inner one is not stored"
    );
    for (token, life, outdated) in [("one", 600, false), ("two", 600, true), ("two", 0, false)] {
        restart.keep("identity of inner", token, life, none()).await;
        let access = looked_at(&restart, &links).await;
        assert_eq!(
            (access.outdated, access.usable),
            (outdated, !outdated),
            "{token} {life}"
        );
    }
    // The inner token is itself bought with another one.
    let mut middle = outer();
    middle.name = "inner".to_owned();
    endpoint(&mut middle).identity = "identity of inner".to_owned();
    let first = Value::Provider {
        name: "first".to_owned(),
        identity: "identity of first".to_owned(),
    };
    middle.variables = [("provider.first".to_owned(), first)].into();
    let mut first = inner();
    first.name = "first".to_owned();
    endpoint(&mut first).identity = "identity of first".to_owned();
    let old = [("first".to_owned(), "digest".to_owned())];
    restart
        .keep("identity of inner", "one", 600, old.into())
        .await;
    restart.keep("identity of first", "new", 600, none()).await;
    let access = looked_at(&restart, &[first, middle, outer()]).await;
    assert!(access.outdated && !access.usable);
}

#[tokio::test(start_paused = true)]
async fn stored_token_that_needs_a_login_is_never_outdated() {
    let mut once = provider("x", ONE_TIME, |_| {});
    once.variables = outer().variables;
    once.variables.insert("sms".to_owned(), literal("123456"));
    let restart = Restart::of(once);
    restart.run(Reply::Token("one", 3600), 0).await;
    restart
        .keep("identity of inner", "two", 600, BTreeMap::new())
        .await;
    assert!(looked_at(&restart, &[inner()]).await.usable);
}
