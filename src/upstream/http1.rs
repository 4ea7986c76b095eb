//! HTTP/1.1 connections of a pool: one request at a time, given back when the response has been read.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};

use super::body::{Lease as BodyLease, Progress, RequestBody, UpstreamBody};
use super::counted::Counted;
use super::pool::Shared;
use super::send::{SendError, SendFailure};

/// Of a response head; the same as on the app's side.
pub(super) const MAX_HEAD: usize = 64 * 1024;
pub(super) const MAX_FIELDS: usize = 256;

/// How long an upload may go on after the response to it is complete. Then the connection is closed: an upstream that
/// reads no further would otherwise hold the app's request for ever.
const LINGER: Duration = Duration::from_secs(1);

/// A connection that nobody uses now, or that was just made.
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    /// Of the driver.
    abort: AbortHandle,
    /// Lives as long as the connection: moving a registered timer on costs next to nothing, while a new one for every
    /// request has to be put into the timer wheel and taken out again.
    timer: Pin<Box<Sleep>>,
    born: Instant,
    /// Since when it has been idle.
    pub(super) idle_since: Instant,
    pub(super) reused: bool,
    /// Made for an upgrade that may not come about: HTTP/1.1 even where the upstream's connections are HTTP/2, so that
    /// nobody else gets it.
    pub(super) for_upgrade: bool,
}

/// A connection that belongs to a response that is still being read.
pub(super) struct Lease {
    connection: Connection,
    pool: Arc<Shared>,
}

impl Connection {
    /// Starts HTTP/1.1 on a fresh stream; its driver runs as a task of this worker.
    pub(super) async fn open(io: Counted) -> hyper::Result<Self> {
        let (sender, driver) = Builder::new()
            .max_headers(MAX_FIELDS)
            .max_header_size(MAX_HEAD)
            .handshake(io)
            .await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        let now = Instant::now();
        Ok(Self {
            sender,
            abort: driver.abort_handle(),
            timer: Box::pin(tokio::time::sleep_until(now)),
            born: now,
            idle_since: now,
            reused: false,
            for_upgrade: false,
        })
    }

    /// Whether a request may be put on it. The peer can still close it in the same instant.
    pub(super) fn usable(&self, now: Instant, idle: Duration, life: Duration) -> bool {
        // A fresh connection is not ready before its driver has run once, yet takes its first request.
        (self.sender.is_ready() || !(self.reused || self.sender.is_closed()))
            && now.saturating_duration_since(self.idle_since) < idle
            && now.saturating_duration_since(self.born) < life
    }

    /// Whether it is worth keeping. `now` is taken from `idle_since`: nobody looks at the clock for this.
    pub(super) fn lasts(&self, life: Duration) -> bool {
        !self.sender.is_closed() && self.idle_since.saturating_duration_since(self.born) < life
    }

    /// Sends and waits up to `wait` for the head of the answer, counted from the end of the upload.
    ///
    /// Dropping the future closes the connection: HTTP/1.1 has no other way to abort a request.
    pub(super) async fn send(
        mut self,
        request: Request<RequestBody>,
        wait: Duration,
        pool: Arc<Shared>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let progress = request.body().progress();
        let reused = self.reused;
        let sent = self.sender.try_send_request(request);
        match within(sent, &mut self.timer, wait, progress).await {
            Some(Ok(response)) => {
                let lease = Lease {
                    connection: self,
                    pool,
                };
                Ok(response.map(|body| UpstreamBody::new(body, BodyLease::Http1(lease))))
            }
            Some(Err(mut error)) => {
                let unsent = error.take_message().is_some();
                let failure = SendFailure::from(error.into_error());
                Err(SendError {
                    failure,
                    reused,
                    unsent,
                })
            }
            None => Err(SendError {
                failure: SendFailure::Timeout,
                reused,
                unsent: false,
            }),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // In the middle of an exchange. hyper would notice, too, but not while an upload waits for the peer.
        if !self.sender.is_ready() {
            self.abort.abort();
        }
    }
}

impl Lease {
    /// Puts the connection back, at once in the usual case that its driver is done with the exchange.
    pub(super) fn give_back(self) {
        let Self {
            mut connection,
            pool,
        } = self;
        connection.reused = true;
        if connection.sender.is_ready() {
            connection.idle_since = Instant::now();
            return pool.put(connection);
        }
        if connection.sender.is_closed() {
            return;
        }
        // The upload is still going on, or the driver has yet to look at the connection again.
        tokio::spawn(async move {
            // Else it has ended, or became somebody's tunnel; or it is too late.
            let ready = tokio::time::timeout(LINGER, connection.sender.ready()).await;
            if let Ok(Ok(())) = ready {
                connection.idle_since = Instant::now();
                pool.put(connection);
            }
        });
    }
}

type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// `None` when time is up.
async fn within(
    sent: impl Future<Output = Sent>,
    timer: &mut Pin<Box<Sleep>>,
    wait: Duration,
    progress: Option<Arc<Progress>>,
) -> Option<Sent> {
    let mut sent = std::pin::pin!(sent);
    timer.as_mut().reset(Instant::now() + wait);
    poll_fn(|cx| {
        if let Poll::Ready(result) = sent.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let moved_on = progress
                .as_ref()
                .map(|progress| progress.deadline(now, wait));
            match moved_on.filter(|deadline| *deadline > now) {
                Some(deadline) => timer.as_mut().reset(deadline),
                None => return Poll::Ready(None),
            }
        }
        Poll::Pending
    })
    .await
}
