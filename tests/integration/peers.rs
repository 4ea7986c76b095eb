//! Bugs of other programs with the same purpose, each as a test of Cupbearer.
//!
//! Each test is named after the correct behaviour. Its comment names the project with the bug, and
//! the report if there is one. The token endpoints follow RFC 6749 except for one detail.
//!
//! Bugs without a test, because the design excludes them:
//!
//! * binarywang/WxJava#369 and w7corp/easywechat, replicas that invalidate each other's token:
//!   processes share only a store, and a second `run` on a file store is refused
//!   (`src/store/file/tests.rs`).
//! * iron-token-broker without leader election: each identity has one refresher in one process.
//! * iron-token-broker without reload: `src/app/tests.rs` and `src/provider/tests.rs` reload under
//!   load.
//! * surfkansas, a data race on the token: the token is an immutable allocation behind an atomic
//!   pointer, and the crate forbids `unsafe`.
//! * superfly/tokenizer, private addresses that pass the deny list: the configuration decides where
//!   requests go; the app chooses only the path.
//! * dapr/components-contrib#2615, the token in the response: `secrecy.rs` checks every output.
//! * Envoy's 401 "Failed to inject credential", which looks like a response of the vendor: `errors`
//!   checks the form of every error.
//! * hashicorp/vault#32002, a renewal that blocks the request: no wait exceeds `token_wait`
//!   (`vendors.rs`).
//! * vault-lambda-extension#148, a request header that starts a login: only the admin port starts a
//!   refresh, and only with `X-Cupbearer`.

mod answers;
mod outages;
mod renewal;
mod requests;
