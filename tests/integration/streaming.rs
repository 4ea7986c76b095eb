//! Bodies, connections and their ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::client::{Client, Http2Client, frames, whole};
use crate::harness::{World, eventually, join_all, server, soon, with_app};
use crate::upstream::{HTTP1, HTTP2, Script, Server};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// More than any buffer on the way.
const LARGE: usize = 20 * 1024 * 1024;

async fn scripted(world: &World) -> (Script, String) {
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    (upstream, config)
}

/// Bytes that show if a part is missing, doubled or in the wrong place.
fn pattern(length: usize) -> Bytes {
    (0..length)
        .map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8)
        .collect()
}

fn same(received: &[u8], sent: &[u8]) {
    assert_eq!(received.len(), sent.len());
    // Not `assert_eq`: nobody wants to read 20 MiB.
    assert!(received == sent, "the bytes differ");
}

#[tokio::test]
async fn a_chunk_arrives_before_the_body_ends() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        let head = client.head().await;
        assert_eq!(head.get("transfer-encoding"), Some("chunked"));
        for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
            connection.send(format!("9\r\n{event}\r\n")).await;
            assert_eq!(client.chunk().await.unwrap().unwrap(), event.as_bytes());
        }
        connection.send("0\r\n\r\n").await;
        assert_eq!(client.chunk().await.unwrap(), None);
        assert_eq!(client_still_works(&mut client, &mut connection).await, "ok");
    })
    .await;
}

async fn client_still_works(
    client: &mut Client,
    connection: &mut crate::upstream::Connection,
) -> String {
    client.send(GET).await;
    connection.head().await;
    connection.send(OK).await;
    client.response().await.text()
}

#[tokio::test]
async fn a_chunk_leaves_before_the_upload_ends() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        let (mut connection, _) = upstream.request().await;
        for chunk in ["one", "two"] {
            client.send(format!("3\r\n{chunk}\r\n")).await;
            assert_eq!(connection.chunk().await.unwrap().unwrap(), chunk.as_bytes());
        }
        // An answer may begin while the upload goes on.
        connection
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
            .await;
        client.head().await;
        assert_eq!(client.chunk().await.unwrap().unwrap(), b"hi");
        client.send("3\r\nend\r\n0\r\n\r\n").await;
        assert_eq!(connection.chunk().await.unwrap().unwrap(), b"end");
        assert_eq!(connection.chunk().await.unwrap(), None);
        connection.send("0\r\n\r\n").await;
        assert_eq!(client.chunk().await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn http2_streams_both_ways() {
    let world = World::new();
    // Sends back what it gets, frame by frame.
    let upstream = Server::start(
        &world.authority,
        HTTP2,
        |request: Request<Incoming>| async {
            let (sender, body) = frames();
            let mut upload = request.into_body();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = upload.frame().await {
                    if sender.send(Ok(frame)).is_err() {
                        return;
                    }
                }
            });
            Response::new(body)
        },
    )
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        let (sender, body) = frames();
        let request = client.request("POST", "/echo").body(body).unwrap();
        let mut answer = client.send(request).await.unwrap().into_body();
        for chunk in ["one", "two", "three"] {
            sender.send(Ok(Frame::data(Bytes::from(chunk)))).unwrap();
            let frame = soon("an echo", answer.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), chunk);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "7".parse().unwrap());
        // A credential is none of a trailer's business.
        trailers.insert("authorization", "Bearer mine".parse().unwrap());
        sender.send(Ok(Frame::trailers(trailers))).unwrap();
        drop(sender);
        let frame = soon("trailers", answer.frame()).await.unwrap().unwrap();
        let trailers = frame.into_trailers().unwrap();
        assert_eq!(trailers["x-checksum"], "7");
        assert_eq!(trailers.len(), 1, "{trailers:?}");
        assert!(soon("the end", answer.frame()).await.is_none());
    })
    .await;
}

async fn large_bodies(http2: bool) {
    let world = World::new();
    let offer = if http2 { HTTP2 } else { HTTP1 };
    let upstream = Server::start(
        &world.authority,
        offer,
        |request: Request<Incoming>| async move {
            if request.method() == "GET" {
                return Response::new(whole(pattern(LARGE)));
            }
            let body = request.into_body().collect().await.unwrap().to_bytes();
            same(&body, &pattern(LARGE));
            Response::new(whole(body.len().to_string()))
        },
    )
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let sent = pattern(LARGE);
        let mut client = app.connect().await;
        same(&client.get("/").await.body, &sent);
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LARGE}\r\n\r\n"
            ))
            .await;
        client.send(&sent).await;
        assert_eq!(client.response().await.text(), LARGE.to_string());

        let mut client = Http2Client::connect(app.address()).await;
        let request = client.request("GET", "/").body(whole("")).unwrap();
        let body = client.send(request).await.unwrap().into_body();
        let body = soon("a download", body.collect()).await.unwrap().to_bytes();
        same(&body, &sent);
        let request = client.request("POST", "/").body(whole(sent)).unwrap();
        let body = client.send(request).await.unwrap().into_body();
        let body = soon("an answer", body.collect()).await.unwrap().to_bytes();
        assert_eq!(body, LARGE.to_string());
    })
    .await;
}

#[tokio::test]
async fn twenty_mebibytes_up_and_down_by_http1() {
    large_bodies(false).await;
}

#[tokio::test]
async fn twenty_mebibytes_up_and_down_by_http2() {
    large_bodies(true).await;
}

/// Whoever reads nothing is sent nothing more: the rest stays with the upstream.
#[tokio::test]
async fn a_slow_reader_holds_the_upstream_back() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            .await;
        client.head().await;
        let block = vec![0; 1024 * 1024];
        let written = AtomicUsize::new(0);
        let write = async {
            while connection.send_succeeds(&block).await {
                written.fetch_add(block.len(), Ordering::Relaxed);
            }
        };
        // Socket buffers take some MiB; a proxy that buffers would take all. Stuck means: no progress in a while.
        let stuck = async {
            let mut before = usize::MAX;
            let mut ticks = tokio::time::interval(std::time::Duration::from_millis(300));
            loop {
                ticks.tick().await;
                let now = written.load(Ordering::Relaxed);
                if now == before {
                    return now;
                }
                before = now;
            }
        };
        let taken = tokio::select! {
            () = write => panic!("the upstream's connection broke"),
            taken = stuck => taken,
        };
        assert!(taken < 64 * 1024 * 1024, "{taken} bytes are on the way");
    })
    .await;
}

#[tokio::test]
async fn answers_without_a_body() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("HEAD /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.first, "HEAD /x HTTP/1.1");
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n")
            .await;
        let head = client.head().await;
        assert_eq!(head.get("content-length"), Some("1234"));
        assert_eq!(head.get("etag"), Some("\"a\""));
        for line in ["204 No Content", "304 Not Modified"] {
            client.send(GET).await;
            connection.head().await;
            connection
                .send(format!("HTTP/1.1 {line}\r\nETag: \"b\"\r\n\r\n"))
                .await;
            let head = client.head().await;
            assert_eq!(head.first, format!("HTTP/1.1 {line}"));
            assert_eq!(head.get("transfer-encoding"), None);
            assert_eq!(head.get("etag"), Some("\"b\""));
        }
        // No byte of a body was there: the connections are still in step.
        assert_eq!(client_still_works(&mut client, &mut connection).await, "ok");
    })
    .await;
}

#[tokio::test]
async fn a_head_request_over_http2() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP2, |_| async {
        Response::builder()
            .header("content-length", "77")
            .body(whole(""))
            .unwrap()
    })
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        for _ in 0..2 {
            client
                .send("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            assert_eq!(client.head().await.get("content-length"), Some("77"));
        }
    })
    .await;
}

/// Cupbearer answers 100 itself once token and connection are ready, and does not forward the
/// expectation.
#[tokio::test]
async fn expect_100_continue() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("expect"), None);
        assert_eq!(client.head().await.first, "HTTP/1.1 100 Continue");
        client.send("body").await;
        assert_eq!(connection.exactly(4).await.unwrap(), b"body");
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

/// Who is refused is not asked for the body first.
#[tokio::test]
async fn no_100_for_what_is_refused() {
    let world = World::new();
    let (_upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let refused = app
            .connect()
            .await
            .request("PUT /a/../b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            .await;
        assert_eq!(refused.status, 400);
    })
    .await;
}

/// Interim answers (RFC 9110 §15.2) do not end the exchange.
#[tokio::test]
async fn interim_answers_of_the_upstream() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
            .await;
        connection.send(OK).await;
        let mut answer = client.response().await;
        while answer.status.is_informational() {
            answer = client.response().await;
        }
        assert_eq!((answer.status, &*answer.text()), (StatusCode::OK, "ok"));
    })
    .await;
}

#[tokio::test]
async fn trailers_of_grpc_by_http2() {
    let world = World::new();
    let upstream = Server::start(
        &world.authority,
        HTTP2,
        |request: Request<Incoming>| async move {
            assert_eq!(request.headers()["te"], "trailers");
            assert_eq!(request.headers().get("connection"), None);
            assert_eq!(request.headers().get("host"), None);
            let (sender, body) = frames();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            sender
                .send(Ok(Frame::data(Bytes::from("message"))))
                .unwrap();
            sender.send(Ok(Frame::trailers(trailers))).unwrap();
            Response::builder()
                .header("content-type", "application/grpc")
                .body(body)
                .unwrap()
        },
    )
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        let request = client
            .request("POST", "/pkg.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(whole("request"))
            .unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        let collected = soon("the body", answer.into_body().collect())
            .await
            .unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "message");
    })
    .await;
}

/// An app that gives up must not leave the vendor working for nobody.
#[tokio::test]
async fn an_app_that_aborts_a_download_cancels_it() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            .await;
        client.head().await;
        drop(client);
        // The next events find nobody, and the connection to the upstream ends.
        soon("the cancellation", async {
            while connection.send_succeeds(b"1\r\nx\r\n").await {
                tokio::task::yield_now().await;
            }
        })
        .await;
        eventually("no request in flight", async || {
            app.metric("cupbearer_requests_in_flight{upstream=\"api\"}")
                .await
                == 0.0
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn an_app_that_goes_away_while_it_waits_cancels_its_request() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        drop(client);
        connection.closed().await;
    })
    .await;
}

/// What it has sent ahead does not hide that: a part of a next request, a whole one, or many.
#[tokio::test]
async fn an_app_that_goes_away_behind_further_requests_cancels_all() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    let many = GET.repeat(1000);
    with_app(&config, async |app| {
        for ahead in ["\r\n", "G", GET, &many] {
            for begun in [
                "",
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            ] {
                let mut client = app.connect().await;
                client.send(GET).await;
                let (mut connection, _) = upstream.request().await;
                connection.send(begun).await;
                if !begun.is_empty() {
                    client.head().await;
                }
                client.send(ahead).await;
                drop(client);
                connection.closed().await;
                eventually("nothing in flight", async || {
                    app.metric("cupbearer_requests_in_flight{upstream=\"api\"}").await == 0.0
                })
                .await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_app_that_aborts_an_upload_cancels_it() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
            .await;
        let (mut connection, _) = upstream.request().await;
        assert_eq!(connection.exactly(4).await.unwrap(), b"half");
        drop(client);
        connection.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_reset_http2_stream_cancels_its_request() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        let request = client.request("GET", "/").body(whole("")).unwrap();
        let mut connection = tokio::select! {
            answer = client.send(request) => panic!("an answer: {answer:?}"),
            (connection, _) = upstream.request() => connection,
        };
        connection.closed().await;
    })
    .await;
}

/// What is cut off must look cut off.
#[tokio::test]
async fn a_body_that_breaks_off_does_not_end_well() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        for framing in [
            "Content-Length: 10\r\n\r\nhalf",
            "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ] {
            let mut client = app.connect().await;
            client.send(GET).await;
            let (mut connection, _) = upstream.request().await;
            connection
                .send(format!("HTTP/1.1 200 OK\r\n{framing}"))
                .await;
            let head = client.head().await;
            drop(connection);
            client.body(&head, false).await.expect_err(framing);
        }
        let mut client = Http2Client::connect(app.address()).await;
        let request = client.request("GET", "/").body(whole("")).unwrap();
        let (answer, connection) = tokio::join!(client.send(request), async {
            let (mut connection, _) = upstream.request().await;
            connection
                .send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                .await;
            connection
        });
        let body = answer.unwrap().into_body();
        // Not before the head is through: a reset drops what is still queued of its stream, the head too.
        drop(connection);
        soon("the reset", body.collect()).await.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn an_http2_upstream_that_resets_a_stream() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP2, |_| async {
        let (sender, body) = frames();
        sender.send(Ok(Frame::data(Bytes::from("half")))).unwrap();
        sender.send(Err(std::io::Error::other("broken"))).unwrap();
        Response::new(body)
    })
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        match client.try_head().await {
            Ok(head) if head.status() == 200 => {
                client.body(&head, false).await.unwrap_err();
            }
            Ok(head) => assert_eq!(head.status(), 502),
            Err(error) => panic!("no answer at all: {error}"),
        }
    })
    .await;
}

/// A stream that is reset on a connection which has carried requests could be a stale one: a safe request goes out once more, and
/// not again and again.
#[tokio::test]
async fn a_stream_that_is_always_reset_is_tried_twice() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP2, |request| async move {
        if request.uri().path() == "/reset" {
            ASKED.fetch_add(1, Ordering::SeqCst);
            panic!("resets this stream, and only this one");
        }
        let (sender, body) = frames();
        sender.send(Ok(Frame::data(Bytes::from("ok")))).unwrap();
        Response::new(body)
    })
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        assert_eq!(app.get("/").await.status, 200);
        assert_eq!(app.get("/reset").await.code(), "upstream_closed");
        assert_eq!(ASKED.load(Ordering::SeqCst), 2);
    })
    .await;
}

/// A body that ends with the connection (HTTP/1.0 servers) is whole.
#[tokio::test]
async fn a_body_until_the_end_of_the_connection() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")
            .await;
        connection.finish().await;
        let answer = client.response().await;
        assert_eq!(answer.text(), "all of it");
        assert_eq!(answer.head.first, "HTTP/1.1 200 OK");
        // The app's own connection lives on.
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn connections_to_the_upstream_are_kept() {
    let world = World::new();
    for offer in [HTTP1, HTTP2] {
        let upstream = Server::start(&world.authority, offer, |_| async {
            Response::new(whole("ok"))
        })
        .await;
        let config = server("") + &world.upstream("api", &upstream.url(), "");
        with_app(&config, async |app| {
            // From many connections of the app, one after the other.
            for _ in 0..20 {
                assert_eq!(app.get("/").await.text(), "ok");
            }
            assert_eq!(upstream.connections(), 1);
            assert_eq!(
                app.metric("cupbearer_upstream_connections{upstream=\"api\"}")
                    .await,
                1.0
            );
        })
        .await;
    }
}

/// One dial until the version is known; then one HTTP/2 connection carries all requests.
#[tokio::test]
async fn fifty_first_requests_to_http2_make_one_connection() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP2, |_| async {
        Response::new(whole("ok"))
    })
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let address = app.address();
        let requests =
            (0..50).map(|_| async move { Client::connect(address).await.get("/").await });
        for answer in soon("fifty answers", join_all(requests)).await {
            assert_eq!(answer.text(), "ok");
        }
        assert_eq!(upstream.connections(), 1);
    })
    .await;
}

/// `http = "1.1"` and `http = "2"` against an upstream that offers both.
#[tokio::test]
async fn the_http_version_can_be_chosen() {
    let world = World::new();
    let upstream = Server::start(
        &world.authority,
        HTTP2,
        |request: Request<Incoming>| async move {
            Response::new(whole(format!("{:?}", request.version())))
        },
    )
    .await;
    for (http, expected) in [("auto", "HTTP/2.0"), ("1.1", "HTTP/1.1"), ("2", "HTTP/2.0")] {
        let keys = format!("http = \"{http}\"");
        let config = server("") + &world.upstream("api", &upstream.url(), &keys);
        with_app(&config, async |app| {
            assert_eq!(app.get("/").await.text(), expected);
        })
        .await;
    }
}

/// The upstream closes an idle connection in the very moment in which it is used again.
#[tokio::test]
async fn a_get_on_a_stale_connection_is_sent_again() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, first) = upstream.request().await;
        connection.send(OK).await;
        client.response().await;
        client.send(GET).await;
        assert_eq!(connection.head().await.raw, first.raw);
        drop(connection);
        let (mut connection, again) = upstream.request().await;
        assert_eq!(again.raw, first.raw);
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn a_post_on_a_stale_connection_is_not_sent_twice() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(OK).await;
        client.response().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            .await;
        connection.head().await;
        drop(connection);
        let answer = client.response().await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (502, "upstream_closed")
        );
    })
    .await;
}

/// A connection that was closed while nobody looked costs nobody a request, whatever its method.
#[tokio::test]
async fn a_connection_that_was_closed_before_is_not_used() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(OK).await;
        client.response().await;
        drop(connection);
        eventually("the end of the connection", async || {
            app.metric("cupbearer_upstream_connections{upstream=\"api\"}")
                .await
                == 0.0
        })
        .await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            .await;
        let (mut connection, _) = upstream.request().await;
        assert_eq!(connection.exactly(2).await.unwrap(), b"{}");
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn an_http_1_0_app() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        // No Host, no keep-alive.
        client.send("GET /old HTTP/1.0\r\n\r\n").await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.first, "GET /old HTTP/1.1");
        assert_eq!(head.get("host"), Some(&*upstream.address().to_string()));
        connection
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            .await;
        let head = client.head().await;
        assert_eq!(head.get("transfer-encoding"), None);
        assert_eq!(client.read_to_end().await.unwrap(), b"ok");

        let mut client = app.connect().await;
        for _ in 0..2 {
            client
                .send("GET / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n")
                .await;
            connection.head().await;
            connection.send(OK).await;
            let answer = client.response().await;
            assert_eq!(answer.text(), "ok");
            assert_eq!(answer.head.get("connection"), Some("keep-alive"));
        }
    })
    .await;
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_order() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.first, "GET /1 HTTP/1.1");
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1").await;
        assert_eq!(client.response().await.text(), "1");
        assert_eq!(connection.head().await.first, "GET /2 HTTP/1.1");
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2").await;
        assert_eq!(client.response().await.text(), "2");
        client.closed().await;
    })
    .await;
}

/// What is about the connection to the upstream does not reach the app; what is not, does.
#[tokio::test]
async fn heads_on_their_way_back() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send(
                "HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                 Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nServer: vendor\r\nX-Odd: \u{e9}\r\n\r\n",
            )
            .await;
        let head = client.head().await;
        assert_eq!(head.status(), 418);
        assert_eq!(head.all("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(head.get("server"), Some("vendor"));
        assert_eq!(head.get("x-odd"), Some("é"));
        for gone in ["x-hop", "keep-alive", "connection"] {
            assert_eq!(head.get(gone), None, "{gone}");
        }
        // The app's connection is its own affair.
        client.send(GET).await;
        upstream.request().await.0.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n")
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("connection"), Some("upgrade"));
        assert_eq!(head.get("upgrade"), Some("websocket"));
        assert_eq!(head.get("sec-websocket-key"), Some("abc"));
        assert!(head.get("authorization").is_some());
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: def\r\n\r\nhello")
            .await;
        let head = client.head().await;
        assert_eq!(head.status(), 101);
        assert_eq!(head.get("upgrade"), Some("websocket"));
        assert_eq!(head.get("sec-websocket-accept"), Some("def"));
        assert!(head.get("connection").unwrap().eq_ignore_ascii_case("upgrade"));
        assert_eq!(client.exactly(5).await.unwrap(), b"hello");
        client.send("ping\0\r\n").await;
        assert_eq!(connection.exactly(7).await.unwrap(), b"ping\0\r\n");
        connection.send("pong").await;
        assert_eq!(client.exactly(4).await.unwrap(), b"pong");
        // One side's end is the other's, after what was said before.
        client.send("bye").await;
        drop(client);
        assert_eq!(connection.exactly(3).await.unwrap(), b"bye");
        connection.closed().await;
    })
    .await;
}

/// All that follows the head belongs to the other protocol, which may begin with what HTTP would pass over; before the answer, too.
#[tokio::test]
async fn what_is_sent_behind_an_upgrade_is_carried_to_the_byte() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        for (at_once, later) in [("\r\nhello", ""), ("\r\n\r\n", "\r\nhi"), ("", "\r\n\r\nhi")] {
            let mut client = app.connect().await;
            client
                .send(format!("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n{at_once}"))
                .await;
            let (mut connection, _) = upstream.request().await;
            client.send(later).await;
            // It has time to be read.
            app.ready().await;
            connection
                .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
                .await;
            client.head().await;
            let expected = format!("{at_once}{later}");
            let carried = connection.exactly(expected.len()).await.unwrap();
            assert_eq!(String::from_utf8(carried).unwrap(), expected);
        }
    })
    .await;
}

/// A tunnel is one of the app's connections for as long as it lasts.
#[tokio::test]
async fn an_upgraded_connection_keeps_its_place() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("max_connections = 1") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            .await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            .await;
        assert_eq!(client.head().await.status(), 101);
        assert_eq!(app.connect().await.response().await.code(), "overloaded");
        drop(connection);
        drop(client);
        eventually("room", async || {
            let mut next = app.connect().await;
            let _ = next
                .try_send("GET /.. HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            next.try_response()
                .await
                .is_ok_and(|answer| answer.status == 400)
        })
        .await;
    })
    .await;
}

/// An upstream that does not switch answers like any other.
#[tokio::test]
async fn an_upgrade_that_is_declined() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        let (mut connection, _) = upstream.request().await;
        connection.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\nUpgrade: TLS/1.3\r\nConnection: upgrade\r\n\r\nno").await;
        let answer = client.response().await;
        assert_eq!((answer.status.as_u16(), &*answer.text()), (426, "no"));
        // `h2c` is about this hop and is not asked of the upstream.
        client
            .send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!((head.get("upgrade"), head.get("http2-settings")), (None, None));
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

/// An upgrade has an HTTP/1.1 connection of its own, also where the upstream prefers HTTP/2, and nobody else gets it.
#[tokio::test]
async fn an_upgrade_beside_http2() {
    let world = World::new();
    let upstream = Server::start(
        &world.authority,
        HTTP2,
        |request: Request<Incoming>| async move {
            Response::new(whole(format!("{:?}", request.version())))
        },
    )
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        for _ in 0..2 {
            let declined = client
                .request("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .await;
            assert_eq!(declined.text(), "HTTP/1.1");
            assert_eq!(client.get("/").await.text(), "HTTP/2.0");
        }
    })
    .await;
}

/// 64 KiB and 256 fields pass in both directions; a token of 16 KiB fits.
#[tokio::test]
async fn large_heads_pass() {
    let world = World::new();
    let (upstream, config) = scripted(&world).await;
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        let mut request = "GET / HTTP/1.1\r\nHost: localhost\r\n".to_owned();
        for n in 0..200 {
            request += &format!("X-Field-{n}: {}\r\n", "x".repeat(250));
        }
        client.send(request + "\r\n").await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(
            head.fields
                .iter()
                .filter(|(name, _)| name.starts_with("x-field"))
                .count(),
            200
        );
        let mut answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n".to_owned();
        for n in 0..200 {
            answer += &format!("X-Answer-{n}: {}\r\n", "y".repeat(250));
        }
        connection.send(answer + "\r\nok").await;
        let answer = client.response().await;
        assert!(answer.head.fields.len() > 200);
        assert_eq!(answer.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn a_token_of_16_kib() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let token = "t".repeat(16 * 1024);
    let config = server("")
        + &format!(
            "[providers.api]\naccess_token = \"{token}\"\n[upstreams.api]\nurl = \"{}\"\nprovider = \"api\"\n{}",
            upstream.url(),
            world.tls()
        );
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("authorization"), Some(&*format!("Bearer {token}")));
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}
