//! Five fake vendors on loopback and a configuration for them, for `cupbearer demo` and for tests.
//!
//! Each of the [`vendors`] follows its document and refuses everything else. This module does not
//! depend on the proxy.

pub mod authority;
pub mod setup;
pub mod vendors;
