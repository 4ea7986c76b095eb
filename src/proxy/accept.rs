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
use super::door::{Change, Door, Listener, Socket, accept_until_drained};
use super::error::ProxyError;
use super::worker::{ConnectionPermit, Worker};

/// How long the last connections before a drain have to arrive and to send a request.
const ARRIVAL_TIME: Duration = Duration::from_millis(20);

/// The end of `shutdown_grace`, in which requests that wait for a token get an error.
const REFUSAL_TIME: Duration = Duration::from_millis(250);

/// A worker as the acceptor sees it: where to send connections, and how many are open.
pub type Hand = (mpsc::UnboundedSender<Handed>, Arc<AtomicUsize>);

/// A connection and its listener.
pub type Handed = (Arc<Door>, Socket);

/// Where a worker's connections come from.
pub enum Source {
    /// The worker accepts.
    Listeners(Vec<Listener>, mpsc::UnboundedReceiver<Change>),
    /// An acceptor sends connections.
    Handed(mpsc::UnboundedReceiver<Handed>),
}

impl Worker {
    /// Serves until `draining` turns true, then finishes open requests within `shutdown_grace`.
    ///
    /// Needs a current-thread runtime. Returns whether all connections ended in time.
    pub async fn run(
        self,
        source: Source,
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
            Source::Listeners(listeners, changes) => {
                let own = Arc::clone(&worker);
                let start = move |stream, door| own.start(stream, door);
                accept_until_drained(listeners, changes, draining, start).await?;
            }
            Source::Handed(mut sockets) => {
                let mut ended = pin!(draining.wait_for(|draining| *draining));
                loop {
                    tokio::select! {
                        _ = &mut ended => break,
                        Some(handed) = sockets.recv() => worker.start_handed(handed),
                    }
                }
                // The acceptor sends its queued connections and ends.
                while let Ok(Some(handed)) = timeout(ARRIVAL_TIME, sockets.recv()).await {
                    worker.start_handed(handed);
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
        if timeout(grace - refusal_time, emptied.as_mut())
            .await
            .is_ok()
        {
            return true;
        }
        self.closing.send_replace(true);
        timeout(refusal_time, emptied).await.is_ok()
    }

    /// Serves a connection, or refuses it if `max_connections` are open.
    fn start(self: &Arc<Self>, stream: ClientStream, door: Arc<Door>) {
        let worker = Arc::clone(self);
        let max = self.proxy.snapshot.load().settings.max_connections;
        drop(match ConnectionPermit::take(self, max) {
            Some(permit) => tokio::spawn(connection::serve(worker, stream, door, permit)),
            None => tokio::spawn(connection::refuse(worker, stream, ProxyError::Overloaded)),
        });
    }

    fn start_handed(self: &Arc<Self>, (door, socket): Handed) {
        match socket.into_tokio() {
            Ok(stream) => self.start(stream, door),
            Err(error) => tracing::warn!(%error, "cannot serve a connection"),
        }
        // Counted by `hand_over`; now the permit counts the connection.
        self.connections.fetch_sub(1, Relaxed);
    }
}

/// Accepts for several workers until `draining` turns true. The worker with the fewest connections
/// gets the next one, which spreads a few long-lived connections better than `SO_REUSEPORT`.
pub async fn accept_for(
    workers: Vec<Hand>,
    listeners: Vec<Listener>,
    changes: mpsc::UnboundedReceiver<Change>,
    draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let workers: Arc<[Hand]> = workers.into();
    let take = move |stream, door| match Socket::from_tokio(stream) {
        Ok(socket) => hand_over(&workers, door, socket),
        Err(error) => tracing::warn!(%error, "cannot serve a connection"),
    };
    accept_until_drained(listeners, changes, draining, take).await
}

fn hand_over(workers: &[Hand], door: Arc<Door>, socket: Socket) {
    let fewest = workers.iter().min_by_key(|(_, open)| open.load(Relaxed));
    if let Some((worker, connections)) = fewest {
        // Counted before the worker runs, which may be after further accepts.
        connections.fetch_add(1, Relaxed);
        // Fails only if the worker is gone: the process is ending.
        drop(worker.send((door, socket)));
    }
}
