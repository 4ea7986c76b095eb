//! The members of an identity: the providers that share one token, and how each one sends it.
//!
//! Members may change while old readers are still in use, so every reader keeps its index into
//! [`Token::injections`](crate::token::cell::Token). An index is reused only without readers.

use std::sync::Arc;

use crate::config::Provider;
use crate::dialect::Injection;
use crate::metrics::{Metrics, ProviderMetrics};
use crate::provider::exchange::FetchError;
use crate::provider::inputs;
use crate::secret::Secret;
use crate::token::cell::MemberIndex;

/// Never empty.
pub(in crate::provider) struct Members {
    current: Vec<Member>,
    /// By [`MemberIndex`].
    slots: Vec<Slot>,
    metrics: Arc<Metrics>,
}

/// One provider of the identity.
pub(super) struct Member {
    provider: Arc<Provider>,
    pub(super) metrics: ProviderMetrics,
    index: usize,
}

/// The provider whose injection is sent at one index.
struct Slot {
    provider: Arc<Provider>,
    /// Shared with the readers.
    index: MemberIndex,
}

impl Members {
    /// Also returns the index of each provider, in order.
    pub(in crate::provider) fn new(
        group: Vec<Arc<Provider>>,
        metrics: Arc<Metrics>,
    ) -> (Self, Vec<MemberIndex>) {
        let mut members = Self {
            current: Vec::new(),
            slots: Vec::new(),
            metrics,
        };
        let join = |provider| members.join(provider, None);
        let indices = group.into_iter().map(join).collect();
        (members, indices)
    }

    /// Replaces the members. Returns an index for each provider; `None` where the old one stays.
    pub(super) fn replace(&mut self, group: Vec<Arc<Provider>>) -> Vec<Option<MemberIndex>> {
        let old = std::mem::take(&mut self.current);
        let place = |provider: Arc<Provider>| {
            let known = old
                .iter()
                .find(|member| member.provider.name == provider.name);
            if let Some(member) = known
                && member.provider.inject == provider.inject
                && let slot = &mut self.slots[member.index]
                && slot.index.is_shared()
            {
                slot.provider = Arc::clone(&provider);
                self.current.push(Member {
                    provider,
                    metrics: member.metrics.clone(),
                    index: member.index,
                });
                return None;
            }
            Some(self.join(provider, known.map(|member| member.metrics.clone())))
        };
        group.into_iter().map(place).collect()
    }

    fn join(&mut self, provider: Arc<Provider>, metrics: Option<ProviderMetrics>) -> MemberIndex {
        let free = self.slots.iter().position(|slot| !slot.index.is_shared());
        let index = MemberIndex::new(free.unwrap_or(self.slots.len()));
        let slot = Slot {
            provider: Arc::clone(&provider),
            index: index.clone(),
        };
        match free {
            Some(free) => self.slots[free] = slot,
            None => self.slots.push(slot),
        }
        self.current.push(Member {
            metrics: metrics.unwrap_or_else(|| self.metrics.provider(&provider.name)),
            provider,
            index: index.get(),
        });
        index
    }

    /// The provider whose credentials and life-cycle keys apply to all members.
    pub(super) fn lead(&self) -> &Arc<Provider> {
        &self.current[0].provider
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.current.iter()
    }

    /// Builds the injection of `token` for each index that a reader holds.
    pub(super) async fn injections(&self, token: &Secret) -> Result<Box<[Injection]>, FetchError> {
        let mut built = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            built.push(if slot.index.is_shared() {
                injection(&slot.provider, token).await?
            } else {
                Injection::default()
            });
        }
        Ok(built.into())
    }
}

/// Builds the headers and query with which `provider` sends `token`.
pub(in crate::provider) async fn injection(
    provider: &Provider,
    token: &Secret,
) -> Result<Injection, FetchError> {
    let plan = &provider.inject;
    // Usually enough: variables from files and commands are read only if [inject] uses them.
    match plan.build(token, &inputs::ready(&provider.variables)) {
        Ok(injection) => Ok(injection),
        Err(_) => {
            let variables = inputs::resolve(&provider.name, &provider.variables).await?;
            plan.build(token, &variables).map_err(FetchError::Inject)
        }
    }
}
