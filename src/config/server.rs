//! `[server]` and `[store]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::context::Context;
use super::file::{Admin, ClientAuthToml, ServerToml, StoreKindToml, StoreToml};
use super::model::{BodyTimeout, ClientAuth, Listen, Server, Store, StoreKind};
use super::problems::{Complaint, KeyPath, complaint};
use super::routes::Listeners;
use super::units::{Limit, Span, Text};
use super::value::{EmptyLiteral, FilePath, check_key};
use crate::dialect::OneOrMany;

/// The usual port of a local proxy.
const DEFAULT_LISTEN: SocketAddr = loopback(8080);

/// A free port near the admin ports of other sidecars (9090 to 9199).
const DEFAULT_ADMIN: SocketAddr = loopback(9180);

/// One core serves more traffic than a sidecar gets.
const DEFAULT_WORKERS: usize = 1;

/// Two sockets per connection stay within the usual hard limit on open files.
const DEFAULT_MAX_CONNECTIONS: usize = 10_000;

/// A local app writes a head at once; 10 s tolerate a machine that swaps.
const DEFAULT_HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A peer that moves no byte of an announced body for 5 min is gone.
const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(300);

/// Longer than the apps' own pools (90 s and less), so that the app closes first.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Kubernetes may send new connections for this long.
const DEFAULT_SHUTDOWN_DELAY: Duration = Duration::from_secs(5);

/// Together with the delay close to Kubernetes' own 30 s.
const DEFAULT_SHUTDOWN_GRACE: Duration = Duration::from_secs(30);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl BodyTimeout {
    pub(super) fn of(written: Option<Text<Limit>>) -> Self {
        let written = written.map(|Text(limit)| limit.0);
        Self {
            announced: written.unwrap_or(DEFAULT_BODY_TIMEOUT),
            streaming: written,
        }
    }
}

/// Rules for the listeners of the whole file.
pub(super) struct Exposure {
    pub(super) allow_remote: bool,
    pub(super) peer_uid_only: bool,
}

pub(super) fn server(
    written: ServerToml,
    at: &KeyPath,
    listeners: &mut Listeners,
    cx: &mut Context<'_>,
) -> (Server, Exposure) {
    let client_auth = written
        .client_auth
        .and_then(|written| client_auth(written, &at.key("client_auth"), cx));
    let exposure = Exposure {
        allow_remote: written.allow_remote.unwrap_or(false),
        peer_uid_only: matches!(client_auth, Some(ClientAuth::PeerUid(_))),
    };
    let admin = written
        .admin
        .map_or(Some(DEFAULT_ADMIN), |Text(Admin(admin))| admin);
    if let Some(address) = admin {
        let at = at.key("admin");
        let listen = Listen::Tcp(address);
        if listen.is_remote() && !exposure.allow_remote {
            cx.problem(&at, off_loopback());
        }
        listeners.add(&listen, &at, &mut cx.problems);
    }
    let listen = match written.listen {
        Some(OneOrMany(all)) => all.into_iter().map(|Text(listen)| listen).collect(),
        None => vec![Listen::Tcp(DEFAULT_LISTEN)],
    };
    for listen in &listen {
        check_listen(listen, &at.key("listen"), &exposure, listeners, cx);
    }
    let server = Server {
        listen,
        admin,
        workers: written.workers.map_or(DEFAULT_WORKERS, |Text(n)| n.0),
        max_connections: written
            .max_connections
            .map_or(DEFAULT_MAX_CONNECTIONS, |Text(n)| n.0),
        header_timeout: limit(written.header_timeout, DEFAULT_HEADER_TIMEOUT),
        body_timeout: BodyTimeout::of(written.body_timeout),
        idle_timeout: limit(written.idle_timeout, DEFAULT_IDLE_TIMEOUT),
        shutdown_delay: span(written.shutdown_delay, DEFAULT_SHUTDOWN_DELAY),
        shutdown_grace: span(written.shutdown_grace, DEFAULT_SHUTDOWN_GRACE),
        allow_hosts: texts(written.allow_hosts, |host| host.0),
        allow_origins: texts(written.allow_origins, |origin| origin.0),
        client_auth,
        via: written.via.unwrap_or(true),
        access_log: written.access_log.unwrap_or(false),
        quitquitquit: written.quitquitquit.unwrap_or(false),
    };
    (server, exposure)
}

/// Checks a listener of `server.listen` or of a route.
pub(super) fn check_listen(
    listen: &Listen,
    at: &KeyPath,
    exposure: &Exposure,
    listeners: &mut Listeners,
    cx: &mut Context<'_>,
) {
    if listen.is_remote() && !exposure.allow_remote {
        cx.problem(at, off_loopback());
    }
    if exposure.peer_uid_only && matches!(listen, Listen::Tcp(_)) {
        cx.problem(
            at,
            complaint("server.client_auth.peer_uid can only check who connects to a Unix socket")
                .hint("listen on \"unix:/path\", or use client_auth = { header, value }"),
        );
    }
    listeners.add(listen, at, &mut cx.problems);
}

fn off_loopback() -> Complaint {
    complaint("any process that can connect to this address can use the tokens")
        .hint("listen on 127.0.0.1, or set server.allow_remote = true")
}

fn client_auth(written: ClientAuthToml, at: &KeyPath, cx: &mut Context<'_>) -> Option<ClientAuth> {
    match (written.header, written.value, written.peer_uid) {
        (Some(Text(name)), Some(value), None) => {
            let value = cx.value(&at.key("value"), value, EmptyLiteral::Refused)?;
            Some(ClientAuth::Header { name, value })
        }
        (None, None, Some(users)) if users.is_empty() => {
            let none = complaint("names no user, so every connection would be refused");
            cx.problem(&at.key("peer_uid"), none.hint("peer_uid = [1000]"));
            None
        }
        (None, None, Some(users)) => Some(ClientAuth::PeerUid(users)),
        _ => {
            let incomplete = complaint("needs either `header` and `value`, or `peer_uid`");
            let hint = "client_auth = { header = \"X-Cupbearer-Key\", value = { env = \"NAME\" } }";
            cx.problem(at, incomplete.hint(hint));
            None
        }
    }
}

pub(super) fn store(written: StoreToml, at: &KeyPath, cx: &mut Context<'_>) -> Store {
    let kind = written.kind.unwrap_or(StoreKindToml::Memory);
    if kind == StoreKindToml::Redis {
        let later = complaint("`redis` is not supported yet").hint("use \"file\"");
        cx.problem(&at.key("kind"), later);
    }
    match (kind, &written.path) {
        (StoreKindToml::File, None) => {
            let hint = "name the state directory: path = \"/var/lib/cupbearer\"";
            cx.problem(&at.key("path"), complaint("is missing").hint(hint));
        }
        (StoreKindToml::Memory, Some(_)) => cx.problem(&at.key("path"), only_for("file")),
        _ => {}
    }
    if written.url.is_some() && kind != StoreKindToml::Redis {
        cx.problem(&at.key("url"), only_for("redis"));
    }
    let at = at.key("key");
    let written_keys = written.key.map(|OneOrMany(keys)| keys);
    if written_keys.as_ref().is_some_and(Vec::is_empty) {
        let empty = complaint("is an empty list").hint("omit `key` to store unsealed");
        cx.problem(&at, empty);
    }
    let written_keys = written_keys.unwrap_or_default();
    let single = written_keys.len() == 1;
    let mut keys = Vec::with_capacity(written_keys.len());
    for (index, key) in written_keys.into_iter().enumerate() {
        let at = if single { at.clone() } else { at.index(index) };
        if let Some(key) = cx.value(&at, key, EmptyLiteral::Refused) {
            cx.problems.keep(&at, check_key(&key));
            keys.push(key);
        }
    }
    Store {
        kind: match (kind, written.path) {
            (StoreKindToml::File, Some(Text(FilePath(path)))) => StoreKind::File { path },
            _ => StoreKind::Memory,
        },
        keys,
    }
}

fn only_for(kind: &str) -> Complaint {
    complaint(format!("has an effect only with kind = \"{kind}\""))
        .hint(format!("remove it, or set kind = \"{kind}\""))
}

pub(super) fn limit(written: Option<Text<Limit>>, default: Duration) -> Duration {
    written.map_or(default, |Text(limit)| limit.0)
}

pub(super) fn span(written: Option<Text<Span>>, default: Duration) -> Duration {
    written.map_or(default, |Text(span)| span.0)
}

fn texts<T>(written: Option<Vec<Text<T>>>, text: impl Fn(T) -> String) -> Vec<String> {
    let written = written.unwrap_or_default().into_iter();
    written.map(|Text(one)| text(one)).collect()
}
