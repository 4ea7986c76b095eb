//! Apps that say nothing more, or do not read: how their connections end, and what is never written on them.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::client::{Client, Wire};
use crate::endpoint::{Endpoint, Received, response};
use crate::harness::{App, World, eventually, server, soon, with_app};
use crate::upstream::Script;

/// RFC 9113 §4.1: type and payload of each frame.
type Frame = (u8, Vec<u8>);

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// An app that has sent its preface and its settings, and nothing after that.
pub(crate) async fn silent_http2(address: std::net::SocketAddr) -> tokio::net::TcpStream {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    stream
}

/// All frames until the end.
async fn frames(mut stream: tokio::net::TcpStream) -> Vec<Frame> {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ = soon("the end of the connection", stream.read_to_end(&mut bytes)).await;
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        frames.push((*kind, payload[..length].to_vec()));
        rest = &payload[length..];
    }
    frames
}

/// An idle HTTP/2 connection gets a GOAWAY; a peer that is gone does not answer the PING behind it, and has 5 s to do so.
#[tokio::test]
async fn an_idle_http2_connection_ends_though_its_peer_is_gone() {
    let world = World::new();
    let api = Script::plain().await;
    let config = server("idle_timeout = \"300ms\"") + &world.upstream("api", &api.url(), "");
    with_app(&config, async |app| {
        let began = Instant::now();
        let frames = frames(silent_http2(app.address()).await).await;
        let took = began.elapsed();
        let kinds: Vec<u8> = frames.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds.first(), Some(&SETTINGS), "{kinds:?}");
        assert!(kinds.contains(&GOAWAY), "{kinds:?}");
        // NO_ERROR: the app may try its requests again elsewhere.
        let (_, goaway) = frames.iter().find(|(kind, _)| *kind == GOAWAY).unwrap();
        assert_eq!(goaway[4..8], [0, 0, 0, 0]);
        // Had it answered the PING, it would have been faster.
        assert!(kinds.contains(&PING), "{kinds:?}");
        assert!(took >= Duration::from_millis(300), "{took:?}");
        eventually("no connection", async || {
            app.status().await["connections"].as_u64().unwrap_or(0) == 0
        })
        .await;
    })
    .await;
}

/// A request that crosses the GOAWAY is let finish, however long that takes, though nobody answers the PING.
#[tokio::test]
async fn a_request_that_crosses_the_goodbye_is_answered() {
    let world = World::new();
    let api = Script::plain().await;
    let config = server("idle_timeout = \"300ms\"") + &world.upstream("api", &api.url(), "");
    with_app(&config, async |app| {
        let mut stream = silent_http2(app.address()).await;
        let mut bytes = Vec::new();
        soon("a GOAWAY", async {
            // Settings are acknowledged by nobody, and there is nothing else.
            while !bytes.windows(4).any(|part| part == [8, GOAWAY, 0, 0]) {
                assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
            }
        })
        .await;
        let began = Instant::now();
        // GET, http, / and an authority as a literal (RFC 7541).
        let block = [b"\x82\x86\x84\x41\x09".as_slice(), b"localhost"].concat();
        let frame = [0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1];
        stream
            .write_all(&[&frame[..], &block].concat())
            .await
            .unwrap();
        let (mut connection, _) = api.request().await;
        // Longer than a goodbye may take.
        eventually("six seconds", async || {
            began.elapsed() > Duration::from_secs(6)
        })
        .await;
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
            .await;
        let _ = soon("the end", stream.read_to_end(&mut bytes)).await;
        assert!(bytes.windows(4).any(|part| part == b"late"));
    })
    .await;
}

/// The time for the next head is over while the response before it is still on its way to an app that does not read: a 408 would stand
/// in the middle of it. Where that begins depends on how much fits into the socket, so that many sizes are tried.
#[tokio::test]
async fn no_408_is_written_into_a_response_that_is_held_up() {
    const STEP: usize = 8 * 1024;
    const SIZES: usize = 80;
    let world = World::new();
    let api = Endpoint::start(|asked: Received| async move {
        let size: usize = asked
            .head
            .first
            .split(['/', ' '])
            .nth(2)
            .unwrap()
            .parse()
            .unwrap();
        response("200 OK", "", &"x".repeat(size))
    })
    .await;
    let socket = world.path("proxy.sock");
    let config = server("header_timeout = \"500ms\"\nidle_timeout = \"2s\"").replace(
        "listen = \"127.0.0.1:0\"",
        &format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]", socket.display()),
    ) + &world.upstream("api", &api.url(), "");
    with_app(&config, async |app| {
        let mut held_up = Vec::new();
        for number in 1..=SIZES {
            let size = number * STEP;
            let mut client = Wire::connect_unix(&socket).await;
            client
                .send(format!("GET /{size} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
                .await;
            held_up.push((size, client));
        }
        eventually("all answers under way", async || api.count() == SIZES).await;
        // As far as they will get without being read.
        let mut under_way = usize::MAX;
        eventually("no more that end", async || {
            head_time(app).await;
            let before = under_way;
            let metric = "cupbearer_requests_in_flight{upstream=\"api\"}";
            under_way = app.metric(metric).await as usize;
            before == under_way
        })
        .await;
        assert!((1..SIZES).contains(&under_way), "{under_way}");
        for (_, client) in &mut held_up {
            client.send("GET /next HTTP/1.1\r\nHost: loc").await;
        }
        head_time(app).await;
        head_time(app).await;
        let mut rests = JoinSet::new();
        for (size, mut client) in held_up {
            rests.spawn(async move { (size, client.read_to_end().await) });
        }
        let mut told = 0;
        // A response is cut off or whole, and holds nothing else.
        for (size, rest) in rests.join_all().await {
            let Ok(all) = rest else {
                continue;
            };
            let text = String::from_utf8(all).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            let after = body.trim_start_matches('x');
            if !after.is_empty() {
                assert_eq!(body.len() - after.len(), size, "{after}");
                assert!(after.starts_with("HTTP/1.1 408 "), "{after}");
                told += 1;
            }
        }
        // An app with a whole response learns what is wrong with its second request.
        assert!(told > 0);
    })
    .await;
}

/// As long as `header_timeout`, and longer: whoever says half a head now has its end behind it.
async fn head_time(app: &App) {
    let mut late = Client::connect(app.address()).await;
    late.send("GET / HTTP/1.1\r\nHost: loc").await;
    assert_eq!(late.response().await.code(), "request_timeout");
}

/// The same for one that has only begun.
#[tokio::test]
async fn no_408_is_written_into_a_response_that_has_begun() {
    let world = World::new();
    let api = Script::plain().await;
    let config = server("header_timeout = \"300ms\"\nidle_timeout = \"1s\"")
        + &world.upstream("api", &api.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /next HTTP/1.1\r\nHost: loc")
            .await;
        let (mut at_api, _) = api.request().await;
        at_api
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
            .await;
        client.head().await;
        assert_eq!(client.chunk().await.unwrap().unwrap(), b"begun");
        for _ in 0..3 {
            head_time(app).await;
        }
        at_api.send("3\r\nend\r\n0\r\n\r\n").await;
        assert_eq!(client.chunk().await.unwrap().unwrap(), b"end");
        assert_eq!(client.chunk().await.unwrap(), None);
        // Behind its end it may be told, or just end.
        let after = String::from_utf8(client.read_to_end().await.unwrap()).unwrap();
        assert!(
            after.is_empty() || after.starts_with("HTTP/1.1 408 "),
            "{after}"
        );
    })
    .await;
}
