//! Threads of a process, from `/proc`.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Returns the directories of the worker threads.
pub(crate) fn workers(process: u32) -> Vec<PathBuf> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let is_worker = |path: &PathBuf| {
        // The kernel keeps 15 bytes of a thread name.
        std::fs::read_to_string(path.join("comm"))
            .is_ok_and(|name| name.starts_with("cupbearer-worke"))
    };
    threads
        .map(|thread| thread.unwrap().path())
        .filter(is_worker)
        .collect()
}

/// Returns the CPU time of a thread.
pub(crate) fn on_cpu(thread: &Path) -> Duration {
    let stat = std::fs::read_to_string(thread.join("schedstat")).unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}
