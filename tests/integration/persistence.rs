//! Connections of apps (RFC 9112 §9): what keeps them open, what closes them, and what happens to
//! request bodies that no upstream reads.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::checks::{GET, OK, none_in_flight, ok_server};
use crate::client::{Http2Client, whole};
use crate::errors::assert_error;
use crate::harness::{App, World, server, soon, with_app};
use crate::upstream::{HTTP2, Script};

/// Runs `test` with one scripted upstream.
async fn with_script(test: impl AsyncFnOnce(&App, &Script)) {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| test(app, &upstream).await).await;
}

/// Responds to the next request with `ok`. Returns the request line.
async fn respond(upstream: &Script) -> String {
    let (mut connection, head) = upstream.request().await;
    connection.send(OK).await;
    head.first
}

#[tokio::test]
async fn the_small_body_of_a_refused_request_is_discarded_to_keep_the_connection() {
    with_script(async |app, upstream| {
        let mut client = app.connect().await;
        for body in [
            "Content-Length: 5\r\n\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        ] {
            client
                .send(format!(
                    "POST /a/.. HTTP/1.1\r\nHost: localhost\r\n{body}{GET}"
                ))
                .await;
            let refused = client.response().await;
            assert_error(&refused, "bad_request", None);
            assert_eq!(refused.head.get("connection"), None);
            assert_eq!(respond(upstream).await, "GET / HTTP/1.1");
            assert_eq!(client.response().await.text(), "ok");
        }
    })
    .await;
}

/// RFC 9112 §9.6: a close with unread bytes resets the connection, which loses the response.
#[tokio::test]
async fn a_refused_large_upload_gets_its_response_before_the_close() {
    with_script(async |app, _| {
        let mut client = app.connect().await;
        let length = 4 * 1024 * 1024;
        client
            .send(format!(
                "POST /a/.. HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
            ))
            .await;
        // The app reads nothing before it has sent everything.
        client.send(vec![b'x'; length]).await;
        let response = client.response().await;
        assert_error(&response, "bad_request", None);
        assert_eq!(response.head.get("connection"), Some("close"));
        client.closed().await;
    })
    .await;
}

#[tokio::test]
async fn an_early_response_is_forwarded_and_the_connection_closes() {
    with_script(async |app, upstream| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\nbegin")
            .await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
            .await;
        let response = client.response().await;
        assert_eq!((response.status.as_u16(), &*response.text()), (413, "no"));
        assert_eq!(response.head.first, "HTTP/1.1 413 Too Much");
        client.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_response_instead_of_100_closes_the_connection() {
    with_script(async |app, _| {
        let mut client = app.connect().await;
        // The client may or may not send the body, so the next bytes are ambiguous.
        let refused = client
            .request(
                "PUT /a/.. HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\
                 Expect: 100-continue\r\n\r\n",
            )
            .await;
        assert_error(&refused, "bad_request", None);
        assert_eq!(refused.head.get("connection"), Some("close"));
        client.closed().await;
    })
    .await;
}

/// hyper sends `100 Continue` to this app, too.
#[tokio::test]
async fn an_upload_that_does_not_wait_for_100_gets_its_response() {
    with_script(async |app, upstream| {
        let mut client = app.connect().await;
        client
            .send(
                "PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\
                 Expect: 100-continue\r\n\r\nbody",
            )
            .await;
        let (mut connection, _) = upstream.request().await;
        assert_eq!(connection.exactly(4).await.unwrap(), b"body");
        connection.send(OK).await;
        assert_eq!(client.final_response().await.status, 200);
    })
    .await;
}

/// RFC 9112 §2.2: old clients send an extra CRLF after a body.
#[tokio::test]
async fn an_extra_crlf_after_a_body_is_ignored() {
    with_script(async |app, upstream| {
        let mut client = app.connect().await;
        for _ in 0..2 {
            client
                .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab\r\n")
                .await;
            assert_eq!(respond(upstream).await, "POST / HTTP/1.1");
            assert_eq!(client.response().await.text(), "ok");
        }
        // The extra CRLF does not hide a disconnect.
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab\r\n")
            .await;
        let (mut connection, _) = upstream.request().await;
        assert_eq!(connection.exactly(2).await.unwrap(), b"ab");
        drop(client);
        connection.closed().await;
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_with_bodies_stay_separate() {
    with_script(async |app, upstream| {
        let mut client = app.connect().await;
        let all = format!(
            "POST /1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
             {length:x}\r\n{GET}\r\n0\r\nX-Sum: 1\r\n\r\n\
             POST /2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{GET}\
             GET /3 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            length = GET.len(),
        );
        // Small pieces, as a network could deliver them.
        for piece in all.as_bytes().chunks(7) {
            client.send(piece).await;
            tokio::task::yield_now().await;
        }
        let (mut connection, head) = upstream.request().await;
        for (number, with_body) in [(1, true), (2, true), (3, false)] {
            let head = match number {
                1 => head.first.clone(),
                _ => connection.head().await.first,
            };
            assert!(head.contains(&format!(" /{number} ")), "{head}");
            if number == 1 {
                // The chunks of the forwarded body depend on how the pieces arrived.
                let mut body = Vec::new();
                while body.len() < GET.len() {
                    body.extend(connection.chunk().await.unwrap().unwrap());
                }
                assert_eq!(body, GET.as_bytes());
                let end = b"0\r\nx-sum: 1\r\n\r\n";
                assert_eq!(connection.exactly(end.len()).await.unwrap(), end);
            } else if with_body {
                assert_eq!(connection.exactly(GET.len()).await.unwrap(), GET.as_bytes());
            }
            connection.send(OK).await;
            assert_eq!(client.response().await.text(), "ok");
        }
    })
    .await;
}

#[tokio::test]
async fn a_malformed_body_closes_the_connection() {
    with_script(async |app, upstream| {
        let mut client = app.connect().await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5\r\nhello",
            )
            .await;
        let (mut connection, _) = upstream.request().await;
        assert_eq!(connection.exactly(10).await.unwrap(), b"5\r\nhello\r\n");
        client.send(format!("x\r\n0\r\n\r\n{GET}")).await;
        let response = client.response().await;
        assert_error(&response, "bad_request", Some("api"));
        assert_eq!(response.head.get("connection"), Some("close"));
        client.closed().await;
        // The incomplete upload does not look complete to the upstream.
        connection.closed().await;
    })
    .await;
}

/// Without a length, an orderly close would look like the end of the body.
#[tokio::test]
async fn an_incomplete_response_to_http_1_0_is_reset() {
    with_script(async |app, upstream| {
        let mut client = app.connect().await;
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await;
        let head = client.head().await;
        assert_eq!(head.get("connection"), Some("close"));
        assert_eq!(client.exactly(4).await.unwrap(), b"half");
        drop(connection);
        client.read_to_end().await.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn trailers_are_forwarded_only_with_te_trailers() {
    with_script(async |app, upstream| {
        let mut client = app.connect().await;
        for (te, trailers) in [("", ""), ("TE: trailers\r\n", "x-sum: 7\r\n")] {
            client
                .send(format!(
                    "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{te}\r\n"
                ))
                .await;
            let (mut connection, _) = upstream.request().await;
            connection
                .send(
                    "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                     2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
                )
                .await;
            client.head().await;
            let rest = client.read_to_end().await.unwrap();
            let expected = format!("2\r\nok\r\n0\r\n{trailers}\r\n");
            assert_eq!(String::from_utf8(rest).unwrap(), expected);
            client = app.connect().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_refused_connect_closes_the_connection() {
    with_script(async |app, _| {
        let mut client = app.connect().await;
        client
            .send(format!(
                "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n{GET}"
            ))
            .await;
        assert_error(&client.response().await, "connect_unsupported", None);
        client.closed().await;
    })
    .await;
}

/// `PROPFIND` shares its first letter with the HTTP/2 preface and arrives byte by byte.
#[tokio::test]
async fn the_first_bytes_of_a_connection_select_http1_or_http2() {
    with_script(async |app, upstream| {
        let mut client = app.connect().await;
        for byte in "PROPFIND / HTTP/1.1\r\nHost: localhost\r\n\r\n"
            .as_bytes()
            .chunks(1)
        {
            client.send(byte).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(respond(upstream).await, "PROPFIND / HTTP/1.1");
        assert_eq!(client.response().await.text(), "ok");
        // A preface after a request is not valid HTTP/1.1.
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        assert_error(&client.response().await, "bad_request", None);
        client.closed().await;
        let mut other = Http2Client::connect(app.address()).await;
        let request = other.request("GET", "/").body(whole("")).unwrap();
        let (response, _) = tokio::join!(other.send(request), respond(upstream));
        assert_eq!(response.unwrap().status(), 200);
    })
    .await;
}

/// The HTTP/2 upstream reads no body. The app's connection stays open only if the rest is small.
#[tokio::test]
async fn an_early_response_of_an_http2_upstream_is_forwarded() {
    let world = World::new();
    let upstream = ok_server(&world, HTTP2).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello")
            .await;
        assert_eq!(client.response().await.text(), "ok");
        client.send("world").await;
        assert_eq!(client.get("/").await.text(), "ok");
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nhello")
            .await;
        assert_eq!(client.response().await.text(), "ok");
        client.closed().await;
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_closes_without_a_response() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("header_timeout = \"300ms\"\nidle_timeout = \"300ms\"")
        + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        app.connect().await.closed().await;
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(OK).await;
        client.response().await;
        client.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_with_a_request_in_flight_is_not_idle() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("header_timeout = \"300ms\"\nidle_timeout = \"300ms\"")
        + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        let began = std::time::Instant::now();
        // Idle connections time out meanwhile.
        while began.elapsed() < Duration::from_secs(1) {
            app.connect().await.closed().await;
        }
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
        none_in_flight(app).await;
    })
    .await;
}

#[tokio::test]
async fn a_body_that_does_not_wait_for_100_keeps_the_connection() {
    with_script(async |app, upstream| {
        let mut client = app.connect().await;
        for body in [
            "Content-Length: 5\r\n\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ] {
            client
                .send(format!(
                    "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{body}{GET}"
                ))
                .await;
            assert_eq!(respond(upstream).await, "POST / HTTP/1.1");
            assert_eq!(client.final_response().await.text(), "ok");
            assert_eq!(respond(upstream).await, "GET / HTTP/1.1");
            assert_eq!(client.response().await.text(), "ok");
        }
    })
    .await;
}

/// The upstream reads and sends at the same time; the app reads only after its upload.
#[tokio::test]
async fn an_upload_proceeds_while_the_app_does_not_read_the_response() {
    const SIZE: usize = 24 * 1024 * 1024;
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    let upstream = tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(upstream.accept().await.stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(reader.read_u8().await.unwrap());
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        let writing = tokio::spawn(async move {
            writer.write_all(&vec![b'y'; SIZE]).await.unwrap();
            writer
        });
        let mut body = vec![0; SIZE];
        reader.read_exact(&mut body).await.unwrap();
        drop(writing.await.unwrap());
        body.iter().all(|byte| *byte == b'x')
    });
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SIZE}\r\n\r\n"
            ))
            .await;
        soon("the upload", client.send(vec![b'x'; SIZE])).await;
        let response = soon("the response", client.response()).await;
        assert_eq!(response.body.len(), SIZE);
        assert!(upstream.await.unwrap(), "the upload arrived changed");
    })
    .await;
}

/// The app still gets its 408 during shutdown.
#[tokio::test]
async fn an_unfinished_head_delays_shutdown_by_at_most_header_timeout() {
    let world = World::new();
    let config = server("shutdown_delay = \"0s\"\nheader_timeout = \"600ms\"")
        .replace("\"3s\"", "\"1h\"")
        + &world.upstream("api", "http://127.0.0.1:1", "");
    let mut app = App::start(&config).await;
    let mut client = app.connect().await;
    client.send("GET / HT").await;
    // A response on a later connection shows that the first connection was accepted.
    assert_eq!(app.get("/").await.status, 502);
    app.stop(cupbearer::app::Shutdown::Interrupt);
    app.ended().await.unwrap();
    let response = client.response().await;
    assert_error(&response, "request_timeout", None);
}

/// Connections that the kernel accepted are open to the app, even before the program accepts them.
#[tokio::test]
async fn requests_sent_right_before_shutdown_get_responses() {
    for workers in [1, 2] {
        let world = World::new();
        let config = server(&format!("shutdown_delay = \"0s\"\nworkers = {workers}"))
            + &world.upstream("api", "http://127.0.0.1:1", "");
        let mut app = App::start(&config).await;
        app.ready().await;
        let mut clients = Vec::new();
        for _ in 0..50 {
            let mut client = app.connect().await;
            client.send(GET).await;
            clients.push(client);
        }
        app.stop(cupbearer::app::Shutdown::Interrupt);
        for client in &mut clients {
            assert_error(&client.response().await, "upstream_refused", Some("api"));
        }
        app.ended().await.unwrap();
    }
}
