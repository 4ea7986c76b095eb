//! The running configuration, and how a reload replaces it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use tokio::task::JoinSet;

use super::diff::{Changes, Names, settings_differ};
use super::listeners::{self, Listeners};
use super::snapshot::{AdminChange, Fixed, Prepared, Targets};
use crate::config::{Config, Listen, Provider};
use crate::provider::{self, Deps, Handle};
use crate::proxy::target::Target;
use crate::proxy::{ClientAuth, Proxy, Snapshot};
use crate::upstream::connect::Connector;

/// Changed by one reload at a time.
pub(super) struct Live {
    config: Config,
    fixed: Fixed,
    pub(super) listeners: Listeners,
    deps: Deps,
    /// By identity, each in the order of [`provider::groups`].
    groups: HashMap<String, Vec<Handle>>,
    targets: Targets,
    /// The running one last. Older ones are held until no request uses them, so that the control
    /// thread and not a worker drops their contents.
    snapshots: Vec<Arc<Snapshot>>,
    /// Targets of removed upstreams, perhaps with requests in flight.
    retired: Vec<(String, Weak<Target>)>,
}

impl Live {
    /// Starts the refreshers, on the current runtime.
    pub(super) fn start(
        config: Config,
        prepared: Prepared,
        fixed: Fixed,
        listeners: Listeners,
        deps: Deps,
    ) -> (Self, Arc<Snapshot>) {
        let groups = provider::groups(&config.providers).into_iter();
        let groups = groups.map(|group| {
            let identity = provider::identity(&group[0]);
            (identity, provider::spawn(group, deps.clone()))
        });
        let mut live = Self {
            groups: groups.collect(),
            config,
            fixed,
            listeners,
            deps,
            targets: Targets::new(),
            snapshots: Vec::new(),
            retired: Vec::new(),
        };
        let auth = prepared.client_auth;
        let (targets, snapshot) = live.snapshot(&live.config, prepared.connectors, auth);
        live.targets = targets;
        live.snapshots.push(Arc::clone(&snapshot));
        (live, snapshot)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns our own listener that already uses `listen`'s port, to explain a failed bind.
    pub(super) fn in_the_way_of(&self, listen: &Listen) -> Option<Listen> {
        let admin = self.config.server.admin.map(Listen::Tcp);
        let mut ours = self.listeners.addresses().into_iter().chain(admin);
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

    /// Returns the providers of `next` that are new or whose refresher would be reconfigured.
    pub(super) fn touched<'a>(&self, next: &'a Config) -> impl Iterator<Item = &'a Arc<Provider>> {
        let names = changed_providers(&self.config, next);
        let touched: BTreeSet<_> = names.added.into_iter().chain(names.changed).collect();
        let providers = next.providers.iter();
        providers.filter(move |it| touched.contains(&it.name))
    }

    /// Makes `next` the running configuration; no step can fail.
    ///
    /// First the refreshers are reconfigured. Then requests switch to the new snapshot in one step.
    /// Last, removed parts are stopped. So each request finds all that its snapshot refers to.
    pub(super) async fn apply(
        &mut self,
        next: Config,
        prepared: Prepared,
        proxy: &Proxy,
        switched: impl FnOnce(&Self),
    ) -> Changes {
        let removed = self.regroup(&next).await;
        let wanted = listeners::wanted(&next);
        let (listeners, moves) = self.listeners.replace(wanted, prepared.opened);
        let (targets, snapshot) = self.snapshot(&next, prepared.connectors, prepared.client_auth);
        self.snapshots.push(Arc::clone(&snapshot));
        proxy.snapshot.store(snapshot);
        // After the switch: a connection of a new listener needs its route, and a connection of a
        // removed listener keeps the route that it had.
        self.listeners.send(moves);
        let old_targets = std::mem::replace(&mut self.targets, targets);
        let old = std::mem::replace(&mut self.config, next);
        let mut changes = self.changes(&old, &old_targets);
        changes.listeners = listeners;
        for name in &changes.upstreams.removed {
            if let Some(running) = old_targets.get(name) {
                let target = Arc::downgrade(&running.target);
                self.retired.push((name.clone(), target));
            }
        }
        drop(old_targets);
        switched(self);
        // Waited for: if the next reload brings an identity back, the identity must not have an
        // older exchange in flight.
        let stops = removed
            .into_iter()
            .map(|handle| async move { handle.stop().await });
        let mut stopping: JoinSet<()> = stops.collect();
        while stopping.join_next().await.is_some() {}
        let gone = changes.providers.removed.iter().cloned().collect();
        self.deps.metrics.forget_providers(&gone);
        self.forget_retired();
        // Last, because the response to `POST /-/reload` may still use the old admin listener.
        // Sending fails only when the process is ending.
        if let AdminChange::Moves(listener) = prepared.admin {
            changes.admin = true;
            let _ = self.fixed.admin.send(listener);
        }
        changes
    }

    /// Removes the metrics of removed upstreams whose last request has ended.
    pub(super) fn forget_retired(&mut self) {
        if let Some(running) = self.snapshots.pop() {
            self.snapshots.retain(|old| Arc::strong_count(old) > 1);
            self.snapshots.push(running);
        }
        let ended = self
            .retired
            .extract_if(.., |(_, target)| target.strong_count() == 0);
        let mut ended: BTreeSet<_> = ended.map(|(name, _)| name).collect();
        ended.retain(|name| !self.targets.contains_key(name));
        self.deps.metrics.forget_upstreams(&ended);
    }

    fn snapshot(
        &self,
        config: &Config,
        connectors: Vec<Connector>,
        client_auth: Option<ClientAuth>,
    ) -> (Targets, Arc<Snapshot>) {
        let (targets, snapshot) = self.fixed.snapshot(
            config,
            connectors,
            client_auth,
            &self.providers(),
            &self.targets,
            &self.listeners,
        );
        (targets, Arc::new(snapshot))
    }

    /// Starts or reconfigures the refreshers for the providers of `next`. Returns one handle of
    /// each removed identity, still running.
    async fn regroup(&mut self, next: &Config) -> Vec<Handle> {
        let mut old = std::mem::take(&mut self.groups);
        let mut work = JoinSet::new();
        for group in provider::groups(&next.providers) {
            let identity = provider::identity(&group[0]);
            let deps = self.deps.clone();
            match old.remove(&identity) {
                None => {
                    self.groups.insert(identity, provider::spawn(group, deps));
                }
                Some(running) if running.iter().map(Handle::provider).eq(&group) => {
                    self.groups.insert(identity, running);
                }
                // As a task, because each may have to wait for a fetch in flight.
                Some(running) => {
                    work.spawn(async move {
                        let handles = provider::reconfigure(&running, group.clone()).await;
                        let handles = handles.unwrap_or_else(|| provider::spawn(group, deps));
                        (identity, handles)
                    });
                }
            }
        }
        while let Some(done) = work.join_next().await {
            self.groups.extend(done);
        }
        let removed = old.into_values();
        removed
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
            providers: changed_providers(old, new),
            upstreams: Names::between(
                &old.upstreams,
                &new.upstreams,
                |it| &it.name,
                |_, it| same_target(&it.name),
            ),
            ..Changes::default()
        }
    }
}

fn changed_providers(old: &Config, new: &Config) -> Names {
    Names::between(&old.providers, &new.providers, |it| &it.name, |a, b| a == b)
}
