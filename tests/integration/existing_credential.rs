//! `existing_credential`: Cupbearer replaces, keeps or refuses the app's own credential.

use cupbearer::demo::vendors::{Fault, Kind};

use crate::checks::OK;
use crate::client::{Head, Http2Client, whole};
use crate::errors::assert_error;
use crate::harness::{App, World, server, soon, token, with_app};
use crate::upstream::Script;

/// Sends a request and returns the head that the upstream received.
async fn forwarded(app: &App, upstream: &Script, request: &str) -> Head {
    let mut client = app.connect().await;
    client.send(request).await;
    let (mut connection, head) = upstream.request().await;
    connection.send(OK).await;
    assert_eq!(client.response().await.text(), "ok");
    head
}

fn get(target: &str, field: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n")
}

/// Injects the token into `X-Access-Token` and into the query parameter `key`.
fn config(world: &World, upstream: &Script, mode: &str) -> String {
    let keys = format!("existing_credential = \"{mode}\"");
    server("")
        + &world.upstream("api", &upstream.url(), &keys)
        + "[providers.api.inject]\n\
           headers = { X-Access-Token = \"{access_token}\" }\n\
           query = { key = \"{access_token}\" }\n"
}

#[tokio::test]
async fn replace_removes_the_credential_from_headers_and_query() {
    let world = World::new();
    let upstream = Script::plain().await;
    with_app(&config(&world, &upstream, "replace"), async |app| {
        for (target, field) in [
            ("/", "Authorization: Bearer mine"),
            ("/", "X-Access-Token: mine"),
            ("/?key=mine&KEY=mine&k%65y=mine", "Accept: */*"),
        ] {
            let head = forwarded(app, &upstream, &get(target, field)).await;
            assert_eq!(head.first, format!("GET /?key={} HTTP/1.1", token("api")));
            assert_eq!(head.get("x-access-token"), Some(&*token("api")));
            assert_eq!(head.get("authorization"), None);
            assert!(!head.raw.contains("mine"), "{}", head.raw);
        }
    })
    .await;
}

#[tokio::test]
async fn keep_forwards_the_credential_and_injects_no_token() {
    let world = World::new();
    let upstream = Script::plain().await;
    with_app(&config(&world, &upstream, "keep"), async |app| {
        for (target, field) in [
            ("/?a=b", "authorization: Bearer mine"),
            ("/?a=b", "x-access-token: mine"),
            ("/?a=b&key=mine", "accept: */*"),
            ("/?k%65y=mine", "accept: */*"),
        ] {
            let head = forwarded(app, &upstream, &get(target, field)).await;
            assert_eq!(head.first, format!("GET {target} HTTP/1.1"));
            assert!(head.raw.contains(&format!("{field}\r\n")), "{}", head.raw);
            assert!(!head.raw.contains(&token("api")), "{}", head.raw);
        }
        // An empty or hop-by-hop credential counts as absent.
        for (target, field) in [
            ("/?key=", "Accept: */*"),
            ("/?key", "Accept: */*"),
            ("/", "Authorization: Bearer"),
            ("/", "X-Access-Token:"),
            (
                "/",
                "Connection: Authorization\r\nAuthorization: Bearer mine",
            ),
        ] {
            let head = forwarded(app, &upstream, &get(target, field)).await;
            assert_eq!(head.first, format!("GET /?key={} HTTP/1.1", token("api")));
            assert_eq!(head.get("x-access-token"), Some(&*token("api")));
            assert!(!head.raw.contains("mine"), "{}", head.raw);
        }
    })
    .await;
}

/// A request with a kept credential does not wait for a token. Its 401 does not count as a
/// rejection of Cupbearer's token.
#[tokio::test]
async fn keep_needs_no_token_and_reports_no_rejection() {
    let world = World::new();
    let vendor = world.vendor(Kind::Cncn, None).await;
    vendor.set_fault(Some(Fault::Down));
    let upstream = Script::plain().await;
    let config = server("")
        + &world.vendor_provider("cncn", &vendor, "")
        + &format!(
            "[upstreams.api]\nurl = \"{}\"\nprovider = \"cncn\"\n\
             existing_credential = \"keep\"\ntoken_wait = \"50ms\"\n",
            upstream.url()
        );
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer mine\r\n\
                 Content-Length: 2\r\n\r\nhi",
            )
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("authorization"), Some("Bearer mine"));
        assert_eq!(connection.exactly(2).await.unwrap(), b"hi");
        connection
            .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
            .await;
        let response = client.response().await;
        assert_eq!((response.status.as_u16(), &*response.text()), (401, "no"));
        assert_eq!(response.head.get("proxy-status"), None);
        let rejections = "cupbearer_token_rejections_total{upstream=\"api\"}";
        assert_eq!(app.metric(rejections).await, 0.0);
        // A request without a credential still needs the token.
        let response = client.get("/").await;
        assert_error(&response, "token_unavailable", Some("api"));
    })
    .await;
}

#[tokio::test]
async fn reject_refuses_a_credential_in_headers_and_query() {
    let world = World::new();
    let upstream = Script::plain().await;
    with_app(&config(&world, &upstream, "reject"), async |app| {
        for (target, field) in [
            ("/", "Authorization: Bearer mine"),
            ("/", "Authorization:\r\nAuthorization: Basic bWluZQ=="),
            ("/", "X-Access-Token: mine"),
            ("/?a&KEY=mine", "Accept: */*"),
            // `Connection: Authorization` does not hide the credential.
            (
                "/",
                "Connection: Authorization\r\nAuthorization: Bearer mine",
            ),
        ] {
            let response = app.connect().await.request(&get(target, field)).await;
            assert_error(&response, "request_not_allowed", Some("api"));
        }
        let mut client = Http2Client::connect(app.address()).await;
        let request = client
            .request("GET", "/")
            .header("authorization", "Bearer mine");
        let response = client.send(request.body(whole("")).unwrap());
        assert_eq!(soon("the response", response).await.unwrap().status(), 403);
        // An empty credential counts as absent.
        for (target, field) in [
            ("/", "Authorization: "),
            ("/", "Authorization: Basic "),
            ("/?key=", "Accept: */*"),
        ] {
            let head = forwarded(app, &upstream, &get(target, field)).await;
            assert_eq!(head.get("x-access-token"), Some(&*token("api")));
        }
    })
    .await;
}
