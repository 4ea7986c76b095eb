//! Wiring: [`Config`] → [`bind`] → [`Bound`] → [`Bound::run`].
//!
//! [`bind`] does everything that can fail because of the configuration or the machine, and starts nothing: a port that is taken
//! or a certificate that cannot be read ends the start with its name. [`Bound::run`] starts both flows and sees them out.

mod control;
mod listen;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::admin;
use crate::clock::Clock;
use crate::config::{self, Config, HttpVersion, Listen, Scheme, TokenSource};
use crate::metrics::Metrics;
use crate::provider::exchange::HttpFetch;
use crate::provider::inputs;
use crate::provider::store::{self, Store, StoreError};
use crate::provider::{self, Deps, Handle};
use crate::proxy::accept::Listener;
use crate::proxy::route::Routes;
use crate::proxy::target::{Parts, Target};
use crate::proxy::{ClientAuth, Hosts, Proxy, Settings, Snapshot, Via};
use crate::runtime::{self, Workers};
use crate::upstream::connect::{Alpn, Connector, Destination};
use crate::upstream::tls::{TlsConfigError, TlsProfiles};
use crate::upstream::{Limits, Pool};

use control::AppControl;

/// How long the process waits for a fetch that is under way when it ends.
const LAST_FETCHES: Duration = Duration::from_secs(2);

/// What asked for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// SIGTERM: `/readyz` says no for `shutdown_delay` first, so that whoever routes to us notices.
    Term,
    /// SIGINT: no delay.
    Interrupt,
}

/// Why the program does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {what}: {source}")]
    Listen {
        what: String,
        source: std::io::Error,
    },
    #[error("{path}: {source}")]
    Tls {
        path: String,
        source: TlsConfigError,
    },
    #[error("store: {0}")]
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
    listeners: Vec<Listener>,
    addresses: Vec<Listen>,
    /// Unix sockets to remove at the end.
    socket_files: Vec<PathBuf>,
    admin: Option<std::net::TcpListener>,
    connectors: Vec<Connector>,
    client_auth: Option<ClientAuth>,
    store: Arc<dyn Store>,
    profiles: TlsProfiles,
    clock: Clock,
}

/// Opens the sockets and the store and reads the TLS files. Starts nothing. Blocks.
pub fn bind(config: Config) -> Result<Bound, StartError> {
    let profiles = TlsProfiles::new();
    let connectors = connectors(&config, &profiles)?;
    let fetch = HttpFetch::new(profiles.clone(), Clock::System);
    for provider in &config.providers {
        if let TokenSource::Endpoint(endpoint) = &provider.source {
            let path = format!("providers.{}.tls", provider.name);
            fetch
                .check(endpoint)
                .map_err(|source| StartError::Tls { path, source })?;
        }
    }
    let wanted = wanted(&config);
    let mut listeners = Vec::with_capacity(wanted.len());
    let mut addresses = Vec::with_capacity(wanted.len());
    let mut socket_files = Vec::new();
    for (index, listen) in wanted.iter().enumerate() {
        let (socket, address) = listen::open(listen)?;
        if let Listen::Unix(path) = &address {
            socket_files.push(path.clone());
        }
        listeners.push(Listener { index, socket });
        addresses.push(address);
    }
    let admin = config.server.admin.map(listen::open_tcp).transpose()?;
    let runtime = runtime::control()?;
    let store = runtime.block_on(store::open(&config.store))?;
    let client_auth = runtime.block_on(client_auth(&config.server))?;
    Ok(Bound {
        config,
        runtime,
        listeners,
        addresses,
        socket_files,
        admin,
        connectors,
        client_auth,
        store,
        profiles,
        clock: Clock::System,
    })
}

// === impl Bound ===

impl Bound {
    /// Where apps connect, with the ports that the system chose.
    pub fn listeners(&self) -> Vec<Listen> {
        self.addresses.clone()
    }

    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
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
            listeners,
            addresses,
            socket_files,
            admin,
            connectors,
            client_auth,
            store,
            profiles,
            clock,
        } = self;
        let start = Start {
            config: &config,
            addresses: &addresses,
            connectors,
            client_auth,
            store,
            profiles,
            clock,
        };
        let result = runtime.block_on(start.run(listeners, admin, shutdown));
        for file in socket_files {
            // Gone already, or not ours to remove: the next start says so if it matters.
            let _ = std::fs::remove_file(file);
        }
        result
    }
}

/// What [`Bound::run`] starts from.
struct Start<'a> {
    config: &'a Config,
    addresses: &'a [Listen],
    connectors: Vec<Connector>,
    client_auth: Option<ClientAuth>,
    store: Arc<dyn Store>,
    profiles: TlsProfiles,
    clock: Clock,
}

impl Start<'_> {
    async fn run(
        self,
        listeners: Vec<Listener>,
        admin: Option<std::net::TcpListener>,
        shutdown: impl Future<Output = Shutdown>,
    ) -> Result<(), RunError> {
        let server = self.config.server.clone();
        let addresses = self.addresses.to_vec();
        let metrics = Arc::new(Metrics::new());
        let providers = self.start_providers(&metrics);
        let proxy = Arc::new(Proxy {
            snapshot: ArcSwap::from_pointee(self.snapshot(&providers, &metrics)),
            metrics: Arc::clone(&metrics),
            connections: AtomicUsize::new(0),
        });
        let (drain, draining) = watch::channel(false);
        let mut workers = Workers::start(
            server.workers,
            &proxy,
            listeners,
            &draining,
            server.shutdown_grace,
        )?;
        let control = Arc::new(AppControl::new(
            proxy,
            providers.clone(),
            addresses,
            server.allow_hosts,
        ));
        let (stop_admin, admin_stops) = tokio::sync::oneshot::channel::<()>();
        let admin = match admin {
            Some(listener) => {
                let stopped = async { drop(admin_stops.await) };
                let control = Arc::clone(&control) as Arc<dyn admin::Control>;
                Some(tokio::spawn(admin::serve(
                    TcpListener::from_std(listener)?,
                    control,
                    stopped,
                )))
            }
            None => None,
        };
        let ended_early = tokio::select! {
            reason = shutdown => {
                control.not_ready();
                tracing::info!(?reason, "shutting down");
                if reason == Shutdown::Term {
                    tokio::time::sleep(server.shutdown_delay).await;
                }
                None
            }
            error = workers.failed() => Some(error),
        };
        drain.send_replace(true);
        if !workers.ended().await {
            tracing::warn!("requests were still in flight at the end of shutdown_grace");
        }
        let stop_all = async {
            for provider in &providers {
                provider.stop().await;
            }
        };
        let _ = tokio::time::timeout(LAST_FETCHES, stop_all).await;
        drop(stop_admin);
        if let Some(admin) = admin {
            let _ = admin.await;
        }
        ended_early.map_or(Ok(()), |error| Err(RunError::Worker(error)))
    }

    fn start_providers(&self, metrics: &Arc<Metrics>) -> Vec<Handle> {
        let fetcher = Arc::new(HttpFetch::new(self.profiles.clone(), self.clock.clone()));
        let deps = Deps::new(
            Arc::clone(&self.store),
            fetcher,
            self.clock.clone(),
            Arc::clone(metrics),
        );
        provider::groups(&self.config.providers)
            .into_iter()
            .flat_map(|group| provider::spawn(group, deps.clone()))
            .collect()
    }

    fn snapshot(self, providers: &[Handle], metrics: &Metrics) -> Snapshot {
        let server = &self.config.server;
        let mut routes = Routes::new(own_authorities(self.addresses));
        let wanted = wanted(self.config);
        for (upstream, connector) in self.config.upstreams.iter().zip(self.connectors) {
            let listener = match &upstream.route {
                config::Route::Listen(listen) => wanted.iter().rposition(|other| other == listen),
                _ => None,
            };
            // The configuration has checked that the provider exists.
            if let Some(provider) = providers
                .iter()
                .find(|provider| provider.name() == upstream.provider)
            {
                routes.add(
                    Arc::new(target(
                        upstream,
                        provider,
                        connector,
                        metrics,
                        server.workers,
                    )),
                    listener,
                );
            }
        }
        let pseudonym = format!("cupbearer-{:08x}", fastrand::u32(..));
        Snapshot {
            routes,
            hosts: hosts(self.config, self.addresses),
            settings: Settings {
                client_auth: self.client_auth,
                via: server.via.then(|| Via::new(&pseudonym)).flatten(),
                pseudonym: pseudonym.into(),
                max_connections: server.max_connections,
                header_timeout: server.header_timeout,
                idle_timeout: server.idle_timeout,
            },
        }
    }
}

fn target(
    upstream: &Arc<config::Upstream>,
    provider: &Handle,
    connector: Connector,
    metrics: &Metrics,
    workers: usize,
) -> Target {
    let handles = metrics.upstream(&upstream.name);
    let limits = Limits {
        connect: upstream.connect_timeout,
        idle: upstream.idle_timeout,
    };
    let inject = &provider.provider().inject;
    Target::new(Parts {
        config: Arc::clone(upstream),
        token: provider.reader(),
        pools: (0..workers)
            .map(|_| Pool::new(connector.clone(), limits, handles.clone()))
            .collect(),
        metrics: handles,
        inject_headers: inject.header_names().to_vec(),
        inject_query: inject.query_names().to_vec(),
        reject: provider.provider().reject.clone(),
    })
}

fn connectors(config: &Config, profiles: &TlsProfiles) -> Result<Vec<Connector>, StartError> {
    let connector = |upstream: &Arc<config::Upstream>| {
        let destination = Destination {
            origin: upstream.origin.clone(),
            connect_to: upstream.connect_to.clone(),
            tls: upstream.tls.clone(),
            egress: upstream.egress.clone(),
            alpn: match upstream.http {
                HttpVersion::Auto => Alpn::Both,
                HttpVersion::Http1 => Alpn::Http1,
                HttpVersion::Http2 => Alpn::Http2,
            },
        };
        let path = format!("upstreams.{}.tls", upstream.name);
        Connector::new(destination, profiles).map_err(|source| StartError::Tls { path, source })
    };
    config.upstreams.iter().map(connector).collect()
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

/// Every socket of the data plane: the server's own first, then those of upstreams with a port of their own.
fn wanted(config: &Config) -> Vec<Listen> {
    let of_routes = config
        .upstreams
        .iter()
        .filter_map(|upstream| match &upstream.route {
            config::Route::Listen(listen) => Some(listen.clone()),
            _ => None,
        });
    config
        .server
        .listen
        .iter()
        .cloned()
        .chain(of_routes)
        .collect()
}

/// How apps on this machine write the listeners' authorities.
fn own_authorities(addresses: &[Listen]) -> Vec<String> {
    let tcp = addresses.iter().filter_map(|address| match address {
        Listen::Tcp(address) => Some(address),
        Listen::Unix(_) => None,
    });
    tcp.flat_map(|address| {
        let port = address.port();
        [
            address.to_string(),
            format!("localhost:{port}"),
            format!("127.0.0.1:{port}"),
            format!("[::1]:{port}"),
        ]
    })
    .collect()
}

fn hosts(config: &Config, addresses: &[Listen]) -> Hosts {
    let upstreams = config.upstreams.iter().flat_map(|upstream| {
        let origin = &upstream.origin;
        let default = match origin.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        let host = origin
            .authority
            .strip_suffix(&format!(":{}", origin.port))
            .unwrap_or(&origin.authority);
        let route = match &upstream.route {
            config::Route::Host(host) => Some(host.clone()),
            _ => None,
        };
        let with_port = format!("{host}:{}", origin.port);
        [
            Some(origin.authority.clone()),
            Some(with_port),
            Some(format!("{host}:{default}")),
            route,
        ]
    });
    let names = own_authorities(addresses)
        .into_iter()
        .chain(upstreams.flatten());
    Hosts::new(
        names.chain(config.server.allow_hosts.iter().cloned()),
        config.server.allow_origins.iter().cloned(),
    )
}
