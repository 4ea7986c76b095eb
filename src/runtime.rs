//! Threads: one for control, one for each worker of the data plane, and an acceptor if there are
//! several workers.
//!
//! The control thread runs the refreshers, the admin port and the signal handlers. Each worker has
//! its own current-thread runtime, connections and upstream pools. Threads share only immutable or
//! atomic state: the configuration snapshot, the token cells and the metrics. So load on the data
//! plane never delays a refresh, and a scrape never delays a request.
//!
//! A single worker accepts its own connections. With several workers, the acceptor gives each
//! connection to the worker with the fewest.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};

use crate::proxy::Proxy;
use crate::proxy::accept::{self, ConnectionSource};
use crate::proxy::listener::{Listener, ListenerChange};
use crate::proxy::worker::Worker;

/// Returns a current-thread runtime. Its blocking pool reads files and resolves names, mostly one
/// at a time.
pub fn control() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
}

pub struct Workers {
    ended: Vec<oneshot::Receiver<io::Result<bool>>>,
}

impl Workers {
    /// Starts `count` workers; `changes` carries the listener changes of reloads. Several workers
    /// share an acceptor thread, which deals out the connections.
    pub fn start(
        count: usize,
        proxy: &Arc<Proxy>,
        listeners: Vec<Listener>,
        changes: mpsc::UnboundedReceiver<ListenerChange>,
        draining: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        if count == 1 {
            let worker = Worker::new(0, Arc::clone(proxy));
            let source = ConnectionSource::Listeners(listeners, changes);
            let ended = vec![spawn(worker, source, draining)?];
            return Ok(Self { ended });
        }
        let mut ended = Vec::with_capacity(count + 1);
        let mut handles = Vec::with_capacity(count);
        for index in 0..count {
            let (sender, sockets) = mpsc::unbounded_channel();
            let worker = Worker::new(index, Arc::clone(proxy));
            handles.push((sender, worker.connections()));
            let source = ConnectionSource::Accepted(sockets);
            ended.push(spawn(worker, source, draining)?);
        }
        let draining = draining.clone();
        let accept = move |runtime: Runtime| {
            let work = accept::accept_for(handles, listeners, changes, draining);
            runtime.block_on(work).map(|()| true)
        };
        ended.push(on_thread("accept", accept)?);
        Ok(Self { ended })
    }

    /// Waits until a thread ends unexpectedly, and returns the reason.
    pub async fn failed(&mut self) -> String {
        let first = poll_fn(|cx| {
            for (index, worker) in self.ended.iter_mut().enumerate() {
                if let Poll::Ready(result) = Pin::new(worker).poll(cx) {
                    return Poll::Ready((index, result));
                }
            }
            Poll::Pending
        });
        let (index, result) = first.await;
        self.ended.remove(index);
        match result {
            Ok(Ok(_)) => "it stopped unexpectedly".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        }
    }

    /// Waits for all threads; returns whether every request ended in time.
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
    source: ConnectionSource,
    draining: &watch::Receiver<bool>,
) -> io::Result<oneshot::Receiver<io::Result<bool>>> {
    let draining = draining.clone();
    on_thread("worker", move |runtime| {
        runtime.block_on(worker.run(source, draining))
    })
}

fn on_thread(
    name: &str,
    run: impl FnOnce(Runtime) -> io::Result<bool> + Send + 'static,
) -> io::Result<oneshot::Receiver<io::Result<bool>>> {
    let runtime = control()?;
    let (done, ended) = oneshot::channel();
    thread::Builder::new()
        .name(format!("cupbearer-{name}"))
        .spawn(move || {
            // The receiver is gone while the process ends.
            let _ = done.send(run(runtime));
        })?;
    Ok(ended)
}
