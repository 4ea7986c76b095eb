//! Apps that speak HTTP/2 with prior knowledge, frame by frame.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::Frame;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::client::frames;
use crate::harness::{App, World, eventually, server, soon, with_app};
use crate::upstream::{HTTP2, Script, Server};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ONE: &str = "max_in_flight = 1\n";

struct Client {
    sender: SendRequest<Bytes>,
    authority: String,
}

impl Client {
    /// Whose streams take `window` bytes of an answer before it says more.
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

    async fn ask(
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

async fn answer(response: ResponseFuture) -> Response<h2::RecvStream> {
    soon("an answer", response).await.unwrap()
}

/// Everything of a body, with its trailers.
async fn whole(mut body: h2::RecvStream) -> Result<(String, Option<HeaderMap>), h2::Error> {
    let mut text = Vec::new();
    while let Some(data) = soon("a body", poll_fn(|cx| body.poll_data(cx))).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        text.extend_from_slice(&data);
    }
    let trailers = soon("its end", body.trailers()).await?;
    Ok((String::from_utf8(text).unwrap(), trailers))
}

async fn in_flight(app: &App) -> f64 {
    app.metric("cupbearer_requests_in_flight{upstream=\"api\"}")
        .await
}

/// hyper's server cannot send 1xx over HTTP/2. An app that offers to wait gets no `100 Continue`, and
/// its upload is forwarded whenever it comes (RFC 9110 §10.1.1).
#[tokio::test]
async fn an_upload_that_offers_to_wait_is_taken_without_100() {
    let world = World::new();
    let upstream = Script::tls(&world.authority).await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        let expect = ("expect", "100-continue");
        let (mut response, mut upload) = client.ask("PUT", &[expect], false).await;
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
        assert!(soon("no 1xx", early).await.is_none());
        let answer = answer(response).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers().get("link"), None);
    })
    .await;
}

/// An app that grants no window, or none any more, loses its connection.
#[tokio::test]
async fn an_app_that_takes_nothing_of_its_answer() {
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
                let (response, _) = client.ask("GET", &[], true).await;
                let (mut connection, _) = upstream.request().await;
                connection
                    .send(format!("HTTP/1.1 200 OK\r\n{framing}"))
                    .await;
                let mut body = answer(response).await.into_body();
                // hyper hands a frame to h2 as soon as the window has room for a byte of it.
                connection.send(more).await;
                // What fits into the window comes, and then the end.
                let mut came = 0;
                let error = loop {
                    match soon("the end", poll_fn(|cx| body.poll_data(cx))).await {
                        Some(Ok(data)) => came += data.len(),
                        Some(Err(error)) => break error,
                        None => panic!("it looks like the whole"),
                    }
                };
                assert_eq!(came, window as usize);
                assert_ne!(error.reason(), Some(Reason::NO_ERROR));
                connection.closed().await;
                eventually("the place", async || in_flight(app).await == 0.0).await;
            }
        }
    })
    .await;
}

/// As long as it takes something now and then, nobody hurries it: all of it takes longer than `body_timeout`.
#[tokio::test]
async fn an_app_that_takes_its_time() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("body_timeout = \"1s\"") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 1).await;
        let (response, _) = client.ask("GET", &[], true).await;
        let (mut connection, _) = upstream.request().await;
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nslowly..")
            .await;
        let mut body = answer(response).await.into_body();
        let mut text = Vec::new();
        while let Some(data) = soon("a part", poll_fn(|cx| body.poll_data(cx))).await {
            text.extend_from_slice(&data.unwrap());
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            body.flow_control().release_capacity(1).unwrap();
        }
        assert_eq!(text, b"slowly..");
    })
    .await;
}

/// Slowloris in a body, with and without a stated length.
#[tokio::test]
async fn an_app_that_stands_still_in_its_body() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("body_timeout = \"200ms\"") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        for fields in [&[("content-length", "9")][..], &[]] {
            let (response, mut upload) = client.ask("POST", fields, false).await;
            upload.send_data(Bytes::from("a"), false).unwrap();
            let (mut connection, _) = upstream.request().await;
            let answer = answer(response).await;
            assert_eq!(answer.status(), 408);
            assert!(
                whole(answer.into_body())
                    .await
                    .unwrap()
                    .0
                    .contains("request_timeout")
            );
            // Nobody takes what came for the whole.
            let rest = connection.read_to_end().await;
            assert!(rest.is_ok_and(|rest| !rest.ends_with(b"0\r\n\r\n")));
            eventually("the place", async || in_flight(app).await == 0.0).await;
        }
    })
    .await;
}

/// However the stream is reset: what came of it is a part.
#[tokio::test]
async fn an_upload_that_is_given_up_is_not_whole() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("") + &world.upstream("api", &upstream.url(), ONE);
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
            for answered in [false, true] {
                let (response, mut upload) = client.ask("POST", &[], false).await;
                upload.send_data(Bytes::from("a part"), false).unwrap();
                let (mut connection, _) = upstream.request().await;
                assert_eq!(connection.chunk().await.unwrap().unwrap(), b"a part");
                let begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let mut response = Some(response);
                let mut body = None;
                if answered && let Some(response) = response.take() {
                    connection.send(begun).await;
                    body = Some(answer(response).await);
                }
                upload.send_reset(reason);
                let rest = connection.read_to_end().await;
                assert!(rest.is_err() || rest.is_ok_and(|rest| rest.is_empty()));
                eventually("the place", async || in_flight(app).await == 0.0).await;
                drop((response, body));
            }
        }
    })
    .await;
}

/// RFC 9110 §9.3.2: not of our own errors, either.
#[tokio::test]
async fn an_answer_to_head_has_no_body() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("") + &world.upstream("api", &upstream.url(), "allow = [\"GET /**\"]\n");
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        let (response, _) = client.ask("HEAD", &[("content-type", "x")], true).await;
        let answer = answer(response).await;
        assert_eq!(answer.status(), 403);
        let length: usize = answer.headers()["content-length"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(length > 0);
        assert_eq!(whole(answer.into_body()).await.unwrap().0, "");
    })
    .await;
}

#[tokio::test]
async fn trailers_come_without_what_is_for_heads() {
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
        for (host, by_script) in [("localhost", true), ("127.0.0.1", false)] {
            client.authority = format!("{host}:{}", app.address().port());
            let (response, _) = client.ask("GET", &[("te", "trailers")], true).await;
            if by_script {
                let (mut connection, _) = http1.request().await;
                connection
                    .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n")
                    .await;
            }
            let answer = answer(response).await;
            assert!(answer.headers().contains_key("date"));
            let (text, trailers) = whole(answer.into_body()).await.unwrap();
            let trailers = trailers.unwrap();
            assert_eq!((text.as_str(), trailers.len()), ("ok", 1), "{host}");
            assert_eq!(trailers["x-sum"], "1");
        }
    })
    .await;
}

/// RFC 9110 §8.6: with these it would be the length of something else. Their bodies end later, as those of most responses do.
#[tokio::test]
async fn no_length_is_made_up_where_nothing_follows() {
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
            let (response, _) = client.ask(method, &[("x-status", status)], true).await;
            let answer = answer(response).await;
            assert_eq!(answer.status(), status.parse::<u16>().unwrap());
            assert_eq!(answer.headers().get("content-length"), None, "{status}");
            drop(kept.recv().await);
            assert_eq!(whole(answer.into_body()).await.unwrap().0, "");
        }
    })
    .await;
}

/// An upload that waits for a connection to one upstream holds up none to another on the same connection of the app's.
#[tokio::test]
async fn uploads_that_stand_still_hold_up_no_others() {
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
            let (response, mut upload) = client.ask("POST", &[], false).await;
            upload
                .send_data(vec![b'.'; 1024 * 1024].into(), false)
                .unwrap();
            waiting.push((response, upload));
        }
        client.authority = format!("127.0.0.1:{port}");
        let (response, mut upload) = client.ask("POST", &[], false).await;
        upload.send_data("body".into(), true).unwrap();
        let (mut connection, _) = upstream.request().await;
        assert_eq!(connection.chunk().await.unwrap().unwrap(), b"body");
        connection.send(OK).await;
        assert_eq!(answer(response).await.status(), 200);
    })
    .await;
}

/// As by HTTP/1.1: 64 KiB, 256 fields, no whitespace around a value, and one opinion about the host. Our own answers, whoever found it.
#[tokio::test]
async fn heads_that_are_not_forwarded() {
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
            let (response, _) = client.ask("GET", fields, true).await;
            let answer = answer(response).await;
            assert_eq!(answer.status(), status);
            assert!(answer.headers().contains_key("proxy-status"));
            let (text, _) = whole(answer.into_body()).await.unwrap();
            assert!(text.contains(code), "{text}");
        }
        let grpc = [&long[..], &[("content-type", "application/grpc")]].concat();
        let (response, _) = client.ask("POST", &grpc, true).await;
        let answer = answer(response).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key("grpc-status"));
    })
    .await;
}

/// h2 leaves out what is too much, and says nothing of that.
#[tokio::test]
async fn trailers_that_are_too_large_are_not_cut() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut client = Client::connect(app, 65_535).await;
        for (count, size) in [(72, 1000), (257, 1)] {
            let (response, mut upload) = client.ask("POST", &[], false).await;
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
            assert_eq!(answer(response).await.status(), 400, "{count}");
        }
    })
    .await;
}
