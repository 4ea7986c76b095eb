//! Cupbearer: a reverse-proxy sidecar that puts a valid access token on every request.
//!
//! Two flows share only the token cell. The refresher publishes each token as ready-made headers. A
//! request loads them with one atomic read, once its upstream connection is ready.
//!
//! ```text
//! CONTROL   config ──> provider::inputs ──> exchange ──> schedule ──> refresher ──┐ writes
//!           (file)     (credentials)        (vendor)     (pure)       (one loop)  │
//!                                                                            token::cell
//!                                                                                 │ reads
//! DATA      accept ──> guard ──> route ──> authorize ──> forward ──> respond <────┘
//!           (app)                                        (upstream)
//! ```
//!
//! - [`config`]: the file, checked once. [`dialect`]: token endpoints as data. Pure.
//! - [`token`]: the cell between the two flows, its gate, and the schedule of fetches.
//! - [`provider`]: refreshers and token requests. [`login`]: interactive logins. [`store`]: records
//!   that outlive the process. [`status`]: state of providers, for operators.
//! - [`proxy`]: a request's way, one file per step. [`upstream`]: DNS, TLS and connection pools;
//!   HTTP/1.1 is implemented in `upstream/http1`, HTTP/2 by h2. hyper serves apps.
//! - [`app`], [`runtime`]: start, reload and threads. [`cli`]: one file per verb. [`demo`]: fake
//!   vendors. [`admin`], [`metrics`]: output for operators. `tests/architecture.rs`: import rules.
//!
//! Always: a request leaves only with a token that both clocks ([`clock`]) consider valid, except
//! under `existing_credential = "keep"`. Only `proxy/authorize.rs` puts a token on a request. A
//! token goes only to its upstream's configured origin. Only the refresher writes a cell, with one
//! fetch in flight per identity. A one-time input is durably marked as spent before it is sent.
//! Credentials are [`secret::Secret`]s. Only `proxy/respond.rs` turns errors into responses.
//!
//! Absent: a lock to read a token, code for single vendors, a switch against certificate
//! verification, `unsafe`.

pub mod admin;
pub mod app;
mod catch_unwind;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dialect;
mod fields;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod login;
pub mod metrics;
pub mod provider;
pub mod proxy;
pub mod runtime;
pub mod secret;
pub mod status;
pub mod store;
#[cfg(test)]
mod testing;
pub mod token;
pub mod upstream;
