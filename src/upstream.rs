//! The upstream side of the data plane: [`connect`] opens connections (DNS, TCP, TLS, ALPN), and
//! [`pool`] keeps HTTP/1.1 connections and HTTP/2 streams. A response body returns its connection
//! to the pool when it ends.
//!
//! A [`Pool`] belongs to one upstream and one worker; only its metrics are shared.

mod body;
pub mod connect;
mod counted;
pub mod error;
mod http1;
mod http2;
pub mod pool;
mod pump;
mod request;
mod send;
pub mod stall;
pub mod tls;

pub use body::UpstreamBody;
pub use error::{BodyError, PollFrame, SendError, SendFailure};
pub use http1::Tunnel;
#[cfg(any(test, fuzzing))]
pub use http1::fuzz::http1_response;
pub use pool::{Checkout, Limits, Pool};
pub use request::{Replay, RequestBody, RequestHead};
pub use stall::{Stall, Stalled};
