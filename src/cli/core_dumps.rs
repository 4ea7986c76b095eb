//! A core dump of this process would hold tokens and credentials.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Switches core dumps off, for good: the hard limit goes down too.
pub(super) fn disable() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "cannot switch core dumps off");
    }
}
