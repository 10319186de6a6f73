//! What delivery counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::atomic::AtomicU64;

/// A namespace that holds Workflows; bounded by the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NamespaceLabel {
    /// The run's namespace.
    pub namespace: String,
}

/// One of a fixed set of reasons.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// The reason.
    pub reason: &'static str,
}

/// The trace of the run behind an observation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TraceExemplar {
    /// 32 hexadecimal digits.
    pub trace_id: String,
}

/// A histogram whose buckets lead to a trace.
pub type Seconds = HistogramWithExemplars<TraceExemplar>;

fn seconds() -> Seconds {
    HistogramWithExemplars::new(
        [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0].into_iter(),
    )
}

/// Why a run may not be announced.
const UNANNOUNCED: [&str; 8] = [
    "no_model",
    "no_pipeline_name",
    "too_large",
    "no_context",
    "foreign_context",
    "foreign_execution",
    "marks_full",
    "expired",
];
/// The usual reasons for a lookup to fail; the other gRPC codes appear as they come.
const LOOKUP_FAILURES: [&str; 5] = ["no_context", "foreign_context", "unavailable", "timeout", "malformed"];
/// Why a patch may have to be repeated.
const MARK_FAILURES: [&str; 3] = ["conflict", "transient", "refused"];

/// What delivery counts.
#[derive(Clone, Debug)]
pub struct DeliveryMetrics {
    /// Events handed to a stream.
    pub sent: Family<NamespaceLabel, Counter>,
    /// Of those, the ones handed off again, after a stream ended without having confirmed them.
    pub redelivered: Family<NamespaceLabel, Counter>,
    /// Events whose receipt a stream has proved.
    pub confirmed: Family<NamespaceLabel, Counter>,
    /// Runs that are not announced to a subscription, by reason.
    pub unannounced: Family<ReasonLabel, Counter>,
    /// Repeated lookups, by the reason of the failure.
    pub lookup_retries: Family<ReasonLabel, Counter>,
    /// Repeated patches, by the reason of the failure.
    pub mark_retries: Family<ReasonLabel, Counter>,
    /// From the moment a run was put before a stream to its hand-off.
    pub handoff_seconds: Seconds,
    /// From the moment a run was put before a stream to the confirmation of its event.
    pub confirmation_seconds: Seconds,
    /// Attached streams.
    pub streams: Gauge,
    /// Subscriptions with more than one stream.
    pub shared: Gauge,
    /// Runs that wait for a stream's confirmation.
    pub pending: Gauge,
    /// When the oldest of those was put before its stream; 0 while there is none.
    pub oldest_pending: Gauge<f64, AtomicU64>,
    /// Workflows that wait for a patch of their marks.
    pub pending_marks: Gauge,
}

impl DeliveryMetrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            sent: Family::default(),
            redelivered: Family::default(),
            confirmed: Family::default(),
            unannounced: Family::default(),
            lookup_retries: Family::default(),
            mark_retries: Family::default(),
            handoff_seconds: seconds(),
            confirmation_seconds: seconds(),
            streams: Gauge::default(),
            shared: Gauge::default(),
            pending: Gauge::default(),
            oldest_pending: Gauge::default(),
            pending_marks: Gauge::default(),
        };
        // A series that appears only with its first count has no rate then: what can be counted is there from the start.
        for reason in UNANNOUNCED {
            drop(metrics.unannounced.get_or_create(&ReasonLabel { reason }));
        }
        for reason in LOOKUP_FAILURES {
            drop(metrics.lookup_retries.get_or_create(&ReasonLabel { reason }));
        }
        for reason in MARK_FAILURES {
            drop(metrics.mark_retries.get_or_create(&ReasonLabel { reason }));
        }
        registry.register("events_sent", "Events handed to a stream", metrics.sent.clone());
        registry.register(
            "events_redelivered",
            "Events handed off again, after a stream ended without having confirmed them",
            metrics.redelivered.clone(),
        );
        registry.register(
            "events_confirmed",
            "Events that a subscriber has proved to have read",
            metrics.confirmed.clone(),
        );
        registry.register(
            "runs_unannounced",
            "Succeeded runs that were not announced to a subscription, by reason",
            metrics.unannounced.clone(),
        );
        registry.register(
            "lookup_retries",
            "Lookups to be repeated, by the reason of the failure",
            metrics.lookup_retries.clone(),
        );
        registry.register(
            "mark_retries",
            "Patches of marks to be repeated, by the reason of the failure",
            metrics.mark_retries.clone(),
        );
        registry.register(
            "event_handoff_seconds",
            "From a succeeded run's being put before a stream to the hand-off of its event",
            metrics.handoff_seconds.clone(),
        );
        registry.register(
            "event_confirmation_seconds",
            "From a succeeded run's being put before a stream to the confirmation of its event",
            metrics.confirmation_seconds.clone(),
        );
        registry.register("subscribers", "Streams that are attached to a subscription", metrics.streams.clone());
        registry.register(
            "subscriptions_shared",
            "Subscriptions to which more than one stream is attached",
            metrics.shared.clone(),
        );
        registry.register(
            "runs_pending",
            "Succeeded runs that wait for a stream's confirmation, counted once a stream",
            metrics.pending.clone(),
        );
        registry.register(
            "oldest_pending_run_timestamp_seconds",
            "When the oldest pending run was put before its stream, 0 while there is none",
            metrics.oldest_pending.clone(),
        );
        registry.register(
            "marks_pending",
            "Workflows whose marks wait to be written or removed",
            metrics.pending_marks.clone(),
        );
        metrics
    }
}
