//! Time limits for apps: idle connections, unfinished heads and unread responses.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::checks::in_flight;
use crate::client::{Client, Wire};
use crate::endpoint::{Endpoint, Received, response};
use crate::harness::{App, World, eventually, server, soon, with_app};
use crate::upstream::Script;

/// Type and payload of an HTTP/2 frame (RFC 9113 §4.1).
type Frame = (u8, Vec<u8>);

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// Opens an HTTP/2 connection with the client preface and empty SETTINGS, and sends nothing more.
pub(crate) async fn silent_http2(address: std::net::SocketAddr) -> tokio::net::TcpStream {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    stream
}

/// Reads all frames until the end of the connection.
async fn read_frames(mut stream: tokio::net::TcpStream) -> Vec<Frame> {
    let mut bytes = Vec::new();
    // The connection may end with a reset.
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

/// hyper sends GOAWAY and PING. A dead peer never acknowledges the PING, so the connection closes
/// 5 s later.
#[tokio::test]
async fn an_idle_http2_connection_closes_even_if_its_peer_is_dead() {
    let world = World::new();
    let api = Script::plain().await;
    let config = server("idle_timeout = \"300ms\"") + &world.upstream("api", &api.url(), "");
    with_app(&config, async |app| {
        let began = Instant::now();
        let frames = read_frames(silent_http2(app.address()).await).await;
        let took = began.elapsed();
        let kinds: Vec<u8> = frames.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds.first(), Some(&SETTINGS), "{kinds:?}");
        assert!(kinds.contains(&GOAWAY), "{kinds:?}");
        // NO_ERROR: the app may retry its requests elsewhere.
        let (_, goaway) = frames.iter().find(|(kind, _)| *kind == GOAWAY).unwrap();
        assert_eq!(goaway[4..8], [0, 0, 0, 0]);
        assert!(kinds.contains(&PING), "{kinds:?}");
        assert!(took >= Duration::from_millis(300), "{took:?}");
        eventually("no connection", async || {
            app.status().await["connections"].as_u64().unwrap_or(0) == 0
        })
        .await;
    })
    .await;
}

/// The app never acknowledges the PING, and the request takes longer than the 5 s limit for that.
#[tokio::test]
async fn a_request_that_crosses_the_goaway_gets_its_response() {
    let world = World::new();
    let api = Script::plain().await;
    let config = server("idle_timeout = \"300ms\"") + &world.upstream("api", &api.url(), "");
    with_app(&config, async |app| {
        let mut stream = silent_http2(app.address()).await;
        let mut bytes = Vec::new();
        soon("a GOAWAY", async {
            // A GOAWAY frame: payload of 8 bytes, type, no flags.
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

/// `header_timeout` expires for the next head while the app does not read the previous response. A
/// 408 would land in the middle of that response. The response size at which writing blocks depends
/// on the socket buffers, so the test tries many sizes.
#[tokio::test]
async fn no_408_is_written_into_an_unread_response() {
    const STEP: usize = 8 * 1024;
    const SIZES: usize = 80;
    let world = World::new();
    let api = Endpoint::start(|request: Received| async move {
        let size: usize = request
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
        let mut unread = Vec::new();
        for number in 1..=SIZES {
            let size = number * STEP;
            let mut client = Wire::connect_unix(&socket).await;
            client
                .send(format!("GET /{size} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
                .await;
            unread.push((size, client));
        }
        eventually("all requests at the upstream", async || {
            api.count() == SIZES
        })
        .await;
        let incomplete = incomplete_responses(app).await;
        assert!((1..SIZES).contains(&incomplete), "{incomplete}");
        for (_, client) in &mut unread {
            client.send("GET /next HTTP/1.1\r\nHost: loc").await;
        }
        header_timeout_passes(app).await;
        header_timeout_passes(app).await;
        let mut rests = JoinSet::new();
        for (size, mut client) in unread {
            rests.spawn(async move { (size, client.read_to_end().await) });
        }
        let mut timed_out = 0;
        for (size, rest) in rests.join_all().await {
            if let Ok(bytes) = rest {
                timed_out += usize::from(has_408_after_response(bytes, size));
            }
        }
        assert!(timed_out > 0, "no complete response is followed by a 408");
    })
    .await;
}

/// Waits until the responses that fit into the socket buffers are complete. Returns the number of
/// the others.
async fn incomplete_responses(app: &App) -> usize {
    let mut incomplete = usize::MAX;
    eventually("a constant number of requests in flight", async || {
        header_timeout_passes(app).await;
        let before = incomplete;
        incomplete = in_flight(app).await as usize;
        before == incomplete
    })
    .await;
    incomplete
}

/// Returns whether a 408 follows a response with a body of `size` times `x`. Asserts that nothing
/// else follows, and that nothing follows a truncated response.
fn has_408_after_response(bytes: Vec<u8>, size: usize) -> bool {
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let after = body.trim_start_matches('x');
    if after.is_empty() {
        return false;
    }
    assert_eq!(body.len() - after.len(), size, "{after}");
    assert!(after.starts_with("HTTP/1.1 408 "), "{after}");
    true
}

/// Waits for at least `header_timeout`, by means of another connection with an unfinished head.
async fn header_timeout_passes(app: &App) {
    let mut other = Client::connect(app.address()).await;
    other.send("GET / HTTP/1.1\r\nHost: loc").await;
    assert_eq!(other.response().await.code(), "request_timeout");
}

#[tokio::test]
async fn no_408_is_written_into_an_incomplete_response() {
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
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstart\r\n")
            .await;
        client.head().await;
        assert_eq!(client.chunk().await.unwrap().unwrap(), b"start");
        for _ in 0..3 {
            header_timeout_passes(app).await;
        }
        at_api.send("3\r\nend\r\n0\r\n\r\n").await;
        assert_eq!(client.chunk().await.unwrap().unwrap(), b"end");
        assert_eq!(client.chunk().await.unwrap(), None);
        // A 408 may follow the complete response.
        let after = String::from_utf8(client.read_to_end().await.unwrap()).unwrap();
        assert!(
            after.is_empty() || after.starts_with("HTTP/1.1 408 "),
            "{after}"
        );
    })
    .await;
}

/// `timeouts.response` starts at the end of the upload and ends with the response head.
#[tokio::test]
async fn a_slow_upload_or_download_does_not_exceed_timeouts_response() {
    const WAIT: Duration = Duration::from_millis(300);
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let keys = format!("timeouts = {{ response = \"{}ms\" }}", WAIT.as_millis());
    let config = server("") + &world.upstream("api", &upstream.url(), &keys);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n")
            .await;
        let (mut connection, _) = upstream.request().await;
        let mut ticks = tokio::time::interval(WAIT / 3);
        for byte in [b"u", b"p", b"l", b"o", b"a", b"d"] {
            ticks.tick().await;
            client.send(byte).await;
            connection.exactly(1).await.unwrap();
        }
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
            .await;
        let head = client.head().await;
        assert_eq!(head.status(), 200);
        for byte in [b"s", b"e", b"r", b"v", b"e", b"d"] {
            ticks.tick().await;
            connection.send(byte).await;
        }
        assert_eq!(client.body(&head, false).await.unwrap(), b"served");
    })
    .await;
}
