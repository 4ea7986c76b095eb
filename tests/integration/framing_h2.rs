//! RFC 9113 §8 frame by frame, against an upstream that records what it gets: an odd request is refused, or leaves as one clean one.

use tokio::net::TcpStream;

use crate::client::Wire;
use crate::harness::{App, World, server, soon, token, with_app};
use crate::recorder::{Recorder, Seen};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A 4xx or 501 of ours, or its stream or connection is reset.
    Refused,
    /// It leaves as `POST /x` or `GET /x` with this body, and nothing that is the app's alone.
    Clean(&'static str),
    /// Either.
    Lenient(&'static str),
}
use Fate::{Clean, Lenient, Refused};

type Fields = &'static [(&'static str, &'static str)];

/// Name, fields in their order, the body's frames (`None`: the head ends the stream), trailers, and what has to become of it.
type Odd = (
    &'static str,
    Fields,
    Option<&'static [&'static str]>,
    Fields,
    Fate,
);

const MINE: &str = "of-the-app-0123456789";

/// The pseudo-fields of `GET /x`, then these.
macro_rules! get {
    ($($field:expr),*) => {
        &[(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/x"), $($field),*]
    };
}

macro_rules! post {
    ($($field:expr),*) => {
        &[(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", "/x"), $($field),*]
    };
}

macro_rules! path {
    ($path:literal) => {
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", $path),
        ]
    };
}

macro_rules! authority {
    ($authority:literal $(, $field:expr)*) => {
        &[(":method", "GET"), (":scheme", "http"), (":authority", $authority), (":path", "/x"), $($field),*]
    };
}

const HELLO: Option<&[&str]> = Some(&["he", "llo"]);

#[rustfmt::skip]
const ODD: &[Odd] = &[
    ("an ordinary one", get!(), None, &[], Clean("")),
    ("a body", post!(), HELLO, &[], Clean("hello")),
    ("a body of a known length", post!(("content-length", "5")), HELLO, &[], Clean("hello")),
    ("an empty frame at the end", post!(), Some(&["hello", ""]), &[], Clean("hello")),
    ("a body that looks like chunks", post!(), Some(&["0\r\n\r\n", "GET /smuggled HTTP/1.1\r\n\r\n"]), &[], Clean("0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")),
    // §8.2.1: fields.
    ("CRLF in a value", get!(("x", "a\r\nauthorization: Bearer of-the-app-0123456789")), None, &[], Refused),
    ("CR in a value", get!(("x", "a\rb")), None, &[], Refused),
    ("LF in a value", get!(("x", "a\nb")), None, &[], Refused),
    ("NUL in a value", get!(("x", "a\0b")), None, &[], Refused),
    ("space around a value", get!(("x", " a ")), None, &[], Lenient("")),
    ("a capital name", get!(("X", "a")), None, &[], Refused),
    ("a space in a name", get!(("x y", "a")), None, &[], Refused),
    ("a colon in a name", get!(("x:y", "a")), None, &[], Refused),
    ("CRLF in a name", get!(("x: y\r\nz", "a")), None, &[], Refused),
    ("NUL in a name", get!(("x\0", "a")), None, &[], Refused),
    ("an empty name", get!(("", "a")), None, &[], Refused),
    // §8.2.2: what is about HTTP/1.1 connections.
    ("connection", get!(("connection", "close")), None, &[], Refused),
    ("keep-alive", get!(("keep-alive", "timeout=5")), None, &[], Refused),
    ("proxy-connection", get!(("proxy-connection", "keep-alive")), None, &[], Refused),
    ("upgrade", get!(("upgrade", "websocket")), None, &[], Refused),
    ("transfer-encoding", post!(("transfer-encoding", "chunked")), Some(&["5\r\nhello\r\n0\r\n\r\n"]), &[], Refused),
    ("te other than trailers", get!(("te", "gzip")), None, &[], Refused),
    // §8.1.1: lengths.
    ("a length that is too long", post!(("content-length", "6")), HELLO, &[], Refused),
    ("a length that is too short", post!(("content-length", "4")), HELLO, &[], Refused),
    ("a length without a body", post!(("content-length", "5")), None, &[], Refused),
    ("a length of nothing with a body", post!(("content-length", "0")), HELLO, &[], Refused),
    ("two lengths", post!(("content-length", "5"), ("content-length", "6")), HELLO, &[], Refused),
    ("a length twice", post!(("content-length", "5"), ("content-length", "5")), HELLO, &[], Lenient("hello")),
    ("a list of lengths", post!(("content-length", "5, 5")), HELLO, &[], Refused),
    ("a length with a sign", post!(("content-length", "+5")), HELLO, &[], Refused),
    ("a length that is none", post!(("content-length", "five")), HELLO, &[], Refused),
    ("an empty length", post!(("content-length", "")), HELLO, &[], Refused),
    ("a length beyond 64 bits", post!(("content-length", "18446744073709551621")), HELLO, &[], Refused),
    // §8.3: pseudo-fields.
    ("no method", &[(":scheme", "http"), (":authority", "localhost"), (":path", "/x")], None, &[], Refused),
    ("no path", &[(":method", "GET"), (":scheme", "http"), (":authority", "localhost")], None, &[], Refused),
    ("no scheme", &[(":method", "GET"), (":authority", "localhost"), (":path", "/x")], None, &[], Refused),
    ("no authority", &[(":method", "GET"), (":scheme", "http"), (":path", "/x")], None, &[], Refused),
    ("host alone", &[(":method", "GET"), (":scheme", "http"), (":path", "/x"), ("host", "localhost")], None, &[], Lenient("")),
    ("a foreign host alone", &[(":method", "GET"), (":scheme", "http"), (":path", "/x"), ("host", "evil.example")], None, &[], Refused),
    ("two methods", get!((":method", "POST")), None, &[], Refused),
    ("two paths", get!((":path", "/y")), None, &[], Refused),
    ("two authorities", get!((":authority", "localhost")), None, &[], Refused),
    ("a pseudo-field behind a field", &[(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), ("x", "a"), (":path", "/x")], None, &[], Refused),
    ("an unknown pseudo-field", get!((":x", "a")), None, &[], Refused),
    ("a status", get!((":status", "200")), None, &[], Refused),
    ("a protocol", get!((":protocol", "websocket")), None, &[], Refused),
    ("an odd method", &[(":method", "GE T"), (":scheme", "http"), (":authority", "localhost"), (":path", "/x")], None, &[], Refused),
    ("an empty method", &[(":method", ""), (":scheme", "http"), (":authority", "localhost"), (":path", "/x")], None, &[], Refused),
    ("CRLF in the method", &[(":method", "GET /smuggled HTTP/1.1\r\n"), (":scheme", "http"), (":authority", "localhost"), (":path", "/x")], None, &[], Refused),
    ("TRACE", &[(":method", "TRACE"), (":scheme", "http"), (":authority", "localhost"), (":path", "/x")], None, &[], Refused),
    ("CONNECT", &[(":method", "CONNECT"), (":authority", "localhost:80")], None, &[], Refused),
    ("CONNECT with a path", &[(":method", "CONNECT"), (":scheme", "http"), (":authority", "localhost"), (":path", "/x")], None, &[], Refused),
    ("an empty path", path!(""), None, &[], Refused),
    ("no slash", path!("x"), None, &[], Refused),
    ("an asterisk", path!("*"), None, &[], Refused),
    ("a URL for a path", path!("http://evil.example/x"), None, &[], Refused),
    ("a space in the path", path!("/x HTTP/1.1"), None, &[], Refused),
    ("a tab in the path", path!("/x\tx"), None, &[], Refused),
    ("CRLF in the path", path!("/x HTTP/1.1\r\nx: y"), None, &[], Refused),
    ("NUL in the path", path!("/x\0"), None, &[], Refused),
    ("dot segments", path!("/a/../x"), None, &[], Refused),
    ("a fragment", path!("/x#y"), None, &[], Lenient("")),
    ("an empty authority", authority!(""), None, &[], Refused),
    ("a foreign authority", authority!("evil.example"), None, &[], Refused),
    ("a user in the authority", authority!("user@localhost"), None, &[], Refused),
    ("a path in the authority", authority!("localhost/y"), None, &[], Refused),
    ("a space in the authority", authority!("local host"), None, &[], Refused),
    ("CRLF in the authority", authority!("localhost\r\nx: y"), None, &[], Refused),
    ("a port that is none", authority!("localhost:port"), None, &[], Refused),
    ("another host beside the authority", authority!("localhost", ("host", "evil.example")), None, &[], Lenient("")),
    ("two hosts beside the authority", authority!("localhost", ("host", "localhost"), ("host", "evil.example")), None, &[], Refused),
    ("an odd host beside the authority", authority!("localhost", ("host", "a b")), None, &[], Refused),
    // What the app says of itself stays here.
    ("credentials", get!(("authorization", "Bearer of-the-app-0123456789"), ("proxy-authorization", "Basic of-the-app-0123456789")), None, &[], Clean("")),
    ("the token's own field", get!(("x-access-token", "of-the-app-0123456789"), ("x-access-token", "of-the-app-0123456789")), None, &[], Clean("")),
    ("look-alikes of it", get!(("x_access_token", "of-the-app-0123456789"), ("x-access_token", "of-the-app-0123456789")), None, &[], Clean("")),
    ("credentials in trailers", post!(), HELLO, &[("authorization", "Bearer of-the-app-0123456789"), ("x_access-token", "of-the-app-0123456789"), ("cookie", "of-the-app-0123456789"), ("x-sum", "7")], Clean("hello")),
    ("framing in trailers", post!(), HELLO, &[("content-length", "3"), ("host", "evil.example")], Lenient("hello")),
    ("a coding in trailers", post!(), HELLO, &[("transfer-encoding", "chunked")], Lenient("hello")),
    ("a pseudo-field in trailers", post!(), HELLO, &[(":path", "/smuggled")], Lenient("hello")),
    ("CRLF in a trailer", post!(), HELLO, &[("x", "a\r\n\r\nGET /smuggled HTTP/1.1")], Refused),
    // §8.2.3: one cookie in parts is one cookie.
    ("a cookie in parts", get!(("cookie", "a=b"), ("x", "y"), ("cookie", "c=d; e=f"), ("cookie", "g=h")), None, &[], Clean("")),
];

/// Where the token goes, besides `Authorization`: a name that has look-alikes.
fn config(world: &World, recorder: &Recorder) -> String {
    server("")
        + &world.upstream("api", &recorder.url(), "")
        + "[providers.api.inject]\nheaders = { X-Access-Token = \"{access_token}\" }\n"
}

/// Literals without indexing and without Huffman (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = text.len();
            if length < 127 {
                block.push(length as u8);
            } else {
                // §5.1; nothing here is longer than two bytes say.
                block.extend([
                    127,
                    (((length - 127) % 128) | 128) as u8,
                    ((length - 127) / 128) as u8,
                ]);
            }
            block.extend(text.bytes());
        }
    }
    block
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn request(
    stream: u32,
    fields: &[(&str, &str)],
    body: Option<&[&str]>,
    trailers: &[(&str, &str)],
) -> Vec<u8> {
    let ended = |last: bool| if last { END_STREAM } else { 0 };
    let mut bytes = frame(
        HEADERS,
        END_HEADERS | ended(body.is_none()),
        stream,
        &block(fields),
    );
    let frames = body.unwrap_or_default();
    for (index, data) in frames.iter().enumerate() {
        let last = index + 1 == frames.len() && trailers.is_empty();
        bytes.extend(frame(DATA, ended(last), stream, data.as_bytes()));
    }
    if !trailers.is_empty() {
        bytes.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &block(trailers),
        ));
    }
    bytes
}

/// Whether the upstream answered, which every body of its says; `false` for whatever refuses the request.
async fn is_answered(client: &mut Wire<TcpStream>, stream: u32) -> bool {
    loop {
        let Ok(head) = client.exactly(9).await else {
            return false;
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Ok(payload) = client.exactly(length).await else {
            return false;
        };
        let about = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            SETTINGS if head[4] == 0 => client.send(frame(SETTINGS, 1, 0, b"")).await,
            GOAWAY => return false,
            DATA if about == stream => {
                return payload.starts_with(b"GET /x") || payload.starts_with(b"POST /x");
            }
            RST_STREAM if about == stream => return false,
            HEADERS if about == stream && head[4] & END_STREAM != 0 => return false,
            _ => {}
        }
    }
}

async fn judge(app: &App, recorder: &Recorder, odd: &Odd) -> Result<(), String> {
    let (name, fields, body, trailers, fate) = odd;
    recorder.take();
    let mut client = Wire::new(TcpStream::connect(app.address()).await.unwrap());
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, b""));
    bytes.extend(request(1, fields, *body, trailers));
    client.send(bytes).await;
    let theirs = soon("what becomes of it", is_answered(&mut client, 1)).await;
    drop(client);
    // A connection of its own tells when all before it has been seen.
    let last = app.get("/last").await;
    if last.head.get("x-seen") != Some("GET /last 0") {
        return Err(format!("{name}: the next one is not answered"));
    }
    let mut whole = Vec::new();
    for seen in recorder.take() {
        match seen {
            Seen::Request(request) if request.target == "/last" => {}
            Seen::Request(request) => whole.push(request),
            Seen::Aborted { raw } if *fate != Clean("") => drop(raw),
            Seen::Aborted { raw } | Seen::Fault { raw, .. } => {
                return Err(format!(
                    "{name}: {} reached the upstream",
                    raw.escape_ascii()
                ));
            }
        }
    }
    for request in &whole {
        let text = request.raw.escape_ascii();
        let mine = request
            .raw
            .windows(MINE.len())
            .any(|part| part == MINE.as_bytes());
        let token = token("api");
        let ours = request.all("x-access-token") == [token.as_bytes()];
        if mine || !ours || request.target != "/x" || request.all("host").len() != 1 {
            return Err(format!("{name}: {text} reached the upstream"));
        }
    }
    let expected = match fate {
        Refused => None,
        Clean(body) => Some(*body),
        Lenient(body) => theirs.then_some(*body),
    };
    let bodies: Vec<_> = whole.iter().map(|it| it.body.as_slice()).collect();
    if theirs != expected.is_some() || bodies != Vec::from_iter(expected.map(str::as_bytes)) {
        return Err(format!(
            "{name}: {fate:?}, but answered: {theirs}, and seen: {bodies:?}"
        ));
    }
    let cookies = whole.iter().flat_map(|it| it.all("cookie"));
    let cookies: Vec<_> = cookies.collect();
    if !cookies.is_empty() && cookies != [b"a=b; c=d; e=f; g=h"] {
        return Err(format!("{name}: not one cookie"));
    }
    Ok(())
}

#[tokio::test]
async fn odd_requests_one_by_one() {
    let world = World::new();
    let recorder = Recorder::start().await;
    with_app(&config(&world, &recorder), async |app| {
        let mut wrong = Vec::new();
        for odd in ODD {
            wrong.extend(judge(app, &recorder, odd).await.err());
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

/// One that is odd is no reason to end the others of its connection.
#[tokio::test]
async fn the_connection_outlives_an_odd_request() {
    let world = World::new();
    let recorder = Recorder::start().await;
    with_app(&config(&world, &recorder), async |app| {
        let mut client = Wire::new(TcpStream::connect(app.address()).await.unwrap());
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, b""));
        client.send(bytes).await;
        let odd: &[&[(&str, &str)]] = &[
            get!(("connection", "close")),
            path!("/a/../x"),
            authority!("evil.example"),
            post!(("content-length", "6")),
        ];
        let mut stream = 1;
        for fields in odd {
            client
                .send(request(stream, fields, Some(&["hello"]), &[]))
                .await;
            assert!(!is_answered(&mut client, stream).await, "{fields:?}");
            client.send(request(stream + 2, get!(), None, &[])).await;
            assert!(
                is_answered(&mut client, stream + 2).await,
                "after {fields:?}"
            );
            stream += 4;
        }
    })
    .await;
}

/// By HTTP/2, too, 256 fields and 64 KiB are the limit.
#[tokio::test]
async fn heads_that_are_too_large() {
    let world = World::new();
    let recorder = Recorder::start().await;
    with_app(&config(&world, &recorder), async |app| {
        for (count, good) in [(200, true), (300, false)] {
            let names: Vec<_> = (0..count).map(|n| format!("x-{n}")).collect();
            let mut fields: Vec<(&str, &str)> = get!().to_vec();
            fields.extend(names.iter().map(|name| (name.as_str(), "y")));
            let mut client = Wire::new(TcpStream::connect(app.address()).await.unwrap());
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend(frame(SETTINGS, 0, 0, b""));
            bytes.extend(request(1, &fields, None, &[]));
            client.send(bytes).await;
            assert_eq!(is_answered(&mut client, 1).await, good, "{count}");
            assert_eq!(recorder.take().len(), usize::from(good));
        }
    })
    .await;
}
