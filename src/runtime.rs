//! Threads: one for control, one for each worker of the data plane, and one that accepts where there are several workers.
//!
//! Load on the data plane never delays a refresh, and a scrape never delays a request.

use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};

use crate::proxy::Proxy;
use crate::proxy::accept::{self, Hand, Source};
use crate::proxy::door::{Change, Listener};
use crate::proxy::worker::Worker;

/// The control thread's runtime. Its blocking pool reads files and resolves names, one at a time mostly.
pub fn control() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
}

/// The running threads of the data plane.
pub struct Workers {
    ended: Vec<oneshot::Receiver<io::Result<bool>>>,
}

impl Workers {
    /// Starts `count` workers; `changes` is what reloads do about the listeners. With more than one, a further thread accepts and deals the connections out.
    pub fn start(
        count: usize,
        proxy: &Arc<Proxy>,
        listeners: Vec<Listener>,
        changes: mpsc::UnboundedReceiver<Change>,
        draining: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let mut ended = Vec::with_capacity(count + 1);
        if count == 1 {
            let worker = Worker::new(0, Arc::clone(proxy));
            let source = Source::Listeners(listeners, changes);
            ended.push(spawn(worker, source, draining)?);
            return Ok(Self { ended });
        }
        let mut hands = Vec::with_capacity(count);
        for index in 0..count {
            let (sender, sockets) = mpsc::unbounded_channel();
            let worker = Worker::new(index, Arc::clone(proxy));
            hands.push((sender, worker.connections()));
            ended.push(spawn(worker, Source::Handed(sockets), draining)?);
        }
        ended.push(spawn_acceptor(hands, listeners, changes, draining.clone())?);
        Ok(Self { ended })
    }

    /// Returns when a worker ends that was not asked to, with the reason.
    pub async fn failed(&mut self) -> String {
        let first = std::future::poll_fn(|cx| {
            for (index, worker) in self.ended.iter_mut().enumerate() {
                if let std::task::Poll::Ready(result) = std::pin::Pin::new(worker).poll(cx) {
                    return std::task::Poll::Ready((index, result));
                }
            }
            std::task::Poll::Pending
        });
        let (index, result) = first.await;
        self.ended.remove(index);
        match result {
            Ok(Ok(_)) => "it stopped by itself".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        }
    }

    /// Waits for all of them; whether every request ended in time.
    pub async fn ended(self) -> bool {
        let mut in_time = true;
        for worker in self.ended {
            in_time &= matches!(worker.await, Ok(Ok(true)));
        }
        in_time
    }
}

fn spawn(
    worker: Worker,
    source: Source,
    draining: &watch::Receiver<bool>,
) -> io::Result<oneshot::Receiver<io::Result<bool>>> {
    let draining = draining.clone();
    on_thread("worker", move |runtime| {
        runtime.block_on(worker.run(source, draining))
    })
}

fn spawn_acceptor(
    hands: Vec<Hand>,
    listeners: Vec<Listener>,
    changes: mpsc::UnboundedReceiver<Change>,
    draining: watch::Receiver<bool>,
) -> io::Result<oneshot::Receiver<io::Result<bool>>> {
    on_thread("accept", move |runtime| {
        runtime
            .block_on(accept::accept_for(hands, listeners, changes, draining))
            .map(|()| true)
    })
}

fn on_thread(
    name: &str,
    run: impl FnOnce(Runtime) -> io::Result<bool> + Send + 'static,
) -> io::Result<oneshot::Receiver<io::Result<bool>>> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()?;
    let (done, ended) = oneshot::channel();
    thread::Builder::new()
        .name(format!("cupbearer-{name}"))
        .spawn(move || {
            // Nobody listens any more when the process is ending.
            let _ = done.send(run(runtime));
        })?;
    Ok(ended)
}
