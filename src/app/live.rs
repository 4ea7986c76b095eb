//! The running configuration, and how another one takes its place.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use tokio::task::JoinSet;

use super::diff::{Changes, Names};
use super::snapshot::{Fixed, Prepared, Targets};
use crate::config::{Config, Provider};
use crate::provider::{self, Deps, Handle};
use crate::proxy::target::Target;
use crate::proxy::{Proxy, Snapshot};

/// Changed by one reload at a time.
pub(super) struct Live {
    config: Config,
    fixed: Fixed,
    deps: Deps,
    /// By identity, each in the order of [`provider::groups`].
    groups: HashMap<String, Vec<Handle>>,
    targets: Targets,
    /// Taken out, perhaps with requests still in flight.
    retired: Vec<(String, Weak<Target>)>,
}

impl Live {
    /// Starts the refreshers, on the current runtime.
    pub(super) fn start(
        config: Config,
        prepared: Prepared,
        fixed: Fixed,
        deps: Deps,
    ) -> (Self, Snapshot) {
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
        let (targets, snapshot) = fixed.snapshot(&config, prepared, &handles, &Targets::new());
        let live = Self {
            config,
            fixed,
            deps,
            groups,
            targets,
            retired: Vec::new(),
        };
        (live, snapshot)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
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
        let removed = self.regroup(&next).await;
        let (targets, snapshot) =
            self.fixed
                .snapshot(&next, prepared, &self.providers(), &self.targets);
        proxy.snapshot.store(Arc::new(snapshot));
        let old_targets = std::mem::replace(&mut self.targets, targets);
        let old = std::mem::replace(&mut self.config, next);
        let changes = self.changes(&old, &old_targets);
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
        changes
    }

    /// Takes the series of upstreams away whose last request has ended.
    pub(super) fn forget_retired(&mut self) {
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
            server: old.server != new.server,
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
