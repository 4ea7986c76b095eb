//! RFC 9112 on the upstream's side: each faulty response is a 502 of ours or visibly cut off, and whatever else the upstream
//! says never becomes part of another answer on the app's connection.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::client::{Client, Response};
use crate::harness::{World, server, with_app};

/// What the app must see of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// This body, with the upstream's status.
    Whole(&'static str),
    /// 502 `upstream_protocol`.
    Faulty,
    /// A head, and a body that breaks off.
    Cut,
    /// As [`Fate::Whole`], or [`Fate::Faulty`].
    Lenient(&'static str),
}
use Fate::{Cut, Faulty, Lenient, Whole};

/// Name, what the upstream sends, and what has to become of it. The connection stays open.
type Odd = (&'static str, &'static str, Fate);

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
const ODD: &[Odd] = &[
    ("a length", head!("Content-Length: 5", "hello"), Whole("hello")),
    ("chunks", chunks!("2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n"), Whole("hello")),
    ("nothing", "HTTP/1.1 204 No Content\r\n\r\n", Whole("")),
    ("not modified, with a length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Whole("")),
    ("interim answers", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 7\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Whole("hello")),
    // What nobody asked for is nobody's answer.
    ("another answer behind it", head!("Content-Length: 5", "helloHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"), Whole("hello")),
    ("another answer behind chunks", chunks!("5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"), Whole("hello")),
    ("another answer behind nothing", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled", Whole("")),
    ("a body that must not be there", "HTTP/1.1 204 No Content\r\nContent-Length: 8\r\n\r\nsmuggled", Whole("")),
    ("chunks that must not be there", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n", Whole("")),
    ("a body of what is not modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\nsmuggled", Whole("")),
    ("a line break behind it", head!("Content-Length: 5", "hello\r\n"), Whole("hello")),
    // RFC 9112 §6.3: framing.
    ("two lengths", head!("Content-Length: 5\r\nContent-Length: 6", "hello!"), Faulty),
    ("a length twice", head!("Content-Length: 5\r\nContent-Length: 5", "hello"), Lenient("hello")),
    ("a list of one length", head!("Content-Length: 5, 5", "hello"), Lenient("hello")),
    ("a list of lengths", head!("Content-Length: 5, 6", "hello!"), Faulty),
    ("a length with a sign", head!("Content-Length: +5", "hello"), Faulty),
    ("a negative length", head!("Content-Length: -5", "hello"), Faulty),
    ("a hexadecimal length", head!("Content-Length: 0x5", "hello"), Faulty),
    ("an empty length", head!("Content-Length:", "hello"), Faulty),
    ("a length with a space", head!("Content-Length: 5 5", "hello"), Faulty),
    ("a length beyond 64 bits", head!("Content-Length: 18446744073709551621", "hello"), Faulty),
    ("a length and chunks", head!("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), Faulty),
    ("chunks and a length", head!("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"), Faulty),
    ("gzip", head!("Transfer-Encoding: gzip", "hello"), Faulty),
    ("gzip, chunked", head!("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), Faulty),
    ("chunked, gzip", head!("Transfer-Encoding: chunked, gzip", "0\r\n\r\n"), Faulty),
    ("chunked twice", head!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), Faulty),
    ("nearly chunked", head!("Transfer-Encoding: xchunked", "0\r\n\r\n"), Faulty),
    ("chunked after a vertical tab", head!("Transfer-Encoding: \x0bchunked", "0\r\n\r\n"), Faulty),
    ("no coding", head!("Transfer-Encoding:", "hello"), Faulty),
    ("chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Faulty),
    ("capital chunked", head!("Transfer-Encoding: CHUNKED", "5\r\nhello\r\n0\r\n\r\n"), Lenient("hello")),
    // §5: fields.
    ("a folded value", head!("X: a\r\n b\r\nContent-Length: 5", "hello"), Faulty),
    ("a folded coding", head!("Transfer-Encoding:\r\n chunked", "0\r\n\r\n"), Faulty),
    ("a space before the colon", head!("Content-Length : 5", "hello"), Faulty),
    ("no colon", head!("Content-Length: 5\r\nX", "hello"), Faulty),
    ("no name", head!(": x\r\nContent-Length: 5", "hello"), Faulty),
    ("NUL in a value", head!("X: a\0b\r\nContent-Length: 5", "hello"), Faulty),
    ("NUL in a name", head!("X\0: b\r\nContent-Length: 5", "hello"), Faulty),
    ("a bare CR in a value", head!("X: a\rContent-Length: 0\r\nContent-Length: 5", "hello"), Faulty),
    ("bare LFs", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", Lenient("hello")),
    // §4: status lines.
    ("a line break before it", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Faulty),
    ("another protocol", "ICY 200 OK\r\nContent-Length: 5\r\n\r\nhello", Faulty),
    ("HTTP/1.2", "HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello", Faulty),
    ("HTTP/2", "HTTP/2 200\r\nContent-Length: 5\r\n\r\nhello", Faulty),
    ("two digits", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello", Faulty),
    ("four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello", Faulty),
    ("a status below 100", "HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello", Faulty),
    ("letters for digits", "HTTP/1.1 2OO OK\r\nContent-Length: 5\r\n\r\nhello", Faulty),
    ("a bare CR in the reason", "HTTP/1.1 200 O\rK\r\nContent-Length: 5\r\n\r\nhello", Faulty),
    ("no reason", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", Whole("hello")),
    ("a switch that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nsmuggled", Faulty),
    ("a request", "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", Faulty),
    // §7.1: chunks; the head is through by then.
    ("a chunk size with a prefix", chunks!("0x5\r\nhello\r\n0\r\n\r\n"), Cut),
    ("a chunk size with a sign", chunks!("+5\r\nhello\r\n0\r\n\r\n"), Cut),
    ("no chunk size", chunks!("\r\nhello\r\n0\r\n\r\n"), Cut),
    ("a chunk size that is none", chunks!("g\r\nhello\r\n0\r\n\r\n"), Cut),
    ("a chunk size of 17 digits", chunks!("10000000000000005\r\nhello\r\n0\r\n\r\n"), Cut),
    ("a chunk size and a bare LF", chunks!("5\nhello\r\n0\r\n\r\n"), Cut),
    ("a chunk that is longer", chunks!("5\r\nhello!\r\n0\r\n\r\n"), Cut),
    ("a chunk that is shorter", chunks!("5\r\nhell\r\n0\r\n\r\n"), Cut),
    ("a bare LF in a chunk extension", chunks!("5;a\nb\r\nhello\r\n0\r\n\r\n"), Cut),
    ("a trailer without a colon", chunks!("5\r\nhello\r\n0\r\nX\r\n\r\n"), Cut),
    ("a folded trailer", chunks!("5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n"), Cut),
];

/// Answers each target with the bytes that are there for it, or with its name.
struct Speaker {
    address: SocketAddr,
    script: Script,
    task: AbortHandle,
}

/// By target: what to say, cut into pieces.
type Script = Arc<Mutex<HashMap<String, Vec<Vec<u8>>>>>;

impl Speaker {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Script::default();
        let lines = Arc::clone(&script);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(speak(stream, Arc::clone(&lines)));
            }
        });
        Self {
            address,
            script,
            task: task.abort_handle(),
        }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn speak(mut stream: TcpStream, script: Script) -> io::Result<()> {
    let mut read = Vec::new();
    loop {
        let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head: Vec<u8> = read.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap();
        let lines = script.lock().unwrap().get(target).cloned();
        for line in lines.unwrap_or_else(|| vec![ordinary(target)]) {
            stream.write_all(&line).await?;
            tokio::task::yield_now().await;
        }
    }
}

fn ordinary(target: &str) -> Vec<u8> {
    let length = target.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}").into_bytes()
}

/// Requests in a row on one connection, some of which are answered oddly, and what the app gets for each.
async fn converse(
    client: &mut Client,
    speaker: &Speaker,
    row: &[(String, Option<&Odd>)],
    cut: &mut impl FnMut(&[u8]) -> Vec<Vec<u8>>,
) -> Result<(), String> {
    let mut requests = String::new();
    for (target, odd) in row {
        requests += &format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        if let Some((_, bytes, _)) = odd {
            let pieces = cut(bytes.as_bytes());
            let mut script = speaker.script.lock().unwrap();
            script.insert(target.clone(), pieces);
        }
    }
    client.send(requests).await;
    for (target, odd) in row {
        let (name, fate) = match odd {
            Some((name, _, fate)) => (*name, *fate),
            None => ("an ordinary one", Whole("")),
        };
        let mut answer = client.try_response().await;
        while answer.as_ref().is_ok_and(is_interim) {
            answer = client.try_response().await;
        }
        let seen = match &answer {
            Err(_) => "cut off".to_owned(),
            Ok(answer) if answer.code() == "upstream_protocol" => "502".to_owned(),
            Ok(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
        };
        let good = match fate {
            _ if odd.is_none() => seen == *target,
            Whole(body) => seen == body,
            Lenient(body) => seen == body || seen == "502",
            Faulty => seen == "502",
            Cut => seen == "cut off",
        };
        if !good {
            return Err(format!(
                "{name}: {fate:?}, but the app saw {seen:?} for {target}"
            ));
        }
        if answer.is_err() {
            break;
        }
    }
    Ok(())
}

#[tokio::test]
async fn odd_answers_one_by_one() {
    let world = World::new();
    let speaker = Speaker::start().await;
    let config = server("") + &world.upstream("api", &format!("http://{}", speaker.address), "");
    with_app(&config, async |app| {
        let mut wrong = Vec::new();
        for (index, odd) in ODD.iter().enumerate() {
            let row = [
                (format!("/odd/{index}"), Some(odd)),
                (format!("/next/{index}"), None),
            ];
            let mut client = app.connect().await;
            let whole = &mut |bytes: &[u8]| vec![bytes.to_vec()];
            wrong.extend(converse(&mut client, &speaker, &row, whole).await.err());
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn answers_in_a_row_never_mix() {
    let world = World::new();
    let speaker = Speaker::start().await;
    let config = server("") + &world.upstream("api", &format!("http://{}", speaker.address), "");
    let seed = from_environment("CUPBEARER_STRICT_SEED").unwrap_or(0x5eed);
    let cases = from_environment("CUPBEARER_STRICT_CASES").unwrap_or(500);
    let mut random = Rng::with_seed(seed);
    with_app(&config, async |app| {
        for case in 0..cases {
            let mut row = Vec::new();
            for index in 0..random.usize(1..6) {
                let odd = random.bool().then(|| random.choice(ODD).unwrap());
                row.push((format!("/{case}/{index}"), odd));
            }
            let mut client = app.connect().await;
            let mut cut = |bytes: &[u8]| {
                let at = random.usize(..=bytes.len());
                vec![bytes[..at].to_vec(), bytes[at..].to_vec()]
            };
            if let Err(why) = converse(&mut client, &speaker, &row, &mut cut).await {
                let names: Vec<_> = row.iter().map(|(_, odd)| odd.map(|odd| odd.0)).collect();
                panic!("case {case} of seed {seed}: {why}\nin {names:?}");
            }
        }
    })
    .await;
}

/// Neither a body nor what could be taken for the framing of one.
fn is_interim(answer: &Response) -> bool {
    let interim = answer.status.is_informational();
    let framed = |name| !answer.head.all(name).is_empty();
    assert!(!interim || !framed("content-length") && !framed("transfer-encoding"));
    interim
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
