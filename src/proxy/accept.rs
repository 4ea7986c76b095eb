//! Accept: serves each connection on the worker that gets it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::client_io::ClientStream;
use super::connection;
use super::error::ProxyError;
use super::listener::{Listener, ListenerChange, ListenerState, Socket, accept_until_drained};
use super::worker::{ConnectionPermit, Worker};

/// How long the last connections before a drain have to arrive and to send a request.
const ARRIVAL_TIME: Duration = Duration::from_millis(20);

/// The end of `shutdown_grace`, in which requests that wait for a token get an error.
const REFUSAL_TIME: Duration = Duration::from_millis(250);

/// A worker as the acceptor sees it: where to send connections, and how many are open.
pub type WorkerHandle = (mpsc::UnboundedSender<AcceptedConnection>, Arc<AtomicUsize>);

pub type AcceptedConnection = (Arc<ListenerState>, Socket);

pub enum ConnectionSource {
    /// The worker accepts.
    Listeners(Vec<Listener>, mpsc::UnboundedReceiver<ListenerChange>),
    /// An acceptor sends connections.
    Accepted(mpsc::UnboundedReceiver<AcceptedConnection>),
}

impl Worker {
    /// Serves until `draining` turns true, then finishes open requests within `shutdown_grace`.
    ///
    /// Needs a current-thread runtime. Returns whether all connections ended in time.
    pub async fn run(
        self,
        source: ConnectionSource,
        mut draining: watch::Receiver<bool>,
    ) -> io::Result<bool> {
        let worker = Arc::new(self);
        let sweeper = Arc::clone(&worker);
        let sweep = tokio::spawn(async move {
            let limits = || {
                let settings = &sweeper.proxy.snapshot.load().settings;
                (settings.header_timeout, settings.idle_timeout)
            };
            sweeper.registry.sweep(limits).await;
        });
        match source {
            ConnectionSource::Listeners(listeners, changes) => {
                let own = Arc::clone(&worker);
                let start = move |stream, listener| own.start(stream, listener);
                accept_until_drained(listeners, changes, draining, start).await?;
            }
            ConnectionSource::Accepted(mut sockets) => {
                let mut ended = pin!(draining.wait_for(|draining| *draining));
                loop {
                    tokio::select! {
                        _ = &mut ended => break,
                        Some(accepted) = sockets.recv() => worker.start_accepted(accepted),
                    }
                }
                // The acceptor sends its queued connections and ends.
                while let Ok(Some(accepted)) = timeout(ARRIVAL_TIME, sockets.recv()).await {
                    worker.start_accepted(accepted);
                }
            }
        }
        let in_time = worker.drain().await;
        sweep.abort();
        Ok(in_time)
    }

    /// Finishes open requests. Returns whether all connections ended within `shutdown_grace`.
    async fn drain(&self) -> bool {
        // Requests that have arrived are read before idle connections close.
        sleep(ARRIVAL_TIME).await;
        self.registry.drain();
        let grace = self.proxy.snapshot.load().settings.shutdown_grace;
        let refusal_time = REFUSAL_TIME.min(grace / 2);
        let mut emptied = pin!(self.registry.emptied());
        let waited = timeout(grace - refusal_time, emptied.as_mut()).await;
        if waited.is_ok() {
            return true;
        }
        self.closing.send_replace(true);
        timeout(refusal_time, emptied).await.is_ok()
    }

    /// Serves a connection, or refuses it if `max_connections` are open.
    fn start(self: &Arc<Self>, stream: ClientStream, listener: Arc<ListenerState>) {
        let worker = Arc::clone(self);
        let max = self.proxy.snapshot.load().settings.max_connections;
        drop(match ConnectionPermit::take(self, max) {
            Some(permit) => tokio::spawn(connection::serve(worker, stream, listener, permit)),
            None => tokio::spawn(connection::refuse(worker, stream, ProxyError::Overloaded)),
        });
    }

    fn start_accepted(self: &Arc<Self>, (listener, socket): AcceptedConnection) {
        match socket.into_tokio() {
            Ok(stream) => self.start(stream, listener),
            Err(error) => tracing::warn!(%error, "cannot serve a connection"),
        }
        // Counted by `hand_over`; now the permit counts the connection.
        self.connections.fetch_sub(1, Relaxed);
    }
}

/// Accepts for several workers until `draining` turns true. The worker with the fewest connections
/// gets the next one, which spreads a few long-lived connections better than `SO_REUSEPORT`.
pub async fn accept_for(
    workers: Vec<WorkerHandle>,
    listeners: Vec<Listener>,
    changes: mpsc::UnboundedReceiver<ListenerChange>,
    draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let workers: Arc<[WorkerHandle]> = workers.into();
    let take = move |stream, listener| match Socket::from_tokio(stream) {
        Ok(socket) => hand_over(&workers, listener, socket),
        Err(error) => tracing::warn!(%error, "cannot serve a connection"),
    };
    accept_until_drained(listeners, changes, draining, take).await
}

fn hand_over(workers: &[WorkerHandle], listener: Arc<ListenerState>, socket: Socket) {
    let fewest = workers.iter().min_by_key(|(_, open)| open.load(Relaxed));
    if let Some((worker, connections)) = fewest {
        // Counted before the worker runs, which may be after further accepts.
        connections.fetch_add(1, Relaxed);
        // Fails only if the worker is gone: the process is ending.
        drop(worker.send((listener, socket)));
    }
}
