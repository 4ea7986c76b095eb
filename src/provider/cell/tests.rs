//! The cell on paused time; the gate under every interleaving is in `interleavings`.

use super::*;
use crate::clock::test::TestClock;

fn token(generation: u64, life: Option<Duration>, clock: &Clock) -> Arc<Token> {
    let now = clock.now();
    Arc::new(Token {
        generation,
        injections: Box::new([]),
        wall_deadline: life.map(|life| now.wall + life),
        boot_deadline: life.map(|life| now.boot + life),
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
    writer.publish(token(1, Some(WAIT), &clock), Outlook::Settled);
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
    writer.publish(token(1, None, &clock), Outlook::Soon);
    tokio::time::advance(Duration::from_secs(3)).await;
    writer.publish(token(2, None, &clock), Outlook::Settled);
    assert_eq!(waiter.await.unwrap(), (2, Duration::from_secs(3)));
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_be_helped_in_time_does_not_wait() {
    let (writer, reader, clock, _) = setup();
    let start = Instant::now();
    let away = Duration::from_secs(11);
    for (class, expected) in [
        (
            Class::Transient,
            Unavailable::Transient { retry_after: away },
        ),
        (
            Class::Permanent,
            Unavailable::Permanent { retry_after: away },
        ),
    ] {
        let next = clock.now().boot + away;
        writer.set_outlook(Outlook::Failed { class, next });
        assert_eq!(reader.newer(0, WAIT).await.err(), Some(expected));
    }
    writer.set_outlook(Outlook::LoginRequired);
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
async fn a_rejection_that_was_answered_with_the_same_token_is_not_waited_for_again() {
    let (writer, reader, clock, _) = setup();
    writer.publish(token(1, None, &clock), Outlook::Settled);
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
    writer.set_outlook(Outlook::Soon);
    tokio::time::advance(Duration::from_secs(1)).await;
    writer.publish(token(1, None, &clock), Outlook::Settled);
    assert_eq!(waiter.await.unwrap(), (true, Duration::from_secs(1)));
    let start = Instant::now();
    assert!(reader.newer(1, WAIT).await.is_err());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// The refresher has not seen the rejection yet: that it believes all is settled says nothing.
#[tokio::test(start_paused = true)]
async fn a_rejection_that_is_still_unread_is_waited_for() {
    let (writer, reader, clock, _) = setup();
    writer.publish(token(1, None, &clock), Outlook::Settled);
    reader.reject(1);
    writer.set_outlook(Outlook::Settled);
    let start = Instant::now();
    assert!(reader.newer(1, WAIT).await.is_err());
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_its_token_expired_wakes_the_refresher() {
    let (writer, reader, clock, test) = setup();
    writer.publish(token(1, Some(WAIT), &clock), Outlook::Settled);
    test.suspend(WAIT);
    let waiter = tokio::spawn(async move { reader.newer(0, WAIT).await.is_ok() });
    assert_eq!(writer.rejection().await, 0);
    writer.publish(token(2, None, &clock), Outlook::Settled);
    assert!(waiter.await.unwrap());
}

#[tokio::test]
async fn rejections_before_anybody_listens_are_kept() {
    let (writer, reader, _, _) = setup();
    reader.reject(3);
    reader.reject(2);
    assert_eq!(writer.rejection().await, 3);
}

fn gated() -> (CellWriter, CellReader, Clock) {
    let (writer, reader, clock, _) = setup();
    writer.set_gated(true);
    writer.publish(token(1, None, &clock), Outlook::Settled);
    (writer, reader, clock)
}

fn on_wire(reader: &CellReader) -> OnWire {
    match reader.enter(Traveller::Unrepeatable, 0) {
        Entry::Pass(_, Some(on_wire)) => on_wire,
        _ => panic!("not let through, or not counted"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_waits_for_the_last_answer_but_not_for_long() {
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
                () = &mut closing => panic!("nobody waited"),
                () = std::future::ready(()) => {}
            }
            assert!(reader.is_closed(Traveller::Unrepeatable));
            assert!(!reader.is_closed(Traveller::Replayable));
            closing.await;
        }
        assert_eq!(start.elapsed(), Duration::from_millis(waited));
        assert!(reader.is_closed(Traveller::Replayable));
        assert!(matches!(
            reader.enter(Traveller::Replayable, 0),
            Entry::Closed
        ));
        answer.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_straggler_of_an_older_generation_is_not_waited_for() {
    let (writer, reader, clock) = gated();
    let _straggler = on_wire(&reader);
    writer.gatekeeper().close().await;
    writer.publish(token(2, None, &clock), Outlook::Settled);
    let start = Instant::now();
    writer.gatekeeper().close().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_new_token_opens_the_gate_and_so_does_the_old_one() {
    let (writer, reader, clock) = gated();
    for publish in [true, false] {
        writer.gatekeeper().close().await;
        let waiter = {
            let reader = reader.clone();
            tokio::spawn(async move {
                let deadline = Instant::now() + WAIT;
                reader.opening(Traveller::Replayable, deadline).await
            })
        };
        tokio::task::yield_now().await;
        match publish {
            true => writer.publish(token(2, None, &clock), Outlook::Settled),
            false => writer.gatekeeper().open(true),
        }
        let start = Instant::now();
        assert_eq!(waiter.await.unwrap(), Ok(()));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(writer.is_suspect(), !publish);
    }
    writer.gatekeeper().close().await;
    let start = Instant::now();
    let late = reader.opening(Traveller::Replayable, start + WAIT).await;
    assert!(late.is_err());
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn where_old_tokens_live_on_there_is_no_gate_and_nobody_is_counted() {
    let (writer, reader, clock, _) = setup();
    writer.publish(token(1, None, &clock), Outlook::Settled);
    let entry = reader.enter(Traveller::Unrepeatable, 0);
    assert!(matches!(entry, Entry::Pass(_, None)));
    writer.gatekeeper().close().await;
    assert!(!reader.is_closed(Traveller::Unrepeatable));
}

/// What `interleavings` takes for one step is one: between two stores, a request on another thread would find the token that the vendor
/// has killed behind an open gate.
#[test]
fn token_and_gate_are_published_in_one_store() {
    use std::sync::atomic::AtomicBool;

    const GENERATIONS: u64 = 30_000;
    let (writer, reader) = cell(Clock::System);
    writer.set_gated(true);
    writer.publish(token(1, None, &Clock::System), Outlook::Settled);
    // The newest token that the vendor has issued, and with that the only one that lives.
    let issued = Arc::new(AtomicU64::new(1));
    let over = Arc::new(AtomicBool::new(false));
    let requests = [Traveller::Replayable, Traveller::Unrepeatable].map(|traveller| {
        let (reader, issued, over) = (reader.clone(), Arc::clone(&issued), Arc::clone(&over));
        std::thread::spawn(move || {
            let (mut passed, mut closed) = (0_u64, 0_u64);
            while !over.load(Ordering::Relaxed) {
                let before = issued.load(Ordering::SeqCst);
                match reader.enter(traveller, 0) {
                    Entry::Pass(token, _) => {
                        assert!(
                            token.generation >= before,
                            "a dead token behind an open gate"
                        );
                        passed += 1;
                    }
                    Entry::Closed => closed += 1,
                    Entry::NoToken => panic!("there always is a token"),
                }
            }
            (passed, closed)
        })
    });
    let gate = writer.gatekeeper();
    for generation in 2..=GENERATIONS {
        let wire = gate.close_to_unrepeatable().unwrap();
        while !wire.is_idle() {
            std::hint::spin_loop();
        }
        gate.close_to_all();
        issued.store(generation, Ordering::SeqCst);
        let next = token(generation, None, &Clock::System);
        writer.publish(next, Outlook::Settled);
    }
    over.store(true, Ordering::Relaxed);
    for request in requests {
        let (passed, closed) = request.join().unwrap();
        assert!(passed > 0 && closed > 0, "{passed} passed, {closed} waited");
    }
}
