//! The running configuration, and how another one takes its place.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use tokio::task::JoinSet;

use super::diff::{Changes, Names, settings_differ};
use super::doors::{self, Doors};
use super::snapshot::{AdminChange, Fixed, Prepared, Targets};
use crate::config::{Config, Listen, Provider};
use crate::provider::{self, Deps, Handle};
use crate::proxy::target::Target;
use crate::proxy::{Proxy, Snapshot};

/// Changed by one reload at a time.
pub(super) struct Live {
    config: Config,
    fixed: Fixed,
    pub(super) doors: Doors,
    deps: Deps,
    /// By identity, each in the order of [`provider::groups`].
    groups: HashMap<String, Vec<Handle>>,
    targets: Targets,
    /// The running one last. Held until no request has it any more: what a worker lets go of last, it would have to take apart.
    snapshots: Vec<Arc<Snapshot>>,
    /// Taken out, perhaps with requests still in flight.
    retired: Vec<(String, Weak<Target>)>,
}

impl Live {
    /// Starts the refreshers, on the current runtime.
    pub(super) fn start(
        config: Config,
        prepared: Prepared,
        fixed: Fixed,
        doors: Doors,
        deps: Deps,
    ) -> (Self, Arc<Snapshot>) {
        let groups: HashMap<_, _> = provider::groups(&config.providers)
            .into_iter()
            .map(|group| {
                (
                    provider::identity(&group[0]),
                    provider::spawn(group, deps.clone()),
                )
            })
            .collect();
        let handles: Vec<_> = groups.values().flatten().cloned().collect();
        let Prepared {
            connectors,
            client_auth,
            ..
        } = prepared;
        let (targets, snapshot) = fixed.snapshot(
            &config,
            connectors,
            client_auth,
            &handles,
            &Targets::new(),
            &doors,
        );
        let snapshot = Arc::new(snapshot);
        let live = Self {
            config,
            fixed,
            doors,
            deps,
            groups,
            targets,
            snapshots: vec![Arc::clone(&snapshot)],
            retired: Vec::new(),
        };
        (live, snapshot)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// As bound, and as they are written.
    pub(super) fn listeners(&self) -> Vec<String> {
        let addresses = self.doors.addresses();
        addresses.iter().map(ToString::to_string).collect()
    }

    /// A socket of ours with the port of `listen`: why that may not have been to be had.
    pub(super) fn in_the_way_of(&self, listen: &Listen) -> Option<Listen> {
        let admin = self.config.server.admin.map(Listen::Tcp);
        let mut ours = self.doors.addresses().into_iter().chain(admin);
        ours.find(|other| match (other, listen) {
            (Listen::Tcp(other), Listen::Tcp(listen)) => other.port() == listen.port(),
            _ => false,
        })
    }

    pub(super) fn providers(&self) -> Vec<Handle> {
        let mut handles: Vec<_> = self.groups.values().flatten().cloned().collect();
        handles.sort_by(|a, b| a.name().cmp(b.name()));
        handles
    }

    /// Those whose refresher would get another configuration, or begin anew.
    pub(super) fn touched<'a>(&self, next: &'a Config) -> impl Iterator<Item = &'a Arc<Provider>> {
        let old = &self.config.providers;
        let names = Names::between(old, &next.providers, |it| &it.name, |a, b| a == b);
        let touched: BTreeSet<_> = names.added.into_iter().chain(names.changed).collect();
        next.providers
            .iter()
            .filter(move |it| touched.contains(&it.name))
    }

    /// Makes `next` the running configuration; nothing in here can fail.
    ///
    /// First the refreshers get their new configurations, then requests see all of the new one at once, then what is no
    /// longer needed ends: a request finds what it was promised, whichever configuration it began with.
    pub(super) async fn apply(
        &mut self,
        next: Config,
        prepared: Prepared,
        proxy: &Proxy,
        switched: impl FnOnce(&Self),
    ) -> Changes {
        let Prepared {
            connectors,
            client_auth,
            opened,
            admin,
        } = prepared;
        let removed = self.regroup(&next).await;
        let (listeners, pending) = self.doors.replace(doors::wanted(&next), opened);
        let (targets, snapshot) = self.fixed.snapshot(
            &next,
            connectors,
            client_auth,
            &self.providers(),
            &self.targets,
            &self.doors,
        );
        let snapshot = Arc::new(snapshot);
        self.snapshots.push(Arc::clone(&snapshot));
        proxy.snapshot.store(snapshot);
        // Whoever comes in by a new door must find where it leads, and whoever came in by an old one where it led.
        self.doors.tell(pending);
        let old_targets = std::mem::replace(&mut self.targets, targets);
        let old = std::mem::replace(&mut self.config, next);
        let mut changes = self.changes(&old, &old_targets);
        changes.listeners = listeners;
        for name in &changes.upstreams.removed {
            if let Some(running) = old_targets.get(name) {
                self.retired
                    .push((name.clone(), Arc::downgrade(&running.target)));
            }
        }
        drop(old_targets);
        switched(self);
        // An identity that comes back with the next reload must not meet an exchange that is still under way.
        let mut stopping: JoinSet<()> = JoinSet::new();
        for handle in removed {
            stopping.spawn(async move { handle.stop().await });
        }
        while stopping.join_next().await.is_some() {}
        let gone = changes.providers.removed.iter().cloned().collect();
        self.deps.metrics.forget_providers(&gone);
        self.forget_retired();
        // Last: the answer to whoever asked for this may go out by the old one, which ends soon.
        if let AdminChange::Moves(listener) = admin {
            changes.admin = true;
            self.fixed.move_admin(listener);
        }
        changes
    }

    /// Takes the series of upstreams away whose last request has ended.
    pub(super) fn forget_retired(&mut self) {
        if let Some(running) = self.snapshots.pop() {
            self.snapshots.retain(|old| Arc::strong_count(old) > 1);
            self.snapshots.push(running);
        }
        let mut ended = BTreeSet::new();
        self.retired.retain(|(name, target)| {
            let in_use = target.strong_count() > 0;
            if !in_use {
                ended.insert(name.clone());
            }
            in_use
        });
        ended.retain(|name| !self.targets.contains_key(name));
        self.deps.metrics.forget_upstreams(&ended);
    }

    /// Refreshers for the providers of `next`; answers one handle of each identity that is no more, still running.
    async fn regroup(&mut self, next: &Config) -> Vec<Handle> {
        let mut old = std::mem::take(&mut self.groups);
        let mut work = JoinSet::new();
        for group in provider::groups(&next.providers) {
            let identity = provider::identity(&group[0]);
            match old.remove(&identity) {
                None => {
                    let handles = provider::spawn(group, self.deps.clone());
                    self.groups.insert(identity, handles);
                }
                Some(running) if is_unchanged(&running, &group) => {
                    self.groups.insert(identity, running);
                }
                Some(running) => {
                    let deps = self.deps.clone();
                    // Each may have to wait for a fetch that is under way.
                    work.spawn(async move {
                        let handles = provider::reconfigure(&running, group.clone()).await;
                        (
                            identity,
                            handles.unwrap_or_else(|| provider::spawn(group, deps)),
                        )
                    });
                }
            }
        }
        while let Some(done) = work.join_next().await {
            if let Ok((identity, handles)) = done {
                self.groups.insert(identity, handles);
            }
        }
        old.into_values()
            .filter_map(|group| group.into_iter().next())
            .collect()
    }

    fn changes(&self, old: &Config, old_targets: &Targets) -> Changes {
        let new = &self.config;
        let same_target = |name: &str| match (old_targets.get(name), self.targets.get(name)) {
            (Some(old), Some(new)) => Arc::ptr_eq(&old.target, &new.target),
            _ => false,
        };
        Changes {
            server: settings_differ(&old.server, &new.server),
            admin: false,
            listeners: Names::default(),
            providers: Names::between(&old.providers, &new.providers, |it| &it.name, |a, b| a == b),
            upstreams: Names::between(
                &old.upstreams,
                &new.upstreams,
                |it| &it.name,
                |_, it| same_target(&it.name),
            ),
        }
    }
}

fn is_unchanged(running: &[Handle], group: &[Arc<Provider>]) -> bool {
    running.len() == group.len()
        && running
            .iter()
            .zip(group)
            .all(|(handle, provider)| handle.provider() == provider)
}
