//! Loops and limits: `Via`, `max_in_flight` and `max_connections`.

use tokio::net::TcpSocket;

use super::assert_error;
use crate::checks::{GET, OK, ok_server};
use crate::harness::{World, eventually, server, with_app};
use crate::upstream::{HTTP1, Script};

#[tokio::test]
async fn a_via_with_the_pseudonym_of_this_process_gets_508() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, head) = upstream.request().await;
        let via = head.get("via").unwrap().to_owned();
        connection.send(OK).await;
        client.response().await;
        for line in [
            via.clone(),
            format!("1.0 fred, {via}"),
            format!("{via} (a comment), 1.1 x"),
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nVia: {line}\r\n\r\n");
            let response = app.connect().await.request(&request).await;
            assert_error(&response, "loop_detected", None);
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_url_of_the_proxy_itself_gives_508() {
    // The configuration needs the port before the program binds it.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let world = World::new();
    let config = format!("[server]\nlisten = \"{address}\"\nadmin = \"off\"\n")
        + &world.upstream("api", &format!("http://{address}"), "");
    with_app(&config, async |app| {
        let response = app.get("/").await;
        assert_eq!(
            (response.status.as_u16(), response.code().as_str()),
            (508, "loop_detected")
        );
        // The response came from an upstream, whose `Proxy-Status` is removed.
        assert_eq!(response.head.get("proxy-status"), None);
    })
    .await;
}

#[tokio::test]
async fn requests_above_max_in_flight_get_503_until_one_ends() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "max_in_flight = 1");
    with_app(&config, async |app| {
        let mut first = app.connect().await;
        first.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        assert_error(&app.get("/").await, "overloaded", Some("api"));
        connection.send(OK).await;
        assert_eq!(first.response().await.text(), "ok");
        // A finished request returns its permit. So does a request whose app disconnects.
        first.send(GET).await;
        connection.head().await;
        drop(first);
        connection.closed().await;
        let mut third = app.connect().await;
        eventually("a free permit", async || {
            third.send(GET).await;
            tokio::select! {
                response = third.response() => {
                    assert_error(&response, "overloaded", Some("api"));
                    false
                }
                (mut connection, _) = upstream.request() => {
                    connection.send(OK).await;
                    true
                }
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn connections_above_max_connections_get_503_until_one_closes() {
    let world = World::new();
    let upstream = ok_server(&world, HTTP1).await;
    let config = server("max_connections = 2") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut first = app.connect().await;
        let mut second = app.connect().await;
        assert_eq!(first.get("/").await.text(), "ok");
        assert_eq!(second.get("/").await.text(), "ok");
        let mut third = app.connect().await;
        assert_error(&third.response().await, "overloaded", None);
        third.closed().await;
        drop(second);
        eventually("a free connection", async || {
            let mut next = app.connect().await;
            let _ = next.try_send(GET).await;
            next.try_response()
                .await
                .is_ok_and(|response| response.status == 200)
        })
        .await;
        assert_eq!(first.get("/").await.text(), "ok");
    })
    .await;
}
