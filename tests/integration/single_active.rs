//! DESIGN.md §6.5: tokens of which only one lives, rotated under load. The app must not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cupbearer::demo::vendors::{Fault, Kind};

use crate::client::{Client, Response};
use crate::harness::{App, World, eventually, server, soon, with_app};
use crate::upstream::Script;

const ROTATIONS: u64 = 30;

/// Four times `replay_limit`.
const UPLOAD: usize = 256 * 1024;

/// What one client does again and again.
#[derive(Clone, Copy, Debug)]
enum Work {
    Get,
    /// Small enough to be replayed.
    Post,
    /// Of unknown length, and too large to be replayed.
    Upload,
}

#[tokio::test]
async fn rotations_under_load_are_not_seen_by_the_app() {
    let world = World::new();
    let vendor = world.vendor(Kind::Ctcfile, None).await;
    // The old token dies as the new one is issued, well before that is known here.
    vendor.set_fault(Some(Fault::Slow(Duration::from_millis(20))));
    let config = world.vendor_config(&vendor, "min_interval = \"1ms\"\n", "");
    with_app(&config, async |app| {
        app.ready().await;
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = [Work::Get, Work::Get, Work::Post, Work::Post]
            .into_iter()
            .chain([Work::Upload, Work::Upload])
            .map(|work| tokio::spawn(run(app_client(app), work, Arc::clone(&stop))))
            .collect();
        for rotation in 1..=ROTATIONS {
            rotate(app).await;
            assert_eq!(
                vendor.counters().issued,
                rotation + 1,
                "{:?}",
                vendor.refusals()
            );
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let (work, done) = soon("a client's last answer", client).await.unwrap();
            assert!(done >= ROTATIONS, "{work:?}: {done} are too few to tell");
        }
        let seen = vendor.counters();
        // No rejection brought about a fetch of its own.
        assert_eq!(
            seen.token_requests,
            ROTATIONS + 1,
            "{:?}",
            vendor.refusals()
        );
        let replayed = app
            .metric("cupbearer_replays_total{result=\"ok\",upstream=\"ctcfile\"}")
            .await;
        assert_eq!(replayed, seen.api_rejected as f64, "{seen:?}");
    })
    .await;
}

/// The vendor has issued a token that cannot be used: the old one is dead, and nobody has a new one.
#[tokio::test]
async fn a_token_that_was_killed_for_nothing_is_replaced() {
    let world = World::new();
    let vendor = world.vendor(Kind::Ctcfile, None).await;
    let config = world.vendor_config(&vendor, "min_interval = \"1ms\"\n", "");
    with_app(&config, async |app| {
        app.ready().await;
        vendor.set_fault(Some(Fault::ControlBytes));
        let refused = refresh(app).await;
        assert_eq!(refused.status, 502);
        // The gate is open again, and the token dead: its rejection brings the next one, and the app sees nothing of it.
        vendor.set_fault(None);
        let answer = app.get("/ctcfile/x").await;
        assert_eq!(answer.status, 200, "{:?}", vendor.refusals());
    })
    .await;
}

/// Whoever is on the wire and cannot be replayed is let finish before the old token is killed; whoever comes meanwhile and
/// could not be either waits for the new one.
#[tokio::test]
async fn an_upload_under_way_is_not_overtaken() {
    let world = World::new();
    let vendor = world.vendor(Kind::Ctcfile, None).await;
    let api = Script::plain().await;
    let config = server("")
        + &world.vendor_provider("ctcfile", &vendor, "min_interval = \"1ms\"\n")
        + &format!(
            "[upstreams.ctcfile]\nurl = \"{}\"\nprovider = \"ctcfile\"\n",
            api.url()
        );
    with_app(&config, async |app| {
        app.ready().await;
        let mut first = app.connect().await;
        first.send(HEAD).await;
        let (mut at_api, old) = api.request().await;
        let rotation = refresh(app);
        let uploads = async {
            let mut second = app.connect().await;
            let mut second_at_api = loop {
                // Before the gate is closed, uploads go on with the old token.
                second.send(HEAD).await;
                let (mut connection, head) = api.request().await;
                if head.get("authorization") != old.get("authorization") {
                    break connection;
                }
                assert_eq!(vendor.counters().issued, 1);
                second.send("0\r\n\r\n").await;
                connection.send(OK).await;
                assert_eq!(second.response().await.status, 200);
                second = app.connect().await;
            };
            second_at_api.send(OK).await;
        };
        let answer = async {
            // Nothing but the answer, or the end of two seconds, lets the exchange begin.
            eventually("an exchange that is about to begin", async || {
                app.status().await["providers"][0]["next_fetch_at"].is_null()
            })
            .await;
            for _ in 0..30 {
                app.status().await;
                assert_eq!(vendor.counters().token_requests, 1);
            }
            at_api.send(OK).await;
            first.send("0\r\n\r\n").await;
            assert_eq!(first.response().await.status, 200);
        };
        let (rotated, (), ()) = tokio::join!(rotation, uploads, answer);
        assert_eq!(rotated.status, 200, "{}", rotated.text());
        assert_eq!(vendor.counters().issued, 2);
    })
    .await;
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

const HEAD: &str =
    "POST /ctcfile/upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(length: usize) -> Vec<u8> {
    let mut chunk = format!("{length:x}\r\n").into_bytes();
    chunk.resize(chunk.len() + length, b'x');
    chunk.extend_from_slice(b"\r\n");
    chunk
}

fn app_client(app: &App) -> impl Future<Output = Client> + use<> {
    Client::connect(app.address())
}

async fn run(
    client: impl Future<Output = Client>,
    work: Work,
    stop: Arc<AtomicBool>,
) -> (Work, u64) {
    let mut client = client.await;
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let answer = once(&mut client, work).await;
        assert_eq!(answer.status, 200, "{work:?} no. {done}: {}", answer.text());
        done += 1;
    }
    (work, done)
}

async fn once(client: &mut Client, work: Work) -> Response {
    match work {
        Work::Get => client.get("/ctcfile/orders").await,
        Work::Post => {
            let body = "x".repeat(1000);
            client
                .request(&format!(
                    "POST /ctcfile/orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ))
                .await
        }
        Work::Upload => {
            client.send(HEAD).await;
            for _ in 0..4 {
                client.send(chunk(UPLOAD / 4)).await;
            }
            client.send("0\r\n\r\n").await;
            client.response().await
        }
    }
}

async fn rotate(app: &App) {
    let answer = refresh(app).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn refresh(app: &App) -> Response {
    Client::connect(app.admin_address())
        .await
        .request(
            "POST /-/refresh/ctcfile HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\nContent-Length: 0\r\n\r\n",
        )
        .await
}
