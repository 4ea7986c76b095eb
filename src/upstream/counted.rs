//! The gauge of open connections.

use prometheus::IntGauge;

/// Counts one open connection until dropped. Held by the owner of the connection's stream.
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
