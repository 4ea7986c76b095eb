//! Accept: connections come in, and each is served on the worker that has it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::client_io::ClientStream;
use super::connection;
use super::door::{Change, Door, Doors, Listener, Socket};
use super::error::ProxyError;
use super::worker::{ConnectionPermit, Worker};

/// For connections that came in right before the end to say what they want.
const ARRIVALS: Duration = Duration::from_millis(20);

/// Before the end of `shutdown_grace`, for telling requests that still wait for a token that none will come.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// How an acceptor reaches a worker: where it sends connections, and how many of them the worker has.
pub type Hand = (mpsc::UnboundedSender<Handed>, Arc<AtomicUsize>);

/// A connection, and where it came in.
pub type Handed = (Arc<Door>, Socket);

/// Where a worker's connections come from.
pub enum Source {
    /// It accepts for itself.
    Listeners(Vec<Listener>, mpsc::UnboundedReceiver<Change>),
    /// An acceptor hands them over.
    Handed(mpsc::UnboundedReceiver<Handed>),
}

impl Worker {
    /// Serves until `draining` turns true, then finishes what is under way, up to `shutdown_grace`.
    ///
    /// Runs on the worker's own current-thread runtime. Returns whether every connection ended in time.
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
            Source::Listeners(listeners, mut changes) => {
                let own = Arc::clone(&worker);
                let mut doors = Doors::open(listeners, move |stream, door: &Arc<Door>| {
                    own.start(stream, Arc::clone(door));
                })?;
                tokio::select! {
                    // An error means that the control thread is gone, which is the end, too.
                    _ = draining.wait_for(|draining| *draining) => {}
                    () = doors.follow(&mut changes) => {}
                }
                doors.close_all().await;
            }
            Source::Handed(mut sockets) => {
                let mut ended = pin!(draining.wait_for(|draining| *draining));
                loop {
                    tokio::select! {
                        _ = &mut ended => break,
                        Some((door, socket)) = sockets.recv() => {
                            match socket.into_tokio() {
                                Ok(stream) => worker.start(stream, door),
                                Err(error) => tracing::warn!(%error, "cannot serve a connection"),
                            }
                            // From `hand_over`: now it has a place.
                            worker.connections.fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                }
                // The acceptor takes in those who wait, and ends.
                while let Ok(Some((door, socket))) = timeout(ARRIVALS, sockets.recv()).await {
                    if let Ok(stream) = socket.into_tokio() {
                        worker.start(stream, door);
                    }
                    worker.connections.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        // What they have sent is looked at before idle connections are closed.
        sleep(ARRIVALS).await;
        worker.registry.drain();
        let grace = worker.proxy.snapshot.load().settings.shutdown_grace;
        let last_words = LAST_WORDS.min(grace / 2);
        let emptied = worker.registry.emptied();
        let mut emptied = pin!(emptied);
        let mut in_time = timeout(grace - last_words, emptied.as_mut()).await.is_ok();
        if !in_time {
            worker.closing.send_replace(true);
            in_time = timeout(last_words, emptied).await.is_ok();
        }
        sweep.abort();
        Ok(in_time)
    }

    /// Connections that this worker has now.
    fn start(self: &Arc<Self>, stream: ClientStream, door: Arc<Door>) {
        let worker = Arc::clone(self);
        let max = self.proxy.snapshot.load().settings.max_connections;
        match ConnectionPermit::take(self, max) {
            Some(permit) => drop(tokio::spawn(connection::serve(
                worker, stream, door, permit,
            ))),
            // Said at once instead of letting the app wait.
            None => drop(tokio::spawn(connection::refuse(
                worker,
                stream,
                ProxyError::Overloaded,
            ))),
        }
    }
}

/// Accepts for several workers and gives each connection to the one that has the fewest: a few long-lived connections spread
/// evenly, which the kernel's hashing of `SO_REUSEPORT` does not do. Ends when `draining` turns true.
pub async fn accept_for(
    workers: Vec<Hand>,
    listeners: Vec<Listener>,
    mut changes: mpsc::UnboundedReceiver<Change>,
    mut draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let workers: Arc<[Hand]> = workers.into();
    let mut doors = Doors::open(
        listeners,
        move |stream, door: &Arc<Door>| match Socket::from_tokio(stream) {
            Ok(socket) => hand_over(&workers, Arc::clone(door), socket),
            Err(error) => tracing::warn!(%error, "cannot serve a connection"),
        },
    )?;
    tokio::select! {
        _ = draining.wait_for(|draining| *draining) => {}
        () = doors.follow(&mut changes) => {}
    }
    doors.close_all().await;
    Ok(())
}

fn hand_over(workers: &[Hand], door: Arc<Door>, socket: Socket) {
    let fewest = workers
        .iter()
        .min_by_key(|(_, connections)| connections.load(Ordering::Relaxed));
    if let Some((worker, connections)) = fewest {
        // Counted here already: the worker may take it only after the next ones have been accepted.
        connections.fetch_add(1, Ordering::Relaxed);
        // A worker that is gone means that the process is ending.
        drop(worker.send((door, socket)));
    }
}
