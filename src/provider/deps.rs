//! Dependencies of a refresher.

use std::sync::Arc;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::provider::chain::Tokens;
use crate::provider::exchange::Fetch;
use crate::store::Store;

/// Dependencies of a refresher.
#[derive(Clone)]
pub struct Deps {
    pub store: Arc<dyn Store>,
    pub fetcher: Arc<dyn Fetch>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// Tokens of other providers, for chained ones.
    pub tokens: Tokens,
    /// Returns a number in 0..1, for jitter.
    pub random: fn() -> f64,
}

impl Deps {
    pub fn new(
        store: Arc<dyn Store>,
        fetcher: Arc<dyn Fetch>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            fetcher,
            clock,
            metrics,
            tokens: Tokens::default(),
            random: fastrand::f64,
        }
    }
}
