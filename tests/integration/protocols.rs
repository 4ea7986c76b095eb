//! What each protocol has of its own: gRPC's metadata, deadlines and cancellation, trailers, ranges, early answers, and
//! bodies larger than any memory.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::client::{Client, Http2Client, frames, whole};
use crate::harness::{World, eventually, server, soon, with_app};
use crate::upstream::{HTTP1, HTTP2, Script, Server};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The deadline and the rest of the metadata are between the app and its server; so is how the call ends.
#[tokio::test]
async fn grpc_metadata_and_status_pass() {
    let world = World::new();
    let upstream = Server::start(
        &world.authority,
        HTTP2,
        |request: Request<Incoming>| async move {
            let headers = request.headers();
            assert_eq!(headers["grpc-timeout"], "250m");
            assert_eq!(headers["grpc-encoding"], "gzip");
            assert_eq!(headers["trace-bin"], "AAEC");
            assert_eq!(request.uri().path(), "/pkg.Service/Call");
            if headers.contains_key("trailers-only") {
                return Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "5")
                    .header("grpc-message", "not%20here")
                    .body(whole(""))
                    .unwrap();
            }
            let message = request.into_body().collect().await.unwrap().to_bytes();
            let (sender, body) = frames();
            sender.send(Ok(Frame::data(message))).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "9".parse().unwrap());
            trailers.insert("grpc-message", "too%20soon".parse().unwrap());
            trailers.insert("grpc-status-details-bin", "CAkS".parse().unwrap());
            sender.send(Ok(Frame::trailers(trailers))).unwrap();
            Response::builder()
                .header("content-type", "application/grpc")
                .header("initial", "1")
                .body(body)
                .unwrap()
        },
    )
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Http2Client::connect(app.address()).await;
        for trailers_only in [false, true] {
            let mut request = client
                .request("POST", "/pkg.Service/Call")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("grpc-timeout", "250m")
                .header("grpc-encoding", "gzip")
                .header("trace-bin", "AAEC");
            if trailers_only {
                request = request.header("trailers-only", "1");
            }
            let request = request.body(whole("\0\0\0\0\x02hi")).unwrap();
            let answer = client.send(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            if trailers_only {
                assert_eq!(answer.headers()["grpc-status"], "5");
                assert_eq!(answer.headers()["grpc-message"], "not%20here");
                // Nobody takes it for an answer of ours.
                assert!(!answer.headers().contains_key("proxy-status"));
                continue;
            }
            assert_eq!(answer.headers()["initial"], "1");
            let body = soon("the call's end", answer.into_body().collect()).await;
            let body = body.unwrap();
            let trailers = body.trailers().unwrap().clone();
            assert_eq!(trailers["grpc-status"], "9");
            assert_eq!(trailers["grpc-message"], "too%20soon");
            assert_eq!(trailers["grpc-status-details-bin"], "CAkS");
            assert_eq!(body.to_bytes(), "\0\0\0\0\x02hi");
        }
    })
    .await;
}

/// A call whose deadline has passed, or that nobody wants any more, is reset: here, at the upstream, and its place is free.
#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_upstream_and_makes_room() {
    let world = World::new();
    for offer in [HTTP1, HTTP2] {
        let (tell, mut ended) = mpsc::unbounded_channel();
        let upstream = Server::start(
            &world.authority,
            offer,
            move |request: Request<Incoming>| {
                let tell = tell.clone();
                async move {
                    let (sender, body) = frames();
                    if request.uri().path() == "/whole" {
                        return Response::new(whole("ok"));
                    }
                    let mut upload = request.into_body();
                    tokio::spawn(async move {
                        while let Some(frame) = upload.frame().await {
                            let broken = frame.is_err();
                            let _ = sender.send(frame.map_err(std::io::Error::other));
                            if broken {
                                // Not taken for a short upload.
                                let _ = tell.send(());
                                return;
                            }
                        }
                    });
                    Response::new(body)
                }
            },
        )
        .await;
        let config = server("") + &world.upstream("api", &upstream.url(), "max_in_flight = 1");
        with_app(&config, async |app| {
            let mut client = Http2Client::connect(app.address()).await;
            let (sender, body) = frames();
            sender.send(Ok(Frame::data(Bytes::from("one")))).unwrap();
            let request = client.request("POST", "/stream").body(body).unwrap();
            let mut answer = client.send(request).await.unwrap().into_body();
            let frame = soon("an echo", answer.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "one");
            assert_eq!(app.get("/whole").await.code(), "overloaded");
            drop(answer);
            sender
                .send(Err(std::io::Error::other("cancelled")))
                .unwrap();
            drop(sender);
            soon(
                &format!("the end at the upstream, HTTP/2: {}", offer.http2),
                ended.recv(),
            )
            .await
            .unwrap();
            eventually("room for the next", async || {
                app.get("/whole").await.text() == "ok"
            })
            .await;
        })
        .await;
    }
}

/// RFC 9110 §6.5: in both directions, to an app that says it takes them (§6.5.1).
#[tokio::test]
async fn trailers_of_chunked_bodies() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\n\
                 Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nAuthorization: mine\r\n\r\n",
            )
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("trailer"), Some("X-Sum"));
        let rest = connection.exactly(b"2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n".len()).await;
        assert_eq!(String::from_utf8(rest.unwrap()).unwrap(), "2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n");
        connection
            .send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 2\r\nok\r\n0\r\nX-Sum: 8\r\nSet-Cookie: a=b\r\nContent-Length: 1\r\n\r\n",
            )
            .await;
        let head = client.head().await;
        assert_eq!(head.get("trailer"), Some("X-Sum"));
        let expected = "2\r\nok\r\n0\r\nx-sum: 8\r\n\r\n";
        let rest = client.exactly(expected.len()).await.unwrap();
        assert_eq!(String::from_utf8(rest).unwrap().to_lowercase(), expected);
        client.send(GET).await;
        connection.head().await;
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

/// RFC 9110 §14: end to end, and none of our business.
#[tokio::test]
async fn ranges_pass() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send("GET /film HTTP/1.1\r\nHost: localhost\r\nRange: bytes=2-4,7-\r\nIf-Range: \"a\"\r\n\r\n")
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("range"), Some("bytes=2-4,7-"));
        assert_eq!(head.get("if-range"), Some("\"a\""));
        connection
            .send("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/10\r\nAccept-Ranges: bytes\r\nContent-Length: 3\r\n\r\nabc")
            .await;
        let answer = client.response().await;
        assert_eq!((answer.status.as_u16(), &*answer.text()), (206, "abc"));
        assert_eq!(answer.head.get("content-range"), Some("bytes 2-4/10"));
        assert_eq!(answer.head.get("accept-ranges"), Some("bytes"));
        client
            .send("GET /film HTTP/1.1\r\nHost: localhost\r\nRange: bytes=99-\r\n\r\n")
            .await;
        connection.head().await;
        connection
            .send("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */10\r\nContent-Length: 0\r\n\r\n")
            .await;
        let answer = client.response().await;
        assert_eq!(answer.status, 416);
        assert_eq!(answer.head.get("content-range"), Some("bytes */10"));
    })
    .await;
}

/// An upstream that refuses an upload while it goes on: the app gets the answer, whether it goes on sending or not.
#[tokio::test]
async fn an_answer_before_the_upload_ends() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        for closes in [true, false] {
            let mut client = app.connect().await;
            client
                .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\nsome")
                .await;
            let (mut connection, _) = upstream.request().await;
            connection.exactly(4).await.unwrap();
            connection
                .send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
                .await;
            if closes {
                connection.finish().await;
                drop(connection);
            }
            let answer = client.response().await;
            assert_eq!((answer.status.as_u16(), &*answer.text()), (413, "big"));
        }
        // Whoever comes next is not told of it.
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

/// A process of its own, whose memory is nobody else's. `CUPBEARER_BODY_MIB` makes the bodies larger.
#[tokio::test]
async fn large_bodies_take_no_memory() {
    let size = std::env::var("CUPBEARER_BODY_MIB").map_or(96, |size| size.parse().unwrap());
    let size: usize = size * 1024 * 1024;
    let world = World::new();
    for offer in [HTTP1, HTTP2] {
        let received = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&received);
        let upstream = Server::start(
            &world.authority,
            offer,
            move |request: Request<Incoming>| {
                let received = Arc::clone(&count);
                async move {
                    let mut upload = request.into_body();
                    while let Some(frame) = upload.frame().await {
                        let length = frame.unwrap().into_data().map_or(0, |data| data.len());
                        received.fetch_add(length, Ordering::Relaxed);
                    }
                    Response::new(zeros(size))
                }
            },
        )
        .await;
        let config = server("") + &world.upstream("api", &upstream.url(), "");
        world.write("cupbearer.toml", &config);
        let mut proxy = Command::new(env!("CARGO_BIN_EXE_cupbearer"))
            .args(["run", "--config"])
            .arg(world.path("cupbearer.toml"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let address = listening(&mut proxy).await;
        let before = peak(&proxy);
        let mut client = Client::connect(address).await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
            ))
            .await;
        let block = vec![0; 1024 * 1024];
        for _ in 0..size / block.len() {
            client.send(&block).await;
        }
        let head = client.head().await;
        assert_eq!(head.status(), 200);
        assert_eq!(received.load(Ordering::Relaxed), size);
        assert_eq!(head.get("transfer-encoding"), Some("chunked"));
        let mut downloaded = 0;
        while let Some(chunk) = client.chunk().await.unwrap() {
            downloaded += chunk.len();
        }
        assert_eq!(downloaded, size);

        received.store(0, Ordering::Relaxed);
        let mut client = Http2Client::connect(address).await;
        let request = client.request("POST", "/").body(zeros(size)).unwrap();
        let mut body = client.send(request).await.unwrap().into_body();
        assert_eq!(received.load(Ordering::Relaxed), size);
        let mut downloaded = 0;
        while let Some(frame) = soon("more of the answer", body.frame()).await {
            downloaded += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        assert_eq!(downloaded, size);
        let grown = peak(&proxy).saturating_sub(before);
        assert!(
            grown < 24 * 1024,
            "{grown} KiB more at the peak, HTTP/2: {}",
            offer.http2
        );
        proxy.kill().await.unwrap();
    }
}

/// So many bytes, made when they are asked for.
fn zeros(size: usize) -> crate::client::Frames {
    let (sender, body) = frames();
    tokio::spawn(async move {
        let block = Bytes::from_static(&[0; 64 * 1024]);
        for _ in 0..size / block.len() {
            sender.send(Ok(Frame::data(block.clone()))).unwrap();
        }
    });
    body
}

/// Where it says that it listens.
async fn listening(proxy: &mut tokio::process::Child) -> std::net::SocketAddr {
    let mut lines = BufReader::new(proxy.stderr.take().unwrap()).lines();
    let address = soon("the address", async {
        while let Some(line) = lines.next_line().await.unwrap() {
            println!("{line}");
            if let Some((_, rest)) = line.split_once("http://127.0.0.1:") {
                let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                return format!("127.0.0.1:{port}").parse().unwrap();
            }
        }
        panic!("it ended without listening");
    })
    .await;
    // Whatever else it says is not to block it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    address
}

/// KiB that were resident at the most.
fn peak(proxy: &tokio::process::Child) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.id().unwrap())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
