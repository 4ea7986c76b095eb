//! How the upstream is reached: TLS with certificates on both sides, other addresses, egress proxies.

use cupbearer::demo::authority::{Authority, Offer};
use cupbearer::demo::vendors::Kind;
use http::Response;

use crate::client::whole;
use crate::harness::{World, server, token, with_app};
use crate::upstream::{HTTP1, Script, Server};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn answering(authority: &Authority, offer: Offer) -> Server {
    Server::start(authority, offer, |_| async { Response::new(whole("ok")) }).await
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let world = World::new();
    for http2 in [false, true] {
        let offer = Offer {
            http2,
            client_certificate: true,
        };
        let upstream = answering(&world.authority, offer).await;
        let identity = world.authority.client("app").unwrap();
        let certificate = world.write("client.pem", &identity.certificate);
        let key = world.write("client.key", &identity.key);
        let config = |tls: &str| {
            server("")
                + &format!(
                    "[providers.p]\naccess_token = \"x\"\n[upstreams.api]\nurl = \"{}\"\nprovider = \"p\"\n\
                     tls = {{ ca_file = {:?}{tls} }}\n",
                    upstream.url(),
                    world.path("ca.pem")
                )
        };
        let shown = format!(", client_cert_file = {certificate:?}, client_key_file = {key:?}");
        with_app(&config(&shown), async |app| {
            assert_eq!(app.get("/").await.text(), "ok");
        })
        .await;
        with_app(&config(""), async |app| {
            let answer = app.get("/").await;
            assert_eq!(answer.status, 502);
            // With TLS 1.3 the refusal arrives with the first read.
            let code = answer.code();
            assert!(
                ["upstream_tls", "upstream_closed"].contains(&&*code),
                "{code}"
            );
        })
        .await;
    }
}

/// Dial one thing, and mean another: `Host` and the certificate's name stay the URL's.
#[tokio::test]
async fn connect_to_changes_the_address_only() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let dial = upstream.address();
    // The certificate is for localhost, not for this port.
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
async fn server_name_is_what_the_certificate_is_checked_against() {
    let world = World::new();
    let upstream = answering(&world.authority, HTTP1).await;
    let dial = upstream.url().replace("https://", "");
    for (name, expected) in [("localhost", 200), ("other.test", 502)] {
        let config = server("")
            + &format!(
                "[providers.p]\naccess_token = \"x\"\n[upstreams.api]\nurl = \"https://api.test\"\nprovider = \"p\"\n\
                 connect_to = \"{dial}\"\ntls = {{ ca_file = {:?}, server_name = \"{name}\" }}\n",
                world.path("ca.pem")
            );
        with_app(&config, async |app| {
            assert_eq!(app.get("/").await.status, expected, "{name}");
        })
        .await;
    }
}

/// The tunnel carries TLS with the upstream: the egress proxy sees no token.
#[tokio::test]
async fn an_egress_proxy_is_asked_for_a_tunnel() {
    let world = World::new();
    let egress = Script::plain().await;
    let upstream = answering(&world.authority, HTTP1).await;
    let target = upstream.url().replace("https://", "");
    let keys = format!("proxy = \"http://user:pass@{}\"", egress.address());
    let config = server("") + &world.upstream("api", &upstream.url(), &keys);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let (mut connection, head) = egress.request().await;
        assert_eq!(head.first, format!("CONNECT {target} HTTP/1.1"));
        assert_eq!(head.get("host"), Some(&*target));
        assert_eq!(head.get("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));
        assert_eq!(head.get("authorization"), None);
        connection
            .send("HTTP/1.1 200 Connection established\r\n\r\n")
            .await;
        let mut behind = tokio::net::TcpStream::connect(&target).await.unwrap();
        let tunnel = tokio::spawn(async move {
            let _ = tokio::io::copy_bidirectional(&mut connection.stream, &mut behind).await;
        });
        assert_eq!(client.response().await.text(), "ok");
        tunnel.abort();
    })
    .await;
}

/// What the egress proxy does not do is an error of its own, and no answer of the upstream.
#[tokio::test]
async fn an_egress_proxy_that_refuses() {
    let world = World::new();
    let egress = Script::plain().await;
    let keys = format!("proxy = \"http://{}\"", egress.address());
    let config = server("") + &world.upstream("api", "https://far.example", &keys);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        let (mut connection, _) = egress.request().await;
        connection
            .send("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nsecret")
            .await;
        let answer = client.response().await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (502, "upstream_refused")
        );
        let text = answer.text();
        assert!(
            text.contains("403") && text.contains("egress proxy"),
            "{text}"
        );
        assert!(!text.contains(&token("api")));
    })
    .await;
}

/// A token endpoint behind an egress proxy, and one that is plain http on loopback.
#[tokio::test]
async fn token_endpoints_are_reached_in_the_same_ways() {
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
        let target = head.first.split(' ').nth(1).unwrap().to_owned();
        let mut behind = tokio::net::TcpStream::connect(target).await.unwrap();
        let tunnel = tokio::spawn(async move {
            let _ = tokio::io::copy_bidirectional(&mut connection.stream, &mut behind).await;
        });
        assert_eq!(app.get("/besender/x").await.status, 200);
        tunnel.abort();
    })
    .await;
}
