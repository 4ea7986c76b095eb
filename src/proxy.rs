//! Data plane: accept → guard → route → authorize → forward → respond.
//!
//! Workers share only the immutable [`Snapshot`], the token cells and the metric handles.
//! `handle.rs` has the whole path of a request; each step has a file of its name.

pub mod accept;
mod access;
mod app_body;
mod authorize;
mod clean;
mod client_io;
mod connection;
mod error;
mod error_code;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guard;
mod handle;
mod headers;
mod hosts;
pub mod listener;
mod record;
mod reject;
mod respond;
mod response_body;
mod rewrite;
pub mod route;
mod snapshot;
pub mod target;
mod upgrade;
mod watch;
pub mod worker;

pub use error_code::{ErrorCode, error_codes};
pub use hosts::Hosts;
pub use snapshot::{ClientAuth, Proxy, Settings, Snapshot, Via};
