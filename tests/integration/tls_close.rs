//! Servers that end a TLS connection without `close_notify`: the framing decides whether the
//! response is complete.

use std::time::Duration;

use cupbearer::demo::authority::Offer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::client::Wire;
use crate::endpoint::{self, Endpoint, SECRET};
use crate::harness::{App, World, eventually, server, with_app};
use crate::upstream::Acceptor;

/// How the server ends the connection after its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    CloseNotify,
    RecordBoundary,
    /// After the header of a record and a part of the payload.
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

/// Starts a server that gives every request the same response and ends the connection after it.
async fn start(world: &World, response: String, end: End) -> Acceptor {
    let config = world.authority.server(&["127.0.0.1"], Offer::default());
    let tls = TlsAcceptor::from(config.unwrap());
    Acceptor::start(move |tcp| {
        let (tls, response) = (tls.clone(), response.clone());
        async move {
            let mut connection = Wire::new(tls.accept(tcp).await.unwrap());
            let head = connection.head().await;
            connection.body(&head, false).await.unwrap();
            connection.send(response).await;
            close(connection.stream, end).await;
        }
    })
    .await
}

fn url(fake: &Acceptor) -> String {
    format!("https://{}", fake.address())
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

/// Returns the body; `None` if the response is incomplete or is a 502 `upstream_closed`.
async fn get(app: &App) -> Option<String> {
    let mut client = app.connect().await;
    client
        .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let response = client.try_response().await.ok()?;
    if response.status == 502 {
        assert_eq!(response.code(), "upstream_closed");
        return None;
    }
    assert_eq!(response.status, 200);
    Some(response.text())
}

#[tokio::test]
async fn an_api_response_without_length_is_complete_at_a_record_boundary() {
    let world = World::new();
    // The long body spans many records: long reads take another code path.
    for body in ["all of it".to_owned(), "x".repeat(1024 * 1024)] {
        for end in ALL {
            let response = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
            let fake = start(&world, response, end).await;
            let config = server("") + &world.upstream("api", &url(&fake), "");
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
async fn an_incomplete_api_response_with_a_length_or_chunks_is_an_error_after_every_end() {
    let world = World::new();
    for end in ALL {
        for response in [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
            "HTTP/1.1 200 OK\r\nConte",
            "",
        ] {
            let fake = start(&world, response.to_owned(), end).await;
            let config = server("") + &world.upstream("api", &url(&fake), "");
            with_app(&config, async |app| {
                assert_eq!(get(app).await, None, "{end:?} after {response:?}");
            })
            .await;
        }
    }
}

/// Returns the token that reaches the API; `None` if the token response is incomplete.
async fn token(world: &World, framing: &str, end: End) -> Option<String> {
    let api = Endpoint::start(endpoint::echo).await;
    let fake = start(world, format!("HTTP/1.1 200 OK\r\n{framing}"), end).await;
    let config = server("")
        + &endpoint::provider("p", &url(&fake), &world.tls())
        + &endpoint::upstream(&api, "");
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
async fn a_token_response_without_length_is_complete_at_a_record_boundary() {
    let world = World::new();
    for end in ALL {
        let complete = matches!(end, End::CloseNotify | End::RecordBoundary);
        let seen = token(&world, &format!("\r\n{TOKEN}"), end).await;
        assert_eq!(seen.as_deref(), complete.then_some("Bearer t1"), "{end:?}");
    }
}

#[tokio::test]
async fn an_incomplete_token_response_with_a_length_or_chunks_is_an_error_after_every_end() {
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
