//! The metrics: families with bounded labels, never a Workflow's name, a UID or an error's text.

pub mod kubernetes;
pub mod streams;

pub use kubernetes::KubernetesMetrics;
use prometheus_client::registry::Registry;
pub use streams::StreamMetrics;

/// Every metric of the server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// What is counted on the side of Kubernetes.
    pub kubernetes: KubernetesMetrics,
    /// What is counted on the side of Argo Events.
    pub streams: StreamMetrics,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        Self { kubernetes: KubernetesMetrics::new(registry), streams: StreamMetrics::new(registry) }
    }
}
