//! The end: what is under way is finished, what is new is not begun.

use std::time::{Duration, Instant};

use cupbearer::app::Shutdown;
use http_body_util::BodyExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::client::{Client, Http2Client, whole};
use crate::harness::{App, World, eventually, soon};
use crate::timeouts::silent_http2;
use crate::upstream::{HTTP1, Script, Server};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn server(delay: &str, grace: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nshutdown_delay = \"{delay}\"\nshutdown_grace = \"{grace}\"\n"
    )
}

async fn running(delay: &str, grace: &str) -> (World, Script, App) {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server(delay, grace) + &world.upstream("api", &upstream.url(), "");
    let app = App::start(&config).await;
    app.ready().await;
    (world, upstream, app)
}

async fn refuses_connections(app: &App) {
    eventually("closed listeners", async || {
        TcpStream::connect(app.address()).await.is_err()
    })
    .await;
}

/// SIGTERM: not ready at once, still accepting for `shutdown_delay`; requests in flight finish.
#[tokio::test]
async fn requests_in_flight_are_finished() {
    let (_world, upstream, mut app) = running("500ms", "60s").await;
    let mut client = app.connect().await;
    client.send(GET).await;
    let (mut connection, _) = upstream.request().await;
    let mut idle = app.connect().await;

    app.stop(Shutdown::Term);
    eventually("not ready", async || {
        app.admin("/readyz").await.status == 503
    })
    .await;
    assert_eq!(app.admin("/livez").await.status, 200);
    assert_eq!(app.status().await["ready"], false);
    // Who has not heard of it yet is served as ever.
    let mut late = app.connect().await;
    late.send(GET).await;
    let (mut for_late, _) = upstream.request().await;
    for_late.send(OK).await;
    assert_eq!(late.response().await.text(), "ok");

    refuses_connections(&app).await;
    idle.closed().await;
    late.closed().await;
    connection.send(OK).await;
    let answer = client.response().await;
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.head.get("connection"), Some("close"));
    client.closed().await;
    app.ended().await.unwrap();
    assert!(TcpStream::connect(app.admin_address()).await.is_err());
}

#[tokio::test]
async fn bodies_under_way_are_finished_both_ways() {
    let (_world, upstream, mut app) = running("0s", "60s").await;
    let mut client = app.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nhal")
        .await;
    let (mut connection, _) = upstream.request().await;
    app.stop(Shutdown::Term);
    refuses_connections(&app).await;
    client.send("ves").await;
    assert_eq!(connection.exactly(6).await.unwrap(), b"halves");
    connection
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await;
    client.head().await;
    assert_eq!(client.chunk().await.unwrap().unwrap(), b"one");
    connection.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(client.chunk().await.unwrap().unwrap(), b"two");
    assert_eq!(client.chunk().await.unwrap(), None);
    app.ended().await.unwrap();
}

#[tokio::test]
async fn http2_streams_are_finished() {
    let (_world, upstream, mut app) = running("0s", "60s").await;
    let mut client = Http2Client::connect(app.address()).await;
    let request = client.request("GET", "/").body(whole("")).unwrap();
    let answer = tokio::join!(client.send(request), async {
        let (mut connection, _) = upstream.request().await;
        app.stop(Shutdown::Term);
        refuses_connections(&app).await;
        connection.send(OK).await;
    })
    .0
    .unwrap();
    let body = soon("the body", answer.into_body().collect())
        .await
        .unwrap();
    assert_eq!(body.to_bytes(), "ok");
    app.ended().await.unwrap();
}

/// A tunnel is in flight, too.
#[tokio::test]
async fn upgraded_connections_have_the_grace_as_well() {
    let (_world, upstream, mut app) = running("0s", "60s").await;
    let mut client = app.connect().await;
    client
        .send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    let (mut connection, _) = upstream.request().await;
    connection
        .send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .await;
    client.head().await;
    app.stop(Shutdown::Term);
    refuses_connections(&app).await;
    for _ in 0..3 {
        client.send("ping").await;
        assert_eq!(connection.exactly(4).await.unwrap(), b"ping");
        connection.send("pong").await;
        assert_eq!(client.exactly(4).await.unwrap(), b"pong");
        // It has not forgotten us while we were silent.
        assert_eq!(app.admin("/livez").await.status, 200);
    }
    drop(client);
    connection.closed().await;
    drop(connection);
    app.ended().await.unwrap();
}

#[tokio::test]
async fn the_grace_has_an_end() {
    let (_world, upstream, mut app) = running("0s", "300ms").await;
    let mut client = app.connect().await;
    client.send(GET).await;
    let (mut connection, _) = upstream.request().await;
    let began = Instant::now();
    app.stop(Shutdown::Term);
    app.ended().await.unwrap();
    let took = began.elapsed();
    assert!(
        (Duration::from_millis(300)..Duration::from_secs(10)).contains(&took),
        "{took:?}"
    );
    client.closed().await;
    connection.closed().await;
}

/// It has no request to be finished, and does not answer the goodbye.
#[tokio::test]
async fn an_idle_http2_app_does_not_use_up_the_grace() {
    let (_world, _upstream, mut app) = running("0s", "1h").await;
    let mut silent = silent_http2(app.address()).await;
    // Its settings: the connection has come about.
    soon("settings", silent.read_u8()).await.unwrap();
    app.stop(Shutdown::Term);
    app.ended().await.unwrap();
    drop(silent);
}

/// To an HTTP/1.0 app the end of the connection is that of the response, so that one which is cut off must end in another way.
#[tokio::test]
async fn a_response_without_a_length_is_not_cut_off_in_silence() {
    let (_world, upstream, mut app) = running("0s", "300ms").await;
    let mut client = app.connect().await;
    client
        .send("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await;
    let (mut connection, _) = upstream.request().await;
    connection
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
        .await;
    client.head().await;
    assert_eq!(client.exactly(4).await.unwrap(), b"part");
    app.stop(Shutdown::Term);
    app.ended().await.unwrap();
    let error = client.read_to_end().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// Ctrl-C: nobody routes to us who would have to notice first.
#[tokio::test]
async fn an_interrupt_has_no_delay() {
    let (_world, _upstream, mut app) = running("1h", "60s").await;
    let mut idle = app.connect().await;
    app.stop(Shutdown::Interrupt);
    app.ended().await.unwrap();
    idle.closed().await;
}

/// Several workers end like one.
#[tokio::test]
async fn all_workers_end() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP1, |_| async {
        http::Response::new(whole("ok"))
    })
    .await;
    let config =
        server("0s", "60s") + "workers = 3\n" + &world.upstream("api", &upstream.url(), "");
    let mut app = App::start(&config).await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..6 {
        let mut client = app.connect().await;
        assert_eq!(client.get("/").await.text(), "ok");
        clients.push(client);
    }
    app.stop(Shutdown::Term);
    app.ended().await.unwrap();
    for mut client in clients {
        client.closed().await;
    }
}

/// While a token is being fetched: the fetch is let finish, but it does not keep us.
#[tokio::test]
async fn the_end_does_not_wait_for_a_vendor() {
    use cupbearer::demo::vendors::{Fault, Kind};
    let world = World::new();
    let vendor = world.vendor(Kind::Cncn, None).await;
    vendor.set_fault(Some(Fault::Slow(Duration::from_secs(60))));
    let config = server("0s", "300ms")
        + &world.vendor_provider("cncn", &vendor, "timeout = \"60s\"")
        + &world.vendor_upstream("cncn", "cncn", &vendor, "");
    let mut app = App::start(&config).await;
    let mut client = app.connect().await;
    client
        .send("GET /cncn HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    eventually("a fetch", async || vendor.counters().token_requests == 1).await;
    app.stop(Shutdown::Term);
    app.ended().await.unwrap();
}
