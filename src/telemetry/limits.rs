//! Hits of the limits on everything that a tenant, or a client of the ports, decides. `docs/limits.md` lists them.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::label_values;

label_values! {
    /// A limit. `docs/limits.md` has the values, the reasons, and what to do.
    pub enum Limit {
        /// Streams of all subscribers.
        Streams = "streams",
        /// Streams of one namespace.
        StreamsPerNamespace = "streams_per_namespace",
        /// Streams of one peer's address.
        StreamsPerPeer = "streams_per_peer",
        /// Connections of subscribers.
        Connections = "connections",
        /// Size of a request.
        RequestSize = "request_size",
        /// Time for the arrival of a request.
        RequestTime = "request_time",
        /// Bytes that subscribers have not acknowledged.
        UnacknowledgedBytes = "unacknowledged_bytes",
        /// Pending runs of all streams.
        PendingRuns = "pending_runs",
        /// Pending runs whose Workflow was deleted.
        DeletedRuns = "deleted_runs",
        /// Subscriptions of a namespace without a stream.
        Subscriptions = "subscriptions",
        /// Size of an answer of the source of models.
        MetadataAnswer = "metadata_answer",
        /// Bytes of answers of the source of models in memory at once.
        MetadataBytes = "metadata_bytes",
        /// Connections to the admin port.
        AdminConnections = "admin_connections",
        /// Time for the head of a request to the admin port.
        AdminHead = "admin_head",
        /// Marks kept of a Workflow.
        Marks = "marks",
        /// Length of a pipeline's name.
        PipelineName = "pipeline_name",
        /// Size of a list page of Workflows.
        ListPage = "list_page",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: Limit,
}

/// Counts hits by limit. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LimitHits(Family<LimitLabel, Counter>);

impl LimitHits {
    /// Creates and registers the metric.
    pub fn new(registry: &mut Registry) -> Self {
        let hits = Self::default();
        for limit in Limit::ALL {
            drop(hits.0.get_or_create(&LimitLabel { limit: *limit }));
        }
        registry.register("limit_hits", "Hits of limits, by limit; docs/limits.md says what to do", hits.0.clone());
        hits
    }

    /// Counts a hit.
    pub fn hit(&self, limit: Limit) {
        self.0.get_or_create(&LimitLabel { limit }).inc();
    }

    /// The number of hits so far.
    pub fn count(&self, limit: Limit) -> u64 {
        self.0.get_or_create(&LimitLabel { limit }).get()
    }
}
