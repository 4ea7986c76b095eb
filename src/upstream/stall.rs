//! A limit on how long a transfer may stall, at no cost while bytes move.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::SizeHint;
use tokio::time::{Instant, Sleep, sleep};

/// Watches one direction of a stream, which reports after each poll whether bytes moved. The first
/// stall creates the timer; later stalls reset it.
#[derive(Debug, Default)]
pub struct Stall {
    /// `None`: no limit.
    limit: Option<Duration>,
    still: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

/// No bytes moved for longer than the limit.
#[derive(Debug, thiserror::Error)]
#[error("no bytes moved for {0:?}")]
pub struct Stalled(pub Duration);

impl Stall {
    pub fn after(limit: Option<Duration>) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Limits a body to `known`, or to `unknown` if the body has no declared length.
    pub(super) fn of_body(size: &SizeHint, known: Duration, unknown: Option<Duration>) -> Self {
        Self::after(size.exact().map(|_| known).or(unknown))
    }

    pub fn limit_to(&mut self, limit: Option<Duration>) {
        if self.limit != limit {
            *self = Self::after(limit);
        }
    }

    /// Called when bytes moved, or when none are expected.
    pub fn progressed(&mut self) {
        self.still = false;
    }

    /// Returns `written`, or `TimedOut` once writes have been pending for longer than the limit.
    pub fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.progressed();
            return written;
        }
        let stalled = ready!(self.poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stalled)))
    }

    /// Called when no bytes moved. Resolves once the stall is longer than the limit.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Stalled> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.still {
            self.still = true;
            timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Stalled(limit))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn only_time_without_progress_counts() {
        let mut stall = Stall::after(Some(LIMIT));
        for _ in 0..3 {
            tokio::time::timeout(LIMIT * 9 / 10, poll_fn(|cx| stall.poll(cx)))
                .await
                .unwrap_err();
            stall.progressed();
        }
        // Time in which nothing is polled does not count.
        sleep(LIMIT * 2).await;
        let started = Instant::now();
        let Stalled(after) = poll_fn(|cx| stall.poll(cx)).await;
        assert_eq!(
            (after, started.elapsed().as_secs()),
            (LIMIT, LIMIT.as_secs())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_a_stall_never_ends() {
        let mut stall = Stall::after(None);
        let day = Duration::from_secs(86_400);
        tokio::time::timeout(day, poll_fn(|cx| stall.poll(cx)))
            .await
            .unwrap_err();
        assert!(stall.timer.is_none());
    }
}
