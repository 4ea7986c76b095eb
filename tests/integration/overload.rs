//! Overload and abuse: stalled peers, upgraded connections, and a process without free file
//! descriptors.

use std::time::Duration;

use http::Response;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::AsyncReadExt as _;

use crate::checks::{GET, OK, in_flight, none_in_flight, ok_server};
use crate::cli::Running;
use crate::client::{Client, Http2Client, frames, whole};
use crate::errors::assert_error;
use crate::harness::{App, World, eventually, log, server, soon, with_app};
use crate::upstream::{HTTP1, HTTP2, Script, Server};

const UPGRADE: &str =
    "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
const SWITCHING_PROTOCOLS: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";

/// With one permit, a leaked permit blocks the next request.
const ONE: &str = "max_in_flight = 1\n";

/// Asserts that no request is in flight and that a new request succeeds.
async fn assert_recovered(app: &App, upstream: &Script) {
    none_in_flight(app).await;
    let mut client = app.connect().await;
    client.send(GET).await;
    let (mut connection, _) = upstream.request().await;
    connection.send(OK).await;
    assert_eq!(client.response().await.text(), "ok");
}

/// Slowloris in a body, with and without a `Content-Length`.
#[tokio::test]
async fn a_stalled_upload_gets_408_after_body_timeout() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("body_timeout = \"200ms\"") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        for (framing, part) in [
            ("Content-Length: 9", "a"),
            ("Transfer-Encoding: chunked", "1\r\na\r\n"),
        ] {
            let mut client = app.connect().await;
            client
                .send(format!(
                    "POST / HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n{part}"
                ))
                .await;
            let (mut connection, _) = upstream.request().await;
            let response = client.response().await;
            assert_error(&response, "request_timeout", Some("api"));
            assert!(response.text().contains("server.body_timeout"));
            client.closed().await;
            // The incomplete upload does not look complete to the upstream.
            let rest = connection.read_to_end().await;
            assert!(rest.is_ok_and(|rest| !rest.ends_with(b"0\r\n\r\n")));
            assert_recovered(app, &upstream).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stalled_http2_response_is_reset_after_timeouts_body() {
    let world = World::new();
    let upstream = Server::start(
        &world.authority,
        HTTP2,
        |request: http::Request<_>| async move {
            let (sender, body) = frames();
            sender
                .send(Ok(http_body::Frame::data("part".into())))
                .unwrap();
            // Keeps the response open until the proxy resets the stream.
            tokio::spawn(async move {
                let request: http::Request<hyper::body::Incoming> = request;
                drop(http_body_util::BodyExt::collect(request.into_body()).await);
                sender.closed().await;
            });
            Response::new(body)
        },
    )
    .await;
    let config = server("body_timeout = \"1h\"")
        + &world.upstream(
            "api",
            &upstream.url(),
            &format!("{ONE}timeouts = {{ body = \"200ms\" }}"),
        );
    with_app(&config, async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        for _ in 0..2 {
            let request = client.request("GET", "/").body(whole("")).unwrap();
            let mut body = client.send(request).await.unwrap().into_body();
            let frame = http_body_util::BodyExt::frame(&mut body);
            assert!(soon("the first frame", frame).await.unwrap().is_ok());
            let next = http_body_util::BodyExt::frame(&mut body);
            assert!(soon("the reset", next).await.unwrap().is_err());
            none_in_flight(app).await;
        }
    })
    .await;
    // The timeout ends the stream, not the connection.
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_stalled_response_is_cut_off_after_timeouts_body() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("")
        + &world.upstream(
            "api",
            &upstream.url(),
            &format!("{ONE}timeouts = {{ body = \"200ms\" }}"),
        );
    with_app(&config, async |app| {
        for (framing, part) in [
            ("Content-Length: 9", "a"),
            ("Transfer-Encoding: chunked", "1\r\na\r\n"),
            ("Connection: close", "a"),
        ] {
            let mut client = app.connect().await;
            client.send(GET).await;
            let (mut connection, _) = upstream.request().await;
            connection
                .send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{part}"))
                .await;
            let head = client.head().await;
            assert_eq!(head.status(), 200);
            // Without a length, the end of the connection is the only sign of the end.
            let body = client.body(&head, false).await;
            assert!(body.is_err() || head.all("content-length").is_empty());
            connection.closed().await;
            assert_recovered(app, &upstream).await;
        }
        assert!(log().contains("the upstream's response stalled"));
    })
    .await;
}

/// Backpressure reaches the upstream, but no longer than `body_timeout`.
#[tokio::test]
async fn an_app_that_reads_no_response_is_disconnected_after_body_timeout() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("body_timeout = \"300ms\"") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            .await;
        let part = vec![b'x'; 1024 * 1024];
        // The buffers on the path fill up, then writes block, then the proxy closes the connection.
        let endless = async { while connection.send_succeeds(&part).await {} };
        soon("the end of the upstream's connection", endless).await;
        assert_recovered(app, &upstream).await;
        drop(client);
    })
    .await;
}

#[tokio::test]
async fn an_upgraded_connection_holds_a_permit_until_it_closes() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("body_timeout = \"100ms\"")
        + &world.upstream(
            "api",
            &upstream.url(),
            &format!("{ONE}timeouts = {{ body = \"100ms\" }}"),
        );
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(UPGRADE).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(SWITCHING_PROTOCOLS).await;
        assert_eq!(client.head().await.status(), 101);
        // `body_timeout` does not apply to idle upgraded connections.
        for _ in 0..3 {
            eventually("one request in flight", async || {
                in_flight(app).await == 1.0
            })
            .await;
            let mut other = app.connect().await;
            assert_error(&other.request(GET).await, "overloaded", Some("api"));
            // The app may get its response before the request leaves the count.
            eventually("one request in flight", async || {
                in_flight(app).await == 1.0
            })
            .await;
            let quiet =
                tokio::time::timeout(Duration::from_millis(150), connection.stream.read_u8());
            assert!(quiet.await.is_err());
        }
        client.send("hello").await;
        assert_eq!(connection.exactly(5).await.unwrap(), b"hello");
        drop(client);
        connection.closed().await;
        drop(connection);
        assert_recovered(app, &upstream).await;
        let durations = "cupbearer_request_duration_seconds_count{upstream=\"api\"}";
        // The app may get its response before the duration is recorded.
        eventually("five durations", async || {
            app.metric(durations).await == 5.0
        })
        .await;
    })
    .await;
}

/// Open connections keep working, new ones wait, and accepting does not busy-loop. Everything,
/// token renewal included, recovers once descriptors are free.
#[tokio::test]
async fn the_proxy_survives_running_out_of_file_descriptors() {
    let world = World::new();
    let vendor = world
        .vendor(
            cupbearer::demo::vendors::Kind::Cncn,
            Some(Duration::from_secs(2)),
        )
        .await;
    world.write(
        "cupbearer.toml",
        &world.vendor_config(&vendor, "", "token_wait = \"300ms\"\n"),
    );
    let mut running = Running::start(&world, &["run"]).await;
    let address = running.listen.parse().unwrap();
    let mut served = Client::connect(address).await;
    assert_eq!(served.get("/cncn/x").await.status, 200);
    let pid = Pid::from_raw(i32::try_from(running.child.id().unwrap()).unwrap());
    let before = limit(pid, open_files(&running) as u64 + 3);
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(Client::connect(address).await);
    }
    running.logs("cannot accept connections").await;
    // The pool has an open connection to the upstream.
    for _ in 0..20 {
        assert_eq!(served.get("/cncn/x").await.status, 200);
    }
    let ticks = cpu_ticks(&running);
    let since = std::time::Instant::now();
    // The token expires: renewal needs a descriptor.
    eventually("the end of the token", async || {
        served.get("/cncn/x").await.code() == "token_unavailable"
    })
    .await;
    let spent = Duration::from_millis(10) * (cpu_ticks(&running) - ticks) as u32;
    assert!(spent < since.elapsed() / 2, "{spent:?} of CPU time");
    let fetched = vendor.counters().issued;
    limit(pid, before);
    // Sends no requests meanwhile: each refusal logs a line, and the test does not drain the pipe.
    eventually("a fresh token", async || vendor.counters().issued > fetched).await;
    eventually("a response with the fresh token", async || {
        served.get("/cncn/x").await.status == 200
    })
    .await;
    for client in &mut crowd {
        assert_eq!(client.get("/cncn/x").await.status, 200);
    }
    drop(crowd);
    running.signal(rustix::process::Signal::INT);
    let (code, log) = running.ended().await;
    assert_eq!(code, 0);
    let warnings = log
        .lines()
        .filter(|line| line.contains("cannot accept connections"));
    assert!(warnings.count() <= 2, "{log}");
}

/// The connection limit leaves descriptors for token renewal.
#[tokio::test]
async fn many_app_connections_leave_descriptors_for_token_renewal() {
    let world = World::new();
    let vendor = world
        .vendor(
            cupbearer::demo::vendors::Kind::Cncn,
            Some(Duration::from_secs(1)),
        )
        .await;
    world.write("cupbearer.toml", &world.vendor_config(&vendor, "", ""));
    let running = Running::with_files(&world, 80).await;
    let address = running.listen.parse().unwrap();
    let mut served = Client::connect(address).await;
    assert_eq!(served.get("/cncn/x").await.status, 200);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(Client::connect(address).await);
    }
    let last = crowd.last_mut().unwrap();
    assert_error(&last.response().await, "overloaded", None);
    let fetched = vendor.counters().issued;
    eventually("three renewals", async || {
        assert_eq!(served.get("/cncn/x").await.status, 200);
        vendor.counters().issued >= fetched + 3
    })
    .await;
    running.signal(rustix::process::Signal::INT);
    assert_eq!(running.ended().await.0, 0);
}

/// Sets the open-file limit of a process and returns the previous one.
fn limit(pid: Option<Pid>, files: u64) -> u64 {
    // The child inherited the hard limit of this process.
    let new = Rlimit {
        current: Some(files),
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    };
    prlimit(pid, Resource::Nofile, new)
        .unwrap()
        .current
        .unwrap()
}

fn open_files(running: &Running) -> usize {
    let folder = format!("/proc/{}/fd", running.child.id().unwrap());
    std::fs::read_dir(folder).unwrap().count()
}

/// Returns user plus system time, in hundredths of a second.
fn cpu_ticks(running: &Running) -> u64 {
    let path = format!("/proc/{}/stat", running.child.id().unwrap());
    let stat = std::fs::read_to_string(path).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// `body_timeout` still applies to an upload after its early response.
#[tokio::test]
async fn a_stalled_upload_after_its_response_is_closed_after_body_timeout() {
    let world = World::new();
    let upstream = ok_server(&world, HTTP1).await;
    let config = server("body_timeout = \"200ms\"") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na")
            .await;
        assert_eq!(client.response().await.text(), "ok");
        client.closed().await;
        none_in_flight(app).await;
    })
    .await;
}
