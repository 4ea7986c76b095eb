//! An open connection's place in the gauge, held by whoever holds its stream.

use prometheus::IntGauge;

/// Counts for as long as it lives.
pub(super) struct Open(IntGauge);

impl Open {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
