//! `cupbearer exec`: the proxy next to a command.

use std::process::Stdio;
use std::time::Duration;

use cupbearer::demo::vendors::{FakeVendor, Fault, Kind};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::cli::{Ran, command, run};
use crate::client::Client;
use crate::harness::{World, server, soon, with_app};

/// A vendor, and a production configuration whose port is in use.
struct Setting {
    world: World,
    vendor: FakeVendor,
    _production: std::net::TcpListener,
}

impl Setting {
    async fn new() -> Self {
        let world = World::new();
        let vendor = world.vendor(Kind::Besender, None).await;
        let production = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = format!("listen = \"{}\"", production.local_addr().unwrap());
        let config = world.vendor_config(&vendor, "", "");
        let config = config.replacen("listen = \"127.0.0.1:0\"", &listen, 1);
        assert!(config.contains(&listen));
        world.write("cupbearer.toml", &config);
        Self {
            world,
            vendor,
            _production: production,
        }
    }
}

#[tokio::test]
async fn the_command_starts_with_a_token_and_the_url_of_its_upstream() {
    let Setting { world, vendor, .. } = &Setting::new().await;
    let script = "echo \"$CUPBEARER_BESENDER_URL\"; read answer; exit 7";
    let mut process = command(&world.path("."), &["exec", "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let url = soon("the URL", lines.next_line()).await.unwrap().unwrap();
    assert_eq!(
        vendor.counters().issued,
        1,
        "the token is fetched before the command starts"
    );
    let rest = url.strip_prefix("http://").unwrap();
    let (address, prefix) = rest.split_once('/').unwrap();
    assert_eq!(prefix, "besender");
    let response = Client::connect(address.parse().unwrap())
        .await
        .get("/besender/x")
        .await;
    assert_eq!(
        (response.status.as_u16(), &response.json()["token_number"]),
        (200, &1.into())
    );

    process
        .stdin
        .take()
        .unwrap()
        .write_all(b"go\n")
        .await
        .unwrap();
    let status = soon("the end of the process", process.wait())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(7));
    let connected = tokio::net::TcpStream::connect(address).await;
    assert!(connected.is_err(), "the proxy runs longer than its command");
}

#[tokio::test]
async fn the_command_does_not_get_the_credentials() {
    let world = World::new();
    let config = server("")
        + "[providers.p]\naccess_token = { env = \"API_KEY\" }\n\
           [upstreams.api]\nurl = \"http://127.0.0.1:1\"\nprovider = \"p\"\n\
           route = { host = \"api.test\" }\n";
    world.write("cupbearer.toml", &config);
    let mut exec = command(&world.path("."), &["exec", "--http-proxy", "--", "env"]);
    exec.env("API_KEY", "s3cret")
        .env("OTHER", "stays")
        .env("PATH", "/usr/bin:/bin");
    let ran: Ran = soon("the end of the command", exec.output())
        .await
        .unwrap()
        .into();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        !ran.out.contains("s3cret") && !ran.out.contains("API_KEY"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("OTHER=stays\n"));
    assert!(ran.out.contains("CUPBEARER_API_URL=http://api.test\n"));
    assert!(
        ran.out.contains("\nhttp_proxy=http://127.0.0.1:") || ran.out.starts_with("http_proxy=")
    );
    assert_eq!(ran.err, "");
}

#[tokio::test]
async fn signals_reach_the_command_and_its_exit_code_is_returned() {
    let Setting { world, .. } = &Setting::new().await;
    let traps = "trap 'exit 9' TERM; echo up; while :; do sleep 0.02; done";
    for (script, signal, code) in [
        (traps, Signal::TERM, 9),
        ("echo up; exec sleep 60", Signal::HUP, 128 + 1),
        ("echo up; exec sleep 60", Signal::INT, 128 + 2),
    ] {
        let mut process = command(&world.path("."), &["exec", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        soon("the start of the command", lines.next_line())
            .await
            .unwrap()
            .unwrap();
        let pid = Pid::from_raw(process.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let status = soon("the end of the process", process.wait())
            .await
            .unwrap();
        assert_eq!(status.code(), Some(code), "{signal:?}");
    }
}

#[tokio::test]
async fn a_command_that_cannot_start_gets_the_exit_code_of_a_shell() {
    let Setting { world, .. } = &Setting::new().await;
    let not_executable = world.write("plain.txt", "not a program");
    for (program, code) in [
        ("/nonexistent/program", 127),
        (not_executable.to_str().unwrap(), 126),
    ] {
        let ran = run(world, &["exec", "--", program]).await;
        assert_eq!(ran.code, code);
        assert!(
            ran.err.contains(&format!("cannot start {program}: ")),
            "{}",
            ran.err
        );
    }
}

#[tokio::test]
async fn without_a_token_the_command_does_not_start() {
    let Setting { world, vendor, .. } = &Setting::new().await;
    vendor.set_fault(Some(Fault::Status(503)));
    let mark = world.path("started");
    let touch = [
        "exec",
        "--wait",
        "300ms",
        "--",
        "touch",
        mark.to_str().unwrap(),
    ];
    let ran = run(world, &touch).await;
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("no token yet: besender: ") && ran.err.contains("503"),
        "{}",
        ran.err
    );
    assert!(!mark.exists());

    // A signal ends the wait.
    let mut process = command(
        &world.path("."),
        &[
            "exec",
            "--wait",
            "1h",
            "--",
            "touch",
            mark.to_str().unwrap(),
        ],
    )
    .spawn()
    .unwrap();
    while vendor.counters().token_requests < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = Pid::from_raw(process.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = soon("the end of the process", process.wait())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(128 + 15));
    assert!(!mark.exists());
}

#[tokio::test]
async fn a_token_of_a_running_proxy_is_invalidated_only_with_force() {
    let world = World::new();
    let vendor = world.vendor(Kind::Ctcfile, None).await;
    let config = world.vendor_config(&vendor, "", "");
    with_app(&config, async |app| {
        app.ready().await;
        let admin = format!("admin = \"{}\"", app.admin_address());
        let config = config.replacen("admin = \"127.0.0.1:0\"", &admin, 1);
        assert!(config.contains(&admin));
        world.write("cupbearer.toml", &config);
        let ran = run(&world, &["exec", "--", "true"]).await;
        assert_eq!(ran.code, 1);
        for part in [
            "has provider ctcfile as well",
            "would kill the token",
            "--force",
        ] {
            assert!(ran.err.contains(part), "{}", ran.err);
        }
        assert_eq!(vendor.counters().token_requests, 1);
        let ran = run(&world, &["exec", "--force", "--", "true"]).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.err.starts_with("warning: "), "{}", ran.err);
        assert_eq!(vendor.counters().token_requests, 2);
    })
    .await;
    // The proxy has ended, so no running proxy uses the token.
    let ran = run(&world, &["exec", "--", "true"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
}
