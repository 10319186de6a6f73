//! What is counted on the side of Kubernetes.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::sync::atomic::AtomicU64;

/// A request to the API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `list`, `watch`, `patch` or `other`.
    pub verb: &'static str,
    /// The HTTP status, or `error` where there was no answer.
    pub code: String,
}

/// The outcome of a patch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// `ok`, `gone`, `conflict`, `transient` or `refused`.
    pub outcome: &'static str,
}

/// What the watch did.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WatchErrorLabel {
    /// `list`, `start`, `expired` (410), `status` (another error in the stream), `stream` or `other`.
    pub kind: &'static str,
}

/// What is counted on the side of Kubernetes.
#[derive(Clone, Debug)]
pub struct KubernetesMetrics {
    /// Requests to the API server.
    pub requests: Family<RequestLabels, Counter>,
    /// From a request to the headers of its answer.
    pub request_seconds: Family<VerbLabel, Histogram>,
    /// Watches that are established now.
    pub watches_up: Gauge,
    /// Watches that there should be.
    pub watches: Gauge,
    /// Errors of the watch, each followed by another attempt.
    pub watch_errors: Family<WatchErrorLabel, Counter>,
    /// Completed lists.
    pub lists: Counter,
    /// When the last change came.
    pub last_event: Gauge<f64, AtomicU64>,
    /// Workflows held.
    pub workflows: Gauge,
    /// Namespaces held.
    pub namespaces: Gauge,
    /// Workflows left out, because their metadata is not as Kubernetes writes it.
    pub malformed: Counter,
    /// Patches of marks by outcome.
    pub mark_patches: Family<OutcomeLabel, Counter>,
    /// How long patches of marks took.
    pub mark_seconds: Histogram,
}

/// The verb of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerbLabel {
    /// `list`, `watch`, `patch` or `other`.
    pub verb: &'static str,
}

fn seconds() -> Histogram {
    Histogram::new([0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl KubernetesMetrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            watches_up: Gauge::default(),
            watches: Gauge::default(),
            watch_errors: Family::default(),
            lists: Counter::default(),
            last_event: Gauge::default(),
            workflows: Gauge::default(),
            namespaces: Gauge::default(),
            malformed: Counter::default(),
            mark_patches: Family::default(),
            mark_seconds: seconds(),
        };
        // What can be counted is there from the start: a series without a past has no rate.
        for kind in ["list", "start", "expired", "status", "stream", "other"] {
            drop(metrics.watch_errors.get_or_create(&WatchErrorLabel { kind }));
        }
        for outcome in ["ok", "gone", "conflict", "transient", "refused"] {
            drop(metrics.mark_patches.get_or_create(&OutcomeLabel { outcome }));
        }
        registry.register("kube_requests", "Requests to the Kubernetes API server", metrics.requests.clone());
        registry.register(
            "kube_request_seconds",
            "From a request to the Kubernetes API server to the headers of its answer",
            metrics.request_seconds.clone(),
        );
        registry.register("watches_up", "Watches of Workflows that are established", metrics.watches_up.clone());
        registry.register("watches", "Watches of Workflows that there should be", metrics.watches.clone());
        registry.register("watch_errors", "Errors of a watch of Workflows", metrics.watch_errors.clone());
        registry.register("watch_lists", "Completed lists of Workflows", metrics.lists.clone());
        registry.register(
            "watch_last_event_timestamp_seconds",
            "When the watch last brought a Workflow",
            metrics.last_event.clone(),
        );
        registry.register("workflows", "Workflows held in memory", metrics.workflows.clone());
        registry.register("namespaces", "Namespaces with Workflows held in memory", metrics.namespaces.clone());
        registry.register(
            "workflows_malformed",
            "Workflows left out because their metadata is malformed",
            metrics.malformed.clone(),
        );
        registry.register("mark_patches", "Patches of marks by outcome", metrics.mark_patches.clone());
        registry.register("mark_patch_seconds", "How long patches of marks took", metrics.mark_seconds.clone());
        metrics
    }
}
