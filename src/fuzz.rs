//! Fuzz targets: each parses untrusted bytes and panics if an invariant of the result is broken.
//!
//! Compiled for the library's tests, which run the checked-in seeds and mutations, and for the
//! coverage-guided fuzzer (`tests/fuzz/run`). Each target is in a `fuzz` file next to its parser.

use crate::{config, dialect, proxy, store, upstream};

pub type Target = fn(&[u8]);

/// Targets by name. `tests/fuzz/seeds` has a folder for each name.
pub const TARGETS: [(&str, Target); 11] = [
    ("client_io", proxy::fuzz::client_io),
    ("config", config::fuzz::file),
    ("egress_proxy", config::fuzz::egress_proxy),
    ("http1_response", upstream::http1_response),
    ("reject_body", proxy::fuzz::reject_body),
    ("request_target", proxy::fuzz::request_target),
    ("response_fields", proxy::fuzz::response_fields),
    ("selector", dialect::fuzz::selector),
    ("store_record", store::fuzz::record),
    ("template", dialect::fuzz::template),
    ("token_answer", dialect::fuzz::token_answer),
];

#[cfg(test)]
mod tests;
