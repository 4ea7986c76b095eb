//! Work of the start on a thread of its own.

use std::panic;
use std::thread;

use super::Failure;

/// Does `work` on a thread that ends with it. Stack and heap that it took are free again then, where those of the main thread would
/// stay in use for as long as a proxy runs, and nothing that comes later needs as much. Panics as `work` does.
pub(super) fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("start".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|error| Failure::Runtime(format!("cannot start a thread: {error}")))?;
        Ok(thread
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_it_and_a_panic_reach_who_asked() {
        let here = thread::current().id();
        assert!(apart(|| thread::current().id()).is_ok_and(|there| there != here));
        let panicked = panic::catch_unwind(|| apart(|| panic!("of the work")));
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"of the work"));
    }
}
