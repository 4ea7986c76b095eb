//! The process's listeners: which there are, where their requests go, and what a reload changes.
//!
//! A listener that stays keeps its socket and backlog. A new one is bound before anything changes.
//! A removed one is remembered until its last connection has ended: until then the requests of
//! these connections go to the same upstream as before.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use super::diff::Names;
use super::listen::{Opened, SocketFile};
use crate::config::{Config, Listen, Route};
use crate::proxy::listener::{Listener, ListenerChange, ListenerState};

/// A listener that a configuration asks for.
pub(super) struct Wanted {
    /// As configured: the system chooses the port in place of port 0.
    pub(super) listen: Listen,
    /// The upstream that gets all requests; `None` for `server.listen`.
    upstream: Option<String>,
}

pub(super) struct Listeners {
    /// In the order of [`wanted`].
    open: Vec<Open>,
    closed: Vec<Closed>,
    next_id: usize,
    changes: mpsc::UnboundedSender<ListenerChange>,
}

struct Open {
    wanted: Wanted,
    /// As bound.
    address: Listen,
    state: Arc<ListenerState>,
    file: Option<SocketFile>,
}

/// A removed listener that may still have connections.
struct Closed {
    id: usize,
    upstream: String,
    state: Weak<ListenerState>,
}

/// Returns every listener of the data plane: `server.listen` first, then those of upstreams.
pub(super) fn wanted(config: &Config) -> Vec<Wanted> {
    let own = config.server.listen.iter().map(|listen| (listen, None));
    let of_routes = config.upstreams.iter().filter_map(|it| match &it.route {
        Route::Listen(listen) => Some((listen, Some(it.name.clone()))),
        _ => None,
    });
    own.chain(of_routes)
        .map(|(listen, upstream)| Wanted {
            listen: listen.clone(),
            upstream,
        })
        .collect()
}

impl Listeners {
    /// Takes one of `opened` for each of `wanted`. Returns the sockets to accept on, and the
    /// receiver of the changes that reloads make to them.
    pub(super) fn new(
        wanted: Vec<Wanted>,
        opened: Vec<Opened>,
    ) -> (Self, Vec<Listener>, mpsc::UnboundedReceiver<ListenerChange>) {
        let (changes, follow) = mpsc::unbounded_channel();
        let mut listeners = Self {
            open: Vec::with_capacity(wanted.len()),
            closed: Vec::new(),
            next_id: 0,
            changes,
        };
        let sockets = wanted.into_iter().zip(opened);
        let sockets = sockets.map(|(wanted, opened)| listeners.add(wanted, opened));
        let sockets = sockets.collect();
        (listeners, sockets, follow)
    }

    /// Returns the addresses as bound.
    pub(super) fn addresses(&self) -> Vec<Listen> {
        self.open.iter().map(|open| open.address.clone()).collect()
    }

    /// Returns what has to be opened for `wanted`, in the order of `wanted`.
    pub(super) fn missing(&self, wanted: &[Wanted]) -> Vec<Listen> {
        let kept = self.kept(wanted);
        let missing = wanted.iter().zip(kept).filter(|(_, kept)| kept.is_none());
        missing.map(|(wanted, _)| wanted.listen.clone()).collect()
    }

    /// Replaces the listeners by `wanted`; `opened` are the [missing](Self::missing) ones. The
    /// changes are to be [sent](Self::send) once requests see the new configuration.
    pub(super) fn replace(
        &mut self,
        wanted: Vec<Wanted>,
        opened: Vec<Opened>,
    ) -> (Names, Vec<ListenerChange>) {
        let kept = self.kept(&wanted);
        let old = std::mem::take(&mut self.open);
        let mut old: Vec<_> = old.into_iter().map(Some).collect();
        let mut opened = opened.into_iter();
        let mut names = Names::default();
        let mut changes = Vec::new();
        for (wanted, kept) in wanted.into_iter().zip(kept) {
            if let Some(open) = kept.and_then(|index| old[index].take()) {
                self.open.push(Open { wanted, ..open });
            } else if let Some(opened) = opened.next() {
                names.added.push(opened.address.to_string());
                changes.push(ListenerChange::Open(self.add(wanted, opened)));
            }
        }
        self.closed.retain(|closed| closed.state.strong_count() > 0);
        for open in old.into_iter().flatten() {
            names.removed.push(open.address.to_string());
            changes.push(ListenerChange::Close(self.close(open)));
        }
        (names, changes)
    }

    /// Sends `changes` to the accepting thread, which is gone only when the process is ending.
    pub(super) fn send(&self, changes: Vec<ListenerChange>) {
        for change in changes {
            let _ = self.changes.send(change);
        }
    }

    /// Returns the id and upstream of each listener that serves one upstream, also of removed
    /// listeners with open connections.
    pub(super) fn of_upstreams(&self) -> impl Iterator<Item = (usize, &str)> {
        let open = self.open.iter().filter_map(|open| {
            let upstream = open.wanted.upstream.as_deref()?;
            Some((open.state.id, upstream))
        });
        open.chain(self.closed.iter().map(|it| (it.id, &*it.upstream)))
    }

    /// Returns for each of `wanted` the index of the open listener that it keeps, if any.
    fn kept(&self, wanted: &[Wanted]) -> Vec<Option<usize>> {
        let mut indexes: HashMap<&Listen, Vec<usize>> = HashMap::new();
        for (index, open) in self.open.iter().enumerate() {
            indexes.entry(&open.wanted.listen).or_default().push(index);
        }
        let take = |wanted: &Wanted| {
            let indexes = indexes.get_mut(&wanted.listen)?;
            // More than one index only with port 0.
            let own = indexes
                .iter()
                .position(|index| self.open[*index].wanted.upstream == wanted.upstream);
            (!indexes.is_empty()).then(|| indexes.remove(own.unwrap_or(0)))
        };
        wanted.iter().map(take).collect()
    }

    fn add(&mut self, wanted: Wanted, opened: Opened) -> Listener {
        let state = ListenerState::new(self.next_id);
        self.next_id += 1;
        self.open.push(Open {
            wanted,
            address: opened.address,
            state: Arc::clone(&state),
            file: opened.file,
        });
        Listener {
            state,
            socket: opened.socket,
        }
    }

    /// Removes the socket file first, so that no new client finds the socket. Connections that are
    /// already in the backlog are still accepted.
    fn close(&mut self, open: Open) -> Arc<ListenerState> {
        drop(open.file);
        if let Some(upstream) = open.wanted.upstream {
            self.closed.push(Closed {
                id: open.state.id,
                upstream,
                state: Arc::downgrade(&open.state),
            });
        }
        open.state
    }
}
