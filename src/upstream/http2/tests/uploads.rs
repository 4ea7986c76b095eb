//! Request bodies: flow control, timeouts and cut-off uploads.

use std::future::Future as _;
use std::pin::Pin;

use bytes::Bytes;
use http_body::Body;

use super::*;
use crate::upstream::Replay;

#[tokio::test]
async fn an_upload_follows_the_flow_control_window() {
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
        // Reading the response polls the upload.
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

/// With an app that sends nothing, few bytes, or more than the window.
#[tokio::test]
async fn an_upload_ends_with_its_response() {
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

/// RFC 9113 §8.1: RST_STREAM with NO_ERROR after a complete response stops the upload only.
#[tokio::test]
async fn a_stopped_upload_does_not_affect_the_response() {
    let mut line = Line::open().await;
    let (app, body) = upload(None);
    let sent = line.send("POST", body);
    give(&app, "x");
    line.frames().await;
    line.say(&[ok(1), data(1, true, "fine"), reset(1, reason::NO_ERROR)].concat())
        .await;
    assert_eq!(text(sent.await.unwrap().unwrap()).await, "fine");
    assert_eq!(line.in_flight(), 0);
    assert!(line.is_silent().await);
}

#[tokio::test]
async fn a_cut_off_upload_never_looks_complete() {
    type Break = fn(App);
    let ways: [Break; 3] = [
        |app| {
            app.send(Err(std::io::ErrorKind::BrokenPipe.into()))
                .unwrap();
        },
        // Shorter or longer than declared.
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
            let frames = line.frames_until(|frame| *frame == cancelled(1)).await;
            assert!(!frames.iter().any(Seen::ends_stream), "{frames:?}");
            assert_eq!(line.in_flight(), 0);
        }
    }
}

#[tokio::test]
async fn upload_progress_extends_the_timeout() {
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

/// Drops the exchange after each possible number of polls, with an incomplete upload.
#[tokio::test]
async fn an_upload_dropped_at_any_point_never_looks_complete() {
    for polls in 0..12 {
        let mut line = Line::open().await;
        let (app, body) = upload(None);
        let (checkout, asked) = (line.checkout(), asked("POST"));
        let mut exchange = Box::pin(async move {
            let response = checkout.send(&request_head(&asked), body).await.unwrap();
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
        let now = (line.in_flight(), line.open_connections());
        assert_eq!(now, (0, 1), "{polls}");
        if polls > 0 {
            let frames = line.frames_until(|frame| *frame == cancelled(1)).await;
            assert!(!frames.iter().any(Seen::ends_stream), "{polls} {frames:?}");
        }
        assert!(line.is_silent().await);
    }
}

/// The whole upload, END_STREAM included, is in h2's buffer, but not on the wire.
#[tokio::test]
async fn an_upload_dropped_before_it_was_written_is_reset() {
    let mut line = Line::open().await;
    let (app, body) = upload(Some(70_000));
    give(&app, vec![b'x'; 70_000]);
    drop(app);
    let sent = line.send("POST", body);
    let mut frames = line.frames().await;
    settle().await;
    sent.abort();
    frames.extend(line.frames_until(|frame| *frame == cancelled(1)).await);
    assert!(!frames.iter().any(Seen::ends_stream), "{frames:?}");
}

/// An endless app body that counts the frames taken.
struct Endless(Arc<AtomicUsize>);

pub(super) fn endless() -> RequestBody {
    let replay = Replay::new(Endless(Arc::default()), [].into(), 0);
    replay.body().unwrap()
}

impl Body for Endless {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(vec![b'x'; 10_000].into()))))
    }
}

#[tokio::test]
async fn at_most_one_app_frame_waits_for_the_window() {
    let mut line = Line::open().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let replay = Replay::new(Endless(Arc::clone(&taken)), [].into(), 0);
    let sent = line.send("POST", replay.body().unwrap());
    line.frames().await;
    settle().await;
    // The window has 65,535 bytes: six frames and a part of the next.
    assert_eq!(taken.load(Ordering::Relaxed), 7);
    sent.abort();
}
