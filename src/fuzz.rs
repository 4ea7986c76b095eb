//! Fuzz targets: whatever reads bytes from outside, each with what must hold of the result.
//!
//! Compiled for the library's own tests, which run the checked-in seeds and mutations of them, and for the coverage-guided
//! fuzzer (`tests/fuzz/run`). A target is next to what it fuzzes, in a file of that name; it must not panic.

use crate::{config, dialect, provider, proxy, upstream};

/// One input; what is wrong with the result is a panic.
pub type Target = fn(&[u8]);

/// By name, which is also that of the target's folder in `tests/fuzz/seeds`.
pub const TARGETS: [(&str, Target); 11] = [
    ("client_io", proxy::fuzz::client_io),
    ("config", config::fuzz::file),
    ("egress_proxy", config::fuzz::egress_proxy),
    ("http1_response", upstream::http1_response),
    ("reject_body", proxy::fuzz::reject_body),
    ("request_target", proxy::fuzz::request_target),
    ("response_fields", proxy::fuzz::response_fields),
    ("selector", dialect::fuzz::selector),
    ("store_record", provider::store::fuzz::record),
    ("template", dialect::fuzz::template),
    ("token_answer", dialect::fuzz::token_answer),
];

#[cfg(test)]
mod tests;
