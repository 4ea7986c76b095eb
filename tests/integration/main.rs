//! The whole program in one process: real sockets, real TLS, fake vendors and upstreams.
//!
//! [`harness::with_app`] boots the program as `cupbearer run` does, on free ports. What stands behind it is either one of
//! [`cupbearer::demo::vendors`] or an upstream of [`upstream`] that is scripted byte for byte; what stands in front is
//! [`client`]. Nothing sleeps: facts that come about in their own time are polled for, with a deadline.

#![allow(
    clippy::unwrap_used,
    reason = "what cannot go on has failed, and says where"
)]

mod cli;
mod client;
mod connecting;
mod ending;
mod errors;
mod harness;
mod leaving;
mod overload;
mod readme;
mod reloading;
mod routing;
mod secrecy;
mod single_active;
mod size;
mod soak;
mod starting;
mod streaming;
mod upstream;
mod vendors;
