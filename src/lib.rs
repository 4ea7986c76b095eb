//! Cupbearer: a reverse-proxy sidecar that puts a valid access token on every request.
//!
//! A legacy app speaks plain HTTP to localhost. Cupbearer keeps one live token for each provider,
//! refreshes it in the background, puts it on each request and forwards the request over TLS.
//!
//! # Control flow and data flow
//!
//! The two flows share only the token cell.
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
//! The refresher publishes each token as ready-made headers and query. A request loads the token
//! with one atomic read, after an upstream connection is ready and before its head is written.
//!
//! # Modules
//!
//! * [`config`]: the configuration file (serde), then typed and cross-checked values.
//! * [`dialect`]: the protocols of token endpoints as data. Pure: templates, computed variables,
//!   assertions, selectors, requests and responses. Built-in ones: `src/dialect/builtin/*.toml`.
//! * [`token`]: the token cell, its gate, a token's life and the schedule. Pure code and atomics.
//! * [`provider`]: the refresher, token requests ([`provider::exchange`]), chained tokens
//!   ([`provider::chain`]), issuer metadata ([`provider::discovery`]), tokens for other processes
//!   ([`provider::offline`]). [`store`]: records that outlive the process. [`login`]: interactive
//!   logins. [`status`]: what these report.
//! * [`upstream`]: DNS, TCP, TLS and ALPN ([`upstream::connect`]), and pools of HTTP/1.1
//!   connections and HTTP/2 streams.
//! * [`proxy`]: a request's way from the app to the upstream and back, one file for each step.
//! * [`admin`], [`metrics`]: output for operators.
//! * [`app`], [`runtime`]: wiring and threads. [`cli`]: one file for each verb. [`demo`]: fake
//!   vendors with the proxy in front.
//! * [`secret`], [`clock`], `fields`, `catch_unwind`: used by all others.
//!
//! hyper speaks HTTP to apps, on the admin port and to token endpoints; h2 speaks HTTP/2 to
//! upstreams. Only HTTP/1.1 to upstreams is implemented here (`upstream/http1`).
//! `tests/architecture.rs` checks the imports between modules.
//!
//! # Threads
//!
//! The control thread runs the refreshers, the admin port and the signal handlers. Each worker (one
//! by default) is a thread with a current-thread runtime, its own connections and its own upstream
//! pools. Workers share the configuration snapshot, the cells and the metrics, which are immutable
//! or atomic. So load never delays a refresh, and a scrape never delays a request. A single worker
//! accepts its own connections; for several, an acceptor deals each to the least busy one.
//!
//! # Invariants
//!
//! * A request leaves only with a token that both clocks consider valid (fail closed), except under
//!   `existing_credential = "keep"`.
//! * Only `authorize::stamp` of [`proxy`] writes a credential on a request, replacing the app's.
//! * Only the refresher writes a cell, and each identity has one refresher: one fetch in flight.
//! * A token goes only to the configured origin of its upstream. Redirects are passed to the app.
//! * A failed refresh keeps the old token until that token expires.
//! * A one-time input is durably marked as spent before it is sent.
//! * Credentials are always a [`secret::Secret`], which cannot be printed.
//! * Only `proxy/respond.rs` turns errors into responses, by a match without a catch-all arm.
//!
//! # Single-active tokens
//!
//! A single-active vendor invalidates token g when it issues g+1, before g+1 arrives here. So the
//! refresher dials, closes the cell's gate to requests that cannot be replayed, waits at most 2 s
//! for the response heads of those in flight, closes the gate to all requests, sends the exchange,
//! and publishes token and open gate in one store. Possible races:
//!
//! * *A request reads an open gate while the refresher closes it.* The request registers as in
//!   flight, then reads the gate again; the refresher closes the gate, then counts the requests in
//!   flight. Both have a fence in between, so that at least one sees the other: the request waits
//!   for the gate, or the refresher waits for the request.
//! * *A replayable request is not counted.* It may be in flight with g when g dies. After the
//!   rejection it waits for the fetch and is sent again with g+1. Its report names generation g,
//!   which is no longer current, and so starts no second fetch.
//! * *Token and gate disagree.* Impossible: both are in one allocation behind one pointer.
//! * *The dial fails.* Nothing was closed.
//! * *The response is lost.* g may be dead and g+1 lost. The exchange is repeated at once with the
//!   gate closed, unless it spends a one-time input. If the second exchange fails too, the gate
//!   opens with g marked as suspect: its first rejection renews at once, later ones with backoff.
//!   A plain refusal issues no token, and so is not repeated.
//! * *The 2 s are over.* A request in flight that cannot be replayed may get a 401. The next
//!   exchange does not wait for it again. Responses that have begun are never cut off.
//! * *The refresher fails.* A panic counts as a failed fetch and opens the gate. If the refresher
//!   ends, waiting requests fail. No request waits at the gate for longer than `token_wait`.
//!
//! `token/cell/interleavings.rs` tests all orders of these steps on the real cell.
//!
//! # Reload
//!
//! A new configuration is read, checked and compared with the running one before anything changes
//! (`app/reload.rs`). Unchanged targets keep their connections and unchanged refreshers their
//! token; a changed secret is passed to the running refresher. Requests keep the
//! [`proxy::Snapshot`] with which they started. New listeners are bound before anything changes,
//! and removed ones first accept all waiting connections.
//!
//! # Deliberately absent
//!
//! * No lock to read a token, and no lock held across an await.
//! * No code for single vendors.
//! * No timer for each app request: connections are checked four times a second (`proxy/watch.rs`).
//! * No switch to turn off certificate verification.
//! * No `unsafe`.

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
