//! Apps that speak HTTP/2 with prior knowledge: uploads, flow control, resets, limits and trailers.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::Frame;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::checks::{OK, none_in_flight};
use crate::client::frames;
use crate::harness::{App, World, server, soon, with_app};
use crate::upstream::{HTTP2, Script, Server};

/// With one permit, a leaked permit blocks the next request.
const ONE: &str = "max_in_flight = 1\n";

/// An app whose test reads and writes single frames.
struct Client {
    sender: SendRequest<Bytes>,
    authority: String,
}

impl Client {
    /// `window` is the initial flow-control window of each stream, in bytes.
    async fn connect(app: &App, window: u32) -> Self {
        let address = app.address();
        let stream = TcpStream::connect(address).await.unwrap();
        let handshake = Builder::new().initial_window_size(window).handshake(stream);
        let (sender, connection) = soon("a handshake", handshake).await.unwrap();
        tokio::spawn(connection);
        Self {
            sender,
            authority: address.to_string(),
        }
    }

    async fn request(
        &mut self,
        method: &str,
        fields: &[(&str, &str)],
        ended: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let uri = format!("http://{}/x", self.authority);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let ready = poll_fn(|cx| self.sender.poll_ready(cx));
        soon("a stream", ready).await.unwrap();
        let request = request.body(()).unwrap();
        self.sender.send_request(request, ended).unwrap()
    }
}

async fn response_head(response: ResponseFuture) -> Response<h2::RecvStream> {
    soon("the response head", response).await.unwrap()
}

/// Reads a body to its end. Returns its text and trailers.
async fn collect(mut body: h2::RecvStream) -> Result<(String, Option<HeaderMap>), h2::Error> {
    let mut text = Vec::new();
    while let Some(data) = soon("data", poll_fn(|cx| body.poll_data(cx))).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        text.extend_from_slice(&data);
    }
    let trailers = soon("the trailers", body.trailers()).await?;
    Ok((String::from_utf8(text).unwrap(), trailers))
}

/// hyper's server cannot send 1xx over HTTP/2. RFC 9110 §10.1.1 lets the app send its body without
/// `100 Continue`.
#[tokio::test]
async fn an_upload_that_expects_100_is_forwarded_without_it() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        let expect = ("expect", "100-continue");
        let (mut response, mut upload) = client.request("PUT", &[expect], false).await;
        let (mut connection, head) = upstream.request().await;
        assert_eq!(head.get("expect"), None);
        connection
            .send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            .await;
        upload.send_data(Bytes::from("body"), true).unwrap();
        assert_eq!(connection.chunk().await.unwrap().unwrap(), b"body");
        assert_eq!(connection.chunk().await.unwrap(), None);
        connection.send(OK).await;
        let early = poll_fn(|cx| response.poll_informational(cx));
        assert!(soon("the end of the 1xx responses", early).await.is_none());
        let response = response_head(response).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers().get("link"), None);
    })
    .await;
}

#[tokio::test]
async fn a_response_is_reset_if_the_app_grants_no_window_for_body_timeout() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("body_timeout = \"300ms\"") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        for window in [0, 1] {
            for (framing, more) in [
                ("Content-Length: 9\r\n\r\nto be", " or"),
                (
                    "Transfer-Encoding: chunked\r\n\r\n2\r\nto\r\n",
                    "2\r\nbe\r\n",
                ),
            ] {
                let mut client = Client::connect(app, window).await;
                let (response, _) = client.request("GET", &[], true).await;
                let (mut connection, _) = upstream.request().await;
                connection
                    .send(format!("HTTP/1.1 200 OK\r\n{framing}"))
                    .await;
                let mut body = response_head(response).await.into_body();
                // hyper hands a frame to h2 as soon as the window has room for one byte.
                connection.send(more).await;
                // The app gets what fits into the window, then the reset.
                let mut received = 0;
                let error = loop {
                    match soon("the reset", poll_fn(|cx| body.poll_data(cx))).await {
                        Some(Ok(data)) => received += data.len(),
                        Some(Err(error)) => break error,
                        None => panic!("the incomplete body ended like a complete one"),
                    }
                };
                assert_eq!(received, window as usize);
                assert_ne!(error.reason(), Some(Reason::NO_ERROR));
                connection.closed().await;
                none_in_flight(app).await;
            }
        }
    })
    .await;
}

/// The whole body takes longer than `body_timeout`; each byte does not.
#[tokio::test]
async fn a_slow_app_gets_its_response_as_long_as_it_reads() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("body_timeout = \"1s\"") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 1).await;
        let (response, _) = client.request("GET", &[], true).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nslowly..")
            .await;
        let mut body = response_head(response).await.into_body();
        let mut text = Vec::new();
        while let Some(data) = soon("a byte", poll_fn(|cx| body.poll_data(cx))).await {
            text.extend_from_slice(&data.unwrap());
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            body.flow_control().release_capacity(1).unwrap();
        }
        assert_eq!(text, b"slowly..");
    })
    .await;
}

/// Slowloris in a body, with and without a `content-length`.
#[tokio::test]
async fn a_stalled_upload_gets_408_after_body_timeout() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("body_timeout = \"200ms\"") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        for fields in [&[("content-length", "9")][..], &[]] {
            let (response, mut upload) = client.request("POST", fields, false).await;
            upload.send_data(Bytes::from("a"), false).unwrap();
            let (mut connection, _) = upstream.request().await;
            let response = response_head(response).await;
            assert_eq!(response.status(), 408);
            assert!(
                collect(response.into_body())
                    .await
                    .unwrap()
                    .0
                    .contains("request_timeout")
            );
            // The incomplete upload does not look complete to the upstream.
            let rest = connection.read_to_end().await;
            assert!(rest.is_ok_and(|rest| !rest.ends_with(b"0\r\n\r\n")));
            none_in_flight(app).await;
        }
    })
    .await;
}

/// Whatever the error code of RST_STREAM, the upstream does not see the end of the body.
#[tokio::test]
async fn a_reset_upload_does_not_look_complete_to_the_upstream() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
            for has_response in [false, true] {
                let (response, mut upload) = client.request("POST", &[], false).await;
                upload.send_data(Bytes::from("a part"), false).unwrap();
                let (mut connection, _) = upstream.request().await;
                assert_eq!(connection.chunk().await.unwrap().unwrap(), b"a part");
                let head_only = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let mut response = Some(response);
                let mut body = None;
                if has_response && let Some(response) = response.take() {
                    connection.send(head_only).await;
                    body = Some(response_head(response).await);
                }
                upload.send_reset(reason);
                let rest = connection.read_to_end().await;
                assert!(rest.is_err() || rest.is_ok_and(|rest| rest.is_empty()));
                none_in_flight(app).await;
                drop((response, body));
            }
        }
    })
    .await;
}

/// RFC 9110 §9.3.2: also if the response is one of Cupbearer's errors.
#[tokio::test]
async fn a_response_to_head_has_no_body() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("") + &world.upstream("api", &upstream.url(), "allow = [\"GET /**\"]\n");
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        let (response, _) = client.request("HEAD", &[("content-type", "x")], true).await;
        let response = response_head(response).await;
        assert_eq!(response.status(), 403);
        let length: usize = response.headers()["content-length"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(length > 0);
        assert_eq!(collect(response.into_body()).await.unwrap().0, "");
    })
    .await;
}

#[tokio::test]
async fn trailers_are_forwarded_without_fields_that_belong_in_a_head() {
    let world = World::new();
    let http1 = Script::plain().await;
    let http2 = Server::start(&world.authority, HTTP2, |_| async {
        let (sender, body) = frames();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        trailers.insert("set-cookie", "a=b".parse().unwrap());
        sender.send(Ok(Frame::data("ok".into()))).unwrap();
        sender.send(Ok(Frame::trailers(trailers))).unwrap();
        Response::new(body)
    })
    .await;
    let config = server("")
        + &world.upstream("one", &http1.url(), "route = { host = \"localhost\" }")
        + &world.upstream("two", &http2.url(), "");
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        for (host, http1_upstream) in [("localhost", true), ("127.0.0.1", false)] {
            client.authority = format!("{host}:{}", app.address().port());
            let (response, _) = client.request("GET", &[("te", "trailers")], true).await;
            if http1_upstream {
                let (mut connection, _) = http1.request().await;
                connection
                    .send(
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n\
                         0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n",
                    )
                    .await;
            }
            let response = response_head(response).await;
            assert!(response.headers().contains_key("date"));
            let (text, trailers) = collect(response.into_body()).await.unwrap();
            let trailers = trailers.unwrap();
            assert_eq!((text.as_str(), trailers.len()), ("ok", 1), "{host}");
            assert_eq!(trailers["x-sum"], "1");
        }
    })
    .await;
}

/// RFC 9110 §8.6: in these responses, `content-length: 0` would state the length of the
/// representation. The upstream ends each stream only after its head.
#[tokio::test]
async fn no_content_length_is_added_to_responses_to_head_204_and_304() {
    let world = World::new();
    let (keep, mut kept) = mpsc::unbounded_channel();
    let upstream = Server::start(&world.authority, HTTP2, move |request| {
        let keep = keep.clone();
        async move {
            let (sender, body) = frames();
            keep.send(sender).unwrap();
            let status = request.headers()["x-status"].to_str().unwrap();
            Response::builder().status(status).body(body).unwrap()
        }
    })
    .await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        for (method, status) in [("HEAD", "200"), ("GET", "204"), ("GET", "304")] {
            let (response, _) = client.request(method, &[("x-status", status)], true).await;
            let response = response_head(response).await;
            assert_eq!(response.status(), status.parse::<u16>().unwrap());
            assert_eq!(response.headers().get("content-length"), None, "{status}");
            drop(kept.recv().await);
            assert_eq!(collect(response.into_body()).await.unwrap().0, "");
        }
    })
    .await;
}

/// Uploads to an unreachable upstream leave room in the connection's flow-control window.
#[tokio::test]
async fn stalled_uploads_do_not_block_other_streams_of_the_connection() {
    let world = World::new();
    let silent = Script::plain().await;
    let url = format!("https://{}", silent.address());
    let upstream = Script::plain().await;
    let slow = "route = { host = \"localhost\" }\ntimeouts = { connect = \"10m\" }\n";
    let config = server("")
        + &world.upstream("slow", &url, slow)
        + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        let port = app.address().port();
        client.authority = format!("localhost:{port}");
        let mut waiting = Vec::new();
        for _ in 0..8 {
            let (response, mut upload) = client.request("POST", &[], false).await;
            upload
                .send_data(vec![b'.'; 1024 * 1024].into(), false)
                .unwrap();
            waiting.push((response, upload));
        }
        client.authority = format!("127.0.0.1:{port}");
        let (response, mut upload) = client.request("POST", &[], false).await;
        upload.send_data("body".into(), true).unwrap();
        let (mut connection, _) = upstream.request().await;
        assert_eq!(connection.chunk().await.unwrap().unwrap(), b"body");
        connection.send(OK).await;
        assert_eq!(response_head(response).await.status(), 200);
    })
    .await;
}

/// The limits of HTTP/1.1: 64 KiB, 256 fields, no whitespace around values, and a `host` equal to
/// `:authority`. Cupbearer sends its own error even if h2 detects the violation.
#[tokio::test]
async fn a_head_beyond_the_limits_gets_an_error() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    let long = "x".repeat(1000);
    let name = |n: usize| format!("x-{n}");
    let names: Vec<_> = (0..257).map(name).collect();
    let long: Vec<_> = names[..70].iter().map(|name| (&**name, &*long)).collect();
    let many: Vec<_> = names.iter().map(|name| (&**name, "")).collect();
    let cases = [
        (&long[..], 431, "headers_too_large"),
        (&many, 431, "headers_too_large"),
        (&[("x", " a")], 400, "bad_request"),
        (&[("x", "a\t")], 400, "bad_request"),
        (&[("host", "other.test")], 400, "bad_request"),
    ];
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        for (fields, status, code) in cases {
            let (response, _) = client.request("GET", fields, true).await;
            let response = response_head(response).await;
            assert_eq!(response.status(), status);
            assert!(response.headers().contains_key("proxy-status"));
            let (text, _) = collect(response.into_body()).await.unwrap();
            assert!(text.contains(code), "{text}");
        }
        let grpc = [&long[..], &[("content-type", "application/grpc")]].concat();
        let (response, _) = client.request("POST", &grpc, true).await;
        let response = response_head(response).await;
        assert_eq!(response.status(), 200);
        assert!(response.headers().contains_key("grpc-status"));
    })
    .await;
}

/// h2 silently drops the trailers beyond its limit, so Cupbearer must refuse the whole request.
#[tokio::test]
async fn too_large_trailers_get_400_instead_of_being_truncated() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        for (count, size) in [(72, 1000), (257, 1)] {
            let (response, mut upload) = client.request("POST", &[], false).await;
            upload.send_data("body".into(), false).unwrap();
            let (mut connection, _) = upstream.request().await;
            assert_eq!(connection.chunk().await.unwrap().unwrap(), b"body");
            let mut trailers = HeaderMap::new();
            for n in 0..count {
                let name: HeaderName = format!("x-{n}").parse().unwrap();
                trailers.insert(name, "x".repeat(size).parse().unwrap());
            }
            upload.send_trailers(trailers).unwrap();
            let rest = connection.read_to_end().await;
            assert!(rest.is_err() || rest.is_ok_and(|rest| rest.is_empty()));
            assert_eq!(response_head(response).await.status(), 400, "{count}");
        }
    })
    .await;
}
