//! The time limit of one connect, shared by all its stages.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::error::{ConnectError, Peer, Stage};

pub(super) struct Budget {
    deadline: Instant,
    limit: Duration,
}

impl Budget {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            deadline: Instant::now() + limit,
            limit,
        }
    }

    /// Runs `work` until the deadline.
    pub(super) async fn spend<T>(
        &self,
        peer: &Peer,
        stage: Stage,
        work: impl Future<Output = T>,
    ) -> Result<T, ConnectError> {
        let timed_out = |_| ConnectError::Timeout {
            peer: peer.clone(),
            stage,
            limit: self.limit,
        };
        timeout_at(self.deadline, work).await.map_err(timed_out)
    }
}
