//! Cupbearer: a reverse-proxy sidecar that puts a valid access token on every request.
//!
//! A legacy app speaks plain HTTP to localhost. Cupbearer keeps one live token for each provider, fetched from whatever token
//! endpoint the vendor invented and refreshed in the background, puts it on the request and forwards over TLS.
//!
//! # The two flows
//!
//! They meet in one place, the token cell, and know nothing else of each other.
//!
//! ```text
//! CONTROL   config ──> provider::inputs ──> exchange ──> schedule ──> refresher ──┐ writes
//!           (file)     (credentials)        (vendor)     (pure)       (one loop)  │
//!                                                                            provider::cell
//!                                                                                 │ reads
//! DATA      accept ──> guard ──> route ──> authorize ──> forward ──> respond <────┘
//!           (app)                                        (upstream)
//! ```
//!
//! The refresher publishes a token in the form in which it is sent, headers and query ready made; a request loads it with one
//! atomic read after it has an upstream connection in hand, and right before its head is written.
//!
//! # Where things are
//!
//! * [`config`]: the file as written (serde), then typed and cross-checked; what leaves it cannot be wrong any more.
//! * [`dialect`]: how token endpoints speak, as data. Pure: templates, computed variables, signed assertions, selectors, requests
//!   out of variables, tokens out of answers. The built-in dialects are `src/dialect/builtin/*.toml`.
//! * [`provider`]: one token request ([`provider::exchange`]), when the next one is due ([`provider::schedule`], pure), the loop
//!   over both, and where state survives a restart ([`provider::store`]). A token may be bought with that of another provider
//!   ([`provider::chain`]); an issuer may say itself where its endpoints are ([`provider::discovery`]).
//!   A one-time grant begins with a person ([`provider::login`]); another process than the proxy reads the store and leaves
//!   drop files in it ([`provider::outside`]).
//! * [`upstream`]: DNS, TCP, TLS and ALPN ([`upstream::connect`]), and pools of HTTP/1.1 connections and HTTP/2 streams.
//! * [`proxy`]: a request's way from the app to the upstream and back, one file for each step.
//! * [`admin`], [`metrics`]: what operators see.
//! * [`app`], [`runtime`]: wiring and threads. [`cli`]: a file for each verb. [`demo`]: fake vendors and the proxy in front.
//! * hyper speaks HTTP to apps, on the admin port and at token endpoints, and h2 speaks HTTP/2 to
//!   upstreams. HTTP/1.1 to upstreams is the only HTTP that is written here (`upstream/http1`).
//! * [`secret`], [`clock`], `catch_unwind`: under everything else.
//!
//! `tests/architecture.rs` checks who may import whom: `cli → app → {proxy, provider, admin, runtime}`; `proxy` sees of `provider`
//! only the cell's reading half; `dialect` and `config` import nothing above them.
//!
//! # Threads
//!
//! The control thread runs the refreshers, the admin port and the signals. Each worker (one by default) is a thread with a
//! current-thread runtime, its own connections and its own upstream pools; workers share the configuration snapshot, the cells and
//! the metric handles, all immutable or atomic. So load never delays a refresh, and a scrape never delays a request. One worker
//! accepts for itself; several are dealt connections by an acceptor, to the one that has the fewest.
//!
//! # What always holds
//!
//! * A request leaves with a token that both clocks call valid at that moment, or it does not leave (fail closed). The one
//!   exception is what `existing_credential = "keep"` asks for.
//! * Only [`proxy`]'s `authorize::stamp` writes a credential on a request, and it replaces what the app sent in its place.
//! * Only the refresher writes a cell, and each identity has one refresher: one fetch in flight, whatever the load.
//! * A token goes to its upstream's configured origin. Redirects are passed back to the app, never followed.
//! * A failed refresh takes nothing away: the old token serves until it expires.
//! * A one-time input is marked as spent, on disk, before it is sent.
//! * [`secret::Secret`] is the only form in which credentials travel; it cannot be printed.
//! * Errors become responses in `proxy/respond.rs` only, by a match without a catch-all arm.
//!
//! # Tokens of which only one lives
//!
//! Such a vendor kills token g at the moment it issues g+1, which is before g+1 is known here. So the refresher dials, then closes the
//! cell's gate to requests that cannot be repeated, waits at most 2 s for the response heads of those on the wire, closes it to all,
//! writes the exchange, and publishes token and open gate in one store. What can happen in between:
//!
//! * *A request reads the open gate while the refresher closes it.* It registers on the wire first and then looks at the gate again;
//!   the refresher closes first and then looks at the wire. A fence stands between the two in both, so that at least one sees the other:
//!   the request turns back and waits, or the refresher waits for it. Which worker the request is on makes no difference.
//! * *A request that can be repeated is not counted.* It may have read the gate just before it shut, or be on the wire with g when the
//!   vendor kills g. It is rejected, waits for the fetch in flight, and is sent again with g+1. Its report of g reaches the refresher after
//!   g+1 is published, names a generation that is not current, and starts nothing: two rejections never make two fetches.
//! * *The token and the gate disagree.* They cannot: both are in one allocation behind one pointer. Nobody sees g with the gate of
//!   g+1 open, and whoever waits is woken after the store.
//! * *The dial fails.* Nothing was closed.
//! * *The answer is lost.* g may be dead, and g+1 is nobody's. The exchange is repeated at once, behind the closed gate; g+2 heals
//!   all. If that fails, too, the gate opens with g, which may live, marked as suspect: its first rejection renews at once, whatever pauses
//!   there are; after that the pauses rule, or a dead endpoint would be hammered. One-time inputs are not repeated. A plain refusal issues
//!   nothing, so it is neither repeated nor makes g suspect.
//! * *The 2 s are over.* Whoever is still on the wire and cannot be repeated may see a 401. It is of an older generation, and the next
//!   exchange does not wait for it again. A response that has begun, or an upgraded connection, is never touched.
//! * *The refresher fails in the middle.* A panic ends as a failed fetch and opens the gate; when the refresher is gone, so is the
//!   process or the provider, and those who wait are told. No wait at the gate is longer than `token_wait`.
//!
//! `provider/cell/interleavings.rs` walks all orders of these steps on the real cell.
//!
//! # Reload
//!
//! A new configuration is read, checked and compared with the running one before anything changes (`app/reload.rs`). What did not change
//! lives on: a target with its connections, a refresher with its token; a changed secret is handed to the running refresher. Requests
//! keep the [`proxy::Snapshot`] that they started with. New listeners are bound before anything changes; one that is kept is not touched,
//! and one that goes lets in whoever waits at it ([`proxy::door`]).
//!
//! # What is not here
//!
//! * No lock is taken to read a token, and none is held across an await.
//! * No vendor has code of its own.
//! * No timer is set for each request on the app's side: connections, while there are any, are looked at four times a second
//!   (`proxy/watch.rs`).
//! * No switch turns certificate verification off.
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
pub mod metrics;
pub mod provider;
pub mod proxy;
pub mod runtime;
pub mod secret;
pub mod upstream;
