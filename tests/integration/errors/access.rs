//! Requests that the access rules refuse: hosts, origins, `allow`, credentials and clients.

use super::{assert_error, assert_refused, with_unused_upstream};
use crate::checks::{GET, OK, ok_server};
use crate::client::{Http2Client, Wire, whole};
use crate::harness::{World, server, with_app};
use crate::upstream::{HTTP1, Script};

#[tokio::test]
async fn a_host_that_is_not_allowed_gets_421() {
    with_unused_upstream("", "", async |app| {
        assert_refused(
            app,
            "host_not_allowed",
            None,
            &[
                "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: localhost.evil.example:80\r\n\r\n",
                "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n",
            ],
        )
        .await;
        let response = app
            .connect()
            .await
            .request("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            .await;
        assert!(
            response.text().contains("allow_hosts"),
            "{}",
            response.text()
        );
        // An earlier request with an allowed Host does not change the check.
        let mut client = app.connect().await;
        client
            .request("GET /.. HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let response = client
            .request("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            .await;
        assert_error(&response, "host_not_allowed", None);
    })
    .await;
}

#[tokio::test]
async fn an_http2_authority_that_is_not_allowed_gets_421() {
    with_unused_upstream("", "", async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        let request = http::Request::get("http://evil.example/")
            .body(whole(""))
            .unwrap();
        assert_eq!(client.send(request).await.unwrap().status(), 421);
    })
    .await;
}

#[tokio::test]
async fn loopback_allow_hosts_and_upstream_hosts_are_accepted() {
    let world = World::new();
    let upstream = ok_server(&world, HTTP1).await;
    let config =
        server("allow_hosts = [\"app.test\"]") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let own = app.address().to_string();
        let upstream = upstream.url().replace("https://", "");
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1",
            "[::1]:80",
            "app.test",
            &own,
            &upstream,
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let response = app.connect().await.request(&request).await;
            assert_eq!(response.text(), "ok", "{host}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_cross_site_request_gets_403_unless_its_origin_is_allowed() {
    let more = "allow_origins = [\"https://good.example\"]";
    with_unused_upstream(more, "", async |app| {
        assert_refused(
            app,
            "origin_not_allowed",
            None,
            &[
                "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: localhost\r\n\
                 Origin: https://good.example.evil.example\r\nContent-Length: 0\r\n\r\n",
            ],
        )
        .await;
    })
    .await;
    let world = World::new();
    let upstream = ok_server(&world, HTTP1).await;
    let config = server(more) + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let own = format!("Origin: http://{}", app.address());
        for fields in [
            own.as_str(),
            "Origin: https://good.example\r\nSec-Fetch-Site: cross-site",
            "Sec-Fetch-Site: same-origin",
            "Sec-Fetch-Site: none",
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n");
            assert_eq!(
                app.connect().await.request(&request).await.text(),
                "ok",
                "{fields}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_outside_the_allow_list_gets_403() {
    let keys = "route = { path_prefix = \"/p\" }\n\
        allow = [\"GET /v1/**\", \"POST /v1/orders\", \"* /any/*\"]";
    with_unused_upstream("", keys, async |app| {
        assert_refused(
            app,
            "request_not_allowed",
            Some("api"),
            &[
                "GET /p/v2/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "DELETE /p/v1/orders HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "POST /p/v1/orders/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
                "GET /p/any/a/b HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /p HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ],
        )
        .await;
        assert_refused(
            app,
            "bad_request",
            Some("api"),
            &[
                "GET /p/v1/a%2Fb HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /p/v1/a%5cb HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /p/v1//b HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ],
        )
        .await;
    })
    .await;
    let world = World::new();
    let upstream = ok_server(&world, HTTP1).await;
    let config = server("") + &world.upstream("api", &upstream.url(), keys);
    with_app(&config, async |app| {
        for line in ["GET /p/v1/a/b?x=../..", "POST /p/v1/orders", "PUT /p/any/a"] {
            let request =
                format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(
                app.connect().await.request(&request).await.text(),
                "ok",
                "{line}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn an_app_credential_gets_403_if_existing_credential_is_reject() {
    with_unused_upstream("", "existing_credential = \"reject\"", async |app| {
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer mine\r\n\r\n";
        assert_refused(app, "request_not_allowed", Some("api"), &[request]).await;
    })
    .await;
}

#[tokio::test]
async fn client_auth_header_accepts_only_the_configured_value() {
    const KEY: &str = "the-key-of-the-app";
    let more = format!("client_auth = {{ header = \"X-Cupbearer-Key\", value = \"{KEY}\" }}");
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server(&more) + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        for fields in [
            "",
            "X-Cupbearer-Key: wrong\r\n",
            "X-Cupbearer-Key: the-key-of-the-ap\r\n",
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
            let response = app.connect().await.request(&request).await;
            assert_error(&response, "client_not_allowed", Some("api"));
        }
        let mut client = app.connect().await;
        client
            .send(format!(
                "GET / HTTP/1.1\r\nHost: localhost\r\nx-cupbearer-key: {KEY}\r\n\r\n"
            ))
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("x-cupbearer-key"), None);
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn client_auth_peer_uid_accepts_only_the_configured_user() {
    let world = World::new();
    let upstream = ok_server(&world, HTTP1).await;
    let own = rustix::process::getuid().as_raw();
    let socket = world.path("proxy.sock");
    for (uid, expected) in [(own, 200), (own + 1, 403)] {
        let config = format!(
            "[server]\nlisten = \"unix:{}\"\nadmin = \"off\"\nshutdown_grace = \"1s\"\n\
             client_auth = {{ peer_uid = [{uid}] }}\n",
            socket.display()
        ) + &world.upstream("api", &upstream.url(), "");
        with_app(&config, async |_| {
            let response = Wire::connect_unix(&socket).await.request(GET).await;
            assert_eq!(response.status, expected);
            if expected == 403 {
                assert_error(&response, "client_not_allowed", Some("api"));
            }
        })
        .await;
        assert!(
            !socket.exists(),
            "{} still exists after the end of the program",
            socket.display()
        );
    }
}
