//! Wiring: [`Config`] → [`bind`] → [`Bound`] → [`Bound::run`].
//!
//! [`bind`] does everything that can fail because of the configuration or the machine, and starts nothing: a port that is taken
//! or a certificate that cannot be read ends the start with its name. [`Bound::run`] starts both flows and sees them out.

mod control;
mod diff;
mod doors;
mod files;
mod listen;
mod live;
mod open_files;
mod reload;
mod snapshot;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::admin;
use crate::clock::Clock;
use crate::config::{self, Config, HttpVersion, Listen, TokenSource};
use crate::metrics::Metrics;
use crate::provider::exchange::HttpFetch;
use crate::provider::inputs;
use crate::provider::store::{self, Store, StoreError};
use crate::provider::{self, Deps};
use crate::proxy::door::{Change, Listener};
use crate::proxy::{ClientAuth, Proxy};
use crate::runtime::{self, Workers};
use crate::upstream::connect::{Alpn, Connector, Destination};
use crate::upstream::tls::{TlsConfigError, TlsProfiles};

use control::{AppControl, View};
use doors::Doors;
use files::Stamps;
use live::Live;
use reload::Reloader;
use snapshot::{AdminChange, Fixed, Prepared};

pub use control::LogControl;
pub use open_files::raise_open_files;
pub use reload::ConfigFile;

/// How long the process waits for a fetch that is under way when it ends; one that spends something is waited for longer.
const LAST_FETCHES: Duration = Duration::from_secs(2);

/// What asked for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// SIGTERM: `/readyz` says no for `shutdown_delay` first, so that whoever routes to us notices.
    Term,
    /// SIGINT: no delay.
    Interrupt,
    /// `POST /quitquitquit`: no delay either, for those who would connect have ended.
    Quit,
}

/// Why the program does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        listen: Listen,
        source: std::io::Error,
    },
    #[error("{path}: {source}")]
    Tls {
        path: String,
        source: TlsConfigError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("server.client_auth: {0}")]
    ClientAuth(#[from] inputs::InputError),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
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
    config: Config,
    runtime: Runtime,
    admin: Option<std::net::TcpListener>,
    prepared: Prepared,
    store: Arc<dyn Store>,
    profiles: TlsProfiles,
    clock: Clock,
    file: Option<ConfigFile>,
    /// Those besides.
    files: Stamps,
    log: Option<Arc<dyn LogControl>>,
}

/// Opens the sockets and the store and reads the TLS files. Starts nothing. Blocks.
pub fn bind(config: Config) -> Result<Bound, StartError> {
    let profiles = TlsProfiles::new();
    open_files::compare(config.server.max_connections);
    // Before they are read: what changes from now on is a change.
    let files = Stamps::of(files::read_once(&config));
    // The first says enough: a start is tried again.
    let connectors = connect(&config, &profiles).map_err(|mut errors| errors.swap_remove(0))?;
    let wanted = doors::wanted(&config);
    let opened = wanted.iter().map(|wanted| listen::open(&wanted.listen));
    let opened = opened.collect::<Result<_, _>>()?;
    let admin = config.server.admin.map(listen::open_tcp).transpose()?;
    let runtime = runtime::control()?;
    let store = runtime.block_on(store::open(&config.store))?;
    let client_auth = runtime.block_on(client_auth(&config.server))?;
    Ok(Bound {
        config,
        runtime,
        admin,
        prepared: Prepared {
            connectors,
            client_auth,
            opened,
            admin: AdminChange::Stays,
        },
        store,
        profiles,
        clock: Clock::System,
        file: None,
        files,
        log: None,
    })
}

// === impl Bound ===

impl Bound {
    /// Where apps connect, with the ports that the system chose.
    pub fn listeners(&self) -> Vec<Listen> {
        let opened = self.prepared.opened.iter();
        opened.map(|opened| opened.address.clone()).collect()
    }

    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }

    /// From [`Self::run`] on, the file is read again when it changes, on SIGHUP and when the admin port is asked to.
    #[must_use]
    pub fn watch(mut self, file: ConfigFile) -> Self {
        self.file = Some(file);
        self
    }

    /// From [`Self::run`] on, the admin port can change what is logged.
    #[must_use]
    pub fn log_by(mut self, log: Arc<dyn LogControl>) -> Self {
        self.log = Some(log);
        self
    }

    /// Runs until `shutdown` resolves and everything has ended, at most `shutdown_delay` and `shutdown_grace` later.
    ///
    /// Blocks: the calling thread becomes the control thread, and `shutdown` is polled on its runtime.
    pub fn run(
        self,
        shutdown: impl Future<Output = Shutdown> + Send + 'static,
    ) -> Result<(), RunError> {
        let Self {
            runtime,
            config,
            admin,
            prepared,
            store,
            profiles,
            clock,
            file,
            files,
            log,
        } = self;
        let start = Start {
            config,
            prepared,
            store,
            profiles,
            clock,
            file,
            files,
            log,
        };
        runtime.block_on(start.run(admin, shutdown))
    }
}

/// What [`Bound::run`] starts from.
struct Start {
    config: Config,
    prepared: Prepared,
    store: Arc<dyn Store>,
    profiles: TlsProfiles,
    clock: Clock,
    file: Option<ConfigFile>,
    files: Stamps,
    log: Option<Arc<dyn LogControl>>,
}

impl Start {
    async fn run(
        self,
        admin: Option<std::net::TcpListener>,
        shutdown: impl Future<Output = Shutdown>,
    ) -> Result<(), RunError> {
        let workers = self.config.server.workers;
        let Running {
            proxy,
            view,
            control,
            listeners,
            changes,
            admin_moves,
        } = self.start();
        let (drain, draining) = watch::channel(false);
        let mut workers = Workers::start(workers, &proxy, listeners, changes, &draining)?;
        let (stop_admin, admin_stops) = oneshot::channel::<()>();
        let admin = admin.map(TcpListener::from_std).transpose()?;
        let admin = tokio::spawn(admin_port(admin, control, admin_moves, admin_stops));
        let asked = async {
            tokio::select! {
                reason = shutdown => reason,
                () = view.asked_to_quit() => Shutdown::Quit,
            }
        };
        let ended_early = tokio::select! {
            reason = asked => {
                view.not_ready();
                tracing::info!(?reason, "shutting down");
                if reason == Shutdown::Term {
                    tokio::time::sleep(view.shutdown_delay()).await;
                }
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
        ended_early.map_or(Ok(()), |error| Err(RunError::Worker(error)))
    }

    /// Starts the control flow, and makes what the data flow needs.
    fn start(mut self) -> Running {
        let metrics = Arc::new(Metrics::new());
        let fetcher = Arc::new(HttpFetch::new(self.profiles.clone(), self.clock.clone()));
        let deps = Deps::new(self.store, fetcher, self.clock, Arc::clone(&metrics));
        let (admin, admin_moves) = mpsc::unbounded_channel();
        let fixed = Fixed {
            workers: self.config.server.workers,
            pseudonym: format!("cupbearer-{:08x}", fastrand::u32(..)).into(),
            metrics: Arc::clone(&metrics),
            admin,
        };
        let opened = std::mem::take(&mut self.prepared.opened);
        let (doors, listeners, changes) = Doors::new(doors::wanted(&self.config), opened);
        let (live, snapshot) = Live::start(self.config, self.prepared, fixed, doors, deps);
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
        let control = AppControl::new(Arc::clone(&proxy), Arc::clone(&view), reloader, self.log);
        Running {
            proxy,
            view,
            control: Arc::new(control),
            listeners,
            changes,
            admin_moves,
        }
    }
}

/// What [`Start::start`] made.
struct Running {
    proxy: Arc<Proxy>,
    view: Arc<View>,
    control: Arc<dyn admin::Control>,
    /// For whoever accepts, and what reloads do about them.
    listeners: Vec<Listener>,
    changes: mpsc::UnboundedReceiver<Change>,
    /// Where reloads move the admin port.
    admin_moves: mpsc::UnboundedReceiver<Option<std::net::TcpListener>>,
}

/// Serves the admin port, wherever reloads move it, until `stop`; then waits for answers under way.
async fn admin_port(
    mut listener: Option<TcpListener>,
    control: Arc<dyn admin::Control>,
    mut moves: mpsc::UnboundedReceiver<Option<std::net::TcpListener>>,
    mut stop: oneshot::Receiver<()>,
) {
    let mut serving = JoinSet::new();
    loop {
        let (moved, here_no_more) = oneshot::channel::<()>();
        if let Some(listener) = listener.take() {
            let control = Arc::clone(&control);
            let ended = async { drop(here_no_more.await) };
            serving.spawn(admin::serve(listener, control, ended));
        }
        let next = tokio::select! {
            _ = &mut stop => None,
            next = moves.recv() => next,
        };
        drop(moved);
        let Some(next) = next else { break };
        listener = next.and_then(|next| match TcpListener::from_std(next) {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::error!(%error, "cannot serve the admin port");
                None
            }
        });
    }
    while serving.join_next().await.is_some() {}
}

/// A connector for each upstream, in their order; reads the TLS files, those of token endpoints too. Blocks.
fn connect(config: &Config, profiles: &TlsProfiles) -> Result<Vec<Connector>, Vec<StartError>> {
    let mut errors = Vec::new();
    let failed = |path, source| StartError::Tls { path, source };
    let fetch = HttpFetch::new(profiles.clone(), Clock::System);
    for provider in &config.providers {
        if let TokenSource::Endpoint(endpoint) = &provider.source
            && let Err(source) = fetch.check(endpoint)
        {
            errors.push(failed(format!("providers.{}.tls", provider.name), source));
        }
    }
    let mut connectors = Vec::with_capacity(config.upstreams.len());
    for upstream in &config.upstreams {
        match Connector::new(destination(upstream), profiles) {
            Ok(connector) => connectors.push(connector),
            Err(source) => errors.push(failed(format!("upstreams.{}.tls", upstream.name), source)),
        }
    }
    if errors.is_empty() {
        Ok(connectors)
    } else {
        Err(errors)
    }
}

fn destination(upstream: &config::Upstream) -> Destination {
    Destination {
        origin: upstream.origin.clone(),
        connect_to: upstream.connect_to.clone(),
        tls: upstream.tls.clone(),
        egress: upstream.egress.clone(),
        alpn: match upstream.http {
            HttpVersion::Auto => Alpn::Both,
            HttpVersion::Http1 => Alpn::Http1,
            HttpVersion::Http2 => Alpn::Http2,
        },
    }
}

async fn client_auth(server: &config::Server) -> Result<Option<ClientAuth>, StartError> {
    Ok(match &server.client_auth {
        None => None,
        Some(config::ClientAuth::PeerUid(uids)) => Some(ClientAuth::PeerUid(uids.clone())),
        Some(config::ClientAuth::Header { name, value }) => {
            let value = inputs::read("server.client_auth.value", value).await?;
            Some(ClientAuth::Header {
                name: name.clone(),
                value: value.to_text(),
            })
        }
    })
}

#[cfg(test)]
mod tests;
