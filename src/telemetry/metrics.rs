//! The metrics: families with bounded labels, never a Workflow's name, a UID or an error's text.

pub mod delivery;
pub mod lookups;
pub mod streams;

pub use delivery::DeliveryMetrics;
pub use lookups::LookupMetrics;
use prometheus_client::registry::Registry;
pub use streams::StreamMetrics;

/// Every metric of the server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// What delivery counts.
    pub delivery: DeliveryMetrics,
    /// What the questions to ML Metadata count.
    pub lookups: LookupMetrics,
    /// What is counted on the side of Argo Events.
    pub streams: StreamMetrics,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        Self {
            delivery: DeliveryMetrics::new(registry),
            lookups: LookupMetrics::new(registry),
            streams: StreamMetrics::new(registry),
        }
    }
}
