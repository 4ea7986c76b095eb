//! Tests over loopback against a scripted peer.

mod frames;
mod responses;
mod support;
mod uploads;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::upstream::{BodyError, RequestBody, RequestHead, SendError, SendFailure, UpstreamBody};
use driver::STREAM_WINDOW;
use frames::*;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use support::*;

#[track_caller]
fn failure(result: Result<Response<UpstreamBody>, SendError>) -> SendError {
    match result {
        Ok(response) => panic!("{}", response.status()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn concurrent_requests_are_written_together() {
    let mut line = Line::open().await;
    let sent = Vec::from_iter((0..20).map(|_| line.get()));
    assert_eq!(line.frames().await.len(), 20);
    let answers = (0..20).map(|index| head(2 * index + 1, true, &[(":status", "204")]));
    line.say(&answers.collect::<Vec<_>>().concat()).await;
    for sent in sent {
        assert_eq!(sent.await.unwrap().unwrap().status(), 204);
    }
    assert_eq!(line.in_flight(), 0);
}

#[tokio::test]
async fn a_cancelled_request_or_response_resets_its_stream() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    sent.abort();
    assert_eq!(line.frame().await, cancelled(1));
    assert_eq!(line.in_flight(), 0);
    // A response that is dropped before its end resets the stream, too.
    let sent = line.get();
    line.frame().await;
    line.say(&[ok(3), data(3, false, "a")].concat()).await;
    drop(sent.await.unwrap().unwrap());
    assert_eq!(line.frame().await, cancelled(3));
    assert_eq!((line.in_flight(), line.open_connections()), (0, 1));
    // Frames that cross the reset are ignored.
    line.say(&[data(3, true, "b"), ok(1)].concat()).await;
    assert!(line.is_silent().await);
}

#[tokio::test]
async fn a_request_that_the_peer_did_not_process_is_unsent() {
    for (says, unsent) in [
        (reset(1, reason::REFUSED_STREAM), true),
        (go_away(0, reason::NO_ERROR), true),
        (go_away(0, reason::PROTOCOL_ERROR), true),
        (reset(1, reason::CANCEL), false),
        (reset(1, reason::HTTP_1_1_REQUIRED), false),
    ] {
        let mut line = Line::open().await;
        let (_app, body) = upload(None);
        let sent = line.send("POST", body);
        line.frame().await;
        line.say(&says).await;
        let error = failure(sent.await.unwrap());
        assert!(
            matches!(error.failure, SendFailure::Closed(_)),
            "{}",
            error.failure
        );
        assert_eq!(error.unsent, unsent, "{}", error.failure);
        assert!(error.reused);
    }
}

#[tokio::test]
async fn a_checkout_of_a_connection_that_goes_away_is_unsent() {
    let mut line = Line::open().await;
    let checkout = line.checkout();
    line.say(&go_away(0, reason::NO_ERROR)).await;
    settle().await;
    let head = asked("POST");
    let error = failure(
        checkout
            .send(&request_head(&head), RequestBody::Empty)
            .await,
    );
    assert!(error.unsent && matches!(error.failure, SendFailure::Closed(_)));
    // The connection had no streams left.
    let goodbye = line.rest().await;
    assert_eq!((goodbye.len(), goodbye[0].kind), (1, kind::GOAWAY));
    until(|| line.open_connections() == 0).await;
}

#[tokio::test]
async fn a_protocol_error_sends_goaway_and_closes_the_connection() {
    let mut line = Line::open().await;
    let (first, second) = (line.get(), line.get());
    line.frames().await;
    line.say(&[ok(1), data(1, false, "some")].concat()).await;
    let body = first.await.unwrap().unwrap().into_body();
    line.say(&frame(kind::PING, 0, 1, [0; 8])).await;
    let error = failure(second.await.unwrap());
    assert!(matches!(error.failure, SendFailure::Protocol(_)));
    let error = body.collect().await.unwrap_err();
    assert!(matches!(error, BodyError::Protocol(_)), "{error}");
    let rest = line.rest().await;
    assert_eq!(rest.len(), 1);
    assert_eq!((rest[0].kind, rest[0].payload[7]), (kind::GOAWAY, 1));
    until(|| line.open_connections() == 0).await;
}

#[tokio::test]
async fn a_broken_connection_fails_its_streams() {
    let mut line = Line::open().await;
    let (first, second) = (line.get(), line.get());
    line.frames().await;
    line.say(&[ok(1), data(1, false, "some")].concat()).await;
    let body = first.await.unwrap().unwrap().into_body();
    line.close();
    let error = failure(second.await.unwrap());
    assert!(matches!(error.failure, SendFailure::Closed(_)) && !error.unsent);
    let error = body.collect().await.unwrap_err();
    assert!(matches!(error, BodyError::Closed(_)), "{error}");
    until(|| line.open_connections() == 0).await;
    assert!(line.pool.ready().is_none());
}

#[tokio::test]
async fn the_peers_stream_limit_may_change() {
    let mut line = Line::with(1).await;
    let first = line.get();
    line.frame().await;
    assert!(line.pool.ready().is_none());
    line.say(&settings(2)).await;
    line.frame().await;
    settle().await;
    let second = line.get();
    line.frame().await;
    line.say(&settings(0)).await;
    line.frame().await;
    settle().await;
    line.say(&[ok(1), data(1, true, "a"), ok(3), data(3, true, "b")].concat())
        .await;
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert!(line.pool.ready().is_none());
}

#[tokio::test]
async fn a_request_without_a_response_times_out() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    line.say(&head(1, false, &[(":status", "100")])).await;
    settle().await;
    pass(WAIT - Duration::from_millis(100)).await;
    assert!(!sent.is_finished());
    pass(Duration::from_millis(200)).await;
    let error = failure(sent.await.unwrap());
    assert!(matches!(error.failure, SendFailure::Timeout));
    assert_eq!(line.frame().await, cancelled(1));
    // The connection is retired, because its path may be dead.
    assert!(line.pool.ready().is_none());
}

/// PING after 320 s, and 20 s for the acknowledgement.
#[tokio::test]
async fn a_silent_peer_gets_a_ping_and_then_a_timeout() {
    let mut line = Line::open().await;
    // No stream is open.
    pass(Duration::from_secs(500)).await;
    assert!(line.is_silent().await);
    let sent = {
        let (checkout, head) = (line.checkout(), asked("GET"));
        let day = Duration::from_secs(86_400);
        tokio::spawn(async move {
            let request_head = RequestHead {
                wait: day,
                ..request_head(&head)
            };
            checkout.send(&request_head, RequestBody::Empty).await
        })
    };
    line.frame().await;
    for answers in [true, true, false] {
        let mut waited = 0;
        while line.is_silent().await {
            pass(Duration::from_secs(10)).await;
            waited += 10;
            assert!(waited <= 450, "no PING");
        }
        assert!(waited >= 320, "{waited}");
        let ping = line.frame().await;
        assert_eq!((ping.kind, ping.flags), (kind::PING, 0));
        pass(Duration::from_secs(19)).await;
        assert!(!sent.is_finished());
        if answers {
            line.say(&frame(kind::PING, flag::ACK, 0, ping.payload))
                .await;
            settle().await;
        }
        pass(Duration::from_secs(2)).await;
        assert_eq!(sent.is_finished(), !answers);
    }
    assert!(matches!(
        failure(sent.await.unwrap()).failure,
        SendFailure::Timeout
    ));
    until(|| line.open_connections() == 0).await;
}

#[tokio::test]
async fn a_connection_without_users_sends_goaway() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    line.pool.shared().with_http2(Connection::retire);
    assert!(line.pool.ready().is_none());
    // A stream is open.
    assert!(line.is_silent().await);
    line.say(&[ok(1), data(1, true, "last")].concat()).await;
    assert_eq!(text(sent.await.unwrap().unwrap()).await, "last");
    let rest = line.rest().await;
    assert_eq!(
        (rest.len(), rest[0].kind, &rest[0].payload[..]),
        (1, kind::GOAWAY, &[0; 8][..])
    );
    until(|| line.open_connections() == 0).await;
}

/// Dropping the driver fails all streams.
#[test]
fn streams_end_with_the_runtime() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let first = runtime();
    let (line, sent) = first.block_on(async {
        let mut line = Line::open().await;
        let (checkout, head) = (line.checkout(), asked("GET"));
        let mut sent = Box::pin(async move {
            checkout
                .send(&request_head(&head), RequestBody::Empty)
                .await
        });
        let mut cx = Context::from_waker(Waker::noop());
        assert!(sent.as_mut().poll(&mut cx).is_pending());
        line.frame().await;
        (line, sent)
    });
    drop(first);
    let error = runtime().block_on(sent).err().unwrap();
    assert!(matches!(error.failure, SendFailure::Closed(_)));
    assert_eq!(line.open_connections(), 0);
}

/// An upload that the peer does not read fills the socket and blocks the next request.
#[tokio::test]
async fn a_request_that_was_not_written_is_unsent() {
    let mut line = Line::open().await;
    let upload = line.send("POST", uploads::endless());
    line.say([window(0, 1 << 30), window(1, 1 << 30)].concat())
        .await;
    settle().await;
    let unwritten = line.send("POST", RequestBody::Empty);
    settle().await;
    line.close();
    for (sent, unsent) in [(upload, false), (unwritten, true)] {
        let error = failure(sent.await.unwrap());
        assert!(matches!(error.failure, SendFailure::Closed(_)));
        assert_eq!(error.unsent, unsent, "{}", error.failure);
    }
}

/// RFC 7541 §6.2.3; `authorization` is field 23 of the static table.
#[tokio::test]
async fn sensitive_values_are_never_indexed() {
    let mut line = Line::open().await;
    let mut head = asked("GET");
    let mut value = http::HeaderValue::from_static("Bearer short");
    value.set_sensitive(true);
    head.headers.insert("authorization", value);
    for stream in [1, 3] {
        let (checkout, head) = (line.checkout(), head.clone());
        let sent = tokio::spawn(async move {
            checkout
                .send(&request_head(&head), RequestBody::Empty)
                .await
        });
        let request = line.frame().await;
        let never = request.payload.windows(2).any(|pair| pair == [0x1f, 8]);
        assert!(never, "{request:?}");
        line.say(head_of_204(stream)).await;
        sent.await.unwrap().unwrap();
    }
}

fn head_of_204(stream: u32) -> Vec<u8> {
    head(stream, true, &[(":status", "204")])
}
