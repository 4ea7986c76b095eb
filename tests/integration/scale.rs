//! Many upstreams and providers: as many as a test in a debug build has time for. `tests/bench/scale.rs` measures ten times that.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use hyper::body::Incoming;
use tokio::sync::watch;

use crate::client::whole;
use crate::harness::{App, World, eventually, server, with_app};
use crate::upstream::{HTTP1, Server};

const UPSTREAMS: usize = 1_000;
const PROVIDERS: usize = 200;

/// By prefix, host and port, each with a token of its own provider.
fn config(world: &World, url: &str) -> String {
    let mut text = server("");
    for n in 0..PROVIDERS {
        let _ = write!(
            text,
            "[providers.p{n}]\naccess_token = \"token-{n}-0123456789\"\n"
        );
    }
    for n in 0..UPSTREAMS {
        let route = match n % 10 {
            0 => format!("host = \"h{n}.test\""),
            _ => format!("path_prefix = \"/deep/u{n}\""),
        };
        let _ = write!(
            text,
            "[upstreams.u{n}]\nurl = \"{url}\"\nprovider = \"p{}\"\nroute = {{ {route} }}\n{}",
            n % PROVIDERS,
            world.tls()
        );
    }
    text
}

#[tokio::test]
async fn a_thousand_upstreams() {
    let world = World::new();
    let upstream = Server::start(
        &world.authority,
        HTTP1,
        |request: http::Request<Incoming>| async move {
            let token = request.headers()["authorization"].to_str().unwrap();
            Response::new(whole(format!("{token} {}", request.uri().path())))
        },
    )
    .await;
    let config = config(&world, &upstream.url());
    let file = world.path("cupbearer.toml");
    let mut app = App::start_watching(&file, &config).await;
    let mut client = app.connect().await;
    let asked = [
        (1, "/deep/u1/x"),
        (999, "/deep/u999/x"),
        (503, "/deep/u503/x"),
    ];
    for (n, path) in asked {
        let expected = format!("Bearer token-{}-0123456789 /x", n % PROVIDERS);
        assert_eq!(client.get(path).await.text(), expected);
    }
    let by_host = client
        .request("GET /y HTTP/1.1\r\nHost: h990.test\r\n\r\n")
        .await;
    assert_eq!(by_host.text(), "Bearer token-190-0123456789 /y");
    assert_eq!(client.get("/deep/u1000/x").await.code(), "no_route");
    let connections = upstream.connections();

    let changed = config
        .replace("token-7-", "other-token-7-")
        .replace("[upstreams.u2]\n", "[upstreams.u2]\nreplay_limit = 0\n");
    let answer = app.reload(&file, &changed).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.json()["detail"],
        "changed providers: p7; changed upstreams: u2"
    );
    eventually("the new token", async || {
        client.get("/deep/u7/x").await.text() == "Bearer other-token-7-0123456789 /x"
    })
    .await;
    for (_, path) in asked {
        assert_eq!(client.get(path).await.status, 200);
    }
    // One for `u7`, which was not asked before; all others live on.
    assert_eq!(upstream.connections(), connections + 1);
    let status = app.status().await;
    assert_eq!(status["upstreams"].as_array().unwrap().len(), UPSTREAMS);
    assert_eq!(status["providers"].as_array().unwrap().len(), PROVIDERS);
    app.stop(cupbearer::app::Shutdown::Interrupt);
    app.ended().await.unwrap();
}

/// However many providers begin at once, one host is not asked by all of them.
#[tokio::test]
async fn first_fetches_take_turns() {
    let world = World::new();
    let (open, answers) = watch::channel(false);
    let (asking, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let counts = (Arc::clone(&asking), Arc::clone(&most));
    let vendor = Server::start(&world.authority, HTTP1, move |_| {
        let ((asking, most), mut answers) = (counts.clone(), answers.clone());
        async move {
            most.fetch_max(
                asking.fetch_add(1, Ordering::Relaxed) + 1,
                Ordering::Relaxed,
            );
            answers.wait_for(|open| *open).await.unwrap();
            asking.fetch_sub(1, Ordering::Relaxed);
            Response::builder()
                .header("content-type", "application/json")
                .body(whole(
                    "{\"access_token\": \"token-0123456789\", \"expires_in\": 3600}",
                ))
                .unwrap()
        }
    })
    .await;
    let mut config = server("");
    for n in 0..100 {
        let _ = write!(
            config,
            "[providers.p{n}]\ntoken_url = \"{}/token\"\nclient_id = \"c{n}\"\nclient_secret = \"s\"\n{}",
            vendor.url(),
            world.tls()
        );
    }
    config += "[upstreams.u]\nurl = \"http://127.0.0.1:1\"\nprovider = \"p0\"\n";
    with_app(&config, async |app| {
        eventually("sixteen that ask", async || {
            asking.load(Ordering::Relaxed) == 16
        })
        .await;
        // Whoever is not held back has had its chance to come.
        for _ in 0..20 {
            app.status().await;
        }
        open.send_replace(true);
        app.ready().await;
        assert_eq!(most.load(Ordering::Relaxed), 16);
    })
    .await;
    assert_eq!(vendor.connections(), 100);
}
