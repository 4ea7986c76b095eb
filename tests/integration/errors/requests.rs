//! Errors that a single request causes: malformed, unroutable or unsupported.

use http::StatusCode;

use super::{assert_error, assert_refused, with_unused_upstream};
use crate::checks::{GET, ok_server};
use crate::client::{Http2Client, whole};
use crate::harness::{World, eventually, server, soon, with_app};
use crate::upstream::{HTTP2, Script};

#[tokio::test]
async fn a_request_without_a_route_gets_404() {
    with_unused_upstream("", "route = { path_prefix = \"/p\" }", async |app| {
        assert_refused(
            app,
            "no_route",
            None,
            &[
                GET,
                "GET /pp HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET http://localhost/p HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ],
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_request_with_dot_segments_or_without_one_host_gets_400() {
    with_unused_upstream("", "", async |app| {
        assert_refused(
            app,
            "bad_request",
            None,
            &[
                "GET /a/../b HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /.. HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /a/%2e%2E/b HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /a/.;x=1/b HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /%2e HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
                "GET / HTTP/1.1\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: \u{e4}\r\n\r\n",
            ],
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_malformed_head_gets_4xx_and_the_connection_closes() {
    let large = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    let many: String = (0..300).map(|n| format!("X-{n}: y\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    let post = |rest: &str| format!("POST / HTTP/1.1\r\nHost: localhost\r\n{rest}");
    let http10 = post("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").replace("1.1", "1.0");
    with_unused_upstream("", "", async |app| {
        for (request, status) in [
            ("nonsense\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: localhost\r\n : x\r\n\r\n", 400),
            (&post("Content-Length: x\r\n\r\n"), 400),
            (&post("Content-Length: +1\r\n\r\na"), 400),
            // RFC 9112 §6.3: the body length is unknown.
            (
                &post("Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
                400,
            ),
            (&post("Transfer-Encoding: gzip\r\n\r\n"), 400),
            (&post("Transfer-Encoding: chunked, gzip\r\n\r\n"), 400),
            (&http10, 400),
            (&large, 431),
            (&many, 431),
        ] {
            let mut client = app.connect().await;
            // The proxy may respond and close before it has read the whole request.
            let _ = client.try_send(request).await;
            let response = client.response().await;
            assert_eq!(response.status, status, "{request:.80}");
            client.closed().await;
        }
    })
    .await;
}

/// hyper responds before Cupbearer sees the request: no body and no `Proxy-Status`.
#[tokio::test]
async fn a_malformed_head_gets_a_status_without_a_body_and_is_counted() {
    with_unused_upstream("", "", async |app| {
        let long = |length| "x".repeat(length);
        for (request, status) in [
            ("nonsense\r\n\r\n".to_owned(), 400),
            (
                format!(
                    "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
                    long(70_000)
                ),
                431,
            ),
        ] {
            let mut client = app.connect().await;
            let _ = client.try_send(request).await;
            let response = client.response().await;
            assert_eq!(
                (response.status.as_u16(), response.text().as_str()),
                (status, "")
            );
            assert_eq!(response.head.get("proxy-status"), None);
            client.closed().await;
        }
        let counted = "cupbearer_request_errors_total{error=\"malformed_head\",upstream=\"\"}";
        eventually("two malformed heads in the metric", async || {
            app.metric(counted).await == 2.0
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn an_unfinished_head_gets_408_after_header_timeout() {
    with_unused_upstream("header_timeout = \"300ms\"", "", async |app| {
        let mut client = app.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: local").await;
        assert_error(&client.response().await, "request_timeout", None);
        client.closed().await;
    })
    .await;
}

#[tokio::test]
async fn connect_gets_501_with_the_remedy() {
    with_unused_upstream("", "", async |app| {
        let response = app
            .connect()
            .await
            .request("CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n")
            .await;
        assert_error(&response, "connect_unsupported", None);
        assert!(response.text().contains("http://"), "{}", response.text());
    })
    .await;
}

#[tokio::test]
async fn the_connection_stays_open_after_an_error() {
    let world = World::new();
    let upstream = ok_server(&world, HTTP2).await;
    let config =
        server("") + &world.upstream("api", &upstream.url(), "route = { path_prefix = \"/p\" }");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        for _ in 0..3 {
            assert_error(&client.get("/none").await, "no_route", None);
            assert_eq!(client.get("/p").await.text(), "ok");
        }
        // RFC 9110 §9.3.2: an error response to HEAD has no body.
        client
            .send("HEAD /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let head = client.head().await;
        assert_eq!(head.status(), 404);
        assert_eq!(client.get("/p").await.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn grpc_apps_get_errors_as_trailers_only_responses() {
    let world = World::new();
    let closed = Script::plain().await.url();
    let config =
        server("") + &world.upstream("api", &closed, "route = { path_prefix = \"/pkg.S\" }");
    with_app(&config, async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        for (path, kind, status, code) in [
            ("/pkg.S/M", "application/grpc", "14", "upstream_refused"),
            ("/other/M", "application/grpc+proto", "5", "no_route"),
        ] {
            let request = client
                .request("POST", path)
                .header("content-type", kind)
                .header("te", "trailers")
                .body(whole("\0\0\0\0\0"))
                .unwrap();
            let response = client.send(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let headers = response.headers();
            assert!(
                headers["content-type"]
                    .to_str()
                    .unwrap()
                    .starts_with("application/grpc")
            );
            assert_eq!(headers["grpc-status"], status);
            assert!(headers["grpc-message"].to_str().unwrap().contains(code));
            assert!(
                headers["proxy-status"]
                    .to_str()
                    .unwrap()
                    .starts_with("cupbearer; error=")
            );
            let body = http_body_util::BodyExt::collect(response.into_body());
            let body = soon("the end of the stream", body).await.unwrap();
            assert!(body.to_bytes().is_empty());
        }
    })
    .await;
}
