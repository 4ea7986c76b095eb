//! Tests over loopback against a server of raw bytes.

mod support;

use std::task::Waker;

use http::header::AUTHORIZATION;
use http::{HeaderName, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::coop;

use super::*;
use crate::fields::MAX_HEAD;
use crate::upstream::RequestBody;
use support::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A task without coop budget sees no readiness from tokio.
#[tokio::test]
async fn a_dead_connection_is_found_without_coop_budget() {
    let mut line = Line::open().await;
    let mut connection = line.idle_connection();
    line.close();
    let Stream::Plain(tcp) = &connection.io else {
        panic!("no plain TCP");
    };
    tcp.readable().await.unwrap();
    let usable = poll_fn(|cx| {
        while coop::has_budget_remaining() {
            let _ = pin!(coop::consume_budget()).poll(cx);
        }
        Poll::Ready(connection.usable(Instant::now(), WAIT))
    });
    assert!(!usable.await);
}

#[tokio::test]
async fn a_connection_is_reused_after_a_complete_exchange() {
    let mut line = Line::open().await;
    for _ in 0..3 {
        let sent = line.send(get("/a?b"));
        assert_eq!(
            line.read_head().await,
            "GET /a?b HTTP/1.1\r\nhost: api\r\n\r\n"
        );
        line.write(OK).await;
        assert_eq!(text(sent.await.unwrap()).await, "ok");
        assert_eq!((line.idle(), line.open_connections()), (1, 1));
    }
}

#[tokio::test]
async fn responses_are_parsed_at_every_split() {
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "hello"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
             2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n",
            "hello",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n.",
            ".",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", ""),
    ];
    let mut line = Line::open().await;
    for (answer, body) in cases {
        for cut in 0..answer.len() {
            let sent = line.send(get("/"));
            line.read_head().await;
            line.write(&answer[..cut]).await;
            let body_comes = tokio::spawn(async move { text(sent.await.unwrap()).await });
            settle().await;
            line.write(&answer[cut..]).await;
            assert_eq!(body_comes.await.unwrap(), body, "{answer:?} cut at {cut}");
            assert_eq!(line.idle(), 1, "{answer:?} cut at {cut}");
        }
    }
}

#[tokio::test]
async fn responses_to_head_have_no_body() {
    let mut line = Line::open().await;
    for field in ["content-length: 5", "transfer-encoding: chunked"] {
        let sent = line.send(request("HEAD", "/", &[], RequestBody::Empty));
        line.read_head().await;
        line.write(&format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n"))
            .await;
        let response = sent.await.unwrap();
        assert!(response.body().is_end_stream());
        assert_eq!((text(response).await, line.idle()), (String::new(), 1));
    }
}

#[tokio::test]
async fn sizes_and_ends_are_known_as_early_as_possible() {
    let mut line = Line::open().await;
    let sent = line.send(get("/"));
    line.read_head().await;
    line.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe")
        .await;
    let mut body = sent.await.unwrap().into_body();
    assert_eq!(body.size_hint().exact(), Some(5));
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "he"
    );
    assert_eq!((body.size_hint().exact(), line.idle()), (Some(3), 0));
    line.write("llo").await;
    body.frame().await.unwrap().unwrap();
    // No further poll is needed.
    assert!(body.is_end_stream());
    assert_eq!((body.size_hint().exact(), line.idle()), (Some(0), 1));
}

#[tokio::test]
async fn trailers_are_a_frame() {
    let mut line = Line::open().await;
    let sent = line.send(get("/"));
    line.read_head().await;
    line.write(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n",
    )
    .await;
    let collected = sent.await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "1");
    assert_eq!(collected.to_bytes(), "a");
    assert_eq!(line.idle(), 1);
}

#[tokio::test]
async fn a_body_may_end_with_the_connection() {
    let mut line = Line::open().await;
    let sent = line.send(get("/"));
    line.read_head().await;
    line.write("HTTP/1.0 200 OK\r\n\r\nhello").await;
    line.close();
    assert_eq!(text(sent.await.unwrap()).await, "hello");
    assert_eq!((line.idle(), line.open_connections()), (0, 0));
}

#[tokio::test]
async fn a_cut_off_body_is_an_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n",
    ] {
        let mut line = Line::open().await;
        let sent = line.send(get("/"));
        line.read_head().await;
        line.write(answer).await;
        line.close();
        let error = sent.await.unwrap().into_body().collect().await.unwrap_err();
        assert!(matches!(error, BodyError::Closed(_)), "{answer:?}: {error}");
        assert_eq!(line.open_connections(), 0);
    }
}

#[tokio::test]
async fn a_malformed_body_is_an_error() {
    let mut line = Line::open().await;
    let sent = line.send(get("/"));
    line.read_head().await;
    line.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab")
        .await;
    let error = sent.await.unwrap().into_body().collect().await.unwrap_err();
    assert!(matches!(error, BodyError::Protocol(_)), "{error}");
    assert_eq!(line.open_connections(), 0);
}

#[tokio::test]
async fn a_cut_off_or_malformed_head_is_an_error() {
    for (answer, protocol) in [
        ("", false),
        ("HTTP/1.1 200 OK\r\ncontent-", false),
        ("HTTP/1.1 100 Continue\r\n\r\n", false),
        ("SSH-2.0-x\r\n", true),
        ("\r\n", true),
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
            true,
        ),
        (&"HTTP/1.1 100 Continue\r\n\r\n".repeat(65), true),
        (
            &format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD)),
            true,
        ),
    ] {
        let mut line = Line::open().await;
        let sent = line.send(get("/"));
        line.read_head().await;
        line.write(answer).await;
        line.close();
        let error = sent.await.err().unwrap();
        assert_eq!(
            matches!(error.failure, SendFailure::Protocol(_)),
            protocol,
            "{answer:.40}"
        );
        assert_eq!(
            matches!(error.failure, SendFailure::Closed(_)),
            !protocol,
            "{answer:.40}"
        );
        assert!(!error.unsent && !error.reused);
        assert_eq!(line.open_connections(), 0);
    }
}

#[tokio::test]
async fn sixteen_interim_answers_are_skipped() {
    let mut line = Line::open().await;
    let sent = line.send(get("/"));
    line.read_head().await;
    line.write(&("HTTP/1.1 100 Continue\r\n\r\n".repeat(16) + OK))
        .await;
    assert_eq!(text(sent.await.unwrap()).await, "ok");
}

#[tokio::test]
async fn a_connection_is_kept_only_if_both_sides_allow_it() {
    for (answer, kept) in [
        (OK, true),
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            false,
        ),
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", false),
        (
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n",
            false,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok!", false),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1",
            false,
        ),
    ] {
        let mut line = Line::open().await;
        let sent = line.send(get("/"));
        line.read_head().await;
        line.write(answer).await;
        text(sent.await.unwrap()).await;
        assert_eq!(line.idle(), usize::from(kept), "{answer}");
        assert_eq!(line.open_connections(), i64::from(kept), "{answer}");
    }
}

#[tokio::test]
async fn large_bodies_are_complete() {
    let content = Vec::from_iter((0..3_000_000_u32).map(|index| (index % 251) as u8));
    let mut line = Line::open().await;
    let sent = line.send(get("/"));
    line.read_head().await;
    let mut server = line.take_server();
    let bytes = content.clone();
    tokio::spawn(async move {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len());
        server.write_all(head.as_bytes()).await.unwrap();
        server.write_all(&bytes).await.unwrap();
        server
    });
    let body = sent.await.unwrap().into_body().collect().await.unwrap();
    assert!(body.to_bytes() == content);
    assert_eq!(line.idle(), 1);
}

#[tokio::test]
async fn unrequested_bytes_make_a_connection_unusable() {
    for unasked in ["HTTP/1.1 408 Request Timeout\r\n\r\n", ""] {
        let mut line = Line::open().await;
        line.exchange(OK).await;
        line.write(unasked).await;
        if unasked.is_empty() {
            line.close();
        }
        settle().await;
        let mut connection = line.idle_connection();
        assert!(!connection.is_alive());
        // Bytes between the check and the request:
        let mut head = get("/");
        let failed = connection.send(&head.0, WAIT, head.1.take().unwrap());
        let error = failed.await.err().unwrap();
        assert!(error.unsent && error.reused);
        assert!(matches!(error.failure, SendFailure::Closed(_)));
        assert_eq!(line.open_connections(), 0);
    }
}

/// The check by another task must not keep the sending task's waker from being registered.
#[tokio::test]
async fn a_check_by_another_task_does_not_lose_the_wakeup() {
    let mut line = Line::open().await;
    line.exchange(OK).await;
    let mut connection = line.idle_connection();
    assert!(connection.usable(Instant::now(), WAIT));
    line.shared().put(connection);
    let sent = tokio::spawn(line.send(get("/")));
    line.read_head().await;
    settle().await;
    line.write(OK).await;
    // The timeout would also wake the task.
    let sent = tokio::time::timeout(WAIT / 2, sent).await.unwrap();
    assert_eq!(text(sent.unwrap().unwrap()).await, "ok");
}

#[tokio::test]
async fn a_response_before_a_write_error_counts() {
    let mut line = Line::open().await;
    let (mut app, body) = upload("content-length: 1000000\r\n", &[]).await;
    let sent = line.send(request("PUT", "/", &[], body));
    line.read_head().await;
    line.write("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
        .await;
    line.close();
    // The app's bytes reach a closed connection.
    let _ = app.write_all(&[b'x'; 10_000]).await;
    let response = sent.await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(text(response).await, "no");
    assert_eq!(line.open_connections(), 0);
}

#[tokio::test]
async fn a_body_of_known_length_follows_its_head() {
    let mut line = Line::open().await;
    let (mut app, body) = upload("content-length: 5\r\n", &[]).await;
    app.write_all(b"hello").await.unwrap();
    settle().await;
    let sent = line.send(request("POST", "/", &[("content-length", "5")], body));
    let whole = "POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 5\r\n\r\nhello";
    // In one write.
    assert_eq!(line.read_some().await, whole);
    line.write(OK).await;
    text(sent.await.unwrap()).await;
    assert_eq!(line.idle(), 1);
}

#[tokio::test]
async fn a_chunked_body_loses_forbidden_trailers() {
    let mut line = Line::open().await;
    let key = HeaderName::from_static("x-api-key");
    let chunked = "transfer-encoding: chunked\r\n";
    let (mut app, body) = upload(chunked, &[AUTHORIZATION, key]).await;
    let sent = tokio::spawn(line.send(request("POST", "/", &[], body)));
    let head = "POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(line.read_head().await, head);
    app.write_all(b"3\r\nabc\r\n").await.unwrap();
    assert_eq!(line.read_some().await, "3\r\nabc\r\n");
    let large = "x".repeat(3000);
    app.write_all(format!("BB8\r\n{large}\r\n").as_bytes())
        .await
        .unwrap();
    let chunks = line.read_until("x\r\n").await;
    assert_eq!(chunks.matches('x').count(), 3000);
    app.write_all(
        b"0\r\nauthorization: a\r\nX-Api-Key: b\r\nx-sum: c\r\ncontent-length: 7\r\n\r\n",
    )
    .await
    .unwrap();
    assert_eq!(line.read_until("\r\n\r\n").await, "0\r\nx-sum: c\r\n\r\n");
    line.write(OK).await;
    text(sent.await.unwrap().unwrap()).await;
    assert_eq!(line.idle(), 1);
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let mut line = Line::open().await;
    let (mut app, body) = upload("transfer-encoding: chunked\r\n", &[]).await;
    let sent = line.send(request("POST", "/", &[], body));
    line.read_head().await;
    line.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let mut answer = sent.await.unwrap().into_body();
    for word in ["one", "two"] {
        app.write_all(format!("3\r\n{word}\r\n").as_bytes())
            .await
            .unwrap();
        // Reading the response polls the upload.
        let next = tokio::spawn(async move {
            let frame = answer.frame().await.unwrap().unwrap();
            (frame.into_data().unwrap(), answer)
        });
        assert_eq!(line.read_some().await, format!("3\r\n{word}\r\n"));
        line.write(&format!("3\r\n{word}\r\n")).await;
        let (echo, rest) = next.await.unwrap();
        assert_eq!(echo, word);
        answer = rest;
    }
    app.write_all(b"0\r\n\r\n").await.unwrap();
    let end = tokio::spawn(answer.collect());
    assert_eq!(line.read_some().await, "0\r\n\r\n");
    line.write("0\r\n\r\n").await;
    end.await.unwrap().unwrap();
    assert_eq!(line.idle(), 1);
}

#[tokio::test]
async fn a_response_that_ends_before_the_upload_closes_the_connection() {
    let mut line = Line::open().await;
    let (_app, body) = upload("transfer-encoding: chunked\r\n", &[]).await;
    let sent = line.send(request("POST", "/", &[], body));
    line.read_head().await;
    line.write(OK).await;
    assert_eq!(text(sent.await.unwrap()).await, "ok");
    assert_eq!((line.idle(), line.open_connections()), (0, 0));
}

#[tokio::test]
async fn a_cut_off_upload_closes_the_connection() {
    for before_the_answer in [true, false] {
        let mut line = Line::open().await;
        let (app, body) = upload("content-length: 5\r\n", &[]).await;
        let sent = line.send(request("POST", "/", &[], body));
        line.read_head().await;
        if before_the_answer {
            drop(app);
            let error = sent.await.err().unwrap();
            assert!(
                matches!(error.failure, SendFailure::App(_)),
                "{}",
                error.failure
            );
        } else {
            line.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
                .await;
            let body = sent.await.unwrap().into_body();
            drop(app);
            let error = body.collect().await.unwrap_err();
            assert!(matches!(error, BodyError::App(_)), "{error}");
        }
        assert_eq!(line.open_connections(), 0);
    }
}

#[tokio::test]
async fn an_upgraded_connection_keeps_bytes_after_the_head() {
    let mut line = Line::open().await;
    let upgrade = [("upgrade", "x"), ("connection", "upgrade")];
    let sent = line.send(request("GET", "/", &upgrade, RequestBody::Empty));
    line.read_head().await;
    line.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhel")
        .await;
    let mut response = sent.await.unwrap();
    assert_eq!(response.headers()["upgrade"], "x");
    assert!(response.body().is_end_stream());
    let mut tunnel = response.body_mut().take_tunnel().unwrap();
    assert!(response.body_mut().take_tunnel().is_none());
    line.write("lo").await;
    let mut hello = [0; 5];
    tunnel.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    tunnel.write_all(b"hi").await.unwrap();
    assert_eq!(line.read_some().await, "hi");
    assert_eq!(line.open_connections(), 1);
    drop(tunnel);
    assert_eq!(line.open_connections(), 0);
}

#[tokio::test]
async fn an_incomplete_head_times_out() {
    for answer in ["", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
        let mut line = Line::open().await;
        let sent = tokio::spawn(line.send(get("/")));
        line.read_head().await;
        line.write(answer).await;
        settle().await;
        pass(WAIT - Duration::from_millis(100)).await;
        assert!(!sent.is_finished());
        pass(Duration::from_millis(200)).await;
        let error = sent.await.unwrap().err().unwrap();
        assert!(matches!(error.failure, SendFailure::Timeout));
        assert_eq!(line.open_connections(), 0);
    }
}

#[tokio::test]
async fn upload_progress_extends_the_timeout() {
    let mut line = Line::open().await;
    let (mut app, body) = upload("transfer-encoding: chunked\r\n", &[]).await;
    let sent = tokio::spawn(line.send(request("POST", "/", &[], body)));
    line.read_head().await;
    for _ in 0..3 {
        pass(WAIT * 2).await;
        assert!(!sent.is_finished());
        app.write_all(b"1\r\na\r\n").await.unwrap();
        line.read_some().await;
    }
    app.write_all(b"0\r\n\r\n").await.unwrap();
    line.read_some().await;
    pass(WAIT - Duration::from_millis(100)).await;
    assert!(!sent.is_finished());
    pass(Duration::from_millis(200)).await;
    let error = sent.await.unwrap().err().unwrap();
    assert!(matches!(error.failure, SendFailure::Timeout));
}

/// Drops the exchange after each possible number of polls.
#[tokio::test]
async fn a_dropped_exchange_closes_or_returns_its_connection() {
    let steps = [
        "HTTP/1.1 200 OK\r\ntransfer-",
        "encoding: chunked\r\n\r\n",
        "2\r\nok",
        "\r\n0\r\n\r\n",
    ];
    for polls in 0..12 {
        let mut line = Line::open().await;
        let (mut app, body) = upload("transfer-encoding: chunked\r\n", &[]).await;
        let sending = line.send(request("POST", "/", &[], body));
        let exchange = async { text(sending.await.unwrap()).await };
        let mut exchange = Box::pin(exchange);
        let mut cx = Context::from_waker(Waker::noop());
        let mut done = false;
        for poll in 0..polls {
            done |= !done && exchange.as_mut().poll(&mut cx).is_ready();
            match poll {
                1 => app.write_all(b"1\r\na\r\n0\r\n\r\n").await.unwrap(),
                3 | 5 | 7 | 9 => line.write(steps[(poll - 3) / 2]).await,
                _ => {}
            }
            settle().await;
        }
        drop(exchange);
        assert_eq!(done, polls > 10, "{polls}");
        assert_eq!(line.idle(), usize::from(done), "{polls}");
        assert_eq!(line.open_connections(), i64::from(done), "{polls}");
    }
}
