//! The app's connections (RFC 9112 §9): what keeps them, what ends them, and what becomes of bodies that nobody wanted.

use std::time::Duration;

use crate::client::{Client, Http2Client, whole};
use crate::errors::assert_error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{App, World, eventually, server, soon, with_app};
use crate::upstream::{HTTP2, Script, Server};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn scripted(test: impl AsyncFnOnce(&App, &Script)) {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| test(app, &upstream).await).await;
}

/// An answer of two bytes to the next request; returns its first line.
async fn answer(upstream: &Script) -> String {
    let (mut connection, head) = upstream.request().await;
    connection.send(OK).await;
    head.first
}

#[tokio::test]
async fn a_small_body_that_nobody_wanted_is_read_over() {
    scripted(async |app, upstream| {
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
            assert_eq!(answer(upstream).await, "GET / HTTP/1.1");
            assert_eq!(client.response().await.text(), "ok");
        }
    })
    .await;
}

/// What is still being sent would reset the connection, and the answer would be lost with it (RFC 9112 §9.6).
#[tokio::test]
async fn an_answer_to_a_large_body_that_nobody_wanted_arrives() {
    scripted(async |app, _| {
        let mut client = app.connect().await;
        let length = 4 * 1024 * 1024;
        client
            .send(format!(
                "POST /a/.. HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
            ))
            .await;
        // It reads nothing before it has sent all.
        client.send(vec![b'x'; length]).await;
        let answer = client.response().await;
        assert_error(&answer, "bad_request", None);
        assert_eq!(answer.head.get("connection"), Some("close"));
        client.closed().await;
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_the_body_arrives() {
    scripted(async |app, upstream| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\nbegin")
            .await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
            .await;
        let answer = client.response().await;
        assert_eq!((answer.status.as_u16(), &*answer.text()), (413, "no"));
        assert_eq!(answer.head.first, "HTTP/1.1 413 Too Much");
        client.closed().await;
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_100_ends_the_connection() {
    scripted(async |app, _| {
        let mut client = app.connect().await;
        // The client may send the body or not, and nobody could tell it from a request.
        let refused = client
            .request("PUT /a/.. HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\nExpect: 100-continue\r\n\r\n")
            .await;
        assert_error(&refused, "bad_request", None);
        assert_eq!(refused.head.get("connection"), Some("close"));
        client.closed().await;
    })
    .await;
}

/// hyper says `100 Continue` to an app that did not wait for it, too.
#[tokio::test]
async fn a_client_that_does_not_wait_to_continue_is_answered() {
    scripted(async |app, upstream| {
        let mut client = app.connect().await;
        client
            .send("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody")
            .await;
        let (mut connection, _) = upstream.request().await;
        assert_eq!(connection.exactly(4).await.unwrap(), b"body");
        connection.send(OK).await;
        assert_eq!(client.final_response().await.status, 200);
    })
    .await;
}

/// RFC 9112 §2.2: the line break that old clients send after a body belongs to nobody.
#[tokio::test]
async fn a_line_break_too_many_is_no_request() {
    scripted(async |app, upstream| {
        let mut client = app.connect().await;
        for _ in 0..2 {
            client
                .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab\r\n")
                .await;
            assert_eq!(answer(upstream).await, "POST / HTTP/1.1");
            assert_eq!(client.response().await.text(), "ok");
        }
        // And one that goes away is seen all the same.
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
async fn bodies_and_requests_in_a_row_keep_apart() {
    scripted(async |app, upstream| {
        let mut client = app.connect().await;
        let all = format!(
            "POST /1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{GET}\r\n0\r\nX-Sum: 1\r\n\r\n\
             POST /2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{GET}GET /3 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            GET.len(),
            GET.len(),
        );
        // In pieces, as a network would.
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
                // In one chunk or several, as it came in.
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
async fn a_broken_body_ends_the_connection() {
    scripted(async |app, upstream| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello")
            .await;
        let (mut connection, _) = upstream.request().await;
        assert_eq!(connection.exactly(10).await.unwrap(), b"5\r\nhello\r\n");
        client.send(format!("x\r\n0\r\n\r\n{GET}")).await;
        let answer = client.response().await;
        assert_error(&answer, "bad_request", Some("api"));
        assert_eq!(answer.head.get("connection"), Some("close"));
        client.closed().await;
        // What was cut off looks cut off to the upstream, too.
        connection.closed().await;
    })
    .await;
}

/// Without a length an end by the connection would pass for a good one.
#[tokio::test]
async fn what_breaks_off_for_http_1_0_is_reset() {
    scripted(async |app, upstream| {
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
async fn announced_trailers_go_to_those_who_understand_them() {
    scripted(async |app, upstream| {
        let mut client = app.connect().await;
        for (te, trailers) in [("", ""), ("TE: trailers\r\n", "x-sum: 7\r\n")] {
            client
                .send(format!("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{te}\r\n"))
                .await;
            let (mut connection, _) = upstream.request().await;
            connection
                .send("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n")
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
async fn a_connect_ends_the_connection() {
    scripted(async |app, _| {
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

/// Its bytes come in one by one; the preface of HTTP/2 is told from a request as soon as it can be.
#[tokio::test]
async fn what_a_connection_speaks_is_told_by_its_first_bytes() {
    scripted(async |app, upstream| {
        let mut client = app.connect().await;
        for byte in "PROPFIND / HTTP/1.1\r\nHost: localhost\r\n\r\n"
            .as_bytes()
            .chunks(1)
        {
            client.send(byte).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(answer(upstream).await, "PROPFIND / HTTP/1.1");
        assert_eq!(client.response().await.text(), "ok");
        // Not in the middle of a connection.
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        assert_error(&client.response().await, "bad_request", None);
        client.closed().await;
        let mut other = Http2Client::connect(app.address()).await;
        let request = other.request("GET", "/").body(whole("")).unwrap();
        let (response, _) = tokio::join!(other.send(request), answer(upstream));
        assert_eq!(response.unwrap().status(), 200);
    })
    .await;
}

/// An upload that an HTTP/2 upstream no longer wants does not hold on to the app's connection.
#[tokio::test]
async fn an_answer_of_http2_before_the_end_of_the_body() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP2, |_| async {
        http::Response::new(whole("early"))
    })
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello")
            .await;
        assert_eq!(client.response().await.text(), "early");
        // The rest comes in time to keep the connection.
        client.send("world").await;
        assert_eq!(client.get("/").await.text(), "early");
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nhello")
            .await;
        assert_eq!(client.response().await.text(), "early");
        client.closed().await;
    })
    .await;
}

#[tokio::test]
async fn one_that_is_being_answered_is_not_idle() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("header_timeout = \"300ms\"\nidle_timeout = \"300ms\"")
        + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        let began = std::time::Instant::now();
        // Others come and go meanwhile.
        while began.elapsed() < Duration::from_secs(1) {
            let mut other: Client = app.connect().await;
            other.closed().await;
        }
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
        eventually("no request in flight", async || {
            app.metric("cupbearer_requests_in_flight{upstream=\"api\"}")
                .await
                == 0.0
        })
        .await;
    })
    .await;
}

/// Whoever sends `Expect` and does not wait has sent a whole request all the same.
#[tokio::test]
async fn a_body_that_did_not_wait_for_100_keeps_its_connection() {
    scripted(async |app, upstream| {
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
            assert_eq!(answer(upstream).await, "POST / HTTP/1.1");
            assert_eq!(client.final_response().await.text(), "ok");
            assert_eq!(answer(upstream).await, "GET / HTTP/1.1");
            assert_eq!(client.response().await.text(), "ok");
        }
    })
    .await;
}

/// An app that reads nothing before it has sent everything, and an upstream that answers while it reads.
#[tokio::test]
async fn an_upload_goes_on_while_nobody_reads_the_response() {
    const SIZE: usize = 24 * 1024 * 1024;
    let world = World::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let echo = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let (mut from, mut to) = socket.into_split();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(from.read_u8().await.unwrap());
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        to.write_all(answer.as_bytes()).await.unwrap();
        let writing = tokio::spawn(async move {
            to.write_all(&vec![b'y'; SIZE]).await.unwrap();
            to
        });
        let mut body = vec![0; SIZE];
        from.read_exact(&mut body).await.unwrap();
        drop(writing.await.unwrap());
        body.iter().all(|byte| *byte == b'x')
    });
    let config = server("") + &world.upstream("api", &url, "");
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
        assert!(echo.await.unwrap());
    })
    .await;
}

/// At the end of the process, too, a head has its time and no more.
#[tokio::test]
async fn half_a_head_does_not_hold_up_the_end() {
    let world = World::new();
    let config = server("shutdown_delay = \"0s\"\nheader_timeout = \"600ms\"")
        .replace("\"3s\"", "\"1h\"")
        + &world.upstream("api", "http://127.0.0.1:1", "");
    let mut app = App::start(&config).await;
    let mut client = app.connect().await;
    client.send("GET / HT").await;
    // Seen: the answer to a later connection comes after it.
    assert_eq!(app.get("/").await.status, 502);
    app.stop(cupbearer::app::Shutdown::Interrupt);
    app.ended().await.unwrap();
    let answer = client.response().await;
    assert_error(&answer, "request_timeout", None);
}

/// Connections whose handshake is complete are open, as far as the app knows.
#[tokio::test]
async fn requests_that_came_in_right_before_the_end_are_answered() {
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
