//! What requests see of a configuration: targets, routes, accepted hosts, settings.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::doors::Doors;
use super::listen::Opened;
use super::open_files;
use crate::config::{self, Config, Listen, Provider, Scheme};
use crate::metrics::Metrics;
use crate::provider::Handle;
use crate::provider::cell::CellReader;
use crate::proxy::route::Routes;
use crate::proxy::target::{Parts, Target};
use crate::proxy::{ClientAuth, Hosts, Settings, Snapshot, Via};
use crate::upstream::connect::Connector;
use crate::upstream::{Limits, Pool};

/// What stays the same as long as the process runs.
pub(super) struct Fixed {
    pub(super) workers: usize,
    /// Our name in `Via`.
    pub(super) pseudonym: Box<str>,
    pub(super) metrics: Arc<Metrics>,
    /// To whoever serves the admin port.
    pub(super) admin: mpsc::UnboundedSender<Option<std::net::TcpListener>>,
}

/// What a configuration needs of the machine: files that were read, which can fail.
pub(super) struct Prepared {
    /// For each upstream, in their order.
    pub(super) connectors: Vec<Connector>,
    pub(super) client_auth: Option<ClientAuth>,
    /// Listeners that are not open yet, in their order.
    pub(super) opened: Vec<Opened>,
    pub(super) admin: AdminChange,
}

/// What becomes of the admin port.
pub(super) enum AdminChange {
    Stays,
    /// To here, or nowhere.
    Moves(Option<std::net::TcpListener>),
}

/// A target, and what it was made of.
pub(super) struct Running {
    pub(super) target: Arc<Target>,
    connector: Connector,
    provider: Arc<Provider>,
    reader: CellReader,
}

/// By the upstream's name.
pub(super) type Targets = HashMap<String, Running>;

impl Fixed {
    /// Targets of which nothing has changed are taken over from `old`, and with them their connections.
    pub(super) fn snapshot(
        &self,
        config: &Config,
        connectors: Vec<Connector>,
        client_auth: Option<ClientAuth>,
        providers: &[Handle],
        old: &Targets,
        doors: &Doors,
    ) -> (Targets, Snapshot) {
        let providers: HashMap<_, _> = providers
            .iter()
            .map(|handle| (handle.name(), handle))
            .collect();
        let mut targets = Targets::with_capacity(config.upstreams.len());
        let addresses = doors.addresses();
        let mut routes = Routes::new(own_authorities(&addresses));
        for (upstream, connector) in config.upstreams.iter().zip(connectors) {
            // The configuration has checked that the provider exists.
            let Some(provider) = providers.get(upstream.provider.as_str()) else {
                continue;
            };
            let target = match old.get(&upstream.name) {
                Some(running) if running.fits(upstream, provider, &connector) => {
                    Arc::clone(&running.target)
                }
                _ => Arc::new(self.target(upstream, provider, &connector)),
            };
            routes.add(Arc::clone(&target));
            let running = Running {
                target,
                connector,
                provider: Arc::clone(provider.provider()),
                reader: provider.reader(),
            };
            targets.insert(upstream.name.clone(), running);
        }
        doors.lead(&mut routes, &targets);
        let snapshot = Snapshot {
            routes,
            hosts: hosts(config, &addresses),
            settings: self.settings(&config.server, client_auth),
        };
        (targets, snapshot)
    }

    pub(super) fn move_admin(&self, listener: Option<std::net::TcpListener>) {
        // Without anybody who serves it the process is ending.
        let _ = self.admin.send(listener);
    }

    fn settings(&self, server: &config::Server, client_auth: Option<ClientAuth>) -> Settings {
        let via = || Via::new(&self.pseudonym);
        Settings {
            client_auth,
            via: server.via.then(via).flatten(),
            pseudonym: self.pseudonym.clone(),
            access_log: server.access_log,
            max_connections: server.max_connections.min(open_files::room()),
            header_timeout: server.header_timeout,
            body_timeout: server.body_timeout,
            idle_timeout: server.idle_timeout,
            shutdown_grace: server.shutdown_grace,
        }
    }

    fn target(
        &self,
        upstream: &Arc<config::Upstream>,
        provider: &Handle,
        connector: &Connector,
    ) -> Target {
        let handles = self.metrics.upstream(&upstream.name);
        let limits = Limits {
            connect: upstream.connect_timeout,
            idle: upstream.idle_timeout,
        };
        let inject = &provider.provider().inject;
        Target::new(Parts {
            config: Arc::clone(upstream),
            token: provider.reader(),
            pools: (0..self.workers)
                .map(|_| Pool::new(connector.clone(), limits, handles.clone()))
                .collect(),
            metrics: handles,
            inject_headers: inject.header_names().to_vec(),
            inject_query: inject.query_names().to_vec(),
            reject: provider.provider().reject.clone(),
        })
    }
}

impl Running {
    fn fits(&self, upstream: &config::Upstream, provider: &Handle, connector: &Connector) -> bool {
        let (old, new) = (&self.provider, provider.provider());
        *self.target.config == *upstream
            && self.reader.is_same(&provider.reader())
            && old.inject == new.inject
            && old.reject == new.reject
            && self.connector.is_same(connector)
    }
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
