//! A limit on how long a body may stand still, at no cost for as long as it moves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Watches one side of a stream, which says after each poll whether it moved. The timer is made when it first stands still,
/// and only moved on from then on.
#[derive(Debug, Default)]
pub struct Stall {
    /// `None`: it may stand still for ever.
    limit: Option<Duration>,
    still: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

/// It stood still for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {0:?}")]
pub struct Stalled(pub Duration);

impl Stall {
    pub fn after(limit: Option<Duration>) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    pub fn limit_to(&mut self, limit: Option<Duration>) {
        if self.limit != limit {
            *self = Self::after(limit);
        }
    }

    /// It moved, or there is nothing to wait for.
    pub fn moved(&mut self) {
        self.still = false;
    }

    /// What a write came to, where it is to fail once the peer has taken nothing for too long.
    pub fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.moved();
            return written;
        }
        let stalled = ready!(self.poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stalled)))
    }

    /// It did not. Ready when that has been so for too long; wakes the task then.
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
    async fn only_time_in_which_nothing_moves_counts() {
        let mut stall = Stall::after(Some(LIMIT));
        for _ in 0..3 {
            tokio::time::timeout(LIMIT * 9 / 10, poll_fn(|cx| stall.poll(cx)))
                .await
                .unwrap_err();
            stall.moved();
        }
        // Nobody wanted anything meanwhile.
        sleep(LIMIT * 2).await;
        let started = Instant::now();
        let Stalled(after) = poll_fn(|cx| stall.poll(cx)).await;
        assert_eq!(
            (after, started.elapsed().as_secs()),
            (LIMIT, LIMIT.as_secs())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_there_is_none() {
        let mut stall = Stall::after(None);
        let day = Duration::from_secs(86_400);
        tokio::time::timeout(day, poll_fn(|cx| stall.poll(cx)))
            .await
            .unwrap_err();
        assert!(stall.timer.is_none());
    }
}
