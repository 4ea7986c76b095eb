//! What `cupbearer demo` stands on: five fake vendors on loopback, and the configuration that goes with them.
//!
//! [`vendors`] speaks as the vendors' documents say and refuses everything else, so it serves integration tests
//! as well. Nothing here knows the proxy.

pub mod authority;
pub mod setup;
pub mod vendors;
