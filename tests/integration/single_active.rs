//! Single-active tokens rotate under load, and the app does not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cupbearer::demo::vendors::{Fault, Kind};
use tokio::sync::mpsc;

use crate::client::{Client, Head, Response};
use crate::harness::{App, World, server, soon, with_app};
use crate::upstream::{Connection, Script};

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
/// could not be either waits for the new one; whoever can be goes on with the old one.
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
    let mut asked = requests(api);
    with_app(&config, async |app| {
        app.ready().await;
        let mut first = app.connect().await;
        first.send(HEAD).await;
        let (mut first_at_api, old) = asked.recv().await.unwrap();
        let old = old.get("authorization").unwrap().to_owned();
        let rotation = async {
            let answer = refresh(app).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        };
        let meanwhile = async {
            let mut second = held_at_the_gate(app, &mut asked, &old).await;
            // The exchange waits, and it is the first upload that it waits for: nothing else is on the wire.
            assert_eq!(vendor.counters().token_requests, 1);
            first_at_api.send(OK).await;
            first.send("0\r\n\r\n").await;
            assert_eq!(first.response().await.status, 200);
            let (mut second_at_api, head) = asked.recv().await.unwrap();
            assert_eq!(vendor.counters().issued, 2);
            assert!(head.first.starts_with("POST "), "{}", head.first);
            assert_ne!(head.get("authorization"), Some(&*old));
            second_at_api.send(OK).await;
            second.send("0\r\n\r\n").await;
            assert_eq!(second.response().await.status, 200);
        };
        tokio::join!(rotation, meanwhile);
        assert_eq!(vendor.counters().issued, 2);
    })
    .await;
}

type Requests = mpsc::UnboundedReceiver<(Connection, Head)>;

/// The first request on each connection to the API, as they come: who is held at the gate may hold a connection that says nothing.
fn requests(api: Script) -> Requests {
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let mut connection = api.accept().await;
            let sender = sender.clone();
            tokio::spawn(async move {
                let head = connection.head().await;
                // After the end of the test there is nobody to take it.
                let _ = sender.send((connection, head));
            });
        }
    });
    requests
}

/// Sends uploads until one is not passed on while requests after it are: the gate is closed to the one and open to the others.
async fn held_at_the_gate(app: &App, asked: &mut Requests, old: &str) -> Client {
    loop {
        let mut upload = app.connect().await;
        upload.send(HEAD).await;
        let mut passed_on = None;
        for _ in 0..3 {
            let mut get = app.connect().await;
            get.send("GET /ctcfile/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            let answered = async {
                loop {
                    let (mut connection, head) = asked.recv().await.unwrap();
                    assert_eq!(head.get("authorization"), Some(old));
                    if head.first.starts_with("POST ") {
                        passed_on = Some(connection);
                        continue;
                    }
                    connection.send(OK).await;
                    break;
                }
            };
            answered.await;
            assert_eq!(get.response().await.status, 200);
        }
        let Some(mut connection) = passed_on else {
            return upload;
        };
        // The gate was still open to it.
        connection.send(OK).await;
        upload.send("0\r\n\r\n").await;
        assert_eq!(upload.response().await.status, 200);
    }
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
