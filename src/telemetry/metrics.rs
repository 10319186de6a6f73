//! The metrics: families with bounded labels, never a Workflow's name, a UID or an error's text.

use prometheus_client::registry::Registry;

/// Every metric of the server. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn new(_registry: &mut Registry) -> Self {
        Self {}
    }
}
