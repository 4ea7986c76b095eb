//! `cupbearer run` with the verbs that talk to it, its signals, and `cupbearer demo`.

use std::io::{Read as _, Write as _};

use cupbearer::demo::vendors::Kind;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::Signal;
use tokio::process::Child;

use super::{Running, command, kill, run, run_command};
use crate::client::{Client, whole};
use crate::harness::{World, eventually, server, soon};
use crate::upstream::{HTTP1, Server};

#[tokio::test]
async fn status_and_health_follow_a_proxy_until_sigterm_ends_it() {
    let world = World::new();
    let vendor = world.vendor(Kind::Cncn, None).await;
    let config = world
        .vendor_config(&vendor, "", "")
        .replace("[server]\n", "[server]\nshutdown_delay = \"400ms\"\n");
    world.write("cupbearer.toml", &config);
    let running = Running::start(&world, &["run"]).await;
    let mut client = Client::connect(running.listen.parse().unwrap()).await;
    assert_eq!(client.get("/cncn/x").await.status, 200);

    let health = run(&world, &["health", "--admin", &running.admin]).await;
    assert_eq!(
        (health.code, &*health.out),
        (0, "ready\n"),
        "{}",
        health.err
    );
    let live = run(&world, &["health", "--live", "--admin", &running.admin]).await;
    assert_eq!((live.code, &*live.out), (0, "alive\n"));
    let mut by_environment = command(&world.path("."), &["status"]);
    by_environment.env("CUPBEARER_ADMIN", &running.admin);
    let status = run_command(by_environment).await;
    assert_eq!(status.code, 0, "{}", status.err);
    for text in ["ready", "cncn", "valid", &running.listen] {
        assert!(status.out.contains(text), "no {text} in\n{}", status.out);
    }
    let json = run(&world, &["status", "--json", "--admin", &running.admin]).await;
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["upstreams"][0]["requests"], 1);

    let admin = running.admin.clone();
    running.signal(Signal::TERM);
    eventually("not ready", async || {
        run(&world, &["health", "--admin", &admin]).await.code == 1
    })
    .await;
    let (code, log) = running.ended().await;
    assert_eq!(code, 0, "{log}");
    client.closed().await;
    assert!(!log.contains("demo-secret-of-cncn"), "{log}");
    let gone = run(&world, &["status", "--admin", &admin]).await;
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains("is the proxy running?"), "{}", gone.err);
}

/// `/quitquitquit` is for Jobs of clusters without native sidecars.
#[tokio::test]
async fn the_admin_port_changes_the_log_and_ends_the_process() {
    let world = World::new();
    let upstream = world.upstream("api", "http://127.0.0.1:1", "");
    let config = server("shutdown_delay = \"1h\"\nquitquitquit = true") + &upstream;
    world.write("cupbearer.toml", &config);
    let mut running = Running::start(&world, &["run"]).await;
    let admin = running
        .admin
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let admin: std::net::SocketAddr = admin.parse().unwrap();
    let post = async |path: &str| {
        let request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\n\r\n");
        Client::connect(admin).await.request(&request).await
    };
    assert_eq!(post("/-/log/loud").await.status, 400);
    assert_eq!(post("/-/log/trace").await.status, 200);
    let log = Client::connect(admin).await.get("/-/log").await;
    assert_eq!(log.text(), "trace\n");
    // A mistake of the app is logged at debug only.
    Client::connect(running.listen.parse().unwrap())
        .await
        .request("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
        .await;
    while !running.logs("request refused").await.contains("\"DEBUG\"") {}
    assert_eq!(post("/quitquitquit").await.status, 200);
    assert_eq!(running.ended().await.0, 0);
}

#[tokio::test]
async fn sigint_skips_the_shutdown_delay_and_a_second_signal_the_grace() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP1, |_| async {
        std::future::pending::<()>().await;
        http::Response::new(whole(""))
    })
    .await;
    let config = server("shutdown_delay = \"1h\"").replace("\"3s\"", "\"1h\"")
        + &world.upstream("api", &upstream.url(), "");
    world.write("cupbearer.toml", &config);
    let running = Running::start(&world, &["run"]).await;
    running.signal(Signal::INT);
    assert_eq!(running.ended().await.0, 0);

    // A request that never ends uses the whole grace period.
    let mut running = Running::start(&world, &["run"]).await;
    let mut client = Client::connect(running.listen.parse().unwrap()).await;
    client
        .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    eventually("a request", async || upstream.connections() == 1).await;
    running.signal(Signal::INT);
    let line = running.logs("shutting down").await;
    assert!(line.contains("Interrupt"), "{line}");
    running.signal(Signal::TERM);
    assert_eq!(running.ended().await.0, 1);
}

/// The log is a full pipe, so the start blocks at its first line, before the proxy runs.
#[tokio::test]
async fn a_signal_during_the_start_leads_to_exit_code_0() {
    let world = World::new();
    world.write(
        "cupbearer.toml",
        &(server("") + &world.upstream("api", "http://127.0.0.1:1", "")),
    );
    for end in [Signal::TERM, Signal::INT] {
        let (mut log, mut full) = std::io::pipe().unwrap();
        fcntl_setfl(&full, OFlags::NONBLOCK).unwrap();
        let mut filled = 0;
        while let Ok(count) = full.write(&[b' '; 4096]) {
            filled += count;
        }
        // The program shares the flags of this end, and its writes must block.
        fcntl_setfl(&full, OFlags::empty()).unwrap();
        let mut child = command(&world.path("."), &["run"])
            .stderr(full)
            .spawn()
            .unwrap();
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            eventually("a handler", async || handles(&child, signal)).await;
        }
        kill(&child, Signal::HUP);
        kill(&child, end);
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = Vec::new();
            log.read_to_end(&mut text).map(|_| text)
        });
        let status = soon("the end of the process", child.wait()).await.unwrap();
        let text = reading.await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&text[filled..]);
        assert_eq!(status.code(), Some(0), "{status}: {text}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_and_exits_with_code_1() {
    let world = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = format!("[server]\nlisten = \"{address}\"\nadmin = \"off\"\n")
        + &world.upstream("api", "http://127.0.0.1:1", "");
    world.write("cupbearer.toml", &config);
    let ran = run(&world, &["run"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains(&address.to_string()), "{}", ran.err);
}

#[tokio::test]
async fn demo_once_shows_a_success_for_each_of_the_five_vendors() {
    let world = World::new();
    let ran = run(&world, &["demo", "--once"]).await;
    assert_eq!(ran.code, 0, "{}\n{}", ran.out, ran.err);
    for kind in Kind::ALL {
        let row = ran
            .out
            .lines()
            .find(|line| line.starts_with(kind.name()) && line.contains(" 200 "));
        assert!(
            row.is_some_and(|row| row.contains("yes, no. 1")),
            "{kind}\n{}",
            ran.out
        );
    }
}

/// Returns whether the process has installed a handler for `signal`, from `/proc`.
fn handles(child: &Child, signal: Signal) -> bool {
    let status = format!("/proc/{}/status", child.id().unwrap());
    let status = std::fs::read_to_string(status).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    caught & (1 << (signal.as_raw() - 1)) != 0
}
