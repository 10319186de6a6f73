//! The metrics: families with bounded labels, never a Workflow's name, a UID or an error's text.

pub mod delivery;

pub use delivery::DeliveryMetrics;
use prometheus_client::registry::Registry;

/// Every metric of the server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// What delivery counts.
    pub delivery: DeliveryMetrics,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        Self { delivery: DeliveryMetrics::new(registry) }
    }
}
