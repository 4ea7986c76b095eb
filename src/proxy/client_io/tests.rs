use std::future::poll_fn;

use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Both ends of a connection: the app's and the adapter.
async fn connected() -> (TcpStream, ClientIo, Arc<Watch>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    app.set_nodelay(true).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let watch = Arc::<Watch>::default();
    let io = ClientIo::new(ClientStream::Tcp(stream), Arc::clone(&watch));
    (app, io, watch)
}

async fn read(io: &mut ClientIo, length: usize) -> String {
    let mut buffer = vec![0; length];
    io.read_exact(&mut buffer).await.unwrap();
    String::from_utf8_lossy(&buffer).into_owned()
}

#[tokio::test]
async fn an_encoded_target_may_exceed_the_readers_buffer() {
    let (mut app, mut io, _) = connected().await;
    app.write_all(b"GET /?\xc4\xe3 HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut out = Vec::new();
    while !out.ends_with(b"\r\n\r\n") {
        let mut few = [0; 5];
        let length = io.read(&mut few).await.unwrap();
        assert_ne!(length, 0);
        out.extend_from_slice(&few[..length]);
    }
    assert_eq!(out, b"GET /?%C4%E3 HTTP/1.1\r\n\r\n");
}

/// Bytes that only begin like the preface are not lost.
#[tokio::test]
async fn the_http2_preface_comes_in_one_read() {
    for (pieces, whole) in [
        (
            &["PRI * HTTP/2.0", "\r\n\r\nSM", "\r\n\r\nX"][..],
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nX",
        ),
        (&["P", "OST /\" HTTP/1.1\r\n"], "POST /\" HTTP/1.1\r\n"),
        (&["PRI * HTTP/2.0\r\n"], "PRI * HTTP/2.0\r\n"),
    ] {
        let (mut app, mut io, _) = connected().await;
        let sending = tokio::spawn(async move {
            for piece in pieces {
                app.write_all(piece.as_bytes()).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
        });
        let mut buffer = [0; 100];
        let length = io.read(&mut buffer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), whole);
        sending.await.unwrap();
    }
}

#[tokio::test]
async fn body_bytes_that_look_like_a_first_line_stay() {
    let (mut app, mut io, watch) = connected().await;
    let head = "POST /? HTTP/1.1\r\nContent-Length: 12\r\n\r\n";
    app.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read(&mut io, head.len()).await, head);
    watch.message_started(Some(12));
    watch.request_started();
    app.write_all(b"GET /\" HTTP\n").await.unwrap();
    assert_eq!(read(&mut io, 12).await, "GET /\" HTTP\n");
    watch.body_ended(1);
    watch.request_ended();
    app.write_all(b"GET /?\" HTTP\n").await.unwrap();
    assert_eq!(read(&mut io, 15).await, "GET /?%22 HTTP\n");
}

/// hyper reads both heads at once, and the second body later.
#[tokio::test]
async fn a_body_whose_head_came_with_the_message_before_stays() {
    let (mut app, mut io, watch) = connected().await;
    let heads = "GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 13\r\n\r\n";
    app.write_all(heads.as_bytes()).await.unwrap();
    read(&mut io, heads.len()).await;
    watch.message_started(Some(0));
    watch.request_started();
    watch.request_ended();
    timeout(LOOK / 10, io.read_u8()).await.unwrap_err();
    watch.message_started(Some(13));
    watch.request_started();
    app.write_all(b"GET /?\" HTTP\n").await.unwrap();
    assert_eq!(read(&mut io, 13).await, "GET /?\" HTTP\n");
}

/// The response comes before the upload has ended, so that the rest is no message.
#[tokio::test]
async fn bytes_of_an_unread_body_stay() {
    let (mut app, mut io, watch) = connected().await;
    app.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
    read(&mut io, 19).await;
    watch.message_started(None);
    watch.request_started();
    watch.request_ended();
    app.write_all(b"GET /?\" HTTP\n").await.unwrap();
    assert_eq!(read(&mut io, 13).await, "GET /?\" HTTP\n");
}

/// hyper may parse the next message before the last body's reader sees the end.
#[tokio::test]
async fn the_late_end_of_a_body_does_not_end_the_next_message() {
    let (mut app, mut io, watch) = connected().await;
    app.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
    read(&mut io, 19).await;
    let first = watch.message_started(Some(3));
    watch.message_started(None);
    watch.body_ended(first);
    watch.request_started();
    watch.request_ended();
    assert!(!watch.message().ended);
    app.write_all(b"GET /?\" HTTP\n").await.unwrap();
    assert_eq!(read(&mut io, 13).await, "GET /?\" HTTP\n");
}

#[tokio::test]
async fn a_closed_app_is_detected_without_reads() {
    let (app, mut io, watch) = connected().await;
    let mut look = timeout(LOOK * 3, poll_fn(|cx| Pin::new(&mut io).poll_gone(cx))).await;
    look.unwrap_err();
    watch.message_started(Some(1));
    watch.request_started();
    drop(app);
    look = timeout(LOOK * 40, poll_fn(|cx| Pin::new(&mut io).poll_gone(cx))).await;
    assert_eq!(look.unwrap().kind(), io::ErrorKind::ConnectionAborted);
    watch.becomes_tunnel();
    look = timeout(LOOK * 3, poll_fn(|cx| Pin::new(&mut io).poll_gone(cx))).await;
    look.unwrap_err();
}

#[tokio::test]
async fn a_blocked_write_times_out() {
    let (_app, mut io, watch) = connected().await;
    watch.limit_writes(Some(Duration::from_millis(200)));
    let error = loop {
        if let Err(error) = io.write_all(&[0; 64 * 1024]).await {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(watch.is_blocked());
}

#[tokio::test]
async fn an_incomplete_response_framed_by_close_is_reset() {
    for whole in [true, false] {
        let (mut app, mut io, watch) = connected().await;
        io.write_all(b"part").await.unwrap();
        watch.message_started(Some(0));
        watch.ends_by_close();
        match whole {
            true => io.close().await,
            false => io.abort().await,
        }
        let mut seen = Vec::new();
        assert_eq!(app.read_to_end(&mut seen).await.is_ok(), whole);
    }
}

#[tokio::test]
async fn an_upload_does_not_reset_the_last_response() {
    let (mut app, io, _) = connected().await;
    app.write_all(&[0; 200_000]).await.unwrap();
    let closing = tokio::spawn(io.refuse(b"no"));
    // More than the socket's buffers hold.
    app.write_all(&vec![0; 4_000_000]).await.unwrap();
    let mut seen = String::new();
    app.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "no");
    drop(app);
    closing.await.unwrap();
}
