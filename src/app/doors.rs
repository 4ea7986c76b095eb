//! The process's doors: which there are, what they lead to, and what a reload does about them.
//!
//! What is kept is not touched: its socket stays the same, with whoever waits at it. What is new has been bound before anything
//! changes. What goes is forgotten when the last connection that came in by it has ended: until then its requests go where the door led.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use super::diff::Names;
use super::listen::{Opened, SocketFile};
use super::snapshot::Targets;
use crate::config::{Config, Listen, Route};
use crate::proxy::door::{Change, Door, Listener};
use crate::proxy::route::Routes;

/// A listening socket that a configuration asks for.
pub(super) struct Wanted {
    /// As it is written: port 0 is whatever the system chooses.
    pub(super) listen: Listen,
    /// Where all that comes in goes; `None` for `server.listen`.
    upstream: Option<String>,
}

pub(super) struct Doors {
    /// In the order of [`wanted`].
    open: Vec<Open>,
    closed: Vec<Closed>,
    next_id: usize,
    changes: mpsc::UnboundedSender<Change>,
}

struct Open {
    wanted: Wanted,
    /// As bound.
    address: Listen,
    door: Arc<Door>,
    file: Option<SocketFile>,
}

/// Perhaps with connections that came in by it.
struct Closed {
    id: usize,
    upstream: String,
    door: Weak<Door>,
}

/// What is to be done once requests see the new configuration.
#[must_use]
pub(super) struct Pending(Vec<Change>);

/// Every socket of the data plane: the server's own first, then those of upstreams with a port of their own.
pub(super) fn wanted(config: &Config) -> Vec<Wanted> {
    let own = config.server.listen.iter().map(|listen| Wanted {
        listen: listen.clone(),
        upstream: None,
    });
    let of_routes = config.upstreams.iter().filter_map(|upstream| {
        let Route::Listen(listen) = &upstream.route else {
            return None;
        };
        Some(Wanted {
            listen: listen.clone(),
            upstream: Some(upstream.name.clone()),
        })
    });
    own.chain(of_routes).collect()
}

impl Doors {
    /// `opened` for all of `wanted`. The listeners are for whoever accepts, and so is all that follows from reloads.
    pub(super) fn new(
        wanted: Vec<Wanted>,
        opened: Vec<Opened>,
    ) -> (Self, Vec<Listener>, mpsc::UnboundedReceiver<Change>) {
        let (changes, follow) = mpsc::unbounded_channel();
        let mut doors = Self {
            open: Vec::with_capacity(wanted.len()),
            closed: Vec::new(),
            next_id: 0,
            changes,
        };
        let mut listeners = Vec::with_capacity(wanted.len());
        for (wanted, opened) in wanted.into_iter().zip(opened) {
            listeners.push(doors.add(wanted, opened));
        }
        (doors, listeners, follow)
    }

    /// As bound.
    pub(super) fn addresses(&self) -> Vec<Listen> {
        self.open.iter().map(|open| open.address.clone()).collect()
    }

    /// What has to be opened for `wanted`, in its order.
    pub(super) fn missing(&self, wanted: &[Wanted]) -> Vec<Listen> {
        let kept = self.kept(wanted);
        let missing = wanted.iter().zip(kept).filter(|(_, kept)| kept.is_none());
        missing.map(|(wanted, _)| wanted.listen.clone()).collect()
    }

    /// From now on these are the doors; `opened` are those that were [missing](Self::missing).
    pub(super) fn replace(&mut self, wanted: Vec<Wanted>, opened: Vec<Opened>) -> (Names, Pending) {
        let kept = self.kept(&wanted);
        let mut old: Vec<_> = std::mem::take(&mut self.open)
            .into_iter()
            .map(Some)
            .collect();
        let mut opened = opened.into_iter();
        let mut names = Names::default();
        let mut changes = Vec::new();
        for (wanted, kept) in wanted.into_iter().zip(kept) {
            if let Some(open) = kept.and_then(|place| old[place].take()) {
                self.open.push(Open { wanted, ..open });
            } else if let Some(opened) = opened.next() {
                names.added.push(opened.address.to_string());
                changes.push(Change::Open(self.add(wanted, opened)));
            }
        }
        self.closed.retain(|closed| closed.door.strong_count() > 0);
        for open in old.into_iter().flatten() {
            names.removed.push(open.address.to_string());
            changes.push(Change::Close(self.close(open)));
        }
        (names, Pending(changes))
    }

    /// Tells whoever accepts.
    pub(super) fn tell(&self, pending: Pending) {
        for change in pending.0 {
            // Without anybody who accepts the process is ending.
            let _ = self.changes.send(change);
        }
    }

    /// Leads what comes in by doors of upstreams there, and nowhere else where they are no more.
    pub(super) fn lead(&self, routes: &mut Routes, targets: &Targets) {
        let open = self.open.iter().filter_map(|open| {
            let upstream = open.wanted.upstream.as_ref()?;
            Some((open.door.id, upstream))
        });
        let closed = self
            .closed
            .iter()
            .map(|closed| (closed.id, &closed.upstream));
        for (id, upstream) in open.chain(closed) {
            let target = targets.get(upstream);
            routes.at_door(id, target.map(|running| Arc::clone(&running.target)));
        }
    }

    /// For each that is wanted the place of one that is open, if there is one.
    fn kept(&self, wanted: &[Wanted]) -> Vec<Option<usize>> {
        let mut places: HashMap<&Listen, Vec<usize>> = HashMap::new();
        for (place, open) in self.open.iter().enumerate() {
            places.entry(&open.wanted.listen).or_default().push(place);
        }
        let take = |wanted: &Wanted| {
            let places = places.get_mut(&wanted.listen)?;
            // Several only with port 0.
            let own = places
                .iter()
                .position(|place| self.open[*place].wanted.upstream == wanted.upstream);
            (!places.is_empty()).then(|| places.remove(own.unwrap_or(0)))
        };
        wanted.iter().map(take).collect()
    }

    fn add(&mut self, wanted: Wanted, opened: Opened) -> Listener {
        let door = Door::new(self.next_id);
        self.next_id += 1;
        self.open.push(Open {
            wanted,
            address: opened.address,
            door: Arc::clone(&door),
            file: opened.file,
        });
        Listener {
            door,
            socket: opened.socket,
        }
    }

    /// Nobody finds a socket any more whose file is gone; who has found it is let in.
    fn close(&mut self, open: Open) -> Arc<Door> {
        drop(open.file);
        if let Some(upstream) = open.wanted.upstream {
            self.closed.push(Closed {
                id: open.door.id,
                upstream,
                door: Arc::downgrade(&open.door),
            });
        }
        open.door
    }
}
