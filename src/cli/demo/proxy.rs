//! The proxy of the demo: what `run` does, on a thread of its own.

use std::future::pending;

use tokio::sync::oneshot;

use crate::app::{self, Bound, Shutdown};
use crate::cli::failure::Failure;
use crate::cli::http::Server;
use crate::config::{Config, Environment, Listen};

pub(super) struct Proxy {
    /// `host:port`
    pub(super) listen: String,
    pub(super) admin: String,
    pub(super) server: Server,
}

/// The proxy's thread.
pub(super) struct Running {
    stop: oneshot::Sender<Shutdown>,
    ended: Option<oneshot::Receiver<Result<(), String>>>,
}

/// The demo must not depend on where it runs: an egress proxy of the environment cannot reach our loopback.
struct NoEnvironment;

impl Environment for NoEnvironment {
    fn var(&self, _name: &str) -> Option<String> {
        None
    }
}

impl Proxy {
    pub(super) async fn start(config: &str) -> Result<(Self, Running), Failure> {
        let config = Config::from_toml(config, &NoEnvironment).map_err(|problems| {
            let path = "the configuration of the demo".into();
            Failure::BadConfig { path, problems }
        })?;
        let (stop, stopped) = oneshot::channel();
        let (tell_start, started) = oneshot::channel();
        let (tell_end, ended) = oneshot::channel();
        // Bound on the thread that runs it: nothing is asked of it but to stay there.
        let body = move || match bind(config) {
            Err(failure) => drop(tell_start.send(Err(failure))),
            Ok((bound, listen, admin)) => {
                // If the demo is gone already, `stopped` says so at once.
                let _ = tell_start.send(Ok((listen, admin)));
                let outcome = bound.run(async { stopped.await.unwrap_or(Shutdown::Interrupt) });
                let _ = tell_end.send(outcome.map_err(|error| error.to_string()));
            }
        };
        std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(body)
            .map_err(|error| Failure::Runtime(format!("cannot start a thread: {error}")))?;
        let (listen, admin) = started
            .await
            .map_err(|_| Failure::Runtime("the proxy died while it started".to_owned()))??;
        let server = Server::parse(&listen).map_err(|error| Failure::Runtime(error.to_string()))?;
        let proxy = Self {
            listen,
            admin,
            server,
        };
        let running = Running {
            stop,
            ended: Some(ended),
        };
        Ok((proxy, running))
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

fn bind(config: Config) -> Result<(Bound, String, String), Failure> {
    let bound = app::bind(config).map_err(|error| Failure::Runtime(error.to_string()))?;
    let listen = bound
        .listeners()
        .into_iter()
        .find_map(|listen| match listen {
            Listen::Tcp(address) => Some(address.to_string()),
            Listen::Unix(_) => None,
        });
    let admin = bound.admin().map(|address| address.to_string());
    match (listen, admin) {
        (Some(listen), Some(admin)) => Ok((bound, listen, admin)),
        _ => Err(Failure::Runtime("the demo's proxy has no port".to_owned())),
    }
}
