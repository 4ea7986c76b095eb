//! An upstream that records each request byte for byte, parses it as strictly as RFC 9112 allows,
//! and repeats in the response what it understood. Any other input is a fault.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::upstream::Acceptor;

/// What the recorder saw on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Request(Request),
    /// The connection ended in the middle of a request.
    Aborted {
        raw: Vec<u8>,
    },
    /// Bytes that are not a valid request.
    Fault {
        why: &'static str,
        raw: Vec<u8>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// The names are in lower case.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// The whole request, with framing and trailers.
    pub(crate) raw: Vec<u8>,
}

pub(crate) struct Recorder {
    acceptor: Acceptor,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let acceptor = Acceptor::start(move |stream| record(stream, Arc::clone(&log)));
        Self {
            acceptor: acceptor.await,
            seen,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.acceptor.address())
    }

    /// Returns what the recorder has seen since the last call.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Request {
    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        let fields = self.fields.iter().filter(|(field, _)| field == name);
        fields.map(|(_, value)| value.as_slice()).collect()
    }
}

async fn record(stream: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut reader = Reader {
        stream,
        buffer: Vec::new(),
        used: 0,
    };
    loop {
        let (entry, is_valid) = match reader.request().await {
            Ok(request) => (Seen::Request(request), true),
            Err(None) if reader.buffer.is_empty() => return,
            Err(None) => (
                Seen::Aborted {
                    raw: reader.buffer.clone(),
                },
                false,
            ),
            Err(Some(why)) => (
                Seen::Fault {
                    why,
                    raw: reader.buffer.clone(),
                },
                false,
            ),
        };
        let answer = match &entry {
            Seen::Request(request) => answer(request),
            Seen::Aborted { .. } | Seen::Fault { .. } => Vec::new(),
        };
        seen.lock().unwrap().push(entry);
        if !is_valid || reader.stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// Returns a response that names its request, in the head and in the body.
fn answer(request: &Request) -> Vec<u8> {
    let body = format!(
        "{} {} {}",
        request.method,
        request.target,
        request.body.len()
    );
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Seen: {body}\r\n\r\n",
        body.len()
    );
    if request.method != "HEAD" {
        answer += &body;
    }
    answer.into_bytes()
}

/// Why the bytes are not a request. `None`: the connection ended first.
type Fault = Option<&'static str>;

struct Reader {
    stream: TcpStream,
    /// The bytes of this request so far, and later bytes.
    buffer: Vec<u8>,
    /// How many bytes of `buffer` are parsed.
    used: usize,
}

impl Reader {
    async fn request(&mut self) -> Result<Request, Fault> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let first = self.line().await?;
        let first = String::from_utf8(first).map_err(|_| Some("a request line"))?;
        let words: Vec<&str> = first.split(' ').collect();
        let [method, target, "HTTP/1.1"] = words[..] else {
            return Err(Some("a request line"));
        };
        if !method.bytes().all(is_token) || !target.bytes().all(|byte| byte > b' ' && byte != 0x7f)
        {
            return Err(Some("a request line"));
        }
        let (method, target) = (method.to_owned(), target.to_owned());
        let fields = self.fields().await?;
        let one = |name: &str| {
            let mut all = fields.iter().filter(|(field, _)| field == name);
            let one = all.next().map(|(_, value)| value.clone());
            if all.next().is_some() {
                return Err(Some("a field twice"));
            }
            Ok(one)
        };
        if one("host")?.is_none() {
            return Err(Some("no Host"));
        }
        let body = match (one("content-length")?, one("transfer-encoding")?) {
            (None, None) => Vec::new(),
            (Some(length), None) => {
                let digits = length.iter().all(u8::is_ascii_digit) && !length.is_empty();
                let length = String::from_utf8(length).unwrap_or_default();
                let length = length.parse().ok().filter(|_| digits);
                self.exactly(length.ok_or(Some("a Content-Length"))?)
                    .await?
            }
            (None, Some(coding)) if coding == b"chunked" => self.chunks().await?,
            _ => return Err(Some("framing")),
        };
        Ok(Request {
            method,
            target,
            fields,
            body,
            raw: self.buffer[..self.used].to_vec(),
        })
    }

    async fn fields(&mut self) -> Result<Vec<(String, Vec<u8>)>, Fault> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, value) = line.split_at(colon.ok_or(Some("a field without colon"))?);
            if name.is_empty() || !name.iter().copied().all(is_token) {
                return Err(Some("a field's name"));
            }
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            fields.push((name, value[1..].trim_ascii().to_vec()));
        }
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        loop {
            let size = String::from_utf8(self.line().await?).unwrap_or_default();
            if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(Some("a chunk size"));
            }
            match usize::from_str_radix(&size, 16) {
                Err(_) => return Err(Some("a chunk size")),
                Ok(0) => break,
                Ok(size) => body.extend(self.exactly(size).await?),
            }
            if !self.line().await?.is_empty() {
                return Err(Some("the end of a chunk"));
            }
        }
        self.fields().await?;
        Ok(body)
    }

    /// Returns the bytes before the next CR LF. A bare CR or LF is a fault.
    async fn line(&mut self) -> Result<Vec<u8>, Fault> {
        loop {
            let rest = &self.buffer[self.used..];
            if let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
                let line = rest[..end].to_vec();
                if line.iter().any(|byte| b"\r\n\0".contains(byte)) {
                    return Err(Some("a bare CR or LF, or NUL"));
                }
                self.used += end + 2;
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Fault> {
        while self.buffer.len() - self.used < length {
            self.fill().await?;
        }
        self.used += length;
        Ok(self.buffer[self.used - length..self.used].to_vec())
    }

    async fn fill(&mut self) -> Result<(), Fault> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(None),
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
