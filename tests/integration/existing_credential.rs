//! `existing_credential`: a credential that the app sends is replaced, kept or refused.

use cupbearer::demo::vendors::{Fault, Kind};

use crate::client::{Head, Http2Client, whole};
use crate::errors::assert_error;
use crate::harness::{App, World, server, soon, token, with_app};
use crate::upstream::Script;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What the upstream gets for a request.
async fn seen(app: &App, upstream: &Script, request: &str) -> Head {
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

/// The token rides in a header of its own and in the query.
fn config(world: &World, upstream: &Script, mode: &str) -> String {
    let keys = format!("existing_credential = \"{mode}\"");
    server("")
        + &world.upstream("api", &upstream.url(), &keys)
        + "[providers.api.inject]\nheaders = { X-Access-Token = \"{access_token}\" }\nquery = { key = \"{access_token}\" }\n"
}

#[tokio::test]
async fn replace_takes_it_away_wherever_it_is() {
    let world = World::new();
    let upstream = Script::plain().await;
    with_app(&config(&world, &upstream, "replace"), async |app| {
        for (target, field) in [
            ("/", "Authorization: Bearer mine"),
            ("/", "X-Access-Token: mine"),
            ("/?key=mine&KEY=mine&k%65y=mine", "Accept: */*"),
        ] {
            let head = seen(app, &upstream, &get(target, field)).await;
            assert_eq!(head.first, format!("GET /?key={} HTTP/1.1", token("api")));
            assert_eq!(head.get("x-access-token"), Some(&*token("api")));
            assert_eq!(head.get("authorization"), None);
            assert!(!head.raw.contains("mine"), "{}", head.raw);
        }
    })
    .await;
}

/// Then ours stays here.
#[tokio::test]
async fn keep_leaves_it_alone() {
    let world = World::new();
    let upstream = Script::plain().await;
    with_app(&config(&world, &upstream, "keep"), async |app| {
        for (target, field) in [
            ("/?a=b", "authorization: Bearer mine"),
            ("/?a=b", "x-access-token: mine"),
            ("/?a=b&key=mine", "accept: */*"),
            ("/?k%65y=mine", "accept: */*"),
        ] {
            let head = seen(app, &upstream, &get(target, field)).await;
            assert_eq!(head.first, format!("GET {target} HTTP/1.1"));
            assert!(head.raw.contains(&format!("{field}\r\n")), "{}", head.raw);
            assert!(!head.raw.contains(&token("api")), "{}", head.raw);
        }
        // What says nothing is none.
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
            let head = seen(app, &upstream, &get(target, field)).await;
            assert_eq!(head.first, format!("GET /?key={} HTTP/1.1", token("api")));
            assert_eq!(head.get("x-access-token"), Some(&*token("api")));
            assert!(!head.raw.contains("mine"), "{}", head.raw);
        }
    })
    .await;
}

/// A kept request has nothing to do with the provider: it waits for no token, and its 401 says nothing of ours.
#[tokio::test]
async fn keep_needs_no_token_and_reports_no_rejection() {
    let world = World::new();
    let vendor = world.vendor(Kind::Cncn, None).await;
    vendor.set_fault(Some(Fault::Down));
    let upstream = Script::plain().await;
    let config = server("")
        + &world.vendor_provider("cncn", &vendor, "")
        + &format!(
            "[upstreams.api]\nurl = \"{}\"\nprovider = \"cncn\"\nexisting_credential = \"keep\"\ntoken_wait = \"50ms\"\n",
            upstream.url()
        );
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer mine\r\nContent-Length: 2\r\n\r\nhi")
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("authorization"), Some("Bearer mine"));
        assert_eq!(connection.exactly(2).await.unwrap(), b"hi");
        connection
            .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
            .await;
        let answer = client.response().await;
        assert_eq!((answer.status.as_u16(), &*answer.text()), (401, "no"));
        assert_eq!(answer.head.get("proxy-status"), None);
        let rejections = "cupbearer_token_rejections_total{upstream=\"api\"}";
        assert_eq!(app.metric(rejections).await, 0.0);
        // Without one of its own it is like any other.
        let answer = client.get("/").await;
        assert_error(&answer, "token_unavailable", Some("api"));
    })
    .await;
}

#[tokio::test]
async fn reject_refuses_it_wherever_it_is() {
    let world = World::new();
    let upstream = Script::plain().await;
    with_app(&config(&world, &upstream, "reject"), async |app| {
        for (target, field) in [
            ("/", "Authorization: Bearer mine"),
            ("/", "Authorization:\r\nAuthorization: Basic bWluZQ=="),
            ("/", "X-Access-Token: mine"),
            ("/?a&KEY=mine", "Accept: */*"),
            // Nothing hides behind `Connection`.
            (
                "/",
                "Connection: Authorization\r\nAuthorization: Bearer mine",
            ),
        ] {
            let answer = app.connect().await.request(&get(target, field)).await;
            assert_error(&answer, "request_not_allowed", Some("api"));
        }
        let mut client = Http2Client::connect(app.address()).await;
        let request = client
            .request("GET", "/")
            .header("authorization", "Bearer mine");
        let answer = client.send(request.body(whole("")).unwrap());
        assert_eq!(soon("an answer", answer).await.unwrap().status(), 403);
        // An empty one counts as absent.
        for (target, field) in [
            ("/", "Authorization: "),
            ("/", "Authorization: Basic "),
            ("/?key=", "Accept: */*"),
        ] {
            let head = seen(app, &upstream, &get(target, field)).await;
            assert_eq!(head.get("x-access-token"), Some(&*token("api")));
        }
    })
    .await;
}
