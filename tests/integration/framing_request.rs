//! RFC 9112 §2-§7 on the app's side: each malformed or ambiguous request is refused, or goes on as one clean request; never is
//! a byte of one request taken for another, and no credential of the app's gets through.
//!
//! [`ODD`] lists the requests by name. A property test mixes them with ordinary ones, in a row and cut into pieces.
//! `CUPBEARER_STRICT_CASES` and `CUPBEARER_STRICT_SEED` make it longer, or repeat it.

use std::fmt::Write as _;
use std::io;

use fastrand::Rng;

use crate::client::{Client, Head};
use crate::harness::{App, World, server, token, with_app};
use crate::recorder::{Recorder, Request, Seen};

/// What no upstream may see.
const MINE: &str = "of-the-app-0123456789";

/// What stands in a body to be taken for another request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// What has to become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Forwarded, and nothing else.
    Clean,
    /// A 4xx of ours, or no answer at all.
    Refused,
    /// One of the two.
    Either,
}
use Fate::{Clean, Either, Refused};

#[derive(Clone, Debug)]
struct Sent {
    name: String,
    bytes: Vec<u8>,
    fate: Fate,
    /// As the upstream must see it.
    method: String,
    target: String,
    body: Vec<u8>,
}

/// A request with `{t}` for its target, a body, what has to become of it, and the body that the upstream must see then.
type Odd = (&'static str, &'static str, Fate, &'static str);

macro_rules! post {
    ($fields:literal, $body:literal) => {
        concat!(
            "POST {t} HTTP/1.1\r\nHost: localhost\r\n",
            $fields,
            "\r\n\r\n",
            $body
        )
    };
}

macro_rules! get {
    ($fields:literal) => {
        concat!(
            "GET {t} HTTP/1.1\r\nHost: localhost\r\n",
            $fields,
            "\r\n\r\n"
        )
    };
}

macro_rules! host {
    ($host:literal) => {
        concat!("GET {t} HTTP/1.1\r\n", $host, "\r\n\r\n")
    };
}

macro_rules! chunks {
    ($chunks:literal) => {
        concat!(
            "POST {t} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            $chunks
        )
    };
}

#[rustfmt::skip]
const ODD: &[Odd] = &[
    // RFC 9112 §6.3: lengths that two readers may see differently.
    ("two lengths", post!("Content-Length: 5\r\nContent-Length: 6", "hello!"), Refused, ""),
    ("a length twice", post!("Content-Length: 5\r\nContent-Length: 5", "hello"), Either, "hello"),
    ("a list of one length", post!("Content-Length: 5, 5", "hello"), Either, "hello"),
    ("a list of lengths", post!("Content-Length: 5, 6", "hello!"), Refused, ""),
    ("a length with a sign", post!("Content-Length: +5", "hello"), Refused, ""),
    ("a negative length", post!("Content-Length: -5", "hello"), Refused, ""),
    ("a hexadecimal length", post!("Content-Length: 0x5", "hello"), Refused, ""),
    ("a length with a fraction", post!("Content-Length: 5.0", "hello"), Refused, ""),
    ("a length with a space", post!("Content-Length: 5 5", "hello"), Refused, ""),
    ("an empty length", post!("Content-Length:", "hello"), Refused, ""),
    ("a length beyond 64 bits", post!("Content-Length: 18446744073709551621", "hello"), Refused, ""),
    ("a length in other digits", post!("Content-Length: \u{665}", "hello"), Refused, ""),
    ("a length with zeros in front", post!("Content-Length: 0005", "hello"), Either, "hello"),
    ("a length between tabs", post!("Content-Length:\t5\t", "hello"), Either, "hello"),
    ("a length and chunks", post!("Content-Length: 5\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"), Either, "hello"),
    ("chunks and a length", post!("Transfer-Encoding: chunked\r\nContent-Length: 5", "5\r\nhello\r\n0\r\n\r\n"), Either, "hello"),
    ("a length and gzip", post!("Content-Length: 5\r\nTransfer-Encoding: gzip", "hello"), Refused, ""),
    // §6.1, §7: codings.
    ("gzip", post!("Transfer-Encoding: gzip", "hello"), Refused, ""),
    ("chunked, gzip", post!("Transfer-Encoding: chunked, gzip", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("gzip, chunked", post!("Transfer-Encoding: gzip, chunked", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("chunked twice", post!("Transfer-Encoding: chunked, chunked", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("chunked in two lines", post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("two codings in two lines", post!("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("identity", post!("Transfer-Encoding: identity", "hello"), Refused, ""),
    ("identity with a length", post!("Transfer-Encoding: identity\r\nContent-Length: 5", "hello"), Refused, ""),
    ("nearly chunked", post!("Transfer-Encoding: xchunked", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("chunked with a parameter", post!("Transfer-Encoding: chunked;q=1", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("quoted chunked", post!("Transfer-Encoding: \"chunked\"", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("chunked and a comma", post!("Transfer-Encoding: chunked,", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("chunked after a vertical tab", post!("Transfer-Encoding: \x0bchunked", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("no coding", post!("Transfer-Encoding:", "hello"), Refused, ""),
    ("capital chunked", post!("Transfer-Encoding: CHUNKED", "5\r\nhello\r\n0\r\n\r\n"), Either, "hello"),
    ("chunked after a tab", post!("Transfer-Encoding:\tchunked", "5\r\nhello\r\n0\r\n\r\n"), Either, "hello"),
    ("chunks in HTTP/1.0", "POST {t} HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Refused, ""),
    ("a coding under another name", post!("Transfer_Encoding: chunked\r\nContent-Length: 5", "hello"), Either, "hello"),
    // §5: fields.
    ("a folded value", post!("X: a\r\n b\r\nContent-Length: 5", "hello"), Refused, ""),
    ("a folded coding", post!("Transfer-Encoding:\r\n chunked", "5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a folded first field", "POST {t} HTTP/1.1\r\n Host: localhost\r\nContent-Length: 5\r\n\r\nhello", Refused, ""),
    ("a folded nothing", post!("X: a\r\n \r\nContent-Length: 5", "hello"), Refused, ""),
    ("a space before the colon", post!("Content-Length : 5", "hello"), Refused, ""),
    ("a tab before the colon", post!("Content-Length\t: 5", "hello"), Refused, ""),
    ("a space in a name", post!("Content Length: 5", "hello"), Refused, ""),
    ("a space before the Host's colon", host!("Host : localhost"), Refused, ""),
    ("no name", get!(": x"), Refused, ""),
    ("no colon", get!("X"), Refused, ""),
    ("a name with a parenthesis", get!("X(y): 1"), Refused, ""),
    ("a name beyond ASCII", get!("X\u{e9}: 1"), Refused, ""),
    ("NUL in a value", get!("X: a\0b"), Refused, ""),
    ("NUL in a name", get!("X\0: a"), Refused, ""),
    ("a control character in a value", get!("X: a\x01b"), Refused, ""),
    ("DEL in a value", get!("X: a\x7fb"), Refused, ""),
    ("a bare CR in a value", get!("X: a\rb"), Refused, ""),
    ("a bare CR and a field in it", post!("X: a\rContent-Length: 5\r\nContent-Length: 0", ""), Refused, ""),
    ("a CR too many", get!("X: a\r"), Refused, ""),
    ("a bare LF in a value", post!("X: a\nContent-Length: 5", "hello"), Either, "hello"),
    ("bare LFs only", "POST {t} HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello", Either, "hello"),
    ("a bare LF at the end of the head", "POST {t} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\nhello", Either, "hello"),
    // §7.1: chunks.
    ("a chunk size with a prefix", chunks!("0x5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk size with a sign", chunks!("+5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a negative chunk size", chunks!("-1\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("no chunk size", chunks!("\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk size that is none", chunks!("g\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk size of 17 digits", chunks!("10000000000000005\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk size with zeros in front", chunks!("0005\r\nhello\r\n0\r\n\r\n"), Either, "hello"),
    ("a chunk size and a space", chunks!("5 \r\nhello\r\n0\r\n\r\n"), Either, "hello"),
    ("a space and a chunk size", chunks!(" 5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("two chunk sizes", chunks!("5 5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk size and a bare LF", chunks!("5\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk size and a bare CR", chunks!("5\rhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk that is longer", chunks!("5\r\nhello!\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk that is shorter", chunks!("5\r\nhell\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk without an end", chunks!("5\r\nhello0\r\n\r\n"), Refused, ""),
    ("a chunk that ends in a bare LF", chunks!("5\r\nhello\n0\r\n\r\n"), Refused, ""),
    ("a chunk extension", chunks!("5;a=b\r\nhello\r\n0;c\r\n\r\n"), Either, "hello"),
    ("a bare LF in a chunk extension", chunks!("5;a\nb\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a bare CR in a chunk extension", chunks!("5;a\rb\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a trailer without a colon", chunks!("5\r\nhello\r\n0\r\nX\r\n\r\n"), Refused, ""),
    ("a trailer with a space before the colon", chunks!("5\r\nhello\r\n0\r\nX : a\r\n\r\n"), Refused, ""),
    ("a folded trailer", chunks!("5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n"), Refused, ""),
    ("NUL in a trailer", chunks!("5\r\nhello\r\n0\r\nX: a\0\r\n\r\n"), Refused, ""),
    ("framing in a trailer", chunks!("5\r\nhello\r\n0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: evil.example\r\n\r\n"), Either, "hello"),
    // §3.2: Host.
    ("no Host", "GET {t} HTTP/1.1\r\n\r\n", Refused, ""),
    ("no Host, absolute form", "GET http://localhost{t} HTTP/1.1\r\n\r\n", Refused, ""),
    ("two Hosts", host!("Host: localhost\r\nHost: localhost"), Refused, ""),
    ("two different Hosts", host!("Host: localhost\r\nHost: evil.example"), Refused, ""),
    ("an empty Host", host!("Host:"), Refused, ""),
    ("a list of Hosts", host!("Host: localhost, localhost"), Refused, ""),
    ("a port that is none", host!("Host: localhost:abc"), Refused, ""),
    ("a port with a sign", host!("Host: localhost:+80"), Refused, ""),
    ("a port beyond 16 bits", host!("Host: localhost:65536"), Refused, ""),
    ("two ports", host!("Host: localhost:80:80"), Refused, ""),
    ("a user in Host", host!("Host: user@localhost"), Refused, ""),
    ("a password in Host", host!("Host: user:password@localhost"), Refused, ""),
    ("a path in Host", host!("Host: localhost/x"), Refused, ""),
    ("a URL in Host", host!("Host: http://localhost/"), Refused, ""),
    ("half an address in Host", host!("Host: [::1"), Refused, ""),
    ("an address without brackets in Host", host!("Host: ::1"), Refused, ""),
    ("a Host beyond ASCII", host!("Host: localhost\u{e9}"), Refused, ""),
    ("a Host with a space", host!("Host: local host"), Refused, ""),
    ("an odd Host and an absolute form", "GET http://localhost{t} HTTP/1.1\r\nHost: a b\r\n\r\n", Refused, ""),
    ("a user in an absolute form", "GET http://user@localhost{t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    // §3: request lines.
    ("authority form", "GET localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("CONNECT", "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n", Refused, ""),
    ("asterisk form of GET", "GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("no slash", "GET x HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("an empty target", "GET  HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("another scheme", "GET ftp://localhost{t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a space in the target", "GET {t} x HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a tab after the method", "GET\t{t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("NUL in the target", "GET {t}\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a bare CR in the target", "GET {t}\r HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a control character in the target", "GET {t}\x0b HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("an odd method", "GE(T {t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a space before the method", " GET {t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("an empty line before the method", "\r\nGET {t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Either, ""),
    ("no version", "GET {t}\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("HTTP/1.2", "GET {t} HTTP/1.2\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("HTTP/2.0", "GET {t} HTTP/2.0\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("HTTP/0.9", "GET {t} HTTP/0.9\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a version in small letters", "GET {t} http/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a version and more", "GET {t} HTTP/1.1x\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("dot segments", "GET /a/..{t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("TRACE", "TRACE {t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    // RFC 9110 §15.2: no way in for credentials either.
    ("an interim response", "HTTP/1.1 103 Early Hints\r\nHost: localhost\r\nAuthorization: Bearer of-the-app-0123456789\r\n\r\n", Refused, ""),
    ("a response", "HTTP/1.1 200 OK\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", Refused, ""),
    // RFC 9110 §7.6.1, §6.5.1: what the app says of itself stays here.
    ("credentials", get!("Authorization: Bearer of-the-app-0123456789\r\nauthorization: Basic of-the-app-0123456789\r\nProxy-Authorization: Basic of-the-app-0123456789"), Clean, ""),
    ("a credential that is hop by hop", get!("Authorization: Bearer of-the-app-0123456789\r\nConnection: Authorization"), Clean, ""),
    ("fields named in two lines", get!("Connection: keep-alive, X-One\r\nX-One: of-the-app-0123456789\r\nConnection: ,, X-Two ,Authorization\r\nX-Two: of-the-app-0123456789"), Clean, ""),
    ("the token's field is hop by hop", get!("Connection: X-Access-Token\r\nX-Access-Token: of-the-app-0123456789"), Clean, ""),
    ("framing is hop by hop", post!("Connection: Content-Length, Host\r\nContent-Length: 5", "hello"), Clean, "hello"),
    ("chunks are hop by hop", post!("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"), Clean, "hello"),
    ("look-alikes of the token's field", get!("X_Access_Token: of-the-app-0123456789\r\nx-access_token: of-the-app-0123456789\r\nX_Access-Token: of-the-app-0123456789"), Clean, ""),
    ("look-alikes of a field with an underscore", get!("api-key: of-the-app-0123456789\r\napi_key: of-the-app-0123456789"), Clean, ""),
    ("credentials in trailers", chunks!("5\r\nhello\r\n0\r\nAuthorization: Bearer of-the-app-0123456789\r\nX-Access-Token: of-the-app-0123456789\r\nx_access_token: of-the-app-0123456789\r\nProxy-Authorization: of-the-app-0123456789\r\nCookie: of-the-app-0123456789\r\nX-Sum: 7\r\n\r\n"), Clean, "hello"),
    ("an upgrade of this hop", get!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: of-the-app-0123456789"), Clean, ""),
    ("an upgrade with a body", post!("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5", "hello"), Clean, "hello"),
    ("an unknown expectation", post!("Expect: 200-ok\r\nContent-Length: 5", "hello"), Either, "hello"),
];

/// Where the token goes, besides `Authorization`: names that have look-alikes.
fn config(world: &World, recorder: &Recorder) -> String {
    server("")
        + &world.upstream("api", &recorder.url(), "")
        + "[providers.api.inject]\nheaders = { X-Access-Token = \"{access_token}\", api_key = \"{access_token}\" }\n"
}

impl Sent {
    fn odd(odd: &Odd, target: String) -> Self {
        let (name, text, fate, body) = *odd;
        Self {
            name: name.to_owned(),
            bytes: text.replace("{t}", &target).into_bytes(),
            fate,
            method: if text.trim_start().starts_with("POST") {
                "POST"
            } else {
                "GET"
            }
            .to_owned(),
            target,
            body: body.as_bytes().to_vec(),
        }
    }

    fn last(index: usize) -> Self {
        let target = format!("/last/{index}");
        Self {
            name: "the last one".to_owned(),
            bytes: format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .into_bytes(),
            fate: Clean,
            method: "GET".to_owned(),
            target,
            body: Vec::new(),
        }
    }

    /// An ordinary request: no body, or one of a length or in chunks, which looks like other requests.
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
                "Authorization: Bearer of-the-app-0123456789\r\n",
                "Connection: keep-alive, X-Hop\r\nX-Hop: of-the-app-0123456789\r\n",
                "Cookie: a=b\r\n",
                "TE: trailers\r\n",
            ]);
            text += field.unwrap();
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
            let trailers = [
                "",
                "X-Sum: 1\r\n",
                "Authorization: Bearer of-the-app-0123456789\r\n",
            ];
            let trailers = random.choice(trailers).unwrap();
            bytes.extend(format!("0\r\n{trailers}\r\n").bytes());
        }
        Self {
            name: format!("{method} with {} bytes", body.len()),
            bytes,
            fate: Clean,
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

    fn is(&self, seen: &Request) -> bool {
        self.fate != Refused
            && (&self.method, &self.target, &self.body) == (&seen.method, &seen.target, &seen.body)
    }
}

/// One answer, as far as it matters.
#[derive(Debug)]
enum Answer {
    /// Of the upstream's, about this method and target.
    Theirs(String),
    Refusal(u16),
}

/// Sends all in a row, cut at `cuts`, and judges what came of it. The error is what went wrong.
async fn judge(
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
        // So that the proxy may find it before there is more.
        tokio::task::yield_now().await;
        begin = cut;
    }
    let answers = answers(&mut client, sent).await;
    drop(client);
    let verdict = check_forwarded(recorder, sent).and_then(|()| check_answers(&answers, sent));
    verdict.map_err(|why| {
        let names: Vec<_> = sent.iter().map(|sent| &sent.name).collect();
        format!(
            "{why}\n  {names:?} cut at {cuts:?}\n  sent {}\n  answers {answers:?}\n",
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
        if raw.windows(MINE.len()).any(|part| part == MINE.as_bytes()) {
            return Err(format!("a credential reached the upstream: {text}"));
        }
        match &seen {
            Seen::Aborted { .. } => {}
            Seen::Fault { why, .. } => return Err(format!("{why} reached the upstream: {text}")),
            Seen::Request(request) => {
                check_credential(request)?;
                // In order, each at most once.
                if !rest.any(|sent| sent.is(request)) {
                    return Err(format!("nobody sent what the upstream saw: {text}"));
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
            return Err(format!("not just our token in {name}"));
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

fn check_answers(answers: &[Answer], sent: &[Sent]) -> Result<(), String> {
    for (answer, sent) in answers.iter().zip(sent) {
        match answer {
            Answer::Refusal(status) => {
                if !(400..500).contains(status) && *status != 501 {
                    return Err(format!("{} was answered with {status}", sent.name));
                }
                if sent.fate == Clean {
                    return Err(format!("{} was refused", sent.name));
                }
            }
            Answer::Theirs(seen) => {
                let mine = format!("{} {} {}", sent.method, sent.target, sent.body.len());
                if sent.fate == Refused || *seen != mine {
                    return Err(format!("{} was answered as {seen}", sent.name));
                }
            }
        }
    }
    // Whatever is clean is answered, unless something odd before it ended the connection.
    let clean = sent.iter().take_while(|sent| sent.fate == Clean).count();
    if answers.len() < clean {
        return Err(format!("{} got no answer", sent[answers.len()].name));
    }
    Ok(())
}

/// Until the connection ends, or all is answered.
async fn answers(client: &mut Client, sent: &[Sent]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(current) = sent.get(answers.len()) {
        match answer(client, &current.method).await {
            Ok(answer) => answers.push(answer),
            // A reset may have taken the last answer with it.
            Err(_) => break,
        }
    }
    answers
}

async fn answer(client: &mut Client, method: &str) -> io::Result<Answer> {
    loop {
        let head: Head = client.try_head().await?;
        let status = head.status().as_u16();
        if status < 200 {
            continue;
        }
        let seen = head.get("x-seen").map(str::to_owned);
        // What is no request is answered with a body, whatever method it seems to have.
        let has_body =
            method != "HEAD" || seen.is_none() && head.get("connection") == Some("close");
        if has_body {
            client.body(&head, false).await?;
        }
        return Ok(match seen {
            Some(seen) => Answer::Theirs(seen),
            None => Answer::Refusal(status),
        });
    }
}

#[tokio::test]
async fn odd_requests_one_by_one() {
    let world = World::new();
    let recorder = Recorder::start().await;
    with_app(&config(&world, &recorder), async |app| {
        let mut wrong = Vec::new();
        for (index, odd) in ODD.iter().enumerate() {
            let odd = Sent::odd(odd, format!("/odd/{index}"));
            let row = [odd.clone(), Sent::last(index)];
            let middle = odd.bytes.len() / 2;
            wrong.extend(judge(app, &recorder, &row, &[]).await.err());
            wrong.extend(judge(app, &recorder, &row, &[middle]).await.err());
            // Alone, nothing can take the answer away.
            if odd.fate == Refused {
                let mut client = app.connect().await;
                client.send(&odd.bytes).await;
                let answer = answer(&mut client, &odd.method).await;
                if !matches!(answer, Ok(Answer::Refusal(400..=501))) {
                    wrong.push(format!("{} is not told: {answer:?}", odd.name));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn heads_that_are_too_large() {
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

/// Sequences of both kinds, in one piece or many.
#[tokio::test]
async fn requests_in_a_row_never_mix() {
    let world = World::new();
    let recorder = Recorder::start().await;
    let seed = from_environment("CUPBEARER_STRICT_SEED").unwrap_or(0x5eed);
    let cases = from_environment("CUPBEARER_STRICT_CASES").unwrap_or(1_000);
    let mut random = Rng::with_seed(seed);
    with_app(&config(&world, &recorder), async |app| {
        for case in 0..cases {
            let mut sent = Vec::new();
            for index in 0..random.usize(1..6) {
                let target = format!("/{case}/{index}?q={}", random.u8(..));
                sent.push(match random.u8(..4) {
                    0 => Sent::odd(random.choice(ODD).unwrap(), target),
                    _ => Sent::ordinary(&mut random, target),
                });
            }
            let length: usize = sent.iter().map(|sent| sent.bytes.len()).sum();
            let mut cuts: Vec<usize> = (0..random.usize(0..7))
                .map(|_| random.usize(..length))
                .collect();
            cuts.sort_unstable();
            if let Err(why) = judge(app, &recorder, &sent, &cuts).await {
                panic!("case {case} of seed {seed}: {why}");
            }
        }
    })
    .await;
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
