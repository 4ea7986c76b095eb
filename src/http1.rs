//! HTTP/1.1 as bytes (RFC 9112), strictly and for both sides: apps ask us in it, and we ask upstreams.
//!
//! [`request`] and [`decode`] read, [`response`], [`encode`] and [`output`] write. No sockets, tasks or clocks: who owns a
//! connection calls these with what it has read, and writes what they make. Every framing that two readers could take
//! differently is refused here; what is lenient in httparse (empty lines, bare LF) is undone.

pub mod decode;
pub mod encode;
pub mod fields;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod output;
pub mod request;
pub mod response;

/// Of a message's head.
pub const MAX_HEAD: usize = 64 * 1024;
pub const MAX_FIELDS: usize = 256;

/// Fields of most heads. More are parsed again, with room for [`MAX_FIELDS`].
pub(crate) const FEW_FIELDS: usize = 64;

/// How the end of a body that is read is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    Length(u64),
    Chunked,
    /// Of a response: with the connection.
    Close,
    /// 101: what follows is not HTTP.
    Tunnel,
}

/// The peer broke the rules of HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0} in a head")]
    Syntax(httparse::Error),
    #[error("{0}")]
    Rule(&'static str),
}
