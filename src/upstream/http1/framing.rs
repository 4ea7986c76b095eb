//! Framing of response bodies, and violations of HTTP/1.1.

/// How a response body ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// The body ends with the connection.
    Close,
    /// 101: the bytes after the head are not HTTP.
    Tunnel,
}

/// A violation of HTTP/1.1 by the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("{0} in a head")]
    Syntax(httparse::Error),
    #[error("{0}")]
    Rule(&'static str),
}
