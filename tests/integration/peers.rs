//! Bugs of other programs that do this job, each as a test of ours.
//!
//! Every test is named for the behaviour; its comment names the project that got it wrong, and the report where there is one.
//! What they have in common is a token endpoint that keeps to RFC 6749 but for one thing, or an API that does not like a token.
//!
//! What cannot happen here, and why:
//!
//! * binarywang/WxJava#369 and w7corp/easywechat, replicas that kill each other's token: two processes share nothing but a store,
//!   and a second `run` on a file store is refused (`store/file/tests.rs`); a store for several replicas comes later.
//! * iron-token-broker without leader election: there is no broker; one process, one refresher for each identity.
//! * iron-token-broker without reload: `app/tests.rs` and `provider/tests.rs` reload under load.
//! * surfkansas, a data race on the token: the token is one immutable allocation behind one atomic pointer, and the crate forbids
//!   `unsafe`.
//! * superfly/tokenizer, private addresses denied only where a list holds an IP: the app chooses a path and never a host, so that
//!   there is nothing to deny; where requests go stands in the configuration.
//! * dapr/components-contrib#2615, the token on the response: `leaving.rs` and `secrecy.rs` compare what the app gets to the byte.
//! * Envoy's 401 "Failed to inject credential", which looks like the vendor's own: `errors.rs` has every error's shape.
//! * hashicorp/vault#32002, a renewal that hangs the request: no wait is longer than `token_wait` (`vendors.rs`).
//! * vault-lambda-extension#148, a header by which an app asks for another login: the refresh is on the admin port alone, where
//!   `X-Cupbearer` guards it (`vendors.rs`).

mod answers;
mod outages;
mod renewal;
mod requests;
