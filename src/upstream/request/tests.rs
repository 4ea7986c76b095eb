use std::convert::Infallible;
use std::sync::Mutex;
use std::task::Waker;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::sync::oneshot;

use super::*;

/// Returns an app's chunked upload: bytes written to the first value arrive in the second.
pub(in crate::upstream) async fn upload(limit: usize) -> (DuplexStream, Replay) {
    let (mut app, proxy) = tokio::io::duplex(16 * 1024);
    let (sender, body) = oneshot::channel();
    let sender = Mutex::new(Some(sender));
    let service = service_fn(move |request: Request<Incoming>| {
        let sender = sender.lock().unwrap().take().unwrap();
        drop(sender.send(request.into_body()));
        std::future::pending::<Result<Response<String>, Infallible>>()
    });
    tokio::spawn(
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(proxy), service),
    );
    app.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let replay = Replay::new(body.await.unwrap(), Arc::new([]), limit);
    (app, replay)
}

async fn send(app: &mut DuplexStream, data: &str) {
    let chunk = format!("{:x}\r\n{data}\r\n", data.len());
    app.write_all(chunk.as_bytes()).await.unwrap();
}

async fn data(body: &mut RequestBody) -> String {
    let frame = body.frame().await.unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

fn poll(body: &mut RequestBody) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// After an early rejection over HTTP/2 the superseded upload is still polled until it fails. Bytes
/// that it read would be missing from the next attempt, and its waker would replace the right one.
#[tokio::test]
async fn only_the_last_attempt_reads_from_the_app() {
    // Beyond the limit no kept bytes could hide a read by the wrong attempt.
    for limit in [1024, 8] {
        let (mut app, replay) = upload(limit).await;
        let mut first = replay.body().unwrap();
        send(&mut app, "some ").await;
        assert_eq!(data(&mut first).await, "some ");
        assert!(poll(&mut first).is_pending());

        assert!(replay.rewind());
        let mut second = replay.body().unwrap();
        assert_eq!(data(&mut second).await, "some ");
        let mut rest = tokio::spawn(async move {
            let body = second.collect().await.unwrap();
            String::from_utf8(body.to_bytes().to_vec()).unwrap()
        });
        // Lets the task wait for the app.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(poll(&mut first), Poll::Ready(Some(Err(_)))));
        send(&mut app, "more ").await;
        send(&mut app, "and the rest").await;
        assert!(matches!(poll(&mut first), Poll::Ready(Some(Err(_)))));
        app.write_all(b"0\r\n\r\n").await.unwrap();
        let rest = tokio::time::timeout(Duration::from_secs(20), &mut rest);
        assert_eq!(rest.await.unwrap().unwrap(), "more and the rest");
    }
}

#[tokio::test]
async fn a_body_is_replayed_up_to_the_limit_and_not_beyond() {
    let (mut app, replay) = upload(10).await;
    let mut first = replay.body().unwrap();
    send(&mut app, "12345").await;
    send(&mut app, "67890").await;
    for part in ["12345", "67890"] {
        assert_eq!(data(&mut first).await, part);
        assert!(replay.is_replayable());
    }
    assert!(replay.rewind());
    let mut second = replay.body().unwrap();
    for part in ["12345", "67890"] {
        assert_eq!(data(&mut second).await, part);
    }
    send(&mut app, "1").await;
    assert_eq!(data(&mut second).await, "1");
    assert!(!replay.is_replayable());
    assert!(!replay.rewind());
    assert!(replay.body().is_none());
    // The current attempt still gets the rest.
    send(&mut app, "2").await;
    assert_eq!(data(&mut second).await, "2");
}

#[tokio::test]
async fn a_settled_body_keeps_no_more_bytes() {
    let (mut app, replay) = upload(1024).await;
    let mut body = replay.body().unwrap();
    send(&mut app, "one").await;
    assert_eq!(data(&mut body).await, "one");
    replay.stop_keeping();
    assert!(!replay.rewind());
    send(&mut app, "two").await;
    assert_eq!(data(&mut body).await, "two");
    let Some(tee) = &replay.tee else {
        panic!("there is a body");
    };
    assert!(tee.lock().kept.is_empty());
}

#[tokio::test]
async fn tiny_frames_are_kept_only_up_to_a_limit() {
    let (mut app, replay) = upload(1 << 20).await;
    let mut first = replay.body().unwrap();
    for _ in 0..MOST_FRAMES {
        send(&mut app, "x").await;
        assert_eq!(data(&mut first).await, "x");
    }
    assert!(replay.is_replayable());
    send(&mut app, "x").await;
    assert_eq!(data(&mut first).await, "x");
    assert!(!replay.is_replayable());
}
