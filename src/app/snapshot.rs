//! The part of a configuration that requests read: targets, routes, accepted hosts, settings.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::listen::Opened;
use super::listeners::Listeners;
use super::open_files;
use crate::config::{self, Config, Listen, Provider, Scheme};
use crate::metrics::Metrics;
use crate::provider::Handle;
use crate::proxy::route::Routes;
use crate::proxy::target::{Target, TargetParts};
use crate::proxy::{ClientAuth, Hosts, Settings, Snapshot, Via};
use crate::token::cell::CellReader;
use crate::upstream::connect::Connector;
use crate::upstream::{Limits, Pool};

/// What stays the same until the process ends.
pub(super) struct Fixed {
    pub(super) workers: usize,
    /// Cupbearer's name in `Via`.
    pub(super) pseudonym: Box<str>,
    pub(super) metrics: Arc<Metrics>,
    /// Moves the admin port; `None` closes the port.
    pub(super) admin: mpsc::UnboundedSender<Option<std::net::TcpListener>>,
}

/// Results of the steps that can fail: files that were read, and sockets that were opened.
pub(super) struct Prepared {
    /// One for each upstream, in their order.
    pub(super) connectors: Vec<Connector>,
    pub(super) client_auth: Option<ClientAuth>,
    /// The new listeners, in their order.
    pub(super) opened: Vec<Opened>,
    pub(super) admin: AdminChange,
}

/// What a reload does with the admin port.
pub(super) enum AdminChange {
    Stays,
    /// Moves to this listener, or closes.
    Moves(Option<std::net::TcpListener>),
}

/// A target, and the parts that it was made of.
pub(super) struct Running {
    pub(super) target: Arc<Target>,
    connector: Connector,
    provider: Arc<Provider>,
    reader: CellReader,
}

/// Targets by the name of the upstream.
pub(super) type Targets = HashMap<String, Running>;

impl Fixed {
    /// Reuses unchanged targets of `old`, and with them their pooled connections.
    pub(super) fn snapshot(
        &self,
        config: &Config,
        connectors: Vec<Connector>,
        client_auth: Option<ClientAuth>,
        providers: &[Handle],
        old: &Targets,
        listeners: &Listeners,
    ) -> (Targets, Snapshot) {
        let providers = providers.iter().map(|handle| (handle.name(), handle));
        let providers: HashMap<_, _> = providers.collect();
        let mut targets = Targets::with_capacity(config.upstreams.len());
        let addresses = listeners.addresses();
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
        for (id, upstream) in listeners.of_upstreams() {
            // `None` if the upstream was removed: its connections then have no route.
            let target = targets.get(upstream);
            routes.at_listener(id, target.map(|running| Arc::clone(&running.target)));
        }
        let snapshot = Snapshot {
            routes,
            hosts: hosts(config, &addresses),
            settings: self.settings(&config.server, client_auth),
        };
        (targets, snapshot)
    }

    fn settings(&self, server: &config::Server, client_auth: Option<ClientAuth>) -> Settings {
        let via = server.via.then(|| Via::new(&self.pseudonym));
        Settings {
            client_auth,
            via: via.flatten(),
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
        let metrics = self.metrics.upstream(&upstream.name);
        let limits = Limits {
            connect: upstream.connect_timeout,
            idle: upstream.idle_timeout,
        };
        let inject = &provider.provider().inject;
        Target::new(TargetParts {
            config: Arc::clone(upstream),
            token: provider.reader(),
            pools: (0..self.workers)
                .map(|_| Pool::new(connector.clone(), limits, metrics.clone()))
                .collect(),
            metrics,
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
            && self.connector.has_same_target(connector)
    }
}

/// Returns the authorities by which apps on this machine address the listeners.
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
        let authority = &origin.authority;
        let port = format!(":{}", origin.port);
        let host = authority.strip_suffix(&port).unwrap_or(authority);
        let route = match &upstream.route {
            config::Route::Host(host) => Some(host.clone()),
            _ => None,
        };
        let ports = [format!("{host}{port}"), format!("{host}:{default}")];
        ports.into_iter().chain([authority.clone()]).chain(route)
    });
    let names = own_authorities(addresses).into_iter().chain(upstreams);
    let server = &config.server;
    Hosts::new(
        names.chain(server.allow_hosts.iter().cloned()),
        server.allow_origins.iter().cloned(),
    )
}
