//! The proxy on its own thread, for verbs that also send requests to it.

use std::future::pending;
use std::net::SocketAddr;

use tokio::sync::oneshot;

use super::failure::Failure;
use crate::app::{self, Shutdown};
use crate::config::{Config, Listen};

/// Addresses of the proxy, with the ports that the system chose.
pub(super) struct Proxy {
    /// Listeners of `server.listen` first, in their order.
    pub(super) listeners: Vec<Listen>,
    pub(super) admin: Option<SocketAddr>,
}

/// Handle of the proxy's thread.
pub(super) struct Running {
    stop: oneshot::Sender<Shutdown>,
    ended: Option<oneshot::Receiver<Result<(), String>>>,
}

impl Proxy {
    /// Starts the proxy and returns when its ports are open.
    pub(super) async fn start(config: Config) -> Result<(Self, Running), Failure> {
        let (stop, stopped) = oneshot::channel();
        let (tell_start, started) = oneshot::channel();
        let (tell_end, ended) = oneshot::channel();
        // Bound on the thread that runs the proxy, since `Bound` need not be `Send`.
        let body = move || match app::bind(config) {
            Err(error) => drop(tell_start.send(Err(error.to_string()))),
            Ok(bound) => {
                let (listeners, admin) = (bound.listeners(), bound.admin());
                // If the caller is gone, `stopped` resolves at once.
                let _ = tell_start.send(Ok(Self { listeners, admin }));
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
            .map_err(|_| Failure::runtime("the proxy panicked while starting"))?
            .map_err(Failure::Runtime)?;
        let ended = Some(ended);
        Ok((proxy, Running { stop, ended }))
    }

    /// Returns the first TCP listener.
    pub(super) fn port(&self) -> Option<SocketAddr> {
        self.listeners.iter().find_map(|listen| match listen {
            Listen::Tcp(address) => Some(*address),
            Listen::Unix(_) => None,
        })
    }
}

impl Running {
    /// Waits until the proxy ends without [`Running::stop`], and returns the reason. Cancel safe.
    pub(super) async fn ended(&mut self) -> Failure {
        let Some(ended) = &mut self.ended else {
            return pending().await;
        };
        let outcome = ended.await;
        self.ended = None;
        match outcome {
            Ok(Err(reason)) => Failure::Runtime(format!("the proxy ended: {reason}")),
            Ok(Ok(())) => Failure::runtime("the proxy ended by itself"),
            Err(_) => Failure::runtime("the proxy panicked"),
        }
    }

    /// Shuts the proxy down as Ctrl-C would, and waits for the end.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        let Some(ended) = self.ended else {
            return Ok(());
        };
        // Fails if the proxy has ended; `ended` then holds the reason.
        let _ = self.stop.send(Shutdown::Interrupt);
        match ended.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(Failure::Runtime(format!("the proxy failed: {reason}"))),
            Err(_) => Err(Failure::runtime("the proxy panicked")),
        }
    }
}
