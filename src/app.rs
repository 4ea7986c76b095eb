//! Wiring: [`Config`] → [`bind`] → [`Bound`] → [`Bound::run`].
//!
//! [`bind`] does everything that can fail because of the configuration or the machine, and starts
//! no task. [`Bound::run`] starts the control and data planes and waits until both have ended.
//!
//! Shutdown: `/readyz` fails at once. After SIGTERM, connections are accepted for `shutdown_delay`.
//! Then the listeners close, requests in flight get `shutdown_grace` to finish, and the refreshers
//! stop.

mod control;
mod diff;
mod files;
mod listen;
mod listeners;
mod live;
mod open_files;
mod prepare;
mod reload;
mod snapshot;
mod view;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::admin;
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::metrics::Metrics;
use crate::provider::exchange::HttpFetch;
use crate::provider::{self, Deps};
use crate::proxy::Proxy;
use crate::runtime::{self, Workers};
use crate::store::{self, Store};
use crate::upstream::tls::TlsProfiles;

use control::AppControl;
use files::Stamps;
use listeners::Listeners;
use live::Live;
use prepare::{client_auth, connect};
use reload::Reloader;
use snapshot::{AdminChange, Fixed, Prepared};
use view::View;

pub use control::LogControl;
pub use open_files::raise_open_files;
pub use prepare::StartError;
pub use reload::ConfigFile;

/// How long the shutdown waits for token fetches in flight. Fetches that spend a one-time
/// credential get longer.
const LAST_FETCHES: Duration = Duration::from_secs(2);

/// What asked the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// SIGTERM: `/readyz` fails for `shutdown_delay` first, so that load balancers notice.
    Term,
    /// SIGINT: no delay.
    Interrupt,
    /// `POST /quitquitquit`: no delay, because the apps have ended already.
    Quit,
}

/// Why the program ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("a worker thread ended: {0}")]
    Worker(String),
    #[error("cannot serve: {0}")]
    Serve(#[from] std::io::Error),
}

/// A proxy with its sockets open, ready to run.
pub struct Bound {
    runtime: Runtime,
    start: Start,
}

/// What [`Bound::run`] starts from.
struct Start {
    config: Config,
    admin: Option<std::net::TcpListener>,
    prepared: Prepared,
    store: Arc<dyn Store>,
    profiles: TlsProfiles,
    file: Option<ConfigFile>,
    /// The files that were read with the configuration, as they were before.
    files: Stamps,
    log: Option<Arc<dyn LogControl>>,
}

/// Opens the sockets and the store and reads the TLS files. Starts no task. Blocks.
pub fn bind(config: Config) -> Result<Bound, StartError> {
    let profiles = TlsProfiles::new();
    open_files::compare(config.server.max_connections);
    // Taken before the files are read, so that no later change is missed.
    let files = Stamps::of(files::read_once(&config));
    let connectors = connect(&config, &profiles).map_err(|mut errors| errors.swap_remove(0))?;
    let wanted = listeners::wanted(&config);
    let opened = wanted.iter().map(|wanted| listen::open(&wanted.listen));
    let opened = opened.collect::<Result<_, _>>()?;
    let admin = config.server.admin.map(listen::open_tcp).transpose()?;
    let runtime = runtime::control()?;
    let store = runtime.block_on(store::open(&config.store))?;
    let client_auth = runtime.block_on(client_auth(&config.server))?;
    let prepared = Prepared {
        connectors,
        client_auth,
        opened,
        admin: AdminChange::Stays,
    };
    let start = Start {
        config,
        admin,
        prepared,
        store,
        profiles,
        file: None,
        files,
        log: None,
    };
    Ok(Bound { runtime, start })
}

// === impl Bound ===

impl Bound {
    /// Returns the addresses that apps connect to, with the ports that the system chose.
    pub fn listeners(&self) -> Vec<Listen> {
        let opened = self.start.prepared.opened.iter();
        opened.map(|opened| opened.address.clone()).collect()
    }

    pub fn admin(&self) -> Option<SocketAddr> {
        self.start.admin.as_ref()?.local_addr().ok()
    }

    /// Lets [`Self::run`] reload `file` when it changes, on SIGHUP and on `POST /-/reload`.
    #[must_use]
    pub fn watch(mut self, file: ConfigFile) -> Self {
        self.start.file = Some(file);
        self
    }

    /// Lets the admin port change what is logged.
    #[must_use]
    pub fn log_by(mut self, log: Arc<dyn LogControl>) -> Self {
        self.start.log = Some(log);
        self
    }

    /// Runs until `shutdown` resolves and everything has ended, at most `shutdown_delay` and
    /// `shutdown_grace` later.
    ///
    /// Blocks: the calling thread becomes the control thread, whose runtime polls `shutdown`.
    pub fn run(
        self,
        shutdown: impl Future<Output = Shutdown> + Send + 'static,
    ) -> Result<(), RunError> {
        self.runtime.block_on(self.start.run(shutdown))
    }
}

impl Start {
    async fn run(mut self, shutdown: impl Future<Output = Shutdown>) -> Result<(), RunError> {
        let worker_count = self.config.server.workers;
        let metrics = Arc::new(Metrics::new());
        let fetcher = Arc::new(HttpFetch::new(self.profiles.clone(), Clock::System));
        let deps = Deps::new(self.store, fetcher, Clock::System, Arc::clone(&metrics));
        let (admin, admin_moves) = mpsc::unbounded_channel();
        let fixed = Fixed {
            workers: worker_count,
            pseudonym: format!("cupbearer-{:08x}", fastrand::u32(..)).into(),
            metrics: Arc::clone(&metrics),
            admin,
        };
        let opened = std::mem::take(&mut self.prepared.opened);
        let (listeners, sockets, changes) = Listeners::new(listeners::wanted(&self.config), opened);
        let (live, snapshot) = Live::start(self.config, self.prepared, fixed, listeners, deps);
        let proxy = Arc::new(Proxy {
            snapshot: ArcSwap::new(snapshot),
            metrics,
            connections: AtomicUsize::new(0),
        });
        let view = Arc::new(View::default());
        view.show(&live);
        let reloader = Arc::new(Reloader::new(
            self.file,
            self.files,
            live,
            self.profiles,
            Arc::clone(&proxy),
            Arc::clone(&view),
        ));
        reloader.watch();
        let control = Arc::new(AppControl {
            proxy: Arc::clone(&proxy),
            view: Arc::clone(&view),
            reloader,
            log: self.log,
            started: Instant::now(),
        });
        let (drain, draining) = watch::channel(false);
        let mut workers = Workers::start(worker_count, &proxy, sockets, changes, &draining)?;
        let (stop_admin, admin_stops) = oneshot::channel::<()>();
        let admin = self.admin.map(TcpListener::from_std).transpose()?;
        let admin = tokio::spawn(serve_admin(admin, control, admin_moves, admin_stops));
        let failure = tokio::select! {
            reason = asked_to_end(shutdown, &view) => {
                announce_shutdown(reason, &view).await;
                None
            }
            error = workers.failed() => Some(error),
        };
        drain.send_replace(true);
        if !workers.ended().await {
            tracing::warn!("requests were still in flight at the end of shutdown_grace");
        }
        provider::stop_all(view.providers(), LAST_FETCHES).await;
        drop(stop_admin);
        let _ = admin.await;
        failure.map_or(Ok(()), |error| Err(RunError::Worker(error)))
    }
}

async fn asked_to_end(shutdown: impl Future<Output = Shutdown>, view: &View) -> Shutdown {
    tokio::select! {
        reason = shutdown => reason,
        () = view.asked_to_quit() => Shutdown::Quit,
    }
}

/// Fails `/readyz` and waits for `shutdown_delay`.
async fn announce_shutdown(reason: Shutdown, view: &View) {
    view.not_ready();
    tracing::info!(?reason, "shutting down");
    if reason == Shutdown::Term {
        tokio::time::sleep(view.shutdown_delay()).await;
    }
}

/// Serves the admin port on each listener that `moves` brings, until `stop` resolves; then waits
/// for responses in flight.
async fn serve_admin(
    mut listener: Option<TcpListener>,
    control: Arc<dyn admin::Control>,
    mut moves: mpsc::UnboundedReceiver<Option<std::net::TcpListener>>,
    mut stop: oneshot::Receiver<()>,
) {
    let mut serving = JoinSet::new();
    loop {
        let (stop_serving, stopped) = oneshot::channel::<()>();
        if let Some(listener) = listener.take() {
            let stopped = async { drop(stopped.await) };
            serving.spawn(admin::serve(listener, Arc::clone(&control), stopped));
        }
        let next = tokio::select! {
            _ = &mut stop => None,
            next = moves.recv() => next,
        };
        drop(stop_serving);
        let Some(next) = next else { break };
        listener = next.and_then(|next| {
            TcpListener::from_std(next)
                .inspect_err(|error| tracing::error!(%error, "cannot serve the admin port"))
                .ok()
        });
    }
    while serving.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests;
