//! Servers that end a TLS connection without `close_notify`: the framing of the answer decides.

use std::time::Duration;

use cupbearer::demo::authority::Offer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::client::Wire;
use crate::endpoint::{self, Endpoint, SECRET};
use crate::harness::{App, World, eventually, server, with_app};

/// How the server ends the connection after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    CloseNotify,
    RecordBoundary,
    /// After the header of a record and a part of its payload.
    InRecord,
    /// After a part of a record's header.
    InRecordHeader,
    TcpReset,
}

const ALL: [End; 5] = [
    End::CloseNotify,
    End::RecordBoundary,
    End::InRecord,
    End::InRecordHeader,
    End::TcpReset,
];

/// Starts a server that gives every request the same answer and ends the connection after it.
/// Returns the server's origin.
async fn start(world: &World, answer: String, end: End) -> String {
    let config = world.authority.server(&["127.0.0.1"], Offer::default());
    let acceptor = TlsAcceptor::from(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let mut connection = Wire::new(acceptor.accept(tcp).await.unwrap());
                let head = connection.head().await;
                connection.body(&head, false).await.unwrap();
                connection.send(answer).await;
                close(connection.stream, end).await;
            });
        }
    });
    format!("https://{address}")
}

async fn close(mut tls: TlsStream<TcpStream>, end: End) {
    let begun: &[u8] = match end {
        End::CloseNotify => return tls.shutdown().await.unwrap(),
        End::RecordBoundary | End::TcpReset => &[],
        End::InRecord => &[23, 3, 3, 0, 40, 1, 2, 3],
        End::InRecordHeader => &[23, 3, 3],
    };
    let (mut tcp, _) = tls.into_inner();
    tcp.write_all(begun).await.unwrap();
    if end == End::TcpReset {
        let reset = Some(Duration::ZERO);
        socket2::SockRef::from(&tcp).set_linger(reset).unwrap();
    }
}

/// Returns the body; `None` if the answer is cut off or is a 502 `upstream_closed`.
async fn get(app: &App) -> Option<String> {
    let mut client = app.connect().await;
    client
        .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let answer = client.try_response().await.ok()?;
    if answer.status == 502 {
        assert_eq!(answer.code(), "upstream_closed");
        return None;
    }
    assert_eq!(answer.status, 200);
    Some(answer.text())
}

#[tokio::test]
async fn an_api_answer_without_length_is_complete_at_a_record_boundary() {
    let world = World::new();
    // With many records, too: long reads take another path than short ones.
    for body in ["all of it".to_owned(), "x".repeat(1024 * 1024)] {
        for end in ALL {
            let answer = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
            let url = start(&world, answer, end).await;
            let config = server("") + &world.upstream("api", &url, "");
            with_app(&config, async |app| {
                let complete = matches!(end, End::CloseNotify | End::RecordBoundary);
                let seen = get(app).await;
                assert!(seen == complete.then(|| body.clone()), "{end:?}");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn an_api_answer_with_a_length_or_chunks_is_cut_off_by_every_end() {
    let world = World::new();
    for end in ALL {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
            "HTTP/1.1 200 OK\r\nConte",
            "",
        ] {
            let url = start(&world, answer.to_owned(), end).await;
            let config = server("") + &world.upstream("api", &url, "");
            with_app(&config, async |app| {
                assert_eq!(get(app).await, None, "{end:?} after {answer:?}");
            })
            .await;
        }
    }
}

/// Returns the token that reaches the API; `None` if the token endpoint's answer is cut off.
async fn token(world: &World, framing: &str, end: End) -> Option<String> {
    let api = Endpoint::start(endpoint::echo).await;
    let url = start(world, format!("HTTP/1.1 200 OK\r\n{framing}"), end).await;
    let config =
        server("") + &endpoint::provider("p", &url, &world.tls()) + &endpoint::upstream(&api, "");
    with_app(&config, async |app| {
        let mut error = String::new();
        eventually("a token or an error", async || {
            let status = app.status().await;
            let provider = &status["providers"][0];
            error = provider["last_error"].as_str().unwrap_or("").to_owned();
            !error.is_empty() || provider["state"] == "valid"
        })
        .await;
        if error.is_empty() {
            return Some(app.get("/").await.text());
        }
        assert!(error.contains("broke off"), "{end:?}: {error}");
        assert!(!error.contains(SECRET));
        None
    })
    .await
}

const TOKEN: &str = r#"{"access_token":"t1","token_type":"Bearer","expires_in":3600}"#;

#[tokio::test]
async fn a_token_answer_without_length_is_complete_at_a_record_boundary() {
    let world = World::new();
    for end in ALL {
        let complete = matches!(end, End::CloseNotify | End::RecordBoundary);
        let seen = token(&world, &format!("\r\n{TOKEN}"), end).await;
        assert_eq!(seen.as_deref(), complete.then_some("Bearer t1"), "{end:?}");
    }
}

#[tokio::test]
async fn a_token_answer_with_a_length_or_chunks_is_cut_off_by_every_end() {
    let world = World::new();
    let length = TOKEN.len();
    for end in ALL {
        for framing in [
            format!("Content-Length: {}\r\n\r\n{TOKEN}", length + 1),
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{TOKEN}\r\n"),
        ] {
            assert_eq!(token(&world, &framing, end).await, None, "{end:?}");
        }
    }
}
