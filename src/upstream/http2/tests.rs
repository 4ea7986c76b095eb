//! Over loopback, against a far end that keeps to a script.

mod support;

use std::future::Future;
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;

use super::testing::{data, frame, go_away, head, ok, reset, settings, window};
use super::*;
use crate::http2::Reason;
use crate::http2::frame::{flag, kind};
use crate::upstream::{BodyError, SendFailure};
use support::*;

fn cancelled(stream: u32) -> testing::Seen {
    testing::Seen {
        kind: kind::RST_STREAM,
        flags: 0,
        stream,
        payload: Reason::CANCEL.0.to_be_bytes().to_vec(),
    }
}

#[track_caller]
fn failure(result: Result<Response<UpstreamBody>, SendError>) -> SendError {
    match result {
        Ok(response) => panic!("{}", response.status()),
        Err(error) => error,
    }
}

// === requests and responses ===

#[tokio::test]
async fn a_request_and_its_response() {
    let mut line = Line::open().await;
    for stream in [1, 3] {
        let sent = line.get();
        let request = line.frame().await;
        assert_eq!((request.kind, request.stream), (kind::HEADERS, stream));
        assert_eq!(request.flags, flag::END_STREAM | flag::END_HEADERS);
        assert_eq!(line.in_flight(), 1);
        line.say(&[ok(stream), data(stream, true, "hello")].concat())
            .await;
        let response = sent.await.unwrap().unwrap();
        // It is all in memory, and the next request has its place.
        assert_eq!(line.in_flight(), 0);
        assert_eq!(text(response).await, "hello");
    }
    assert!(line.is_silent().await);
}

#[tokio::test]
async fn responses_without_content_end_with_their_heads() {
    for (method, status) in [("HEAD", "200"), ("GET", "204"), ("GET", "304")] {
        let mut line = Line::open().await;
        let fields = [(":status", status), ("content-length", "7")];
        let sent = line.send(method, RequestBody::Empty);
        line.frame().await;
        line.say(&head(1, true, &fields)).await;
        let response = sent.await.unwrap().unwrap();
        assert!(response.body().is_end_stream());
        assert_eq!(response.headers()["content-length"], "7");
        // The end may come by itself.
        let sent = line.send(method, RequestBody::Empty);
        line.frame().await;
        line.say(&head(3, false, &fields)).await;
        let response = sent.await.unwrap().unwrap();
        assert_eq!(response.body().size_hint().exact(), Some(0));
        line.say(&data(3, true, "")).await;
        assert_eq!(text(response).await, "");
        assert!(line.is_silent().await);
    }
}

#[tokio::test]
async fn interim_heads_come_before_the_answer() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    line.say(&head(1, false, &[(":status", "103"), ("link", "a")]))
        .await;
    settle().await;
    assert!(!sent.is_finished());
    line.say(
        &[
            head(1, false, &[(":status", "100")]),
            ok(1),
            data(1, true, "x"),
        ]
        .concat(),
    )
    .await;
    let response = sent.await.unwrap().unwrap();
    assert_eq!(
        (response.status(), response.headers().len()),
        (StatusCode::OK, 0)
    );
}

#[tokio::test]
async fn a_body_comes_frame_by_frame_and_its_length_is_known() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    line.say(&head(
        1,
        false,
        &[(":status", "200"), ("content-length", "6")],
    ))
    .await;
    let mut body = sent.await.unwrap().unwrap().into_body();
    assert_eq!(body.size_hint().exact(), Some(6));
    line.say(&data(1, false, "abc")).await;
    let piece = body.frame().await.unwrap().unwrap();
    assert_eq!(piece.into_data().unwrap(), "abc");
    assert_eq!(
        (body.size_hint().exact(), body.is_end_stream()),
        (Some(3), false)
    );
    line.say(&data(1, true, "def")).await;
    body.frame().await.unwrap().unwrap();
    // A server asks no further.
    assert!(body.is_end_stream());
    until(|| line.in_flight() == 0).await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let mut line = Line::open().await;
    let (app, body) = upload(None);
    let sent = line.send("POST", body);
    line.frame().await;
    give(&app, "hi");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-api-key", "secret".parse().unwrap());
    trailers.insert("sum", "1".parse().unwrap());
    app.send(Ok(Frame::trailers(trailers))).unwrap();
    let frames = line.frames_until(|frame| frame.kind == kind::HEADERS).await;
    let last = frames.last().unwrap();
    assert_eq!(last.flags, flag::END_STREAM | flag::END_HEADERS);
    assert_eq!(last.payload, b"\0\x03sum\x011");
    line.say(
        &[
            ok(1),
            data(1, false, "ho"),
            head(1, true, &[("grpc-status", "0")]),
        ]
        .concat(),
    )
    .await;
    let body = sent.await.unwrap().unwrap().into_body();
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "ho");
    assert_eq!(line.in_flight(), 0);
    assert!(line.is_silent().await);
}

#[tokio::test]
async fn requests_of_one_moment_leave_together() {
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

// === windows ===

#[tokio::test]
async fn who_reads_nothing_holds_up_nobody() {
    const SIZE: usize = 24 * 1024 * 1024;
    let mut line = Line::open().await;
    let (first, second) = (line.get(), line.get());
    line.frames().await;
    line.say(&[ok(1), ok(3)].concat()).await;
    let slow = first.await.unwrap().unwrap();
    let fast = second.await.unwrap().unwrap();
    let block = [0; 16 * 1024];
    let mut server = line.take_server();
    tokio::spawn(async move {
        // As much as its window lets it.
        for _ in 0..64 {
            server.write_all(&data(1, false, block)).await.unwrap();
        }
        let (mut from, mut to) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
        for round in 1..=SIZE / block.len() {
            let ends = round == SIZE / block.len();
            to.write_all(&data(3, ends, block)).await.unwrap();
            // Windows are given back in time, or this would be an error.
            if round % 32 == 0 {
                settle().await;
            }
        }
        to.write_all(&data(1, true, "")).await.unwrap();
        std::future::pending::<()>().await;
    });
    let read = fast.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(read.len(), SIZE);
    let read = slow.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(read.len(), 1024 * 1024);
}

#[tokio::test]
async fn an_upload_goes_on_as_its_window_is_opened() {
    let mut line = Line::open().await;
    let (app, body) = upload(Some(200_000));
    let sent = line.send("PUT", body);
    for _ in 0..20 {
        give(&app, vec![b'x'; 10_000]);
    }
    drop(app);
    let (mut taken, mut ended) = (0, false);
    while !ended {
        for frame in line.frames().await {
            if frame.kind == kind::DATA {
                assert!(!ended);
                taken += frame.payload.len();
                ended = frame.flags == flag::END_STREAM;
            }
        }
        if taken % 65_535 == 0 {
            line.say(&[window(0, 65_535), window(1, 65_535)].concat())
                .await;
        }
    }
    assert_eq!(taken, 200_000);
    line.say(&head(1, true, &[(":status", "204")])).await;
    sent.await.unwrap().unwrap();
    assert!(line.is_silent().await);
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let mut line = Line::open().await;
    let (app, body) = upload(None);
    let sent = line.send("POST", body);
    line.frame().await;
    line.say(&ok(1)).await;
    let mut body = sent.await.unwrap().unwrap().into_body();
    for word in ["one", "two"] {
        give(&app, word);
        // The upload is driven by whoever reads the answer.
        let next = tokio::spawn(async move {
            let frame = body.frame().await.unwrap().unwrap();
            (frame.into_data().unwrap(), body)
        });
        assert_eq!(line.frame().await.payload, word.as_bytes());
        line.say(&data(1, false, word)).await;
        let (echo, rest) = next.await.unwrap();
        assert_eq!(echo, word);
        body = rest;
    }
    drop(app);
    let end = tokio::spawn(body.collect());
    let last = line.frame().await;
    assert_eq!((last.flags, last.payload.len()), (flag::END_STREAM, 0));
    line.say(&data(1, true, "")).await;
    end.await.unwrap().unwrap();
    assert_eq!(line.in_flight(), 0);
    assert!(line.is_silent().await);
}

// === what is given up ===

#[tokio::test]
async fn a_request_that_is_given_up_is_cancelled() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    sent.abort();
    assert_eq!(line.frame().await, cancelled(1));
    assert_eq!(line.in_flight(), 0);
    // And so is one whose response was not read to its end.
    let sent = line.get();
    line.frame().await;
    line.say(&[ok(3), data(3, false, "a")].concat()).await;
    drop(sent.await.unwrap().unwrap());
    assert_eq!(line.frame().await, cancelled(3));
    assert_eq!((line.in_flight(), line.open_connections()), (0, 1));
    // What was on the way means nothing.
    line.say(&[data(3, true, "b"), ok(1)].concat()).await;
    assert!(line.is_silent().await);
}

/// Whether its window is closed, the app sends nothing, or the peer does not care: it was held, and its place with it.
#[tokio::test]
async fn an_upload_does_not_outlive_its_response() {
    for size in [0, 10, 100_000] {
        let mut line = Line::open().await;
        let (app, body) = upload(None);
        let sent = line.send("POST", body);
        give(&app, vec![b'x'; size]);
        line.frames().await;
        settle().await;
        line.say(&[head(1, false, &[(":status", "413")]), data(1, true, "no")].concat())
            .await;
        let response = sent.await.unwrap().unwrap();
        assert_eq!(text(response).await, "no");
        assert_eq!(line.in_flight(), 0);
        let last = line
            .frames_until(|frame| frame.kind == kind::RST_STREAM)
            .await;
        assert_eq!(*last.last().unwrap(), cancelled(1));
        assert!(app.is_closed());
    }
}

/// The response goes on while the upload is stopped.
#[tokio::test]
async fn a_stopped_upload_leaves_its_response_alone() {
    let mut line = Line::open().await;
    let (app, body) = upload(None);
    let sent = line.send("POST", body);
    give(&app, "x");
    line.frames().await;
    line.say(&[ok(1), data(1, true, "fine"), reset(1, 0)].concat())
        .await;
    assert_eq!(text(sent.await.unwrap().unwrap()).await, "fine");
    assert_eq!(line.in_flight(), 0);
    assert!(line.is_silent().await);
}

#[tokio::test]
async fn an_upload_that_the_app_breaks_off_is_cancelled() {
    type Break = fn(App);
    let ways: [Break; 3] = [
        |app| {
            app.send(Err(std::io::ErrorKind::BrokenPipe.into()))
                .unwrap();
        },
        // Shorter, or longer than it said.
        drop,
        |app| give(&app, "more than five"),
    ];
    for way in ways {
        for before_the_answer in [true, false] {
            let mut line = Line::open().await;
            let (app, body) = upload(Some(5));
            let sent = line.send("POST", body);
            line.frame().await;
            if before_the_answer {
                way(app);
                let error = failure(sent.await.unwrap());
                assert!(
                    matches!(error.failure, SendFailure::App(_)),
                    "{}",
                    error.failure
                );
            } else {
                line.say(&ok(1)).await;
                let body = sent.await.unwrap().unwrap().into_body();
                way(app);
                let error = body.collect().await.unwrap_err();
                assert!(matches!(error, BodyError::App(_)), "{error}");
            }
            // Nobody takes it for the whole.
            assert_eq!(line.frame().await, cancelled(1));
            assert_eq!(line.in_flight(), 0);
        }
    }
}

/// After so many polls of request and response, everything is dropped.
#[tokio::test]
async fn dropped_anywhere_the_stream_is_free() {
    for polls in 0..12 {
        let mut line = Line::open().await;
        let (app, body) = upload(None);
        let (checkout, asked) = (line.checkout(), asked("POST"));
        let mut exchange = Box::pin(async move {
            let response = checkout.send(&ask(&asked), body).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        });
        let mut cx = Context::from_waker(Waker::noop());
        let mut done = false;
        for poll in 0..polls {
            done |= !done && exchange.as_mut().poll(&mut cx).is_ready();
            match poll {
                1 => give(&app, "a"),
                2 => line.say(&head(1, false, &[(":status", "100")])).await,
                3 => line.say(&ok(1)).await,
                5 => line.say(&data(1, false, "b")).await,
                6 => give(&app, vec![b'x'; 100_000]),
                7 => line.say(&data(1, false, "c")).await,
                8 => line.say(&data(1, true, "")).await,
                _ => {}
            }
            settle().await;
        }
        drop(exchange);
        assert_eq!(done, polls > 9, "{polls}");
        assert_eq!(
            (line.in_flight(), line.open_connections()),
            (0, 1),
            "{polls}"
        );
        let has_streams = line
            .pool
            .shared()
            .with_http2(|open| open.core.lock().has_streams());
        assert!(!has_streams, "{polls}");
    }
}

// === failures ===

#[tokio::test]
async fn what_the_peer_did_not_look_at_may_be_sent_again() {
    for (says, unsent) in [
        (reset(1, 7), true),
        (go_away(0, 0), true),
        (reset(1, 8), false),
        (reset(1, 0xd), false),
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
    line.say(&go_away(0, 0)).await;
    settle().await;
    let head = asked("POST");
    let error = failure(checkout.send(&ask(&head), RequestBody::Empty).await);
    assert!(error.unsent && matches!(error.failure, SendFailure::Closed(_)));
    // It had nothing left to do.
    let goodbye = line.rest().await;
    assert_eq!((goodbye.len(), goodbye[0].kind), (1, kind::GOAWAY));
    until(|| line.open_connections() == 0).await;
}

#[tokio::test]
async fn a_malformed_response_leaves_the_connection_alone() {
    let mut line = Line::open().await;
    let (first, second) = (line.get(), line.get());
    line.frames().await;
    line.say(&head(1, true, &[(":status", "200"), ("Upper", "x")]))
        .await;
    let error = failure(first.await.unwrap());
    assert!(matches!(error.failure, SendFailure::Protocol(_)) && !error.unsent);
    line.say(&head(
        3,
        false,
        &[(":status", "200"), ("content-length", "2")],
    ))
    .await;
    let body = second.await.unwrap().unwrap().into_body();
    line.say(&data(3, true, "abc")).await;
    let error = body.collect().await.unwrap_err();
    assert!(matches!(error, BodyError::Protocol(_)), "{error}");
    let third = line.get();
    let frames = line.frames_until(|frame| frame.kind == kind::HEADERS).await;
    assert_eq!(frames.last().unwrap().stream, 5);
    line.say(&head(5, true, &[(":status", "204")])).await;
    third.await.unwrap().unwrap();
    assert_eq!(line.open_connections(), 1);
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_is_told_and_left() {
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
async fn a_connection_that_breaks_ends_its_streams() {
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
    let mut cx = Context::from_waker(Waker::noop());
    assert!(line.pool.ready(&mut cx, Instant::now()).is_none());
}

// === limits of the peer ===

#[tokio::test]
async fn the_limit_of_streams_may_change() {
    let mut line = Line::with(&settings(&[(3, 1)])).await;
    let first = line.get();
    line.frame().await;
    let mut cx = Context::from_waker(Waker::noop());
    assert!(line.pool.ready(&mut cx, Instant::now()).is_none());
    line.say(&settings(&[(3, 2)])).await;
    line.frame().await;
    settle().await;
    let second = line.get();
    line.frame().await;
    line.say(&settings(&[(3, 0)])).await;
    line.frame().await;
    settle().await;
    line.say(&[ok(1), data(1, true, "a"), ok(3), data(3, true, "b")].concat())
        .await;
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert!(line.pool.ready(&mut cx, Instant::now()).is_none());
}

// === time ===

#[tokio::test]
async fn time_runs_out_without_an_answer() {
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
    // Its path may be dead.
    let mut cx = Context::from_waker(Waker::noop());
    assert!(line.pool.ready(&mut cx, Instant::now()).is_none());
}

#[tokio::test]
async fn an_upload_moves_the_time_on() {
    let mut line = Line::open().await;
    let (app, body) = upload(None);
    let sent = line.send("POST", body);
    line.frame().await;
    for _ in 0..3 {
        pass(WAIT * 2).await;
        assert!(!sent.is_finished());
        give(&app, "a");
        line.frame().await;
    }
    give(&app, "the last");
    drop(app);
    line.frames_until(|frame| frame.flags == flag::END_STREAM)
        .await;
    pass(WAIT - Duration::from_millis(100)).await;
    assert!(!sent.is_finished());
    pass(Duration::from_millis(200)).await;
    assert!(sent.is_finished());
    assert!(matches!(
        failure(sent.await.unwrap()).failure,
        SendFailure::Timeout
    ));
}

#[tokio::test]
async fn an_upload_that_the_upstream_does_not_take_times_out() {
    for trickles in [true, false] {
        let mut line = Line::open().await;
        let (app, body) = upload(None);
        let sent = line.send("POST", body);
        give(&app, vec![b'x'; 100_000]);
        settle().await;
        for _ in 0..5 {
            if trickles {
                line.say(&[window(0, 10), window(1, 10)].concat()).await;
                settle().await;
            }
            pass(WAIT * 6 / 10).await;
        }
        assert_eq!(sent.is_finished(), !trickles);
        pass(WAIT * 2).await;
        assert!(matches!(
            failure(sent.await.unwrap()).failure,
            SendFailure::Timeout
        ));
    }
}

/// PING after 320 s, and 20 s for the answer.
#[tokio::test]
async fn a_silent_peer_is_asked_whether_it_is_there() {
    let mut line = Line::open().await;
    // Nobody waits for it.
    pass(Duration::from_secs(500)).await;
    assert!(line.is_silent().await);
    let sent = {
        let (checkout, head) = (line.checkout(), asked("GET"));
        let day = Duration::from_secs(86_400);
        tokio::spawn(async move {
            let ask = Ask {
                wait: day,
                ..ask(&head)
            };
            checkout.send(&ask, RequestBody::Empty).await
        })
    };
    line.frame().await;
    for answers in [true, true, false] {
        let mut waited = 0;
        while line.is_silent().await {
            pass(Duration::from_secs(10)).await;
            waited += 10;
            assert!(waited <= 450, "nobody asks");
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
async fn a_connection_that_nobody_wants_says_goodbye() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    line.pool.shared().with_http2(|open| open.core.retire());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(line.pool.ready(&mut cx, Instant::now()).is_none());
    // A stream is under way.
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

/// A driver that is gone, for whatever reason, leaves nobody waiting.
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
        let mut sent =
            Box::pin(async move { checkout.send(&ask(&head), RequestBody::Empty).await });
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
