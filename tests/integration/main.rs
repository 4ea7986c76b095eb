//! The whole program in one process: real sockets, real TLS, fake vendors and upstreams.
//!
//! [`harness::with_app`] boots the program as `cupbearer run` does, on free ports. What stands behind it is either one of
//! [`cupbearer::demo::vendors`] or an upstream of [`upstream`] that is scripted byte for byte; what stands in front is
//! [`client`]. Nothing sleeps: facts that come about in their own time are polled for, with a deadline.

#![allow(
    clippy::unwrap_used,
    reason = "what cannot go on has failed, and says where"
)]

mod access;
mod authorization;
mod browser;
mod cli;
mod client;
mod connecting;
mod deploying;
mod egress;
mod ending;
mod endpoint;
mod errors;
mod exec;
mod gone;
mod harness;
mod http2_apps;
mod interim;
mod killed;
mod leaving;
mod overload;
mod own_credentials;
mod page;
mod peers;
mod persistence;
mod protocols;
mod readme;
mod recorder;
mod rejection;
mod reloading;
mod rewriting;
mod routing;
mod secrecy;
mod silence;
mod single_active;
mod size;
mod soak;
mod starting;
mod streaming;
mod strict;
mod strict_answers;
mod strict_http2;
mod tls_close;
mod upstream;
mod vendors;
