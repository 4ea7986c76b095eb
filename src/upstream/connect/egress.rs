//! Opens tunnels through an HTTP proxy with `CONNECT` (RFC 9110 §9.3.6).

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::error::{ConnectError, Peer};
use crate::config::EgressProxy;

/// Limit of the proxy's response head.
const MAX_HEAD: usize = 8 * 1024;

/// Opens a tunnel to `target` through `proxy`, to which `tcp` is connected.
///
/// Fails if the proxy sends bytes after the response head.
pub(super) async fn open(
    tcp: &mut TcpStream,
    proxy: &EgressProxy,
    peer: &Peer,
    target: &Peer,
) -> Result<(), ConnectError> {
    let refused = |status, reason: &str| ConnectError::Egress {
        peer: peer.clone(),
        target: target.authority(),
        status,
        reason: reason.to_owned(),
    };
    let cut_off = |error| ConnectError::refused(peer, error);
    tcp.write_all(request(proxy, target).as_bytes())
        .await
        .map_err(cut_off)?;
    let mut answer = BufReader::with_capacity(MAX_HEAD, tcp);
    loop {
        let head = read_head(&mut answer).await.map_err(cut_off)?;
        match head.as_deref().and_then(status) {
            Some(100..=199) => {}
            Some(200..=299) if answer.buffer().is_empty() => return Ok(()),
            // The client speaks first in TLS and HTTP, so the destination cannot have sent these.
            Some(200..=299) => {
                return Err(refused(None, "it sent bytes of its own into the tunnel"));
            }
            Some(407) => {
                let reason = match proxy.authorization {
                    Some(_) => "status 407: it rejects the user name and password in its URL",
                    None => "status 407: it requires a user name and password; its URL has none",
                };
                return Err(refused(Some(407), reason));
            }
            Some(other) => return Err(refused(Some(other), &format!("status {other}"))),
            None => return Err(refused(None, "its answer is not HTTP")),
        }
    }
}

fn request(proxy: &EgressProxy, target: &Peer) -> Zeroizing<String> {
    let authority = target.authority();
    let secret = proxy.authorization.as_ref().map_or("", |it| it.expose());
    // A capacity that never grows: growing would leave a copy of the secret in freed memory.
    let size = 2 * authority.len() + secret.len() + 64;
    let mut text = Zeroizing::new(String::with_capacity(size));
    let line_and_host = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    text.push_str(&line_and_host);
    if !secret.is_empty() {
        text.extend(["Proxy-Authorization: ", secret, "\r\n"]);
    }
    text.push_str("\r\n");
    text
}

/// Reads through the empty line; `None` if the head does not end within [`MAX_HEAD`].
async fn read_head(tcp: &mut BufReader<&mut TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let available = tcp.fill_buf().await?;
        if available.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = memchr::memchr(b'\n', available);
        let line = end.map_or(available.len(), |end| end + 1);
        head.extend_from_slice(&available[..line]);
        tcp.consume(line);
        if head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n") {
            return Ok(Some(head));
        }
        if head.len() > MAX_HEAD {
            return Ok(None);
        }
    }
}

/// Returns the status code of a status line (RFC 9112 §4).
fn status(head: &[u8]) -> Option<u16> {
    let [b'0' | b'1', b' ', code @ ..] = head.strip_prefix(b"HTTP/1.")? else {
        return None;
    };
    let code = code.get(..3)?;
    let number = std::str::from_utf8(code).ok()?.parse().ok()?;
    (100..=599).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_status_lines_have_a_status() {
        assert_eq!(
            status(b"HTTP/1.1 200 Connection established\r\n"),
            Some(200)
        );
        assert_eq!(status(b"HTTP/1.0 407\r\n"), Some(407));
        for not_http in [
            &b"HTTP/2 200\r\n"[..],
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/1.1 +20",
            b"HTTP/1.1 20",
            b"HTTP/1.1 999\r\n",
            b"",
        ] {
            assert_eq!(status(not_http), None, "{not_http:?}");
        }
    }
}
