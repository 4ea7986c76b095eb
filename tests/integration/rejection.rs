//! An API rejects a token: Cupbearer fetches a new one and sends the request again.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{Mutex, mpsc};

use crate::client::{Client, Frames, Http2Client, whole};
use crate::endpoint::{Endpoint, Received, config, echo, json, provider, response, token_response};
use crate::harness::{World, eventually, server, soon, with_app};
use crate::upstream::{HTTP2, Script, Server};

/// So that no test waits between two fetches.
const EAGER: &str = "min_interval = \"1ms\"";

const POST: &str = "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";

async fn rejecting(_: Received) -> String {
    response("401 Unauthorized", "", "no")
}

/// The credentials of all requests so far.
fn credentials(api: &Endpoint) -> Vec<String> {
    api.received().iter().map(Received::credential).collect()
}

fn replays(result: &str) -> String {
    format!("cupbearer_replays_total{{result=\"{result}\",upstream=\"api\"}}")
}

/// The response time-out is the API's: what a renewal takes does not count.
#[tokio::test]
async fn the_time_of_a_renewal_is_not_the_apis() {
    let fetches = Arc::new(AtomicUsize::new(0));
    let vendor = Endpoint::start(move |asked: Received| {
        let renewal = fetches.fetch_add(1, Ordering::Relaxed) > 0;
        async move {
            if renewal {
                tokio::time::sleep(Duration::from_millis(1300)).await;
            }
            token_response(asked).await
        }
    })
    .await;
    let api = Endpoint::start(|asked: Received| async move {
        match asked.credential().as_str() {
            "Bearer t1" => rejecting(asked).await,
            _ => echo(asked).await,
        }
    })
    .await;
    let keys = "timeouts = { response = \"1s\" }";
    with_app(&config(&vendor, &api, EAGER, keys), async |app| {
        let seen = app.get("/x").await;
        assert_eq!((seen.status.as_u16(), &*seen.text()), (200, "Bearer t2"));
    })
    .await;
}

/// An API that takes every token, except for one path: so that its rejections are believed each time, and only the number of attempts
/// ends them.
#[tokio::test]
async fn at_most_three_attempts_each_with_a_newer_token() {
    let vendor = Endpoint::start(token_response).await;
    let proxy = Arc::new(OnceLock::new());
    let known = Arc::clone(&proxy);
    let api = Endpoint::start(move |asked: Received| {
        let proxy = Arc::clone(&known);
        async move {
            if !asked.head.first.starts_with("GET /never ") {
                return echo(asked).await;
            }
            let seen = Client::connect(*proxy.get().unwrap()).await.get("/x").await;
            assert_eq!(seen.text(), asked.credential());
            rejecting(asked).await
        }
    })
    .await;
    with_app(&config(&vendor, &api, EAGER, ""), async |app| {
        proxy.set(app.address()).unwrap();
        let seen = app.get("/never").await;
        assert_eq!((seen.status.as_u16(), &*seen.text()), (401, "no"));
        assert_eq!(
            seen.head.get("proxy-status"),
            Some("cupbearer; received-status=401")
        );
        let mut sent = credentials(&api);
        sent.dedup();
        assert_eq!(sent, ["Bearer t1", "Bearer t2", "Bearer t3"]);
        // Its own attempts, and one accepted request during each of them.
        assert_eq!(api.count(), 6);
        let rejections = app
            .metric("cupbearer_token_rejections_total{upstream=\"api\"}")
            .await;
        assert_eq!(rejections, 3.0);
        assert_eq!(app.metric(&replays("rejected")).await, 1.0);
        // The last rejection is worth a renewal, too.
        eventually("a renewal", async || vendor.count() == 4).await;
    })
    .await;
}

/// RFC 6750 §3.1: the token is good, and may not do this.
#[tokio::test]
async fn insufficient_scope_burns_nothing() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(|_| async {
        let field = "WWW-Authenticate: Bearer realm=\"x\", error=\"insufficient_scope\"\r\n";
        response("401 Unauthorized", field, "not yours")
    })
    .await;
    with_app(&config(&vendor, &api, EAGER, ""), async |app| {
        for _ in 0..3 {
            let seen = app.get("/x").await;
            assert_eq!((seen.status.as_u16(), &*seen.text()), (401, "not yours"));
            assert_eq!(seen.head.get("proxy-status"), None);
        }
        assert_eq!((vendor.count(), api.count()), (1, 3));
        let rejections = app
            .metric("cupbearer_token_rejections_total{upstream=\"api\"}")
            .await;
        assert_eq!(rejections, 0.0);
    })
    .await;
}

#[tokio::test]
async fn the_same_token_again_ends_in_the_vendors_own_answer() {
    let vendor =
        Endpoint::start(|_| async { json("200 OK", r#"{"access_token":"t1","expires_in":3600}"#) })
            .await;
    let api = Endpoint::start(rejecting).await;
    with_app(&config(&vendor, &api, EAGER, ""), async |app| {
        let seen = soon("an answer at once", app.get("/x")).await;
        assert_eq!((seen.status.as_u16(), &*seen.text()), (401, "no"));
        assert_eq!(credentials(&api), ["Bearer t1"]);
        assert_eq!(vendor.count(), 2);
    })
    .await;
}

/// Whatever it gets: a broken API must not make us hammer the token endpoint.
#[tokio::test]
async fn an_api_that_accepts_nothing_is_believed_less_and_less() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(rejecting).await;
    with_app(&config(&vendor, &api, EAGER, ""), async |app| {
        let mut client = app.connect().await;
        for _ in 0..100 {
            assert_eq!(client.get("/x").await.status, 401);
        }
        // The first token, and one renewal within the first 5 s.
        assert!(vendor.count() <= 3, "{} token requests", vendor.count());
    })
    .await;
}

/// One upstream's broken API does not stop the renewals that another one asks for.
#[tokio::test]
async fn the_pauses_are_the_upstreams_own() {
    let vendor = Endpoint::start(token_response).await;
    let broken = Endpoint::start(rejecting).await;
    let dead = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&dead);
    let good = Endpoint::start(move |asked: Received| {
        let dead = says.swap(false, Ordering::Relaxed);
        async move {
            match dead {
                true => rejecting(asked).await,
                false => echo(asked).await,
            }
        }
    })
    .await;
    let other = format!(
        "[upstreams.good]\nurl = \"{}\"\nprovider = \"p\"\nroute = {{ path_prefix = \"/good\" }}\n",
        good.url()
    );
    let config = config(&vendor, &broken, EAGER, "") + &other;
    with_app(&config, async |app| {
        for _ in 0..20 {
            assert_eq!(app.get("/x").await.status, 401);
        }
        assert_eq!(app.get("/good/x").await.status, 200);
        let before = vendor.count();
        dead.store(true, Ordering::Relaxed);
        let seen = app.get("/good/x").await;
        assert_eq!(seen.text(), format!("Bearer t{}", before + 1));
    })
    .await;
}

/// `reject.body`: some APIs say it in a 200.
#[tokio::test]
async fn a_dead_token_that_is_told_in_a_200_is_renewed() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(|asked: Received| async move {
        assert_eq!(asked.head.get("accept-encoding"), Some("identity"));
        match &*asked.credential() {
            "Bearer t1" => json(
                "200 OK",
                r#"{"errcode":40001,"errmsg":"access_token expired"}"#,
            ),
            other => json("200 OK", &format!(r#"{{"errcode":0,"with":"{other}"}}"#)),
        }
    })
    .await;
    let keys = format!("{EAGER}\nreject = {{ body = {{ \"/errcode\" = [40001, 42001] }} }}");
    with_app(&config(&vendor, &api, &keys, ""), async |app| {
        let mut client = app.connect().await;
        client
            .send("GET /x HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n")
            .await;
        assert_eq!(client.response().await.json()["with"], "Bearer t2");
    })
    .await;
}

/// What is not JSON, or long, is not looked into, and nothing of it is held back.
#[tokio::test]
async fn only_short_json_is_looked_into() {
    let world = World::new();
    let api = Script::plain().await;
    let keys = "reject = { body = { \"/errcode\" = [1] } }";
    let config = server("")
        + &world.upstream("api", &api.url(), "").replacen(
            "[upstreams.api]",
            &format!("{keys}\n[upstreams.api]"),
            1,
        );
    with_app(&config, async |app| {
        for fields in [
            "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n",
            "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let mut client = app.connect().await;
            client.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            let (mut at_api, _) = api.request().await;
            at_api
                .send(format!("HTTP/1.1 200 OK\r\n{fields}\r\nd\r\n{{\"errcode\":1}}\r\n"))
                .await;
            // It has not ended, and is there all the same.
            client.head().await;
            assert_eq!(client.chunk().await.unwrap().unwrap(), b"{\"errcode\":1}");
            at_api.send("0\r\n\r\n").await;
            assert_eq!(client.chunk().await.unwrap(), None);
        }
        let mut client = app.connect().await;
        client.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let (mut at_api, _) = api.request().await;
        at_api
            .send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 70000\r\n\r\n{\"errcode\":1,")
            .await;
        let head = client.head().await;
        assert_eq!(head.get("content-length"), Some("70000"));
        assert_eq!(client.exactly(13).await.unwrap(), b"{\"errcode\":1,");
    })
    .await;
}

/// Whoever looked at it must not make a whole answer of half of one.
#[tokio::test]
async fn an_answer_that_breaks_off_while_it_is_looked_into_stays_broken() {
    let world = World::new();
    let api = Script::plain().await;
    let keys = "reject = { body = { \"/errcode\" = [1] } }";
    let config = server("")
        + &world.upstream("api", &api.url(), "").replacen(
            "[upstreams.api]",
            &format!("{keys}\n[upstreams.api]"),
            1,
        );
    // The first two would pass for whole JSON, the third is cut in the middle.
    for (fields, text) in [
        ("Transfer-Encoding: chunked\r\n", "9\r\n{\"ok\":42}\r\n"),
        ("Content-Length: 20\r\n", "{\"ok\":42}"),
        ("Transfer-Encoding: chunked\r\n", "5\r\n{\"ok\"\r\n"),
    ] {
        let broken =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{fields}\r\n{text}");
        with_app(&config, async |app| {
            let mut client = app.connect().await;
            client
                .send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            let (mut at_api, _) = api.request().await;
            at_api.send(&broken).await;
            drop(at_api);
            // An end without a head would do as well.
            let seen = client.try_response().await;
            assert!(seen.is_err(), "{text:?} arrived as {seen:?}");

            let mut client = Http2Client::connect(app.address()).await;
            let request = client.request("GET", "/x").body(whole("")).unwrap();
            let (answer, ()) = tokio::join!(client.send(request), async {
                let (mut at_api, _) = api.request().await;
                at_api.send(&broken).await;
            });
            if let Ok(answer) = answer {
                let body = answer.into_body().collect();
                let body = soon("the end of the stream", body).await;
                assert!(body.is_err(), "{text:?} arrived as {body:?}");
            }
        })
        .await;
    }
}

/// A rejection before the upload is over: what was taken of it so far is sent again, and the rest goes on from there.
#[tokio::test]
async fn an_early_rejection_replays_the_beginning_and_goes_on() {
    let world = World::new();
    let vendor = Endpoint::start(token_response).await;
    let api = Script::plain().await;
    let config = server("")
        + &provider("p", &vendor.url(), EAGER)
        + &format!(
            "[upstreams.api]\nurl = \"{}\"\nprovider = \"p\"\n",
            api.url()
        );
    drop(world);
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(format!("{POST}5\r\nfirst\r\n")).await;
        let (mut at_api, head) = api.request().await;
        assert_eq!(head.get("authorization"), Some("Bearer t1"));
        assert_eq!(at_api.chunk().await.unwrap().unwrap(), b"first");
        at_api
            .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            .await;
        let (mut at_api, head) = api.request().await;
        assert_eq!(head.get("authorization"), Some("Bearer t2"));
        assert_eq!(at_api.chunk().await.unwrap().unwrap(), b"first");
        client.send("6\r\nsecond\r\n0\r\n\r\n").await;
        assert_eq!(at_api.chunk().await.unwrap().unwrap(), b"second");
        assert_eq!(at_api.chunk().await.unwrap(), None);
        at_api
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert_eq!(client.response().await.text(), "ok");
        assert_eq!(app.metric(&replays("ok")).await, 1.0);
    })
    .await;
}

/// The same over HTTP/2, where the first stream's upload goes on by itself until it hears that it is over.
#[tokio::test]
async fn an_early_rejection_over_http2_replays_the_beginning_and_goes_on() {
    let world = World::new();
    let vendor = Endpoint::start(token_response).await;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    // Bodies of rejected requests, neither read nor dropped: the stream stays open.
    let kept: Arc<Mutex<Vec<Incoming>>> = Arc::default();
    let keeping = Arc::clone(&kept);
    let api = Server::start(
        &world.authority,
        HTTP2,
        move |request: Request<Incoming>| {
            let (arrived, kept) = (arrived.clone(), Arc::clone(&keeping));
            async move { early(request, arrived, kept).await }
        },
    )
    .await;
    let config = server("")
        + &provider("p", &vendor.url(), EAGER)
        + &format!(
            "[upstreams.api]\nurl = \"{}\"\nprovider = \"p\"\n{}",
            api.url(),
            world.tls()
        );
    with_app(&config, async |app| {
        let mut client = app.connect().await;
        client.send(format!("{POST}5\r\nfirst\r\n")).await;
        for expected in ["Bearer t1", "Bearer t2"] {
            let arrived = soon("a request", arrivals.recv()).await;
            assert_eq!(arrived.as_deref(), Some(expected));
        }
        for part in ["second", "third!"] {
            client.send(format!("6\r\n{part}\r\n")).await;
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(client.response().await.text(), "firstsecondthird!");
        // Of the first stream there is no more than what it had taken, and it did not end as if it were whole.
        let Some(first) = kept.lock().await.pop() else {
            panic!("the first request is kept");
        };
        let first = soon("the end of the first stream", first.collect()).await;
        assert!(first.is_err(), "{first:?}");
    })
    .await;
}

async fn early(
    request: Request<Incoming>,
    arrived: mpsc::UnboundedSender<String>,
    kept: Arc<Mutex<Vec<Incoming>>>,
) -> Response<Frames> {
    let credential = request.headers()["authorization"]
        .to_str()
        .unwrap()
        .to_owned();
    let dead = credential == "Bearer t1";
    arrived.send(credential).unwrap();
    if dead {
        kept.lock().await.push(request.into_body());
        return Response::builder().status(401).body(whole("")).unwrap();
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(whole(body))
}

/// Past `replay_limit` the rejection is the app's to see, and says that it was the API's.
#[tokio::test]
async fn past_the_limit_the_rejection_is_passed_on() {
    for (length, status, chunked) in [
        (1024, 200, false),
        (1025, 401, false),
        (1024, 200, true),
        (1025, 401, true),
    ] {
        let vendor = Endpoint::start(token_response).await;
        let api = Endpoint::start(|asked: Received| async move {
            match &*asked.credential() {
                "Bearer t1" => rejecting(asked).await,
                _ => echo(asked).await,
            }
        })
        .await;
        let config = config(&vendor, &api, EAGER, "replay_limit = \"1KiB\"");
        with_app(&config, async |app| {
            let body = "x".repeat(length);
            let framed = match chunked {
                true => {
                    format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n")
                }
                false => format!("Content-Length: {length}\r\n\r\n{body}"),
            };
            let request = format!("POST /x HTTP/1.1\r\nHost: localhost\r\n{framed}");
            let seen = app.connect().await.request(&request).await;
            assert_eq!(seen.status.as_u16(), status, "{length}, chunked: {chunked}");
            let told = (status == 401).then_some("cupbearer; received-status=401");
            assert_eq!(seen.head.get("proxy-status"), told);
            eventually("a renewal", async || vendor.count() == 2).await;
            assert_eq!(app.get("/x").await.text(), "Bearer t2");
        })
        .await;
    }
}

/// An upgrade is sent once; the token is renewed for the next one.
#[tokio::test]
async fn a_rejected_upgrade_is_passed_on_and_renews() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(rejecting).await;
    with_app(&config(&vendor, &api, EAGER, ""), async |app| {
        let request = "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let seen = app.connect().await.request(request).await;
        assert_eq!((seen.status.as_u16(), &*seen.text()), (401, "no"));
        assert_eq!(
            seen.head.get("proxy-status"),
            Some("cupbearer; received-status=401")
        );
        assert_eq!(api.count(), 1);
        eventually("a renewal", async || vendor.count() == 2).await;
        assert_eq!(app.metric(&replays("not_replayable")).await, 1.0);
    })
    .await;
}

/// An upgrade that lacks a right burns nothing, either.
#[tokio::test]
async fn an_upgrade_without_the_right_scope_burns_nothing() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(|_: Received| async {
        let fields = "WWW-Authenticate: Bearer error=\"insufficient_scope\"\r\n";
        response("401 Unauthorized", fields, "no")
    })
    .await;
    with_app(&config(&vendor, &api, EAGER, ""), async |app| {
        let request = "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let seen = app.connect().await.request(request).await;
        assert_eq!(seen.status.as_u16(), 401);
        assert_eq!(seen.head.get("proxy-status"), None);
        let rejections = "cupbearer_token_rejections_total{upstream=\"api\"}";
        assert_eq!(app.metric(rejections).await, 0.0);
        assert_eq!(vendor.count(), 1);
    })
    .await;
}

/// gRPC says it in a field of a 200 (a trailers-only answer).
#[tokio::test]
async fn grpc_unauthenticated_is_a_rejection() {
    let vendor = Endpoint::start(token_response).await;
    let api = Endpoint::start(|asked: Received| async move {
        let status = match &*asked.credential() {
            "Bearer t1" => 16,
            _ => 0,
        };
        let fields = format!("Content-Type: application/grpc\r\nGrpc-Status: {status}\r\n");
        response("200 OK", &fields, "")
    })
    .await;
    with_app(&config(&vendor, &api, EAGER, ""), async |app| {
        let seen = app.get("/x").await;
        assert_eq!(seen.head.get("grpc-status"), Some("0"));
        assert_eq!(credentials(&api), ["Bearer t1", "Bearer t2"]);
    })
    .await;
}

/// While a fetch is under way, a rejection waits for it and starts none.
#[tokio::test]
async fn a_rejection_waits_for_the_fetch_under_way() {
    let vendor = Endpoint::start(|asked: Received| async move {
        if asked.number == 2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        token_response(asked).await
    })
    .await;
    let dead = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&dead);
    let api = Endpoint::start(move |asked: Received| {
        let dead = says.load(Ordering::Relaxed) && asked.credential() == "Bearer t1";
        async move {
            match dead {
                true => rejecting(asked).await,
                false => echo(asked).await,
            }
        }
    })
    .await;
    with_app(&config(&vendor, &api, EAGER, ""), async |app| {
        assert_eq!(app.get("/x").await.text(), "Bearer t1");
        let mut admin = Client::connect(app.admin_address()).await;
        admin
            .send("POST /-/refresh/p HTTP/1.1\r\nHost: localhost\r\nX-Cupbearer: 1\r\nContent-Length: 0\r\n\r\n")
            .await;
        eventually("the fetch", async || vendor.count() == 2).await;
        dead.store(true, Ordering::Relaxed);
        assert_eq!(app.get("/x").await.text(), "Bearer t2");
        assert_eq!(admin.response().await.status, 200);
        assert_eq!(vendor.count(), 2);
    })
    .await;
}
