//! RFC 9112 on the upstream's side: a malformed response becomes a 502 or a truncated response.
//! Extra bytes of the upstream never become part of another response on the app's connection.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tokio::net::TcpStream;

use crate::checks::number_from_environment;
use crate::client::{Client, Response, Wire};
use crate::harness::{World, server, with_app};
use crate::upstream::Acceptor;

/// What the app must get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The upstream's response with this body.
    Complete(&'static str),
    /// 502 `upstream_protocol`.
    BadGateway,
    /// The upstream's head and an incomplete body.
    Truncated,
    /// [`Outcome::Complete`] or [`Outcome::BadGateway`].
    Either(&'static str),
}
use Outcome::{BadGateway, Complete, Either, Truncated};

/// Label, bytes that the upstream sends, and outcome. The upstream keeps its connection open.
type Case = (&'static str, &'static str, Outcome);

macro_rules! head {
    ($fields:literal, $body:literal) => {
        concat!("HTTP/1.1 200 OK\r\n", $fields, "\r\n\r\n", $body)
    };
}

macro_rules! chunks {
    ($chunks:literal) => {
        concat!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            $chunks
        )
    };
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("Content-Length", head!("Content-Length: 5", "hello"), Complete("hello")),
    ("chunks with an extension and trailers",
     chunks!("2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n"),
     Complete("hello")),
    ("204 without a body", "HTTP/1.1 204 No Content\r\n\r\n", Complete("")),
    ("304 with a Content-Length",
     "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Complete("")),
    ("interim responses",
     "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\
     Content-Length: 7\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
     Complete("hello")),
    // Bytes after the response: the app must not get them.
    ("an unrequested response after Content-Length",
     head!("Content-Length: 5", "helloHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"),
     Complete("hello")),
    ("an unrequested response after chunks",
     chunks!("5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"),
     Complete("hello")),
    ("an unrequested response after 204",
     "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
     Complete("")),
    ("204 with a body",
     "HTTP/1.1 204 No Content\r\nContent-Length: 8\r\n\r\nsmuggled", Complete("")),
    ("204 with chunks",
     "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
     Complete("")),
    ("304 with a body",
     "HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\nsmuggled", Complete("")),
    ("an extra CRLF after the body", head!("Content-Length: 5", "hello\r\n"), Complete("hello")),
    // RFC 9112 §6.3: framing.
    ("two different Content-Length fields",
     head!("Content-Length: 5\r\nContent-Length: 6", "hello!"), BadGateway),
    ("the same Content-Length twice",
     head!("Content-Length: 5\r\nContent-Length: 5", "hello"), Either("hello")),
    ("a list with one repeated Content-Length",
     head!("Content-Length: 5, 5", "hello"), Either("hello")),
    ("a list of different Content-Lengths", head!("Content-Length: 5, 6", "hello!"), BadGateway),
    ("a Content-Length with a sign", head!("Content-Length: +5", "hello"), BadGateway),
    ("a negative Content-Length", head!("Content-Length: -5", "hello"), BadGateway),
    ("a hexadecimal Content-Length", head!("Content-Length: 0x5", "hello"), BadGateway),
    ("an empty Content-Length", head!("Content-Length:", "hello"), BadGateway),
    ("a Content-Length with a space inside", head!("Content-Length: 5 5", "hello"), BadGateway),
    ("a Content-Length beyond 64 bits",
     head!("Content-Length: 18446744073709551621", "hello"), BadGateway),
    ("Content-Length before chunked",
     head!("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), BadGateway),
    ("chunked before Content-Length",
     head!("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"), BadGateway),
    ("the coding gzip alone", head!("Transfer-Encoding: gzip", "hello"), BadGateway),
    ("gzip before chunked", head!("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), BadGateway),
    ("chunked before gzip", head!("Transfer-Encoding: chunked, gzip", "0\r\n\r\n"), BadGateway),
    ("chunked twice",
     head!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), BadGateway),
    ("a coding that ends in chunked",
     head!("Transfer-Encoding: xchunked", "0\r\n\r\n"), BadGateway),
    ("chunked after a vertical tab",
     head!("Transfer-Encoding: \x0bchunked", "0\r\n\r\n"), BadGateway),
    ("an empty Transfer-Encoding", head!("Transfer-Encoding:", "hello"), BadGateway),
    ("chunked in HTTP/1.0",
     "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BadGateway),
    ("chunked in capital letters",
     head!("Transfer-Encoding: CHUNKED", "5\r\nhello\r\n0\r\n\r\n"), Either("hello")),
    // §5: fields.
    ("a folded field value", head!("X: a\r\n b\r\nContent-Length: 5", "hello"), BadGateway),
    ("a folded Transfer-Encoding",
     head!("Transfer-Encoding:\r\n chunked", "0\r\n\r\n"), BadGateway),
    ("a space before the colon", head!("Content-Length : 5", "hello"), BadGateway),
    ("a field without a colon", head!("Content-Length: 5\r\nX", "hello"), BadGateway),
    ("an empty field name", head!(": x\r\nContent-Length: 5", "hello"), BadGateway),
    ("NUL in a field value", head!("X: a\0b\r\nContent-Length: 5", "hello"), BadGateway),
    ("NUL in a field name", head!("X\0: b\r\nContent-Length: 5", "hello"), BadGateway),
    ("a bare CR in a field value",
     head!("X: a\rContent-Length: 0\r\nContent-Length: 5", "hello"), BadGateway),
    ("bare LFs as line ends", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", Either("hello")),
    // §4: status lines.
    ("a CRLF before the status line",
     "\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", BadGateway),
    ("another protocol in the status line",
     "ICY 200 OK\r\nContent-Length: 5\r\n\r\nhello", BadGateway),
    ("HTTP/1.2", "HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello", BadGateway),
    ("HTTP/2 in the status line", "HTTP/2 200\r\nContent-Length: 5\r\n\r\nhello", BadGateway),
    ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello", BadGateway),
    ("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello", BadGateway),
    ("a status below 100", "HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello", BadGateway),
    ("a status with letters", "HTTP/1.1 2OO OK\r\nContent-Length: 5\r\n\r\nhello", BadGateway),
    ("a bare CR in the reason phrase",
     "HTTP/1.1 200 O\rK\r\nContent-Length: 5\r\n\r\nhello", BadGateway),
    ("no reason phrase", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", Complete("hello")),
    ("101 without an upgrade request",
     "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nsmuggled",
     BadGateway),
    ("a request instead of a response",
     "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", BadGateway),
    // §7.1: chunks. The app already has the head.
    ("a chunk size with a prefix", chunks!("0x5\r\nhello\r\n0\r\n\r\n"), Truncated),
    ("a chunk size with a sign", chunks!("+5\r\nhello\r\n0\r\n\r\n"), Truncated),
    ("an empty chunk size", chunks!("\r\nhello\r\n0\r\n\r\n"), Truncated),
    ("a chunk size that is not hexadecimal", chunks!("g\r\nhello\r\n0\r\n\r\n"), Truncated),
    ("a chunk size of 17 digits", chunks!("10000000000000005\r\nhello\r\n0\r\n\r\n"), Truncated),
    ("a bare LF after a chunk size", chunks!("5\nhello\r\n0\r\n\r\n"), Truncated),
    ("a chunk longer than its size", chunks!("5\r\nhello!\r\n0\r\n\r\n"), Truncated),
    ("a chunk shorter than its size", chunks!("5\r\nhell\r\n0\r\n\r\n"), Truncated),
    ("a bare LF in a chunk extension", chunks!("5;a\nb\r\nhello\r\n0\r\n\r\n"), Truncated),
    ("a trailer without a colon", chunks!("5\r\nhello\r\n0\r\nX\r\n\r\n"), Truncated),
    ("a folded trailer", chunks!("5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n"), Truncated),
];

/// An upstream that responds to each target with the bytes registered for it, or with the target.
struct RawUpstream {
    acceptor: Acceptor,
    responses: Responses,
}

/// Pieces of the response by request target.
type Responses = Arc<Mutex<HashMap<String, Vec<Vec<u8>>>>>;

impl RawUpstream {
    async fn start() -> Self {
        let responses = Responses::default();
        let served = Arc::clone(&responses);
        let acceptor = Acceptor::start(move |stream| {
            let served = Arc::clone(&served);
            async move {
                // The proxy closes the connection after a malformed response.
                let _ = serve(stream, served).await;
            }
        })
        .await;
        Self {
            acceptor,
            responses,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.acceptor.address())
    }
}

async fn serve(stream: TcpStream, responses: Responses) -> io::Result<()> {
    let mut connection = Wire::new(stream);
    loop {
        let head = connection.try_head().await?;
        let target = head.first.split(' ').nth(1).unwrap();
        let pieces = responses.lock().unwrap().get(target).cloned();
        for piece in pieces.unwrap_or_else(|| vec![valid_response(target)]) {
            connection.try_send(&piece).await?;
            tokio::task::yield_now().await;
        }
    }
}

fn valid_response(target: &str) -> Vec<u8> {
    let length = target.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}").into_bytes()
}

/// Pipelines requests for these targets and checks the response to each. A target with a case gets
/// the bytes of the case, cut into pieces by `cut`. The error describes the violation.
async fn check(
    client: &mut Client,
    upstream: &RawUpstream,
    targets: &[(String, Option<&Case>)],
    cut: &mut impl FnMut(&[u8]) -> Vec<Vec<u8>>,
) -> Result<(), String> {
    let mut requests = String::new();
    for (target, case) in targets {
        requests += &format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        if let Some((_, bytes, _)) = case {
            let pieces = cut(bytes.as_bytes());
            let mut responses = upstream.responses.lock().unwrap();
            responses.insert(target.clone(), pieces);
        }
    }
    client.send(requests).await;
    for (target, case) in targets {
        let (label, outcome) = match case {
            Some((label, _, outcome)) => (*label, *outcome),
            None => ("a valid response", Complete("")),
        };
        let mut response = client.try_response().await;
        while response.as_ref().is_ok_and(is_interim) {
            response = client.try_response().await;
        }
        let seen = match &response {
            Err(_) => "truncated".to_owned(),
            Ok(response) if response.code() == "upstream_protocol" => "502".to_owned(),
            Ok(response) => String::from_utf8_lossy(&response.body).into_owned(),
        };
        let good = match outcome {
            _ if case.is_none() => seen == *target,
            Complete(body) => seen == body,
            Either(body) => seen == body || seen == "502",
            BadGateway => seen == "502",
            Truncated => seen == "truncated",
        };
        if !good {
            return Err(format!(
                "{label}: expected {outcome:?}, but the app got {seen:?} for {target}"
            ));
        }
        if response.is_err() {
            break;
        }
    }
    Ok(())
}

#[tokio::test]
async fn each_case_is_forwarded_refused_or_truncated() {
    let world = World::new();
    let upstream = RawUpstream::start().await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        let mut wrong = Vec::new();
        for (index, case) in CASES.iter().enumerate() {
            let targets = [
                (format!("/case/{index}"), Some(case)),
                (format!("/next/{index}"), None),
            ];
            let mut client = app.connect().await;
            let uncut = &mut |bytes: &[u8]| vec![bytes.to_vec()];
            wrong.extend(check(&mut client, &upstream, &targets, uncut).await.err());
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn pipelined_responses_never_mix() {
    let world = World::new();
    let upstream = RawUpstream::start().await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    let seed = number_from_environment("CUPBEARER_STRICT_SEED").unwrap_or(0x5eed);
    let cases = number_from_environment("CUPBEARER_STRICT_CASES").unwrap_or(500);
    let mut random = Rng::with_seed(seed);
    with_app(&config, async |app| {
        for case in 0..cases {
            let mut targets = Vec::new();
            for index in 0..random.usize(1..6) {
                let sent = random.bool().then(|| random.choice(CASES).unwrap());
                targets.push((format!("/{case}/{index}"), sent));
            }
            let mut client = app.connect().await;
            let mut cut = |bytes: &[u8]| {
                let at = random.usize(..=bytes.len());
                vec![bytes[..at].to_vec(), bytes[at..].to_vec()]
            };
            if let Err(why) = check(&mut client, &upstream, &targets, &mut cut).await {
                let labels: Vec<_> = targets
                    .iter()
                    .map(|(_, sent)| sent.map(|sent| sent.0))
                    .collect();
                panic!("case {case} of seed {seed}: {why}\nin {labels:?}");
            }
        }
    })
    .await;
}

/// Returns whether a response is interim. Asserts that an interim response has no framing field.
fn is_interim(response: &Response) -> bool {
    let interim = response.status.is_informational();
    let framed = |name| !response.head.all(name).is_empty();
    assert!(!interim || !framed("content-length") && !framed("transfer-encoding"));
    interim
}
