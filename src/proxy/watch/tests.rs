use super::*;

const HEAD_TIME: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(5);

async fn sweeping() -> (Arc<Registry>, tokio::task::JoinHandle<()>) {
    let registry = Arc::new(Registry::default());
    let sweep = Arc::clone(&registry);
    let task = tokio::spawn(async move { sweep.sweep(|| (HEAD_TIME, IDLE)).await });
    (registry, task)
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_ends_the_connection() {
    let (registry, _task) = sweeping().await;
    let (member, end) = registry.enter();
    tokio::time::sleep(HEAD_TIME - TICK).await;
    member.watch.received();
    let started = tokio::time::Instant::now();
    assert_eq!(end.await, Ok(End::HeadTimeout));
    let waited = started.elapsed();
    assert!(
        (HEAD_TIME..HEAD_TIME + 3 * TICK).contains(&waited),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_new_connection_has_as_long_as_a_head() {
    let (registry, _task) = sweeping().await;
    let (_member, end) = registry.enter();
    let started = tokio::time::Instant::now();
    assert_eq!(end.await, Ok(End::IdleTimeout));
    assert!(started.elapsed() < IDLE);
}

#[tokio::test(start_paused = true)]
async fn each_head_has_its_own_time_limit() {
    let (registry, _task) = sweeping().await;
    let (member, mut end) = registry.enter();
    member.watch.received();
    member.watch.request_started();
    member.watch.request_ended();
    tokio::time::sleep(IDLE - 2 * TICK).await;
    assert!(end.try_recv().is_err());
    member.watch.received();
    // More bytes of the same head do not extend the limit.
    tokio::time::sleep(HEAD_TIME / 2).await;
    member.watch.received();
    let started = tokio::time::Instant::now();
    assert_eq!(end.await, Ok(End::HeadTimeout));
    assert!(started.elapsed() < HEAD_TIME);
}

#[tokio::test(start_paused = true)]
async fn http2_bytes_do_not_begin_a_head() {
    let (registry, _task) = sweeping().await;
    let (member, end) = registry.enter();
    member.watch.received();
    member.watch.speaks_http2();
    member.watch.received();
    let started = tokio::time::Instant::now();
    assert_eq!(end.await, Ok(End::IdleTimeout));
    assert!(started.elapsed() >= IDLE);
}

#[tokio::test(start_paused = true)]
async fn only_an_idle_connection_times_out() {
    let (registry, _task) = sweeping().await;
    let (member, mut end) = registry.enter();
    member.watch.received();
    member.watch.request_started();
    tokio::time::sleep(IDLE * 10).await;
    assert!(end.try_recv().is_err());
    member.watch.request_ended();
    let started = tokio::time::Instant::now();
    assert_eq!(end.await, Ok(End::IdleTimeout));
    assert!(started.elapsed() >= IDLE);
}

#[tokio::test(start_paused = true)]
async fn the_clock_stops_without_connections() {
    let (registry, _task) = sweeping().await;
    tokio::time::sleep(TICK * 9).await;
    assert_eq!(registry.clock.load(Relaxed), 0);
    let (member, end) = registry.enter();
    drop((member, end));
    tokio::time::sleep(TICK * 9).await;
    assert_eq!(registry.clock.load(Relaxed), 1);
    // The limit is that of an earlier connection.
    let (_member, end) = registry.enter();
    let started = tokio::time::Instant::now();
    assert_eq!(end.await, Ok(End::IdleTimeout));
    let waited = started.elapsed();
    assert!(
        (HEAD_TIME..HEAD_TIME + 3 * TICK).contains(&waited),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn draining_ends_later_connections_too() {
    let registry = Arc::new(Registry::default());
    let (early, end) = registry.enter();
    registry.drain();
    assert_eq!(end.await, Ok(End::Drain));
    let (late, end) = registry.enter();
    assert_eq!(end.await, Ok(End::Drain));
    drop((early, late));
    registry.emptied().await;
}
