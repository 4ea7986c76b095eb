//! `access_log`: one line for each request.

use cupbearer::demo::vendors::Kind;

use crate::client::Client;
use crate::harness::{World, eventually, log, server, with_app};
use crate::upstream::Script;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Waits for the line about `path` and returns it.
async fn line(path: &str) -> String {
    let about = format!("path=\"{path}\"");
    let mut found = None;
    eventually(path, async || {
        found = log()
            .lines()
            .find(|line| line.contains("cupbearer::access") && line.contains(&about))
            .map(str::to_owned);
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test]
async fn a_line_tells_status_sizes_replays_and_ids_but_no_query() {
    let world = World::new();
    let vendor = world.vendor(Kind::Besender, None).await;
    let config = world.vendor_config(&vendor, "", "").replacen(
        "[server]\n",
        "[server]\naccess_log = true\n",
        1,
    );
    with_app(&config, async |app| {
        app.ready().await;
        let mut client = app.connect().await;
        // The upstream rejects the token; the request is replayed with a new one.
        vendor.kill_tokens();
        let response = client
            .request(&format!(
                "POST /besender/logged?secret=1 HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Length: 5\r\nX-Request-Id: abc-1\r\ntraceparent: {TRACE}\r\n\r\nhello"
            ))
            .await;
        assert_eq!(response.status, 200, "{}", response.text());
        let entry = line("/besender/logged").await;
        let sent = format!("sent={}", response.text().len());
        for part in [
            "method=\"POST\"",
            "status=200",
            "upstream=\"besender\"",
            "received=5",
            &sent,
            "complete=true",
            "replays=1",
            "resends=0",
            "request_id=\"abc-1\"",
            TRACE,
        ] {
            assert!(entry.contains(part), "no {part} in {entry}");
        }
        assert!(!entry.contains("secret"), "{entry}");

        let refused = app.get("/nowhere-to-log").await;
        assert_eq!(refused.status, 404);
        let entry = line("/nowhere-to-log").await;
        for part in [
            "status=404",
            "error=\"no_route\"",
            "complete=true",
            "request_id=\"",
        ] {
            assert!(entry.contains(part), "no {part} in {entry}");
        }
        assert!(!entry.contains("upstream="), "{entry}");
    })
    .await;
}

#[tokio::test]
async fn trace_fields_are_forwarded_and_an_abandoned_request_is_logged() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("access_log = true") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Client::connect(app.address()).await;
        client
            .send(format!(
                "GET /given-up HTTP/1.1\r\nHost: localhost\r\n\
                 traceparent: {TRACE}\r\ntracestate: a=b\r\n\r\n"
            ))
            .await;
        let (_connection, head) = upstream.request().await;
        assert_eq!(head.get("traceparent"), Some(TRACE));
        assert_eq!(head.get("tracestate"), Some("a=b"));
        drop(client);
        let entry = line("/given-up").await;
        assert!(
            entry.contains("complete=false") && !entry.contains("status="),
            "{entry}"
        );
    })
    .await;
}

#[tokio::test]
async fn no_line_is_written_by_default() {
    let world = World::new();
    let config = server("") + &world.upstream("api", "http://127.0.0.1:1", "");
    with_app(&config, async |app| {
        assert_eq!(app.get("/not-logged").await.status, 502);
    })
    .await;
    // The program has ended, so the log is complete.
    assert!(!log().contains("/not-logged"));
}
