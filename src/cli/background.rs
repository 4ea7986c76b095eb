//! The proxy as `run` runs it, on a thread of its own, for verbs that do something in front of it.

use std::future::pending;
use std::net::SocketAddr;

use tokio::sync::oneshot;

use super::failure::Failure;
use crate::app::{self, Bound, Shutdown};
use crate::config::{Config, Listen};

/// Where it listens, with the ports that the system chose.
pub(super) struct Proxy {
    /// Those of `server.listen` first, in their order.
    pub(super) listeners: Vec<Listen>,
    pub(super) admin: Option<SocketAddr>,
}

/// The proxy's thread.
pub(super) struct Running {
    stop: oneshot::Sender<Shutdown>,
    ended: Option<oneshot::Receiver<Result<(), String>>>,
}

impl Proxy {
    /// Returns when its ports are open.
    pub(super) async fn start(config: Config) -> Result<(Self, Running), Failure> {
        let (stop, stopped) = oneshot::channel();
        let (tell_start, started) = oneshot::channel();
        let (tell_end, ended) = oneshot::channel();
        // Bound on the thread that runs it: nothing is asked of it but to stay there.
        let body = move || match app::bind(config) {
            Err(error) => drop(tell_start.send(Err(error.to_string()))),
            Ok(bound) => {
                // If the caller is gone already, `stopped` says so at once.
                let _ = tell_start.send(Ok(Self::of(&bound)));
                let outcome = bound.run(async { stopped.await.unwrap_or(Shutdown::Interrupt) });
                let _ = tell_end.send(outcome.map_err(|error| error.to_string()));
            }
        };
        std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(body)
            .map_err(|error| Failure::Runtime(format!("cannot start a thread: {error}")))?;
        let proxy = started
            .await
            .map_err(|_| Failure::Runtime("the proxy died while it started".to_owned()))?
            .map_err(Failure::Runtime)?;
        let running = Running {
            stop,
            ended: Some(ended),
        };
        Ok((proxy, running))
    }

    /// The first listener that is a port.
    pub(super) fn port(&self) -> Option<SocketAddr> {
        self.listeners.iter().find_map(|listen| match listen {
            Listen::Tcp(address) => Some(*address),
            Listen::Unix(_) => None,
        })
    }

    fn of(bound: &Bound) -> Self {
        Self {
            listeners: bound.listeners(),
            admin: bound.admin(),
        }
    }
}

impl Running {
    /// Why the proxy ended although nobody asked it to. Waits for ever otherwise.
    pub(super) async fn ended(&mut self) -> Failure {
        let Some(ended) = &mut self.ended else {
            return pending().await;
        };
        let outcome = ended.await;
        self.ended = None;
        match outcome {
            Ok(Err(reason)) => Failure::Runtime(format!("the proxy ended: {reason}")),
            Ok(Ok(())) => Failure::Runtime("the proxy ended by itself".to_owned()),
            Err(_) => Failure::Runtime("the proxy panicked".to_owned()),
        }
    }

    /// Ends it as Ctrl-C would, and waits for that.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        let Some(ended) = self.ended else {
            return Ok(());
        };
        // Fails if the proxy ended meanwhile; `ended` says how.
        let _ = self.stop.send(Shutdown::Interrupt);
        match ended.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(Failure::Runtime(format!("the proxy ended badly: {reason}"))),
            Err(_) => Err(Failure::Runtime("the proxy panicked".to_owned())),
        }
    }
}
