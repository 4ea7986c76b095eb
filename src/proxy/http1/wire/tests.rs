use std::future::poll_fn;
use std::time::Duration;

use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Both ends of a connection.
async fn line() -> (TcpStream, Arc<Wire>, Arc<Buffers>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    client.set_nodelay(true).unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let buffers: Arc<Buffers> = Arc::default();
    let wire = Wire::new(
        ClientStream::Tcp(server),
        Arc::clone(&buffers),
        Stall::default(),
    );
    (client, Arc::new(wire), buffers)
}

async fn request(wire: &Arc<Wire>) -> Request<AppBody> {
    let watch = Watch::default();
    let mut request = Request::default();
    match poll_fn(|cx| wire.poll_start(cx, &watch, &mut request)).await {
        Start::Request(_) => request,
        Start::Http2 | Start::Fault(_) | Start::Closed => panic!("no request"),
    }
}

async fn text(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).await.unwrap();
}

fn begin(wire: &Arc<Wire>, most: usize) -> (String, Rest) {
    let mut first = Vec::new();
    let rest = wire.begin_response(most, &mut first);
    (String::from_utf8(first).unwrap(), rest)
}

/// Fills the connection until it takes nothing more; how much that took.
async fn fill(wire: &Wire) -> usize {
    let mut filled = 0;
    // What is under way makes room once more.
    for _ in 0..20 {
        filled += write_what_fits(wire);
        sleep(Duration::from_millis(5)).await;
    }
    filled
}

fn write_what_fits(wire: &Wire) -> usize {
    let state = wire.lock();
    let Some(ClientStream::Tcp(stream)) = &state.io else {
        panic!("no socket");
    };
    let writes = std::iter::from_fn(|| stream.try_write(&[b'.'; 4096]).ok());
    writes.sum()
}

fn hints(link: &str) -> Response<()> {
    let hints = Response::builder().status(103).header("link", link);
    hints.body(()).unwrap()
}

fn poll_once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_body_is_read_by_whoever_has_it_and_its_end_is_told() {
    let (mut client, wire, _) = line().await;
    text(
        &mut client,
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe",
    )
    .await;
    let mut body = request(&wire).await.into_body();
    let read = tokio::spawn(async move {
        let collected = (&mut body).collect().await.unwrap().to_bytes();
        (collected, body.is_end_stream())
    });
    // The connection looks out for its end as soon as the body has come to its own.
    let gone = tokio::spawn({
        let wire = Arc::clone(&wire);
        async move { poll_fn(|cx| wire.poll_gone(cx)).await }
    });
    tokio::task::yield_now().await;
    text(&mut client, "llo").await;
    assert_eq!(read.await.unwrap(), ("hello".into(), true));
    assert_eq!(wire.finish(), Rest::Nothing);
    drop(client);
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .expect("the end is noticed")
        .unwrap();
}

#[tokio::test]
async fn a_body_that_outlives_its_request_gets_nothing_of_the_next() {
    let (mut client, wire, _) = line().await;
    text(&mut client, "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n").await;
    let mut body = request(&wire).await.into_body();
    let waits = tokio::spawn(async move {
        let error = body.frame().await.expect("no end").unwrap_err();
        // Nor later.
        let again = body.frame().await.expect("no end").unwrap_err();
        assert!(!body.is_end_stream());
        (error.to_string(), again.to_string())
    });
    tokio::task::yield_now().await;
    assert_eq!(wire.finish(), Rest::Body);
    // It is woken, and does not hold on to the connection.
    let (error, again) = tokio::time::timeout(Duration::from_secs(10), waits)
        .await
        .expect("it is woken")
        .unwrap();
    assert_eq!(error, "its request has been answered");
    assert_eq!(again, error);
    text(&mut client, "abcGET /2 HTTP/1.1\r\n\r\n").await;
    assert_eq!(poll_fn(|cx| wire.poll_skip(cx)).await.unwrap(), 3);
    assert_eq!(poll_fn(|cx| wire.poll_skip(cx)).await.unwrap(), 0);
    assert_eq!(request(&wire).await.uri(), "/2");
}

#[tokio::test]
async fn a_connection_that_is_over_closes_whoever_has_its_body() {
    let (mut client, wire, _) = line().await;
    text(&mut client, "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n").await;
    let mut body = request(&wire).await.into_body();
    drop(wire.end());
    assert!(body.frame().await.expect("no end").is_err());
    let mut byte = [0];
    let read = AsyncReadExt::read(&mut client, &mut byte);
    assert!(matches!(read.await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn buffers_are_lent_to_connections_that_have_something_to_say() {
    let (mut client, wire, buffers) = line().await;
    for _ in 0..3 {
        text(&mut client, "GET / HTTP/1.1\r\n\r\n").await;
        drop(request(&wire).await);
        assert_eq!(buffers.kept(), 0);
        assert_eq!(wire.finish(), Rest::Nothing);
        assert_eq!(buffers.kept(), 1);
        assert_eq!(wire.lock().read.capacity(), 0);
    }
    // An idle one has none, and one in the middle of something keeps it.
    text(&mut client, "GET / HTTP/1.1\r\n\r\nGET").await;
    drop(request(&wire).await);
    wire.finish();
    assert_eq!(buffers.kept(), 0);
    assert!(!wire.is_idle());
}

#[tokio::test]
async fn the_client_is_told_to_continue_when_its_body_is_wanted() {
    let (mut client, wire, _) = line().await;
    let put = "PUT / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    text(&mut client, put).await;
    let mut body = request(&wire).await.into_body();
    let read = tokio::spawn(async move { body.frame().await.expect("no end").unwrap() });
    let mut interim = [0; CONTINUE.len()];
    let heard = AsyncReadExt::read_exact(&mut client, &mut interim);
    heard.await.unwrap();
    assert_eq!(interim, CONTINUE);
    text(&mut client, "x").await;
    assert_eq!(read.await.unwrap().into_data().unwrap(), "x");
    assert_eq!(begin(&wire, 0), (String::new(), Rest::Nothing));
    wire.finish();
    // Nobody wanted this one.
    text(&mut client, put).await;
    drop(request(&wire).await);
    assert_eq!(begin(&wire, 0), (String::new(), Rest::Unknown));
}

#[tokio::test]
async fn a_body_that_is_too_long_to_read_over_is_not_waited_for() {
    let (mut client, wire, _) = line().await;
    text(&mut client, "PUT / HTTP/1.1\r\nContent-Length: 10\r\n\r\n").await;
    let body = request(&wire).await.into_body();
    // Somebody may still read it.
    assert_eq!(begin(&wire, 9).1, Rest::Body);
    drop(body);
    assert_eq!(begin(&wire, 9).1, Rest::Unknown);
    assert_eq!(begin(&wire, 10).1, Rest::Body);
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";

#[tokio::test]
async fn interim_heads_wait_for_room_and_none_gets_into_another() {
    let (mut client, wire, _) = line().await;
    let put = "PUT / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    text(&mut client, put).await;
    let mut body = request(&wire).await.into_body();
    let filled = fill(&wire).await;
    wire.pass_on(hints("x"));
    assert!(poll_once(|cx| wire.poll_gone(cx)).is_pending());
    // It wants the body now, and leaves the writing to whoever is at it.
    assert!(poll_once(|cx| Pin::new(&mut body).poll_frame(cx)).is_pending());
    wire.pass_on(hints("x"));
    let expected = format!("{HINTS}HTTP/1.1 100 Continue\r\n\r\n{HINTS}");
    let reading = tokio::spawn(async move {
        let mut read = vec![0; filled + expected.len()];
        AsyncReadExt::read_exact(&mut client, &mut read)
            .await
            .unwrap();
        let read = String::from_utf8(read.split_off(filled)).unwrap();
        (client, read == expected)
    });
    let gone = tokio::spawn({
        let wire = Arc::clone(&wire);
        async move { poll_fn(|cx| wire.poll_gone(cx)).await }
    });
    let read = tokio::time::timeout(Duration::from_secs(10), reading);
    let (_client, right) = read.await.expect("they are written").unwrap();
    assert!(right);
    gone.abort();
    assert_eq!(wire.lock().early.capacity(), 0);
}

#[tokio::test]
async fn interim_heads_that_found_no_room_come_before_the_answer() {
    let (mut client, wire, _) = line().await;
    let put = "PUT / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    text(&mut client, put).await;
    let _body = request(&wire).await.into_body();
    // A part of it has gone out.
    wire.lock().go_on.wrote(5);
    wire.pass_on(hints("x"));
    let (first, rest) = begin(&wire, 0);
    assert_eq!(first, format!("1.1 100 Continue\r\n\r\n{HINTS}"));
    assert_eq!(rest, Rest::Body);
    assert_eq!(begin(&wire, 0).0, "");
}

#[tokio::test]
async fn of_a_client_that_takes_none_interim_heads_are_not_kept_without_end() {
    let (_client, wire, _) = line().await;
    for _ in 0..10 {
        wire.pass_on(hints(&"x".repeat(MAX_HEAD / 2)));
    }
    assert!((MAX_HEAD..2 * MAX_HEAD).contains(&wire.lock().early.len()));
}
