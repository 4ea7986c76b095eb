//! Disables core dumps, which would hold tokens and credentials.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Disables core dumps irrevocably: also lowers the hard limit.
pub(super) fn disable() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "cannot disable core dumps");
    }
}
