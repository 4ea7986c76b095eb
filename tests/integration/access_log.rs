//! The access log, where it is asked for.

use cupbearer::demo::vendors::Kind;

use crate::client::Client;
use crate::harness::{World, eventually, log, server, with_app};
use crate::upstream::Script;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The line about a path, once it is there.
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
async fn a_line_says_what_became_of_a_request() {
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
        // Killed behind our back: it is sent again with the next one.
        vendor.kill_tokens();
        let answer = client
            .request(&format!(
                "POST /besender/logged?secret=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\
                 X-Request-Id: abc-1\r\ntraceparent: {TRACE}\r\n\r\nhello"
            ))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = line("/besender/logged").await;
        let sent = format!("sent={}", answer.text().len());
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
            assert!(told.contains(part), "no {part} in {told}");
        }
        assert!(!told.contains("secret"), "{told}");

        let refused = app.get("/nowhere-to-log").await;
        assert_eq!(refused.status, 404);
        let told = line("/nowhere-to-log").await;
        for part in ["status=404", "error=\"no_route\"", "complete=true", "request_id=\""] {
            assert!(told.contains(part), "no {part} in {told}");
        }
        assert!(!told.contains("upstream="), "{told}");
    })
    .await;
}

#[tokio::test]
async fn the_trace_goes_on_to_the_upstream_and_a_request_that_was_given_up_is_told() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("access_log = true") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Client::connect(app.address()).await;
        client
            .send(format!("GET /given-up HTTP/1.1\r\nHost: localhost\r\ntraceparent: {TRACE}\r\ntracestate: a=b\r\n\r\n").as_str())
            .await;
        let (_connection, head) = upstream.request().await;
        assert_eq!(head.get("traceparent"), Some(TRACE));
        assert_eq!(head.get("tracestate"), Some("a=b"));
        drop(client);
        let told = line("/given-up").await;
        assert!(told.contains("complete=false") && !told.contains("status="), "{told}");
    })
    .await;
}

#[tokio::test]
async fn nothing_is_logged_where_it_is_not_asked_for() {
    let world = World::new();
    let config = server("") + &world.upstream("api", "http://127.0.0.1:1", "");
    with_app(&config, async |app| {
        assert_eq!(app.get("/not-logged").await.status, 502);
    })
    .await;
    // The program has ended: what it had to say is there.
    assert!(!log().contains("/not-logged"));
}
