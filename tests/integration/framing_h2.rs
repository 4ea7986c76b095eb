//! RFC 9113 §8, frame by frame: a malformed request is refused, or forwarded as one clean request.
//! The upstream records every byte that it receives.

use tokio::net::TcpStream;

use crate::client::Wire;
use crate::harness::{App, World, server, soon, token, with_app};
use crate::recorder::{Recorder, Request, Seen};

/// What must happen to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// One of Cupbearer's errors, or a reset of the stream or the connection.
    Refused,
    /// Forwarded to `/x` with this body and without [`SECRET`].
    Forwarded(&'static str),
    /// [`Outcome::Refused`] or [`Outcome::Forwarded`].
    Either(&'static str),
}
use Outcome::{Either, Forwarded, Refused};

type Fields = &'static [(&'static str, &'static str)];

/// Label, fields of the head, DATA frames (`None`: HEADERS has END_STREAM), trailers, and outcome.
type Case = (
    &'static str,
    Fields,
    Option<&'static [&'static str]>,
    Fields,
    Outcome,
);

/// A value that must not reach the upstream.
const SECRET: &str = "of-the-app-0123456789";
const BEARER: &str = "Bearer of-the-app-0123456789";

/// The head of a request to `/x`: pseudo-header fields, then these fields.
macro_rules! head {
    ($method:literal, $authority:literal $(, $field:expr)*) => {
        &[
            (":method", $method),
            (":scheme", "http"),
            (":authority", $authority),
            (":path", "/x"),
            $($field),*
        ]
    };
}

macro_rules! get {
    ($($field:expr),*) => {
        head!("GET", "localhost" $(, $field)*)
    };
}

macro_rules! post {
    ($($field:expr),*) => {
        head!("POST", "localhost" $(, $field)*)
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
        head!("GET", $authority $(, $field)*)
    };
}

const HELLO: Option<&[&str]> = Some(&["he", "llo"]);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("an ordinary request", get!(), None, &[], Forwarded("")),
    ("a body", post!(), HELLO, &[], Forwarded("hello")),
    ("a body with content-length", post!(("content-length", "5")), HELLO, &[], Forwarded("hello")),
    ("an empty DATA frame at the end", post!(), Some(&["hello", ""]), &[], Forwarded("hello")),
    ("a body that looks like chunks",
     post!(), Some(&["0\r\n\r\n", "GET /smuggled HTTP/1.1\r\n\r\n"]), &[],
     Forwarded("0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")),
    // §8.2.1: field validity.
    ("CRLF in a field value",
     get!(("x", "a\r\nauthorization: Bearer of-the-app-0123456789")), None, &[], Refused),
    ("CR in a field value", get!(("x", "a\rb")), None, &[], Refused),
    ("LF in a field value", get!(("x", "a\nb")), None, &[], Refused),
    ("NUL in a field value", get!(("x", "a\0b")), None, &[], Refused),
    ("spaces around a field value", get!(("x", " a ")), None, &[], Either("")),
    ("a capital letter in a field name", get!(("X", "a")), None, &[], Refused),
    ("a space in a field name", get!(("x y", "a")), None, &[], Refused),
    ("a colon in a field name", get!(("x:y", "a")), None, &[], Refused),
    ("CRLF in a field name", get!(("x: y\r\nz", "a")), None, &[], Refused),
    ("NUL in a field name", get!(("x\0", "a")), None, &[], Refused),
    ("an empty field name", get!(("", "a")), None, &[], Refused),
    // §8.2.2: connection-specific fields.
    ("connection", get!(("connection", "close")), None, &[], Refused),
    ("keep-alive", get!(("keep-alive", "timeout=5")), None, &[], Refused),
    ("proxy-connection", get!(("proxy-connection", "keep-alive")), None, &[], Refused),
    ("upgrade", get!(("upgrade", "websocket")), None, &[], Refused),
    ("transfer-encoding",
     post!(("transfer-encoding", "chunked")), Some(&["5\r\nhello\r\n0\r\n\r\n"]), &[], Refused),
    ("te other than trailers", get!(("te", "gzip")), None, &[], Refused),
    // §8.1.1: lengths.
    ("a content-length above the body length", post!(("content-length", "6")), HELLO, &[], Refused),
    ("a content-length below the body length", post!(("content-length", "4")), HELLO, &[], Refused),
    ("a content-length without a body", post!(("content-length", "5")), None, &[], Refused),
    ("a content-length of 0 with a body", post!(("content-length", "0")), HELLO, &[], Refused),
    ("two different content-length fields",
     post!(("content-length", "5"), ("content-length", "6")), HELLO, &[], Refused),
    ("the same content-length twice",
     post!(("content-length", "5"), ("content-length", "5")), HELLO, &[], Either("hello")),
    ("a list of one repeated content-length",
     post!(("content-length", "5, 5")), HELLO, &[], Refused),
    ("a content-length with a sign", post!(("content-length", "+5")), HELLO, &[], Refused),
    ("a content-length that is not a number",
     post!(("content-length", "five")), HELLO, &[], Refused),
    ("an empty content-length", post!(("content-length", "")), HELLO, &[], Refused),
    ("a content-length beyond 64 bits",
     post!(("content-length", "18446744073709551621")), HELLO, &[], Refused),
    // §8.3: pseudo-header fields.
    ("no :method",
     &[(":scheme", "http"), (":authority", "localhost"), (":path", "/x")], None, &[], Refused),
    ("no :path",
     &[(":method", "GET"), (":scheme", "http"), (":authority", "localhost")], None, &[], Refused),
    ("no :scheme",
     &[(":method", "GET"), (":authority", "localhost"), (":path", "/x")], None, &[], Refused),
    ("no :authority and no host",
     &[(":method", "GET"), (":scheme", "http"), (":path", "/x")], None, &[], Refused),
    ("host without :authority",
     &[(":method", "GET"), (":scheme", "http"), (":path", "/x"), ("host", "localhost")], None, &[],
     Either("")),
    ("a foreign host without :authority",
     &[(":method", "GET"), (":scheme", "http"), (":path", "/x"), ("host", "evil.example")], None,
     &[], Refused),
    ("two :method fields", get!((":method", "POST")), None, &[], Refused),
    ("two :path fields", get!((":path", "/y")), None, &[], Refused),
    ("two :authority fields", get!((":authority", "localhost")), None, &[], Refused),
    ("a pseudo-header field after a regular field",
     &[(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), ("x", "a"), (":path",
     "/x")], None, &[], Refused),
    ("an unknown pseudo-header field", get!((":x", "a")), None, &[], Refused),
    ("a :status field", get!((":status", "200")), None, &[], Refused),
    ("a :protocol field", get!((":protocol", "websocket")), None, &[], Refused),
    ("an invalid method",
     &[(":method", "GE T"), (":scheme", "http"), (":authority", "localhost"), (":path", "/x")],
     None, &[], Refused),
    ("an empty :method",
     &[(":method", ""), (":scheme", "http"), (":authority", "localhost"), (":path", "/x")], None,
     &[], Refused),
    ("CRLF in :method",
     &[(":method", "GET /smuggled HTTP/1.1\r\n"), (":scheme", "http"), (":authority", "localhost"),
     (":path", "/x")], None, &[], Refused),
    ("TRACE",
     &[(":method", "TRACE"), (":scheme", "http"), (":authority", "localhost"), (":path", "/x")],
     None, &[], Refused),
    ("CONNECT", &[(":method", "CONNECT"), (":authority", "localhost:80")], None, &[], Refused),
    ("CONNECT with :path",
     &[(":method", "CONNECT"), (":scheme", "http"), (":authority", "localhost"), (":path", "/x")],
     None, &[], Refused),
    ("an empty :path", path!(""), None, &[], Refused),
    ("a path without a leading slash", path!("x"), None, &[], Refused),
    ("asterisk form of GET", path!("*"), None, &[], Refused),
    ("a URL in :path", path!("http://evil.example/x"), None, &[], Refused),
    ("a space in :path", path!("/x HTTP/1.1"), None, &[], Refused),
    ("a tab in :path", path!("/x\tx"), None, &[], Refused),
    ("CRLF in :path", path!("/x HTTP/1.1\r\nx: y"), None, &[], Refused),
    ("NUL in :path", path!("/x\0"), None, &[], Refused),
    ("dot segments", path!("/a/../x"), None, &[], Refused),
    ("a fragment in :path", path!("/x#y"), None, &[], Either("")),
    ("an empty :authority", authority!(""), None, &[], Refused),
    ("a foreign :authority", authority!("evil.example"), None, &[], Refused),
    ("a user in :authority", authority!("user@localhost"), None, &[], Refused),
    ("a path in :authority", authority!("localhost/y"), None, &[], Refused),
    ("a space in :authority", authority!("local host"), None, &[], Refused),
    ("CRLF in :authority", authority!("localhost\r\nx: y"), None, &[], Refused),
    ("a port that is not a number", authority!("localhost:port"), None, &[], Refused),
    ("a host other than :authority",
     authority!("localhost", ("host", "evil.example")), None, &[], Either("")),
    ("two host fields besides :authority",
     authority!("localhost", ("host", "localhost"), ("host", "evil.example")), None, &[], Refused),
    ("an invalid host besides :authority",
     authority!("localhost", ("host", "a b")), None, &[], Refused),
    // App credentials and trailers.
    ("app credentials",
     get!(("authorization", BEARER), ("proxy-authorization", "Basic of-the-app-0123456789")), None,
     &[], Forwarded("")),
    ("the injected header twice",
     get!(("x-access-token", SECRET), ("x-access-token", SECRET)), None, &[], Forwarded("")),
    ("look-alikes of the injected header",
     get!(("x_access_token", SECRET), ("x-access_token", SECRET)), None, &[], Forwarded("")),
    ("app credentials in trailers",
     post!(), HELLO, &[("authorization", BEARER), ("x_access-token", SECRET), ("cookie", SECRET),
     ("x-sum", "7")], Forwarded("hello")),
    ("framing fields in trailers",
     post!(), HELLO, &[("content-length", "3"), ("host", "evil.example")], Either("hello")),
    ("transfer-encoding in trailers",
     post!(), HELLO, &[("transfer-encoding", "chunked")], Either("hello")),
    ("a pseudo-header field in trailers",
     post!(), HELLO, &[(":path", "/smuggled")], Either("hello")),
    ("CRLF in a trailer", post!(), HELLO, &[("x", "a\r\n\r\nGET /smuggled HTTP/1.1")], Refused),
    // §8.2.3: cookie fields are joined.
    ("three cookie fields",
     get!(("cookie", "a=b"), ("x", "y"), ("cookie", "c=d; e=f"), ("cookie", "g=h")), None, &[],
     Forwarded("")),
];

/// Injects the token into a field whose name has look-alikes.
fn config(world: &World, recorder: &Recorder) -> String {
    server("")
        + &world.upstream("api", &recorder.url(), "")
        + "[providers.api.inject]\nheaders = { X-Access-Token = \"{access_token}\" }\n"
}

/// Encodes literal fields without indexing and without Huffman codes (RFC 7541 §6.2.2).
fn header_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = text.len();
            if length < 127 {
                block.push(length as u8);
            } else {
                // RFC 7541 §5.1: a prefix of 7 bits and two more bytes.
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

/// Starts a connection: the client preface (RFC 9113 §3.4), with an empty SETTINGS frame.
async fn connect(app: &App) -> Wire<TcpStream> {
    let mut client = Wire::new(TcpStream::connect(app.address()).await.unwrap());
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    client
        .send([preface, &*frame(SETTINGS, 0, 0, b"")].concat())
        .await;
    client
}

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
    let end_stream = |last: bool| if last { END_STREAM } else { 0 };
    let mut bytes = frame(
        HEADERS,
        END_HEADERS | end_stream(body.is_none()),
        stream,
        &header_block(fields),
    );
    let frames = body.unwrap_or_default();
    for (index, data) in frames.iter().enumerate() {
        let last = index + 1 == frames.len() && trailers.is_empty();
        bytes.extend(frame(DATA, end_stream(last), stream, data.as_bytes()));
    }
    if !trailers.is_empty() {
        bytes.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &header_block(trailers),
        ));
    }
    bytes
}

/// Reads frames until DATA or the end of a stream. Returns whether the upstream responded: only its
/// bodies start with the method and the target.
async fn upstream_responds(client: &mut Wire<TcpStream>, stream: u32) -> bool {
    loop {
        let Ok(head) = client.exactly(9).await else {
            return false;
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Ok(payload) = client.exactly(length).await else {
            return false;
        };
        let frame_stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            SETTINGS if head[4] == 0 => client.send(frame(SETTINGS, 1, 0, b"")).await,
            GOAWAY => return false,
            DATA if frame_stream == stream => {
                return payload.starts_with(b"GET /x") || payload.starts_with(b"POST /x");
            }
            RST_STREAM if frame_stream == stream => return false,
            HEADERS if frame_stream == stream && head[4] & END_STREAM != 0 => return false,
            _ => {}
        }
    }
}

/// Sends the request of a case and checks what the upstream received. The error describes the
/// violation.
async fn check(app: &App, recorder: &Recorder, case: &Case) -> Result<(), String> {
    let (label, fields, body, trailers, outcome) = case;
    recorder.take();
    let mut client = connect(app).await;
    client.send(request(1, fields, *body, trailers)).await;
    let responded = soon(
        "DATA or the end of the stream",
        upstream_responds(&mut client, 1),
    )
    .await;
    drop(client);
    // The recorder has seen the whole request once it responds to a later one.
    let last = app.get("/last").await;
    if last.head.get("x-seen") != Some("GET /last 0") {
        return Err(format!("{label}: the next request got no response"));
    }
    let mut received = Vec::new();
    for seen in recorder.take() {
        match seen {
            Seen::Request(request) if request.target == "/last" => {}
            Seen::Request(request) => received.push(request),
            Seen::Aborted { raw } if *outcome != Forwarded("") => drop(raw),
            Seen::Aborted { raw } | Seen::Fault { raw, .. } => {
                return Err(format!(
                    "{label}: {} reached the upstream",
                    raw.escape_ascii()
                ));
            }
        }
    }
    for request in &received {
        if !is_clean(request) {
            let text = request.raw.escape_ascii();
            return Err(format!("{label}: {text} reached the upstream"));
        }
    }
    let expected = match outcome {
        Refused => None,
        Forwarded(body) => Some(*body),
        Either(body) => responded.then_some(*body),
    };
    let bodies: Vec<_> = received
        .iter()
        .map(|request| request.body.as_slice())
        .collect();
    if responded != expected.is_some() || bodies != Vec::from_iter(expected.map(str::as_bytes)) {
        return Err(format!(
            "{label}: expected {outcome:?}; upstream responded: {responded}, received: {bodies:?}"
        ));
    }
    let cookies = received.iter().flat_map(|request| request.all("cookie"));
    let cookies: Vec<_> = cookies.collect();
    if !cookies.is_empty() && cookies != [b"a=b; c=d; e=f; g=h"] {
        return Err(format!("{label}: the cookie fields were not joined"));
    }
    Ok(())
}

/// Returns whether a request to `/x` has one `Host` and exactly the injected token, without
/// [`SECRET`].
fn is_clean(request: &Request) -> bool {
    let mut parts = request.raw.windows(SECRET.len());
    let leaked = parts.any(|part| part == SECRET.as_bytes());
    let injected = request.all("x-access-token") == [token("api").as_bytes()];
    !leaked && injected && request.target == "/x" && request.all("host").len() == 1
}

#[tokio::test]
async fn each_case_is_refused_or_forwarded_as_one_clean_request() {
    let world = World::new();
    let recorder = Recorder::start().await;
    with_app(&config(&world, &recorder), async |app| {
        let mut wrong = Vec::new();
        for case in CASES {
            wrong.extend(check(app, &recorder, case).await.err());
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn a_refused_request_does_not_close_the_connection() {
    let world = World::new();
    let recorder = Recorder::start().await;
    with_app(&config(&world, &recorder), async |app| {
        let mut client = connect(app).await;
        let refused: &[&[(&str, &str)]] = &[
            get!(("connection", "close")),
            path!("/a/../x"),
            authority!("evil.example"),
            post!(("content-length", "6")),
        ];
        let mut stream = 1;
        for fields in refused {
            client
                .send(request(stream, fields, Some(&["hello"]), &[]))
                .await;
            assert!(!upstream_responds(&mut client, stream).await, "{fields:?}");
            client.send(request(stream + 2, get!(), None, &[])).await;
            assert!(
                upstream_responds(&mut client, stream + 2).await,
                "after {fields:?}"
            );
            stream += 4;
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_with_more_than_256_fields_is_refused() {
    let world = World::new();
    let recorder = Recorder::start().await;
    with_app(&config(&world, &recorder), async |app| {
        for (count, accepted) in [(200, true), (300, false)] {
            let names: Vec<_> = (0..count).map(|n| format!("x-{n}")).collect();
            let mut fields: Vec<(&str, &str)> = get!().to_vec();
            fields.extend(names.iter().map(|name| (name.as_str(), "y")));
            let mut client = connect(app).await;
            client.send(request(1, &fields, None, &[])).await;
            assert_eq!(upstream_responds(&mut client, 1).await, accepted, "{count}");
            assert_eq!(recorder.take().len(), usize::from(accepted));
        }
    })
    .await;
}
