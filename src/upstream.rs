//! DATA, the far side: [`connect`] (DNS, TCP, TLS, ALPN) → [`pool`] (HTTP/1.1 connections, HTTP/2 streams) →
//! a response whose body gives its connection back when it ends.
//!
//! A [`Pool`] belongs to one upstream and one worker; only its counters are seen elsewhere.

pub mod body;
pub mod connect;
mod counted;
pub mod error;
mod http1;
mod http2;
pub mod pool;
mod pump;
pub mod send;
pub mod stall;
pub mod tee;
pub mod tls;

/// Limits of a head, on every leg.
pub const MAX_HEAD: usize = 64 * 1024;
pub const MAX_FIELDS: usize = 256;

pub use body::{RequestBody, UpstreamBody};
pub use error::{BodyError, SendError, SendFailure};
pub use http1::Tunnel;
#[cfg(any(test, fuzzing))]
pub use http1::fuzz::http1_response;
pub use pool::{Limits, Pool};
pub use send::{Ask, Checkout};
pub use stall::{Stall, Stalled};
pub use tee::Replay;
