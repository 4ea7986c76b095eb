//! Errors that the token endpoint or the upstream causes.

use cupbearer::demo::authority::Authority;
use cupbearer::demo::vendors::{Fault, Kind};
use tokio::net::TcpSocket;

use super::assert_error;
use crate::checks::{GET, ok_server};
use crate::client::{Response, whole};
use crate::harness::{World, server, with_app};
use crate::upstream::{HTTP1, Script, Server};

#[tokio::test]
async fn a_failing_token_endpoint_gives_503_and_rejected_credentials_give_502() {
    let world = World::new();
    let vendor = world.vendor(Kind::Cncn, None).await;
    vendor.set_fault(Some(Fault::Down));
    let config = world.vendor_config(&vendor, "", "token_wait = \"50ms\"");
    with_app(&config, async |app| {
        assert_error(&app.get("/cncn/x").await, "token_unavailable", Some("cncn"));
    })
    .await;
    let vendor = world.vendor(Kind::Cncn, None).await;
    vendor.set_fault(Some(Fault::RejectCredentials));
    with_app(&world.vendor_config(&vendor, "", ""), async |app| {
        assert_error(
            &app.get("/cncn/x").await,
            "credentials_rejected",
            Some("cncn"),
        );
    })
    .await;
}

/// Sends one request to an upstream that refuses the connection or the TLS handshake.
/// Asserts that metrics count one failed connect, and returns the response.
async fn failed_connect(world: &World, url: &str, keys: &str) -> Response {
    let config = server("") + &world.upstream("api", url, keys);
    with_app(&config, async |app| {
        let response = app.get("/").await;
        let errors = format!(
            "cupbearer_request_errors_total{{error=\"{}\",upstream=\"api\"}}",
            response.code()
        );
        assert_eq!(app.metric(&errors).await, 1.0);
        assert_eq!(
            app.metric("cupbearer_upstream_connects_total{result=\"error\",upstream=\"api\"}")
                .await,
            1.0
        );
        response
    })
    .await
}

#[tokio::test]
async fn a_refused_connection_or_an_unknown_name_gives_502() {
    let world = World::new();
    let closed = Script::plain().await.url();
    let response = failed_connect(&world, &closed, "").await;
    assert_error(&response, "upstream_refused", Some("api"));
    // RFC 6761 §6.4: this name never resolves.
    let response = failed_connect(&world, "https://cupbearer.invalid", "").await;
    assert_error(&response, "upstream_unresolved", Some("api"));
}

#[tokio::test]
async fn an_untrusted_certificate_or_a_wrong_name_gives_502() {
    let world = World::new();
    let other = Authority::new().unwrap();
    let upstream = Server::start(&other, HTTP1, |_| async {
        http::Response::new(whole("ok"))
    })
    .await;
    let response = failed_connect(&world, &upstream.url(), "").await;
    assert_error(&response, "upstream_tls", Some("api"));
    assert!(response.head.raw.contains("tls_certificate_error"));
    // A trusted authority, but the certificate is for another address.
    let upstream = ok_server(&world, HTTP1).await;
    let url = upstream.url().replace("127.0.0.1", "127.0.0.2");
    let dial = upstream.url().replace("https://", "");
    let response = failed_connect(&world, &url, &format!("connect_to = \"{dial}\"")).await;
    assert_error(&response, "upstream_tls", Some("api"));
    assert!(response.head.raw.contains("tls_certificate_error"));
}

#[tokio::test]
async fn a_failed_tls_handshake_gives_502() {
    let world = World::new();
    let upstream = Script::plain().await;
    let url = format!("https://{}", upstream.address());
    let config = server("") + &world.upstream("api", &url, "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let mut connection = upstream.accept().await;
        connection.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let response = client.response().await;
        assert_error(&response, "upstream_tls", Some("api"));
        assert!(response.head.raw.contains("tls_protocol_error"));
        // The upstream closes the connection during the handshake.
        client.send(GET).await;
        drop(upstream.accept().await);
        assert_error(&client.response().await, "upstream_closed", Some("api"));
    })
    .await;
    // `http = "2"`, but ALPN offers only HTTP/1.1.
    let upstream = ok_server(&world, HTTP1).await;
    let response = failed_connect(&world, &upstream.url(), "http = \"2\"").await;
    assert_error(&response, "upstream_tls", Some("api"));
}

#[tokio::test]
async fn a_slow_tcp_or_tls_handshake_gives_504() {
    let world = World::new();
    // Linux drops a SYN if the backlog is full.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let _fills_backlog = tokio::net::TcpStream::connect(address).await.unwrap();
    let url = format!("http://{address}");
    let response = failed_connect(&world, &url, "timeouts = { connect = \"200ms\" }").await;
    assert_error(&response, "upstream_connect_timeout", Some("api"));
    // `timeouts.connect` includes the TLS handshake.
    let silent = Script::plain().await;
    let url = format!("https://{}", silent.address());
    let response = failed_connect(&world, &url, "timeouts = { connect = \"200ms\" }").await;
    assert_error(&response, "upstream_connect_timeout", Some("api"));
}

#[tokio::test]
async fn a_missing_response_head_gives_504_after_timeouts_response() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let keys = "timeouts = { response = \"200ms\" }";
    let config = server("") + &world.upstream("api", &upstream.url(), keys);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        assert_error(&client.response().await, "upstream_timeout", Some("api"));
        connection.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_malformed_or_missing_response_gives_502() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        for (bytes, code) in [
            ("SSH-2.0-OpenSSH_9.6\r\n\r\n", "upstream_protocol"),
            ("HTTP/1.1 2000 What\r\n\r\n", "upstream_protocol"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
                "upstream_protocol",
            ),
            ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "upstream_protocol"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                "upstream_protocol",
            ),
            ("", "upstream_closed"),
            ("HTTP/1.1 200 OK\r\nContent-", "upstream_closed"),
        ] {
            let mut client = app.connect().await;
            client.send(GET).await;
            let (mut connection, _) = upstream.request().await;
            connection.send(bytes).await;
            connection.finish().await;
            println!("{bytes:?}");
            assert_error(&client.response().await, code, Some("api"));
        }
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100 * 1024));
        let _ = connection.try_send(head).await;
        assert_error(&client.response().await, "upstream_protocol", Some("api"));
    })
    .await;
}
