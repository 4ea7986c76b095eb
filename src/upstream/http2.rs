//! HTTP/2 connections of a pool, with as many streams per connection as the peer allows.
//!
//! [`h2`] does framing, HPACK, flow control and flood defence. One task ([`driver`]) runs each
//! connection. A request ([`exchange`]) polls its own upload while it waits for the response head
//! and while the response body is read.
//!
//! * *An unread response delays no other response:* the connection window is larger than all stream
//!   windows together.
//! * *A cut-off upload never looks complete:* END_STREAM follows only a body of the right length.
//!   Every other end of an upload is RST_STREAM.
//! * *A request counts as unsent* if no byte was written, or if the peer did not process the
//!   request: REFUSED_STREAM, or GOAWAY with a lower stream ID (RFC 9113 §8.7).
//!
//! Rejected alternatives: `hyper::client::conn::http2` polls uploads in a separate task, hides the
//! app's failures and the upload's progress, and takes RST_STREAM with NO_ERROR for the end of a
//! response body. It costs 7,300 instructions more per request (callgrind, the mix of
//! `cargo bench --bench cost -- --quick`). An own codec cost 9,900 fewer, but took 2,900 lines.

mod connection;
mod driver;
mod exchange;
mod head;
mod socket;

pub(super) use connection::{Connection, Owner, StreamPermit};
pub(super) use driver::open;
pub(super) use exchange::Exchange;

#[cfg(test)]
mod tests;
