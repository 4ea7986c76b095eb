//! 1xx responses of the upstream (RFC 9110 §15.2): Cupbearer forwards none of them but 101.

use crate::checks::OK;
use crate::harness::{World, server, with_app};
use crate::upstream::Script;

#[tokio::test]
async fn interim_responses_are_not_forwarded() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        for version in ["1.0", "1.1"] {
            let mut client = app.connect().await;
            client
                .send(format!("GET / HTTP/{version}\r\nHost: localhost\r\n\r\n"))
                .await;
            let (mut connection, _) = upstream.request().await;
            connection
                .send(
                    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nSet-Cookie: a=b\r\n\r\n\
                     HTTP/1.1 102 Proces",
                )
                .await;
            connection
                .send("sing\r\n\r\nHTTP/1.1 199 Odd\r\nX: 1\r\n\r\n")
                .await;
            connection.send(OK).await;
            let response = client.response().await;
            assert_eq!(
                (response.status.as_u16(), response.text().as_str()),
                (200, "ok")
            );
            assert_eq!(response.head.get("link"), None);
            assert_eq!(response.head.get("set-cookie"), None);
            drop(connection);
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_after_an_interim_response_succeeds() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send(
                "GET / HTTP/1.1\r\nHost: localhost\r\n\
                 Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            .await;
        connection
            .send(
                "HTTP/1.1 101 Switching Protocols\r\n\
                 Connection: upgrade\r\nUpgrade: websocket\r\n\r\nhello",
            )
            .await;
        assert_eq!(client.head().await.status(), 101);
        assert_eq!(client.exactly(5).await.unwrap(), b"hello");
    })
    .await;
}

/// Cupbearer sends its own `100 Continue`, once for each request that expects it.
#[tokio::test]
async fn an_upload_that_expects_100_gets_it_once() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send(
                "PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\
                 Expect: 100-continue\r\n\r\n",
            )
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("expect"), None);
        assert_eq!(client.head().await.first, "HTTP/1.1 100 Continue");
        connection
            .send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            .await;
        client.send("body").await;
        assert_eq!(connection.exactly(4).await.unwrap(), b"body");
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}
