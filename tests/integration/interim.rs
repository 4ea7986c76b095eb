//! 1xx heads (RFC 9110 §15.2): passed on as they come, to whoever knows them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::endpoint::{Asked, Endpoint, answer, config, standard};
use crate::harness::{World, server, with_app};
use crate::upstream::Script;

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The answer is not there yet when the app has its hints.
#[tokio::test]
async fn hints_come_when_they_are_given() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n";
        connection.send(format!("{hints}\r\n")).await;
        let head = client.head().await;
        assert_eq!(head.first, "HTTP/1.1 103 Early Hints");
        assert_eq!(head.all("link"), ["</a>; rel=preload", "</b>"]);
        assert_eq!(head.fields.len(), 2, "{head:?}");
        // In pieces, and one that nobody has ever heard of.
        connection.send("HTTP/1.1 102 Proces").await;
        connection
            .send("sing\r\n\r\nHTTP/1.1 199 Odd\r\nX: 1\r\n\r\n")
            .await;
        assert_eq!(client.head().await.first, "HTTP/1.1 102 Processing");
        let odd = client.head().await;
        assert_eq!(
            (odd.first.as_str(), odd.get("x")),
            ("HTTP/1.1 199 Odd", Some("1"))
        );
        connection.send(OK).await;
        let answer = client.response().await;
        assert_eq!(
            (answer.text().as_str(), answer.head.all("link").len()),
            ("ok", 0)
        );
        // And the connections are good for more.
        client.send(GET).await;
        connection.head().await;
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn what_is_about_the_hop_or_a_credential_stays_here() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send(
                "HTTP/1.1 103 Early Hints\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                 Upgrade: websocket\r\nContent-Length: 7\r\nProxy-Status: cupbearer; error=dns_error\r\n\
                 Authorization: Bearer x\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\nLink: </b>\r\n\r\n",
            )
            .await;
        for link in ["</a>", "</b>"] {
            let head = client.head().await;
            assert_eq!(head.fields, [("link".to_owned(), link.to_owned())]);
        }
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

/// As the answer's would be.
#[tokio::test]
async fn where_hints_point_is_rewritten() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    for (more, seen) in [("", true), ("rewrite_redirects = false\n", false)] {
        let more = format!("route = {{ path_prefix = \"/api\" }}\n{more}");
        let config = server("") + &world.upstream("api", &upstream.url(), &more);
        with_app(&config, async |app| {
            let mut client = app.connect().await;
            client
                .send("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            let (mut connection, _) = upstream.request().await;
            let location = format!("{}/there", upstream.url());
            connection
                .send(format!(
                    "HTTP/1.1 103 Early Hints\r\nLocation: {location}\r\n\r\n"
                ))
                .await;
            let expected = if seen {
                "http://localhost/api/there"
            } else {
                &location
            };
            assert_eq!(client.head().await.get("location"), Some(expected));
            connection.send(OK).await;
            assert_eq!(client.response().await.text(), "ok");
        })
        .await;
    }
}

/// They came before it was known that the attempt would fail.
#[tokio::test]
async fn hints_of_a_rejected_attempt_are_out_already() {
    let vendor = Endpoint::start(standard).await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let api = Endpoint::start(move |_: Asked| {
        let attempt = attempts.fetch_add(1, Ordering::Relaxed);
        async move {
            let status = if attempt == 0 {
                "401 Unauthorized"
            } else {
                "200 OK"
            };
            format!("HTTP/1.1 103 Early Hints\r\nLink: </{attempt}>\r\n\r\n")
                + &answer(status, "", "ok")
        }
    })
    .await;
    with_app(
        &config(&vendor, &api, "min_interval = \"1ms\"", ""),
        async |app| {
            let mut client = app.connect().await;
            client.send(GET).await;
            for link in ["</0>", "</1>"] {
                let head = client.head().await;
                assert_eq!(
                    (head.status().as_u16(), head.get("link")),
                    (103, Some(link))
                );
            }
            let answer = client.response().await;
            assert_eq!(
                (answer.status.as_u16(), answer.text().as_str()),
                (200, "ok")
            );
        },
    )
    .await;
}

#[tokio::test]
async fn hints_before_another_protocol() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        let (mut connection, _) = upstream.request().await;
        connection.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
        assert_eq!(client.head().await.get("link"), Some("</a>"));
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello")
            .await;
        assert_eq!(client.head().await.status(), 101);
        assert_eq!(client.exactly(5).await.unwrap(), b"hello");
    })
    .await;
}

/// `100 Continue` is ours, and each head is whole whatever comes first.
#[tokio::test]
async fn hints_beside_an_upload_that_waits() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            .await;
        let (mut connection, _) = upstream.request().await;
        assert_eq!(client.head().await.first, "HTTP/1.1 100 Continue");
        connection
            .send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            .await;
        assert_eq!(client.head().await.get("link"), Some("</a>"));
        client.send("body").await;
        assert_eq!(connection.exactly(4).await.unwrap(), b"body");
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}
