//! Overload and abuse: peers that stand still, and a process that may open no more files.

use std::time::Duration;

use http::Response;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::AsyncReadExt as _;

use crate::cli::Running;
use crate::client::{Client, Http2Client, frames, whole};
use crate::errors::assert_error;
use crate::harness::{App, World, eventually, server, soon, with_app};
use crate::upstream::{HTTP1, HTTP2, Script, Server};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SWITCH: &str =
    "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";

/// One request at a time, so that a place which is not given back shows.
const ONE: &str = "max_in_flight = 1\n";

async fn in_flight(app: &App) -> f64 {
    app.metric("cupbearer_requests_in_flight{upstream=\"api\"}")
        .await
}

/// The place is free again, and nothing is counted that is over.
async fn recovers(app: &App, upstream: &Script) {
    eventually("the place", async || in_flight(app).await == 0.0).await;
    let mut client = app.connect().await;
    client.send(GET).await;
    let (mut connection, _) = upstream.request().await;
    connection.send(OK).await;
    assert_eq!(client.response().await.text(), "ok");
}

/// Slowloris in a body, with and without a stated length.
#[tokio::test]
async fn an_app_that_stands_still_in_its_body() {
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
            let answer = client.response().await;
            assert_error(&answer, "request_timeout", Some("api"));
            assert!(answer.text().contains("server.body_timeout"));
            client.closed().await;
            // Nobody takes what came for the whole.
            let rest = connection.read_to_end().await;
            assert!(rest.is_ok_and(|rest| !rest.ends_with(b"0\r\n\r\n")));
            recovers(app, &upstream).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_http2_app_or_upstream_that_stands_still_in_a_body() {
    let world = World::new();
    let upstream = Server::start(
        &world.authority,
        HTTP2,
        |request: http::Request<_>| async move {
            let (sender, body) = frames();
            sender
                .send(Ok(http_body::Frame::data("begun".into())))
                .unwrap();
            // It goes on as long as the request does: for ever.
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
            assert!(soon("the end", next).await.unwrap().is_err());
            eventually("the place", async || in_flight(app).await == 0.0).await;
        }
    })
    .await;
    // One connection: its other streams are none of the time-out's business.
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn an_upstream_that_stands_still_in_its_body() {
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
            // Whatever has come of it is passed on, and it does not look like the whole.
            let whole = client.body(&head, false).await;
            assert!(whole.is_err() || head.all("content-length").is_empty());
            connection.closed().await;
            recovers(app, &upstream).await;
        }
        assert!(crate::harness::log().contains("the upstream's answer stands still"));
    })
    .await;
}

/// What an app does not read is the upstream's to wait with; but not for ever.
#[tokio::test]
async fn an_app_that_never_reads_its_answer() {
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
        // Taken by all the buffers on the way first, then no more, and then the connection is closed.
        let endless = async { while connection.send_succeeds(&part).await {} };
        soon("the end of the upstream's connection", endless).await;
        recovers(app, &upstream).await;
        drop(client);
    })
    .await;
}

/// They hold up the upstream as long as they last, as requests do.
#[tokio::test]
async fn upgraded_connections_are_in_flight() {
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
        client.send(SWITCH).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(SWITCHED).await;
        assert_eq!(client.head().await.status(), 101);
        // However quiet it is.
        for _ in 0..3 {
            eventually("one in flight", async || in_flight(app).await == 1.0).await;
            let mut other = app.connect().await;
            assert_error(&other.request(GET).await, "overloaded", Some("api"));
            // The answer may arrive before its request is over.
            eventually("one in flight", async || in_flight(app).await == 1.0).await;
            let quiet =
                tokio::time::timeout(Duration::from_millis(150), connection.stream.read_u8());
            assert!(quiet.await.is_err());
        }
        client.send("hello").await;
        assert_eq!(connection.exactly(5).await.unwrap(), b"hello");
        drop(client);
        connection.closed().await;
        drop(connection);
        recovers(app, &upstream).await;
        let durations = "cupbearer_request_duration_seconds_count{upstream=\"api\"}";
        // The answer may arrive before its request is over.
        eventually("five durations", async || {
            app.metric(durations).await == 5.0
        })
        .await;
    })
    .await;
}

/// Connections that are there go on, new ones wait or are told, no CPU is burnt, and all is well again afterwards: tokens too.
#[tokio::test]
async fn no_file_descriptor_is_left() {
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
    let mut herd = Vec::new();
    for _ in 0..20 {
        herd.push(Client::connect(address).await);
    }
    running.logs("cannot accept connections").await;
    // With the connection to the upstream that it has.
    for _ in 0..20 {
        assert_eq!(served.get("/cncn/x").await.status, 200);
    }
    let ticks = cpu_ticks(&running);
    let since = std::time::Instant::now();
    // The token is not renewed, for want of a descriptor, and ends.
    eventually("the token ends", async || {
        served.get("/cncn/x").await.code() == "token_unavailable"
    })
    .await;
    let spent = Duration::from_millis(10) * (cpu_ticks(&running) - ticks) as u32;
    assert!(spent < since.elapsed() / 2, "{spent:?} of CPU time");
    let fetched = vendor.counters().issued;
    limit(pid, before);
    // Not by asking: nobody reads what each refusal writes to the log.
    eventually("a fresh token", async || vendor.counters().issued > fetched).await;
    eventually("it is used", async || {
        served.get("/cncn/x").await.status == 200
    })
    .await;
    for client in &mut herd {
        assert_eq!(client.get("/cncn/x").await.status, 200);
    }
    drop(herd);
    running.signal(rustix::process::Signal::INT);
    let (code, log) = running.ended().await;
    assert_eq!(code, 0);
    let told = log
        .lines()
        .filter(|line| line.contains("cannot accept connections"));
    assert!(told.count() <= 2, "{log}");
}

/// Before that comes about: however many apps connect, tokens are renewed.
#[tokio::test]
async fn apps_do_not_take_the_last_file_descriptor() {
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
    let mut herd = Vec::new();
    for _ in 0..100 {
        herd.push(Client::connect(address).await);
    }
    let last = herd.last_mut().unwrap();
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

fn limit(pid: Option<Pid>, files: u64) -> u64 {
    // Children have the hard limit that we have.
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

/// User and system time, in hundredths of a second.
fn cpu_ticks(running: &Running) -> u64 {
    let path = format!("/proc/{}/stat", running.child.id().unwrap());
    let stat = std::fs::read_to_string(path).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// An upload that is answered early goes on, and so does its time-out.
#[tokio::test]
async fn an_upload_that_stands_still_under_its_answer() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP1, |_| async {
        Response::new(whole("early"))
    })
    .await;
    let config = server("body_timeout = \"200ms\"") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na")
            .await;
        assert_eq!(client.response().await.text(), "early");
        client.closed().await;
        eventually("the place", async || in_flight(app).await == 0.0).await;
    })
    .await;
}
