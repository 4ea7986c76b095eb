//! The open-file limit, and how many connections of apps it allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit. Most systems start with a low soft limit, which only
/// programs that use select(2) need.
pub fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::debug!(%error, "cannot raise the open-file limit");
    }
}

/// Returns how many connections of apps the limit allows. Each takes two sockets. A quarter of the
/// limit is reserved, so that apps cannot use up the descriptors for token requests.
pub(super) fn room() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit - limit / 4).unwrap_or(usize::MAX) / 2
    })
}

/// Logs if the limit allows less than `max_connections`.
pub(super) fn compare(max_connections: usize) {
    let room = room();
    if room < max_connections {
        // Not a warning: the default is more than most machines allow and than sidecars need.
        tracing::info!(
            max_connections,
            "open-file limit allows {room} connections: \
             raise the limit (ulimit -n, LimitNOFILE), or lower server.max_connections"
        );
    }
}
