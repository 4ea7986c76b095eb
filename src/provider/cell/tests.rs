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
