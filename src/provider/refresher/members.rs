//! CONTROL, members: the providers that share one token, and how each of them sends it.
//!
//! They may change while readers of the old ones are still at work, so that every reader keeps its place in
//! [`Token::injections`](crate::provider::cell::Token): a place is given away again only when nobody reads there any more.

use std::sync::Arc;

use crate::config::Provider;
use crate::dialect::Injection;
use crate::metrics::{Metrics, ProviderMetrics};
use crate::provider::cell::{Place, PlaceWatch};
use crate::provider::exchange::FetchError;
use crate::provider::inputs;
use crate::secret::Secret;

/// Never empty.
pub(in crate::provider) struct Members {
    current: Vec<Member>,
    /// By place.
    slots: Vec<Slot>,
    metrics: Arc<Metrics>,
}

/// One provider of the identity.
pub(super) struct Member {
    pub(super) provider: Arc<Provider>,
    pub(super) metrics: ProviderMetrics,
    place: usize,
}

/// What is sent at one place.
struct Slot {
    provider: Arc<Provider>,
    taken: PlaceWatch,
}

impl Members {
    /// With each one's place, in their order.
    pub(in crate::provider) fn new(
        group: Vec<Arc<Provider>>,
        metrics: Arc<Metrics>,
    ) -> (Self, Vec<Place>) {
        let mut members = Self {
            current: Vec::new(),
            slots: Vec::new(),
            metrics,
        };
        let mut places = Vec::with_capacity(group.len());
        for provider in group {
            places.push(members.join(provider, None));
        }
        (members, places)
    }

    /// Others take over. `None` for those who stay where they are.
    pub(super) fn replace(&mut self, group: Vec<Arc<Provider>>) -> Vec<Option<Place>> {
        let old = std::mem::take(&mut self.current);
        let mut places = Vec::with_capacity(group.len());
        for provider in group {
            let known = old
                .iter()
                .find(|member| member.provider.name == provider.name);
            match known {
                // Only what it sends may have changed, not where: whoever reads there goes on reading.
                Some(member)
                    if member.provider.inject == provider.inject
                        && self.slots[member.place].taken.is_taken() =>
                {
                    self.slots[member.place].provider = Arc::clone(&provider);
                    self.current.push(Member {
                        provider,
                        metrics: member.metrics.clone(),
                        place: member.place,
                    });
                    places.push(None);
                }
                known => {
                    let metrics = known.map(|member| member.metrics.clone());
                    places.push(Some(self.join(provider, metrics)));
                }
            }
        }
        places
    }

    fn join(&mut self, provider: Arc<Provider>, metrics: Option<ProviderMetrics>) -> Place {
        let free = self.slots.iter().position(|slot| !slot.taken.is_taken());
        let place = Place::new(free.unwrap_or(self.slots.len()));
        let slot = Slot {
            provider: Arc::clone(&provider),
            taken: place.watch(),
        };
        match free {
            Some(index) => self.slots[index] = slot,
            None => self.slots.push(slot),
        }
        self.current.push(Member {
            metrics: metrics.unwrap_or_else(|| self.metrics.provider(&provider.name)),
            provider,
            place: place.index,
        });
        place
    }

    /// Whose credentials and life-cycle keys count for all.
    pub(super) fn lead(&self) -> &Arc<Provider> {
        &self.current[0].provider
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.current.iter()
    }

    /// The token in the form of every place that somebody reads at.
    pub(super) async fn injections(&self, token: &Secret) -> Result<Box<[Injection]>, FetchError> {
        let mut built = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            built.push(if slot.taken.is_taken() {
                injection(&slot.provider, token).await?
            } else {
                Injection {
                    headers: Vec::new(),
                    query: Default::default(),
                }
            });
        }
        Ok(built.into())
    }
}

/// How `provider` sends `token`.
pub(in crate::provider) async fn injection(
    provider: &Provider,
    token: &Secret,
) -> Result<Injection, FetchError> {
    let plan = &provider.inject;
    // Nearly always enough; a variable from a file or command is read only where [inject] really names it.
    match plan.build(token, &inputs::ready(&provider.variables)) {
        Ok(injection) => Ok(injection),
        Err(_) => {
            let variables = inputs::resolve(&provider.name, &provider.variables).await?;
            plan.build(token, &variables).map_err(FetchError::Inject)
        }
    }
}
