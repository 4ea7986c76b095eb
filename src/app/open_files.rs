//! How many files the process may open, and how many connections of apps that is enough for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit as far as the hard one lets it: the low one that most systems begin with is for programs that use
/// select(2).
pub fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// How many connections of apps there is room for: each takes two sockets. A quarter is left for all else: apps must not
/// take the descriptors that tokens are fetched with.
pub(super) fn room() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit - limit / 4).unwrap_or(usize::MAX) / 2
    })
}

/// Says so where there is less room than `max_connections`.
pub(super) fn compare(max_connections: usize) {
    let room = room();
    if room < max_connections {
        // By default more are taken than most machines let a process have, and sidecars never need.
        tracing::info!(
            max_connections,
            "the limit of open files is enough for {room} connections, and more are not taken: raise it \
             (ulimit -n, LimitNOFILE), or lower server.max_connections"
        );
    }
}
