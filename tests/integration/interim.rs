//! 1xx responses of the upstream (RFC 9110 §15.2): skipped, whatever they say.

use crate::harness::{World, server, with_app};
use crate::upstream::Script;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn nothing_of_an_interim_response_reaches_the_app() {
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
                .send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nSet-Cookie: a=b\r\n\r\nHTTP/1.1 102 Proces")
                .await;
            connection
                .send("sing\r\n\r\nHTTP/1.1 199 Odd\r\nX: 1\r\n\r\n")
                .await;
            connection.send(OK).await;
            let answer = client.response().await;
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "ok"));
            assert_eq!(answer.head.get("link"), None);
            assert_eq!(answer.head.get("set-cookie"), None);
            drop(connection);
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_after_an_interim_response() {
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
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello")
            .await;
        assert_eq!(client.head().await.status(), 101);
        assert_eq!(client.exactly(5).await.unwrap(), b"hello");
    })
    .await;
}

/// `100 Continue` is Cupbearer's own, once for each request that waits for it.
#[tokio::test]
async fn interim_responses_beside_an_upload_that_waits() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
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
