//! gRPC metadata, status and cancellation, trailers, ranges, early responses and large bodies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::checks::{GET, OK, number_from_environment};
use crate::cli::Running;
use crate::client::{Client, Frames, Http2Client, frames, whole};
use crate::harness::{World, eventually, server, soon, with_app};
use crate::upstream::{HTTP1, HTTP2, Script, Server};

#[tokio::test]
async fn grpc_metadata_deadline_and_status_are_forwarded() {
    let world = World::new();
    let upstream = Server::start(&world.authority, HTTP2, answer_grpc).await;
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
            let response = client.send(request).await.unwrap();
            assert_eq!(response.status(), 200);
            if trailers_only {
                assert_eq!(response.headers()["grpc-status"], "5");
                assert_eq!(response.headers()["grpc-message"], "not%20here");
                // It is not one of Cupbearer's errors.
                assert!(!response.headers().contains_key("proxy-status"));
                continue;
            }
            assert_eq!(response.headers()["initial"], "1");
            let body = soon("the end of the call", response.into_body().collect()).await;
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

/// Checks the forwarded metadata. Responds with trailers only, or with the message and trailers.
async fn answer_grpc(request: Request<Incoming>) -> Response<Frames> {
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
}

#[tokio::test]
async fn a_cancelled_call_is_reset_at_the_upstream_and_returns_its_permit() {
    let world = World::new();
    for offer in [HTTP1, HTTP2] {
        let (report_reset, mut reset) = mpsc::unbounded_channel();
        let upstream = Server::start(
            &world.authority,
            offer,
            move |request: Request<Incoming>| {
                let report_reset = report_reset.clone();
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
                                // An end of stream would look like a complete upload.
                                let _ = report_reset.send(());
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
            let mut response = client.send(request).await.unwrap().into_body();
            let frame = soon("an echo", response.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "one");
            assert_eq!(app.get("/whole").await.code(), "overloaded");
            drop(response);
            sender
                .send(Err(std::io::Error::other("cancelled")))
                .unwrap();
            drop(sender);
            soon(
                &format!("a reset at the upstream, HTTP/2: {}", offer.http2),
                reset.recv(),
            )
            .await
            .unwrap();
            eventually("a free permit", async || {
                app.get("/whole").await.text() == "ok"
            })
            .await;
        })
        .await;
    }
}

/// RFC 9110 §6.5.1: the app announces with `TE: trailers` that responses may have trailers.
#[tokio::test]
async fn trailers_of_chunked_bodies_are_forwarded_in_both_directions() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nConnection: TE\r\n\
                 Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n\
                 0\r\nX-Sum: 7\r\nAuthorization: mine\r\n\r\n",
            )
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("trailer"), Some("X-Sum"));
        let expected = "2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n";
        let rest = connection.exactly(expected.len()).await.unwrap();
        assert_eq!(String::from_utf8(rest).unwrap(), expected);
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

/// RFC 9110 §14: ranges are end to end.
#[tokio::test]
async fn range_requests_and_responses_are_forwarded() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client
            .send(
                "GET /film HTTP/1.1\r\nHost: localhost\r\n\
                 Range: bytes=2-4,7-\r\nIf-Range: \"a\"\r\n\r\n",
            )
            .await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("range"), Some("bytes=2-4,7-"));
        assert_eq!(head.get("if-range"), Some("\"a\""));
        connection
            .send(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/10\r\n\
                 Accept-Ranges: bytes\r\nContent-Length: 3\r\n\r\nabc",
            )
            .await;
        let response = client.response().await;
        assert_eq!((response.status.as_u16(), &*response.text()), (206, "abc"));
        assert_eq!(response.head.get("content-range"), Some("bytes 2-4/10"));
        assert_eq!(response.head.get("accept-ranges"), Some("bytes"));
        client
            .send("GET /film HTTP/1.1\r\nHost: localhost\r\nRange: bytes=99-\r\n\r\n")
            .await;
        connection.head().await;
        connection
            .send(
                "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */10\r\n\
                 Content-Length: 0\r\n\r\n",
            )
            .await;
        let response = client.response().await;
        assert_eq!(response.status, 416);
        assert_eq!(response.head.get("content-range"), Some("bytes */10"));
    })
    .await;
}

/// The upstream may close its connection after the early response, or keep it open.
#[tokio::test]
async fn a_response_before_the_end_of_the_upload_is_forwarded() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        for closes in [true, false] {
            let mut client = app.connect().await;
            client
                .send(
                    "POST / HTTP/1.1\r\nHost: localhost\r\n\
                     Content-Length: 100000000\r\n\r\nsome",
                )
                .await;
            let (mut connection, _) = upstream.request().await;
            connection.exactly(4).await.unwrap();
            connection
                .send(
                    "HTTP/1.1 413 Content Too Large\r\n\
                     Content-Length: 3\r\nConnection: close\r\n\r\nbig",
                )
                .await;
            if closes {
                connection.finish().await;
                drop(connection);
            }
            let response = client.response().await;
            assert_eq!((response.status.as_u16(), &*response.text()), (413, "big"));
        }
        // The next request is not affected.
        let mut client = app.connect().await;
        client.send(GET).await;
        let (mut connection, _) = upstream.request().await;
        connection.send(OK).await;
        assert_eq!(client.response().await.text(), "ok");
    })
    .await;
}

/// Runs the program as a process to measure its memory. `CUPBEARER_BODY_MIB` sets the body size.
#[tokio::test]
async fn large_bodies_are_streamed_in_constant_memory() {
    let mebibytes = number_from_environment("CUPBEARER_BODY_MIB").unwrap_or(96);
    let size = usize::try_from(mebibytes).unwrap() * 1024 * 1024;
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
        let proxy = Running::start(&world, &["run"]).await;
        let address = proxy.listen.parse().unwrap();
        let before = peak_memory(&proxy);
        assert_eq!(transfer_by_http1(address, size).await, size);
        assert_eq!(received.swap(0, Ordering::Relaxed), size);
        assert_eq!(transfer_by_http2(address, size).await, size);
        assert_eq!(received.swap(0, Ordering::Relaxed), size);
        let grown = peak_memory(&proxy).saturating_sub(before);
        assert!(
            grown < 24 * 1024,
            "peak memory grew by {grown} KiB, HTTP/2: {}",
            offer.http2
        );
    }
}

/// Uploads `size` bytes by HTTP/1.1. Returns the length of the response body.
async fn transfer_by_http1(address: SocketAddr, size: usize) -> usize {
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
    assert_eq!(head.get("transfer-encoding"), Some("chunked"));
    let mut downloaded = 0;
    while let Some(chunk) = client.chunk().await.unwrap() {
        downloaded += chunk.len();
    }
    downloaded
}

/// Uploads `size` bytes by HTTP/2. Returns the length of the response body.
async fn transfer_by_http2(address: SocketAddr, size: usize) -> usize {
    let mut client = Http2Client::connect(address).await;
    let request = client.request("POST", "/").body(zeros(size)).unwrap();
    let mut body = client.send(request).await.unwrap().into_body();
    let mut downloaded = 0;
    while let Some(frame) = soon("more of the response", body.frame()).await {
        downloaded += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    downloaded
}

/// Returns a body of `size` zero bytes.
fn zeros(size: usize) -> Frames {
    let (sender, body) = frames();
    tokio::spawn(async move {
        let block = Bytes::from_static(&[0; 64 * 1024]);
        for _ in 0..size / block.len() {
            sender.send(Ok(Frame::data(block.clone()))).unwrap();
        }
    });
    body
}

/// Returns the peak resident memory in KiB.
fn peak_memory(proxy: &Running) -> usize {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", proxy.child.id().unwrap())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
