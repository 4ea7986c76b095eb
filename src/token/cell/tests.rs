//! The cell on paused time; `interleavings` covers the gate under every order of steps.

use super::*;
use crate::clock::test::TestClock;
use crate::token::schedule::Deadline;

fn token(generation: u64, life: Option<Duration>, clock: &Clock) -> Arc<Token> {
    Arc::new(Token {
        generation,
        injections: Box::new([]),
        deadline: Deadline::after(life, clock.now()),
    })
}

fn setup() -> (CellWriter, CellReader, Clock, TestClock) {
    let test = TestClock::new();
    let clock = Clock::Test(test.clone());
    let (writer, reader) = cell(clock.clone());
    (writer, reader, clock, test)
}

const WAIT: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_handed_out() {
    let (writer, reader, clock, test) = setup();
    writer.publish(token(1, Some(WAIT), &clock), FetchStatus::Settled);
    assert!(reader.current().is_some());
    test.step_wall(10);
    assert!(reader.current().is_none());
    test.step_wall(-10);
    assert!(reader.current().is_some());
    test.suspend(WAIT);
    assert!(reader.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn waiters_are_woken_by_the_token_they_wait_for() {
    let (writer, reader, clock, _) = setup();
    let waiter = tokio::spawn(async move {
        let start = Instant::now();
        let token = reader.newer(1, WAIT).await.unwrap();
        (token.generation, start.elapsed())
    });
    tokio::task::yield_now().await;
    writer.publish(token(1, None, &clock), FetchStatus::Soon);
    tokio::time::advance(Duration::from_secs(3)).await;
    writer.publish(token(2, None, &clock), FetchStatus::Settled);
    assert_eq!(waiter.await.unwrap(), (2, Duration::from_secs(3)));
}

#[tokio::test(start_paused = true)]
async fn a_request_does_not_wait_for_an_attempt_beyond_its_limit() {
    let (writer, reader, clock, _) = setup();
    let start = Instant::now();
    let away = Duration::from_secs(11);
    for (class, expected) in [
        (
            FailureClass::Transient,
            Unavailable::Transient { retry_after: away },
        ),
        (
            FailureClass::Permanent,
            Unavailable::Permanent { retry_after: away },
        ),
    ] {
        let next = clock.now().boot + away;
        writer.set_status(FetchStatus::Failed { class, next });
        assert_eq!(reader.newer(0, WAIT).await.err(), Some(expected));
    }
    writer.set_status(FetchStatus::LoginRequired);
    assert_eq!(
        reader.newer(0, WAIT).await.err(),
        Some(Unavailable::LoginRequired)
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_its_limit_and_with_the_refresher() {
    let (writer, reader, _, _) = setup();
    let start = Instant::now();
    assert!(reader.newer(0, WAIT).await.is_err());
    assert_eq!(start.elapsed(), WAIT);
    drop(writer);
    assert!(reader.newer(0, WAIT).await.is_err());
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn no_wait_for_a_newer_token_after_the_vendor_returned_the_rejected_one() {
    let (writer, reader, clock, _) = setup();
    writer.publish(token(1, None, &clock), FetchStatus::Settled);
    reader.reject(1);
    assert_eq!(writer.rejection().await, 1);
    let waiter = {
        let reader = reader.clone();
        tokio::spawn(async move {
            let start = Instant::now();
            (reader.newer(1, WAIT).await.is_err(), start.elapsed())
        })
    };
    tokio::task::yield_now().await;
    writer.set_status(FetchStatus::Soon);
    tokio::time::advance(Duration::from_secs(1)).await;
    writer.publish(token(1, None, &clock), FetchStatus::Settled);
    assert_eq!(waiter.await.unwrap(), (true, Duration::from_secs(1)));
    let start = Instant::now();
    assert!(reader.newer(1, WAIT).await.is_err());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// `Settled` from before the refresher saw the rejection does not end the wait.
#[tokio::test(start_paused = true)]
async fn a_wait_covers_a_rejection_that_the_refresher_has_not_seen() {
    let (writer, reader, clock, _) = setup();
    writer.publish(token(1, None, &clock), FetchStatus::Settled);
    reader.reject(1);
    writer.set_status(FetchStatus::Settled);
    let start = Instant::now();
    assert!(reader.newer(1, WAIT).await.is_err());
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_its_token_expired_wakes_the_refresher() {
    let (writer, reader, clock, test) = setup();
    writer.publish(token(1, Some(WAIT), &clock), FetchStatus::Settled);
    test.suspend(WAIT);
    let waiter = tokio::spawn(async move { reader.newer(0, WAIT).await.is_ok() });
    assert_eq!(writer.rejection().await, 0);
    writer.publish(token(2, None, &clock), FetchStatus::Settled);
    assert!(waiter.await.unwrap());
}

#[tokio::test]
async fn rejections_before_the_first_wait_are_kept() {
    let (writer, reader, _, _) = setup();
    reader.reject(3);
    reader.reject(2);
    assert_eq!(writer.rejection().await, 3);
}

fn gated() -> (CellWriter, CellReader, Clock) {
    let (writer, reader, clock, _) = setup();
    writer.set_gated(true);
    writer.publish(token(1, None, &clock), FetchStatus::Settled);
    (writer, reader, clock)
}

fn on_wire(reader: &CellReader) -> InFlightGuard {
    match reader.enter(Replayability::Unrepeatable, 0) {
        Entry::Pass(_, Some(on_wire)) => on_wire,
        _ => panic!("not admitted, or not counted"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_waits_at_most_2_seconds_for_requests_on_the_wire() {
    for (answered, waited) in [(300, 300), (1999, 1999), (60_000, 2000)] {
        let (writer, reader, _) = gated();
        let on_wire = on_wire(&reader);
        let answer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(answered)).await;
            drop(on_wire);
        });
        let start = Instant::now();
        {
            let gate = writer.gatekeeper();
            let mut closing = std::pin::pin!(gate.close());
            tokio::select! {
                biased;
                () = &mut closing => panic!("closed without a wait"),
                () = std::future::ready(()) => {}
            }
            assert!(reader.is_closed(Replayability::Unrepeatable));
            assert!(!reader.is_closed(Replayability::Replayable));
            closing.await;
        }
        assert_eq!(start.elapsed(), Duration::from_millis(waited));
        assert!(reader.is_closed(Replayability::Replayable));
        assert!(matches!(
            reader.enter(Replayability::Replayable, 0),
            Entry::Closed
        ));
        answer.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_does_not_wait_for_requests_of_an_older_generation() {
    let (writer, reader, clock) = gated();
    let _straggler = on_wire(&reader);
    writer.gatekeeper().close().await;
    writer.publish(token(2, None, &clock), FetchStatus::Settled);
    let start = Instant::now();
    writer.gatekeeper().close().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn publishing_or_reopening_opens_the_gate() {
    let (writer, reader, clock) = gated();
    for publish in [true, false] {
        writer.gatekeeper().close().await;
        let waiter = {
            let reader = reader.clone();
            tokio::spawn(async move {
                let deadline = Instant::now() + WAIT;
                reader.opening(Replayability::Replayable, deadline).await
            })
        };
        tokio::task::yield_now().await;
        match publish {
            true => writer.publish(token(2, None, &clock), FetchStatus::Settled),
            false => writer.gatekeeper().open(true),
        }
        let start = Instant::now();
        assert_eq!(waiter.await.unwrap(), Ok(()));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(writer.is_suspect(), !publish);
    }
    writer.gatekeeper().close().await;
    let start = Instant::now();
    let late = reader
        .opening(Replayability::Replayable, start + WAIT)
        .await;
    assert!(late.is_err());
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn without_single_active_there_is_no_gate_and_no_count() {
    let (writer, reader, clock, _) = setup();
    writer.publish(token(1, None, &clock), FetchStatus::Settled);
    let entry = reader.enter(Replayability::Unrepeatable, 0);
    assert!(matches!(entry, Entry::Pass(_, None)));
    writer.gatekeeper().close().await;
    assert!(!reader.is_closed(Replayability::Unrepeatable));
}

/// `interleavings` treats publishing as one step. With two stores, a request on another thread
/// could find the invalidated token behind an open gate.
#[test]
fn token_and_gate_are_published_in_one_store() {
    use std::sync::atomic::AtomicBool;

    const GENERATIONS: u64 = 30_000;
    let (writer, reader) = cell(Clock::System);
    writer.set_gated(true);
    writer.publish(token(1, None, &Clock::System), FetchStatus::Settled);
    // The newest token that the vendor has issued: the only valid one.
    let issued = Arc::new(AtomicU64::new(1));
    let over = Arc::new(AtomicBool::new(false));
    let requests = [Replayability::Replayable, Replayability::Unrepeatable].map(|replayability| {
        let (reader, issued, over) = (reader.clone(), Arc::clone(&issued), Arc::clone(&over));
        std::thread::spawn(move || {
            let (mut passed, mut closed) = (0_u64, 0_u64);
            while !over.load(Ordering::Relaxed) {
                let before = issued.load(Ordering::SeqCst);
                match reader.enter(replayability, 0) {
                    Entry::Pass(token, _) => {
                        assert!(
                            token.generation >= before,
                            "an invalidated token behind an open gate"
                        );
                        passed += 1;
                    }
                    Entry::Closed => closed += 1,
                    Entry::NoToken => panic!("the cell is never empty"),
                }
            }
            (passed, closed)
        })
    });
    let gate = writer.gatekeeper();
    for generation in 2..=GENERATIONS {
        let in_flight = gate.narrow(Gate::Replayable).unwrap();
        while !in_flight.is_idle() {
            std::hint::spin_loop();
        }
        gate.narrow(Gate::Shut);
        issued.store(generation, Ordering::SeqCst);
        let next = token(generation, None, &Clock::System);
        writer.publish(next, FetchStatus::Settled);
    }
    over.store(true, Ordering::Relaxed);
    for request in requests {
        let (passed, closed) = request.join().unwrap();
        assert!(passed > 0 && closed > 0, "{passed} passed, {closed} waited");
    }
}
