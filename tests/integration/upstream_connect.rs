//! Connections to upstreams: client certificates, other addresses and egress proxies.

use cupbearer::demo::authority::Offer;
use cupbearer::demo::vendors::Kind;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::checks::{GET, OK, ok_server};
use crate::client::Head;
use crate::harness::{World, server, token, with_app};
use crate::upstream::{Connection, HTTP1, Script};

#[tokio::test]
async fn the_client_certificate_is_sent_to_the_upstream() {
    let world = World::new();
    for http2 in [false, true] {
        let offer = Offer {
            http2,
            client_certificate: true,
        };
        let upstream = ok_server(&world, offer).await;
        let identity = world.authority.client("app").unwrap();
        let certificate = world.write("client.pem", &identity.certificate);
        let key = world.write("client.key", &identity.key);
        let config = |tls: &str| {
            server("")
                + &format!(
                    "[providers.p]\naccess_token = \"x\"\n\
                     [upstreams.api]\nurl = \"{}\"\nprovider = \"p\"\n\
                     tls = {{ ca_file = {:?}{tls} }}\n",
                    upstream.url(),
                    world.path("ca.pem")
                )
        };
        let certificate =
            format!(", client_cert_file = {certificate:?}, client_key_file = {key:?}");
        with_app(&config(&certificate), async |app| {
            assert_eq!(app.get("/").await.text(), "ok");
        })
        .await;
        with_app(&config(""), async |app| {
            let response = app.get("/").await;
            assert_eq!(response.status, 502);
            // With TLS 1.3 the alert arrives after the handshake, with the first read.
            let code = response.code();
            assert!(
                ["upstream_tls", "upstream_closed"].contains(&&*code),
                "{code}"
            );
        })
        .await;
    }
}

/// `Host` and the verified name still come from the URL.
#[tokio::test]
async fn connect_to_changes_only_the_dialled_address() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let dial = upstream.address();
    // Nothing listens on port 9; the certificate is valid for `localhost`.
    let keys = format!("connect_to = \"{dial}\"");
    let config = server("") + &world.upstream("api", "https://localhost:9/base", &keys);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("host"), Some("localhost:9"));
        assert_eq!(head.first, "GET /base/x HTTP/1.1");
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn server_name_is_the_verified_name_of_the_certificate() {
    let world = World::new();
    let upstream = ok_server(&world, HTTP1).await;
    let dial = upstream.url().replace("https://", "");
    for (name, expected) in [("localhost", 200), ("other.test", 502)] {
        let config = server("")
            + &format!(
                "[providers.p]\naccess_token = \"x\"\n\
                 [upstreams.api]\nurl = \"https://api.test\"\nprovider = \"p\"\n\
                 connect_to = \"{dial}\"\ntls = {{ ca_file = {:?}, server_name = \"{name}\" }}\n",
                world.path("ca.pem")
            );
        with_app(&config, async |app| {
            assert_eq!(app.get("/").await.status, expected, "{name}");
        })
        .await;
    }
}

/// The tunnel carries TLS, so the egress proxy does not see the token.
#[tokio::test]
async fn an_upstream_is_reached_through_a_tunnel_of_the_egress_proxy() {
    let world = World::new();
    let egress = Script::plain().await;
    let upstream = ok_server(&world, HTTP1).await;
    let target = upstream.url().replace("https://", "");
    let keys = format!("proxy = \"http://user:pass@{}\"", egress.address());
    let config = server("") + &world.upstream("api", &upstream.url(), &keys);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, head) = egress.request().await;
        assert_eq!(head.first, format!("CONNECT {target} HTTP/1.1"));
        assert_eq!(head.get("host"), Some(&*target));
        assert_eq!(head.get("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));
        assert_eq!(head.get("authorization"), None);
        connection
            .send("HTTP/1.1 200 Connection established\r\n\r\n")
            .await;
        let tunnel = tunnel(connection, &head).await;
        assert_eq!(client.response().await.text(), "ok");
        tunnel.abort();
    })
    .await;
}

/// The app must not take the refusal for a response of the upstream.
#[tokio::test]
async fn a_refused_tunnel_is_upstream_refused() {
    let world = World::new();
    let egress = Script::plain().await;
    let keys = format!("proxy = \"http://{}\"", egress.address());
    let config = server("") + &world.upstream("api", "https://far.example", &keys);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = egress.request().await;
        connection
            .send("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nsecret")
            .await;
        let response = client.response().await;
        assert_eq!(
            (response.status.as_u16(), &*response.code()),
            (502, "upstream_refused")
        );
        let text = response.text();
        assert!(
            text.contains("403") && text.contains("egress proxy"),
            "{text}"
        );
        assert!(!text.contains(&token("api")));
    })
    .await;
}

#[tokio::test]
async fn a_token_endpoint_is_reached_through_a_tunnel_of_the_egress_proxy() {
    let world = World::new();
    let vendor = world.vendor(Kind::Besender, None).await;
    let egress = Script::plain().await;
    let keys = format!("proxy = \"http://{}\"", egress.address());
    let config = world.vendor_config(&vendor, &keys, "");
    with_app(&config, async |app| {
        let (mut connection, head) = egress.request().await;
        assert!(
            head.first.starts_with("CONNECT 127.0.0.1:"),
            "{}",
            head.first
        );
        connection.send("HTTP/1.1 200 OK\r\n\r\n").await;
        let tunnel = tunnel(connection, &head).await;
        assert_eq!(app.get("/besender/x").await.status, 200);
        tunnel.abort();
    })
    .await;
}

/// Connects to the target of a `CONNECT` and copies bytes in both directions until aborted.
async fn tunnel(mut connection: Connection, connect: &Head) -> AbortHandle {
    let target = connect.first.split(' ').nth(1).unwrap();
    let mut upstream = TcpStream::connect(target).await.unwrap();
    let copying = tokio::spawn(async move {
        let _ = copy_bidirectional(&mut connection.stream, &mut upstream).await;
    });
    copying.abort_handle()
}
