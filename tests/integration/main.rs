//! The whole program in one process, with real sockets, real TLS, fake vendors and fake upstreams.
//!
//! [`harness::with_app`] starts the program as `cupbearer run` does, on free ports. Nothing sleeps:
//! tests poll for facts that take time, with a deadline.
//!
//! # Where does my test go
//!
//! | what the test is about | file |
//! |---|---|
//! | a function, a parser, a schedule, anything without sockets | next to the code in `src` |
//! | command line, exit codes, `exec` | `cli`, `exec` |
//! | start, reload, end, `kill -9` | `startup`, `reload`, `shutdown`, `crash_recovery` |
//! | which upstream a request goes to | `routing` |
//! | bytes of the head that the upstream gets | `forwarded_head`, `existing_credential` |
//! | malformed or ambiguous messages | `framing_request`, `framing_response`, `framing_h2` |
//! | apps that speak HTTP/2; gRPC, ranges, trailers | `h2_app`, `protocols` |
//! | bodies, upgrades, interim responses | `streaming`, `interim` |
//! | redirects and cookies on their way back | `rewrite_redirects` |
//! | apps that disconnect or stall; keep-alive | `client_disconnect`, `timeouts`, `persistence` |
//! | limits and floods; many upstreams | `overload`, `scale` |
//! | DNS, TCP, TLS and egress proxies of upstreams | `upstream_connect`, `egress`, `tls_close` |
//! | errors that the app gets | `errors` |
//! | tokens of the five vendors | `vendors` |
//! | assertions, token exchange, discovery, logins | `authorization` |
//! | rejected tokens, single-active tokens, long outages | `rejection`, `single_active`, `soak` |
//! | secrets that must not be seen | `secrecy` |
//! | access log, admin page | `access_log`, `status_page` |
//! | README and other documents, `deploy/` | `documents`, `deploy_files` |
//! | a bug of another program that does this job | `peers` |
//!
//! Kit: [`harness`] (the program and its world), [`client`] (apps), [`upstream`] (scripted and
//! proper APIs), [`endpoint`] (a server of bytes), [`recorder`] (an API that records), [`browser`]
//! (Chromium), [`checks`] (requests, responses and assertions of several files).

#![allow(
    clippy::unwrap_used,
    reason = "what cannot go on has failed, and says where"
)]

mod access_log;
mod authorization;
mod browser;
mod checks;
mod cli;
mod client;
mod client_disconnect;
mod crash_recovery;
mod deploy_files;
mod documents;
mod egress;
mod endpoint;
mod errors;
mod exec;
mod existing_credential;
mod forwarded_head;
mod framing_h2;
mod framing_request;
mod framing_response;
mod h2_app;
mod harness;
mod interim;
mod overload;
mod peers;
mod persistence;
mod protocols;
mod recorder;
mod rejection;
mod reload;
mod rewrite_redirects;
mod routing;
mod scale;
mod secrecy;
mod shutdown;
mod single_active;
mod soak;
mod startup;
mod status_page;
mod streaming;
mod timeouts;
mod tls_close;
mod upstream;
mod upstream_connect;
mod vendor_answers;
mod vendors;
