//! RFC 9112 §2-§7 on the app's side: a malformed or ambiguous request is refused, or forwarded as
//! one clean request. No byte of one request becomes part of another. No app credential is
//! forwarded.
//!
//! [`CASES`] lists the requests. A property test mixes them with ordinary requests, pipelines them
//! and cuts them into pieces. `CUPBEARER_STRICT_CASES` sets the number of its cases,
//! `CUPBEARER_STRICT_SEED` its seed.

mod cases;

use std::fmt::Write as _;
use std::io;

use fastrand::Rng;

use self::cases::{CASES, Case, Outcome};
use crate::checks::{OK, number_from_environment};
use crate::client::{Client, Head};
use crate::harness::{App, World, server, token, with_app};
use crate::recorder::{Recorder, Request, Seen};
use crate::upstream::Script;

/// Replaces `{secret}`; must not reach the upstream.
const SECRET: &str = "of-the-app-0123456789";

/// A request inside a body; must not be parsed as a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A request as the app sends it.
#[derive(Clone, Debug)]
struct Sent {
    label: String,
    bytes: Vec<u8>,
    outcome: Outcome,
    /// The method, target and body that the upstream must receive.
    method: String,
    target: String,
    body: Vec<u8>,
}

/// Injects the token into fields whose names have look-alikes.
fn config(world: &World, recorder: &Recorder) -> String {
    server("")
        + &world.upstream("api", &recorder.url(), "")
        + "[providers.api.inject.headers]\n\
           X-Access-Token = \"{access_token}\"\napi_key = \"{access_token}\"\n"
}

impl Sent {
    fn new(case: &Case, target: String) -> Self {
        let (label, text, outcome, body) = *case;
        let is_post = text.trim_start().starts_with("POST");
        Self {
            label: label.to_owned(),
            bytes: text
                .replace("{t}", &target)
                .replace("{secret}", SECRET)
                .into_bytes(),
            outcome,
            method: if is_post { "POST" } else { "GET" }.to_owned(),
            target,
            body: body.as_bytes().to_vec(),
        }
    }

    fn last(index: usize) -> Self {
        let target = format!("/last/{index}");
        Self {
            label: "the last request".to_owned(),
            bytes: format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .into_bytes(),
            outcome: Outcome::Forwarded,
            method: "GET".to_owned(),
            target,
            body: Vec::new(),
        }
    }

    /// Returns a valid request. A body looks like chunks and further requests.
    fn ordinary(random: &mut Rng, target: String) -> Self {
        let with_body = random.bool();
        let methods: &[&str] = match with_body {
            true => &["POST", "PUT", "PATCH", "DELETE", "GET"],
            false => &["GET", "HEAD", "OPTIONS", "DELETE", "PURGE"],
        };
        let method = *random.choice(methods).unwrap();
        let mut text = format!("{method} {target} HTTP/1.1\r\n");
        for _ in 0..random.usize(0..4) {
            let field = random.choice([
                "Accept: */*\r\n",
                "X-Odd: \u{e9}\u{6d4b}\r\n",
                "X-Empty:\r\n",
                "x_y: 1\r\n",
                "Authorization: Bearer {secret}\r\n",
                "Connection: keep-alive, X-Hop\r\nX-Hop: {secret}\r\n",
                "Cookie: a=b\r\n",
                "TE: trailers\r\n",
            ]);
            text += &field.unwrap().replace("{secret}", SECRET);
        }
        text += "Host: localhost\r\n";
        let mut bytes = text.into_bytes();
        let body = match with_body {
            true => Self::body(random),
            false => Vec::new(),
        };
        if !with_body {
            bytes.extend_from_slice(b"\r\n");
        } else if random.bool() {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            bytes.extend_from_slice(&body);
        } else {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            let mut rest = &body[..];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(random.usize(1..=rest.len()));
                bytes.extend(format!("{:X}\r\n", chunk.len()).bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
                rest = after;
            }
            let trailers = ["", "X-Sum: 1\r\n", "Authorization: Bearer {secret}\r\n"];
            let trailers = random.choice(trailers).unwrap();
            let trailers = trailers.replace("{secret}", SECRET);
            bytes.extend(format!("0\r\n{trailers}\r\n").bytes());
        }
        Self {
            label: format!("{method} with {} bytes", body.len()),
            bytes,
            outcome: Outcome::Forwarded,
            method: method.to_owned(),
            target,
            body,
        }
    }

    fn body(random: &mut Rng) -> Vec<u8> {
        let mut body = Vec::new();
        for _ in 0..random.usize(0..5) {
            let piece: &[u8] = match random.u8(..6) {
                0 => SMUGGLED.as_bytes(),
                1 => b"0\r\n\r\n",
                2 => b"\r\n",
                3 => b"5\r\nhello\r\n",
                4 => b"\0\xff",
                _ => &[b'x'; 3000],
            };
            body.extend_from_slice(piece);
        }
        body
    }

    fn may_arrive_as(&self, seen: &Request) -> bool {
        self.outcome != Outcome::Refused
            && (&self.method, &self.target, &self.body) == (&seen.method, &seen.target, &seen.body)
    }
}

/// A response, as far as the test compares it.
#[derive(Debug)]
enum Reply {
    /// The recorder's description of the request that it responds to.
    Upstream(String),
    /// Status of one of Cupbearer's errors.
    Error(u16),
}

/// Pipelines requests on one connection, cut into pieces at `cuts`. Checks what the upstream and
/// the app received. The error describes the violation.
async fn check(
    app: &App,
    recorder: &Recorder,
    sent: &[Sent],
    cuts: &[usize],
) -> Result<(), String> {
    recorder.take();
    let mut client = app.connect().await;
    let bytes: Vec<u8> = sent.iter().flat_map(|sent| sent.bytes.clone()).collect();
    let mut begin = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        if client.try_send(&bytes[begin..cut]).await.is_err() {
            break;
        }
        // Lets the proxy read this piece before the next one arrives.
        tokio::task::yield_now().await;
        begin = cut;
    }
    let replies = read_replies(&mut client, sent).await;
    drop(client);
    let verdict = check_forwarded(recorder, sent).and_then(|()| check_replies(&replies, sent));
    verdict.map_err(|why| {
        let labels: Vec<_> = sent.iter().map(|sent| &sent.label).collect();
        format!(
            "{why}\n  {labels:?} cut at {cuts:?}\n  sent {}\n  replies {replies:?}\n",
            bytes.escape_ascii()
        )
    })
}

fn check_forwarded(recorder: &Recorder, sent: &[Sent]) -> Result<(), String> {
    let mut rest = sent.iter();
    for seen in recorder.take() {
        let raw = match &seen {
            Seen::Request(request) => &request.raw,
            Seen::Aborted { raw } | Seen::Fault { raw, .. } => raw,
        };
        let text = raw.escape_ascii();
        if raw
            .windows(SECRET.len())
            .any(|part| part == SECRET.as_bytes())
        {
            return Err(format!("an app credential reached the upstream: {text}"));
        }
        match &seen {
            Seen::Aborted { .. } => {}
            Seen::Fault { why, .. } => return Err(format!("{why} reached the upstream: {text}")),
            Seen::Request(request) => {
                check_credential(request)?;
                // Requests arrive in order and at most once.
                if !rest.any(|sent| sent.may_arrive_as(request)) {
                    return Err(format!(
                        "the upstream received a request that was not sent: {text}"
                    ));
                }
            }
        }
    }
    Ok(())
}

fn check_credential(request: &Request) -> Result<(), String> {
    let token = token("api");
    for name in ["x-access-token", "api_key"] {
        if request.all(name) != [token.as_bytes()] {
            return Err(format!("{name} does not hold exactly the token"));
        }
    }
    let others = [
        "authorization",
        "proxy-authorization",
        "connection",
        "upgrade",
        "http2-settings",
    ];
    for name in others {
        if !request.all(name).is_empty() {
            return Err(format!("{name} reached the upstream"));
        }
    }
    Ok(())
}

fn check_replies(replies: &[Reply], sent: &[Sent]) -> Result<(), String> {
    for (reply, sent) in replies.iter().zip(sent) {
        match reply {
            Reply::Error(status) => {
                if !(400..500).contains(status) && *status != 501 {
                    return Err(format!("{} got status {status}", sent.label));
                }
                if sent.outcome == Outcome::Forwarded {
                    return Err(format!("{} was refused", sent.label));
                }
            }
            Reply::Upstream(seen) => {
                let expected = format!("{} {} {}", sent.method, sent.target, sent.body.len());
                if sent.outcome == Outcome::Refused || *seen != expected {
                    return Err(format!("{} got the response to {seen}", sent.label));
                }
            }
        }
    }
    // Only a request that may be refused may close the connection.
    let clean = sent
        .iter()
        .take_while(|sent| sent.outcome == Outcome::Forwarded)
        .count();
    if replies.len() < clean {
        return Err(format!("{} got no response", sent[replies.len()].label));
    }
    Ok(())
}

/// Reads the replies to `sent`, or those before the connection closes.
async fn read_replies(client: &mut Client, sent: &[Sent]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while let Some(current) = sent.get(replies.len()) {
        match read_reply(client, &current.method).await {
            Ok(reply) => replies.push(reply),
            // A reset may discard the last response.
            Err(_) => break,
        }
    }
    replies
}

async fn read_reply(client: &mut Client, method: &str) -> io::Result<Reply> {
    loop {
        let head: Head = client.try_head().await?;
        let status = head.status().as_u16();
        if status < 200 {
            continue;
        }
        let seen = head.get("x-seen").map(str::to_owned);
        // The error response to a malformed head has a body even if the method is HEAD.
        let has_body =
            method != "HEAD" || seen.is_none() && head.get("connection") == Some("close");
        if has_body {
            client.body(&head, false).await?;
        }
        return Ok(match seen {
            Some(seen) => Reply::Upstream(seen),
            None => Reply::Error(status),
        });
    }
}

#[tokio::test]
async fn each_case_is_refused_or_forwarded_as_one_clean_request() {
    let world = World::new();
    let recorder = Recorder::start().await;
    with_app(&config(&world, &recorder), async |app| {
        let mut wrong = Vec::new();
        for (index, case) in CASES.iter().enumerate() {
            let first = Sent::new(case, format!("/case/{index}"));
            let pipeline = [first.clone(), Sent::last(index)];
            let middle = first.bytes.len() / 2;
            wrong.extend(check(app, &recorder, &pipeline, &[]).await.err());
            wrong.extend(check(app, &recorder, &pipeline, &[middle]).await.err());
            // Without bytes after the request, no reset can discard the response.
            if first.outcome == Outcome::Refused {
                let mut client = app.connect().await;
                client.send(&first.bytes).await;
                let reply = read_reply(&mut client, &first.method).await;
                if !matches!(reply, Ok(Reply::Error(400..=501))) {
                    wrong.push(format!("{} got no error: {reply:?}", first.label));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn a_too_large_head_gets_431_or_414() {
    let world = World::new();
    let recorder = Recorder::start().await;
    let many = (0..300).fold(String::new(), |mut text, n| {
        let _ = write!(text, "X-{n}: y\r\n");
        text
    });
    with_app(&config(&world, &recorder), async |app| {
        for (target, fields) in [
            ("/".to_owned(), format!("X: {}\r\n", "x".repeat(70_000))),
            ("/".to_owned(), format!("{}: x\r\n", "x".repeat(70_000))),
            ("/".to_owned(), many),
            (format!("/{}", "x".repeat(70_000)), String::new()),
        ] {
            let mut client = app.connect().await;
            let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
            let _ = client.try_send(request).await;
            let status = client.response().await.status.as_u16();
            assert!(status == 431 || status == 414, "{status}");
            client.closed().await;
        }
        assert_eq!(recorder.take(), []);
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_never_mix() {
    let world = World::new();
    let recorder = Recorder::start().await;
    let seed = number_from_environment("CUPBEARER_STRICT_SEED").unwrap_or(0x5eed);
    let cases = number_from_environment("CUPBEARER_STRICT_CASES").unwrap_or(1_000);
    let mut random = Rng::with_seed(seed);
    with_app(&config(&world, &recorder), async |app| {
        for case in 0..cases {
            let mut sent = Vec::new();
            for index in 0..random.usize(1..6) {
                let target = format!("/{case}/{index}?q={}", random.u8(..));
                sent.push(match random.u8(..4) {
                    0 => Sent::new(random.choice(CASES).unwrap(), target),
                    _ => Sent::ordinary(&mut random, target),
                });
            }
            let length: usize = sent.iter().map(|sent| sent.bytes.len()).sum();
            let mut cuts: Vec<usize> = (0..random.usize(0..7))
                .map(|_| random.usize(..length))
                .collect();
            cuts.sort_unstable();
            if let Err(why) = check(app, &recorder, &sent, &cuts).await {
                panic!("case {case} of seed {seed}: {why}");
            }
        }
    })
    .await;
}

/// RFC 9112 §6.1: with both fields, `Transfer-Encoding` overrides, `Content-Length` is removed, and
/// the connection closes: another parser could see a second request in the rest.
#[tokio::test]
async fn with_content_length_and_chunked_only_chunked_is_forwarded() {
    let world = World::new();
    let upstream = Script::plain().await;
    let config = server("") + &world.upstream("api", &upstream.url(), "");
    with_app(&config, async |app| {
        for fields in [
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
        ] {
            let mut client = app.connect().await;
            client
                .send(format!(
                    "POST / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}"
                ))
                .await;
            let (mut connection, head) = upstream.request().await;
            assert_eq!(head.get("content-length"), None);
            assert_eq!(head.get("transfer-encoding"), Some("chunked"));
            assert_eq!(connection.body(&head, false).await.unwrap(), b"");
            connection.send(OK).await;
            assert_eq!(client.response().await.text(), "ok");
            drop(connection);
            client.closed().await;
        }
        let responses = "cupbearer_requests_total{code=\"200\",upstream=\"api\"}";
        assert!(app.metric(responses).await <= 2.0);
    })
    .await;
}
