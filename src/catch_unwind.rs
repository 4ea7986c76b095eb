//! Panic isolation for futures.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind as catch};
use std::pin::pin;
use std::task::Poll;

/// Awaits `work`; `None` if it panics.
///
/// The caller asserts unwind safety: state shared with `work` must be sound after a panic.
pub(crate) async fn catch_unwind<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(
        |cx| match catch(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        },
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_ends_only_the_future() {
        assert_eq!(catch_unwind(async { 1 }).await, Some(1));
        let panics = catch_unwind(async {
            tokio::task::yield_now().await;
            panic!("expected by the test");
        });
        assert_eq!(panics.await, None::<()>);
    }
}
