//! Metrics of the delivery task.

use std::{fmt, ops::Deref, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::CloseReason;
use crate::model::{FilterReason, SkipReason};

/// The namespace of runs. Counters are bounded by the namespaces with runs, gauges by [`super::gauges`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct NamespaceLabel {
    pub(super) namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SkippedLabel {
    pub(super) reason: Skipped,
}

/// The filter that excludes a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FilteredLabel {
    pub(super) reason: &'static str,
}

/// The `code` of an error, or the reason for which a stream was closed: one of a bounded set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ErrorLabel {
    pub(super) reason: &'static str,
}

/// The trace of the run behind an observation, as 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TraceExemplar {
    pub(super) trace_id: String,
}

/// Reasons for which a succeeded run is not delivered as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Skipped {
    NoModel,
    NoPipelineName,
    TooLarge,
    /// Lookups have become rare, because ML Metadata does not know the run.
    NoContext,
    /// Lookups have become rare, because the run's context belongs to another namespace.
    ForeignContext,
    /// Executions older than the run were ignored.
    ForeignExecution,
    /// The delivery cannot be marked.
    MarksFull,
    /// With `latestOnly`, a newer run has a model.
    Superseded,
    /// The Workflow was deleted, and the delivery did not succeed in time.
    Expired,
}

impl Skipped {
    const ALL: [Self; 9] = [
        Self::NoModel,
        Self::NoPipelineName,
        Self::TooLarge,
        Self::Superseded,
        Self::NoContext,
        Self::ForeignContext,
        Self::ForeignExecution,
        Self::MarksFull,
        Self::Expired,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NoModel => "no_model",
            Self::NoPipelineName => "no_pipeline_name",
            Self::TooLarge => "too_large",
            Self::Superseded => "superseded",
            Self::NoContext => "no_context",
            Self::ForeignContext => "foreign_context",
            Self::ForeignExecution => "foreign_execution",
            Self::MarksFull => "marks_full",
            Self::Expired => "expired",
        }
    }
}

impl From<SkipReason> for Skipped {
    fn from(reason: SkipReason) -> Self {
        match reason {
            SkipReason::NoModel => Self::NoModel,
            SkipReason::NoPipelineName => Self::NoPipelineName,
            SkipReason::TooLarge => Self::TooLarge,
            SkipReason::Superseded => Self::Superseded,
        }
    }
}

impl EncodeLabelValue for Skipped {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

/// Usual reasons for a lookup to fail. Other gRPC codes appear when they occur.
const LOOKUP_ERRORS: [&str; 5] = ["no_context", "foreign_context", "unavailable", "timeout", "malformed"];
/// Reasons for a patch to be retried.
const MARK_ERRORS: [&str; 4] = ["conflict", "no_room", "transient", "refused"];

/// A histogram whose buckets lead to traces.
pub(super) type DurationHistogram = HistogramWithExemplars<TraceExemplar>;

fn durations() -> DurationHistogram {
    HistogramWithExemplars::new(
        [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0].into_iter(),
    )
}

/// Metrics of the delivery task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeliveryMetrics {
    pub(super) sent: Family<NamespaceLabel, Counter>,
    pub(super) redelivered: Family<NamespaceLabel, Counter>,
    pub(super) confirmed: Family<NamespaceLabel, Counter>,
    pub(super) skipped: Family<SkippedLabel, Counter>,
    pub(super) filtered: Family<FilteredLabel, Counter>,
    pub(super) lookup_retries: Family<ErrorLabel, Counter>,
    pub(super) mark_retries: Family<ErrorLabel, Counter>,
    pub(super) handoff_duration: DurationHistogram,
    pub(super) confirmation_duration: DurationHistogram,
    pub(super) streams: Gauge,
    pub(super) streams_closed: Family<ErrorLabel, Counter>,
    pub(super) subscribers: Family<NamespaceLabel, Gauge>,
    pub(super) shared_subscriptions: Gauge,
    pub(super) pending_runs: Family<NamespaceLabel, Gauge>,
    pub(super) oldest_pending: Family<NamespaceLabel, Gauge<f64, AtomicU64>>,
    pub(super) runs_without_context: Gauge,
    pub(super) pending_marks: Gauge,
}

impl DeliveryMetrics {
    /// Creates and registers the metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            sent: Family::default(),
            redelivered: Family::default(),
            confirmed: Family::default(),
            skipped: Family::default(),
            filtered: Family::default(),
            lookup_retries: Family::default(),
            mark_retries: Family::default(),
            handoff_duration: durations(),
            confirmation_duration: durations(),
            streams: Gauge::default(),
            streams_closed: Family::default(),
            subscribers: Family::default(),
            shared_subscriptions: Gauge::default(),
            pending_runs: Family::default(),
            oldest_pending: Family::default(),
            runs_without_context: Gauge::default(),
            pending_marks: Gauge::default(),
        };
        // A series that appears with its first count has no rate then, so the known ones exist from the start.
        for reason in Skipped::ALL {
            drop(metrics.skipped.get_or_create(&SkippedLabel { reason }));
        }
        for reason in FilterReason::ALL {
            drop(metrics.filtered.get_or_create(&FilteredLabel { reason: reason.as_str() }));
        }
        for reason in LOOKUP_ERRORS {
            drop(metrics.lookup_retries.get_or_create(&ErrorLabel { reason }));
        }
        for reason in CloseReason::ALL {
            drop(metrics.streams_closed(reason));
        }
        for reason in MARK_ERRORS {
            drop(metrics.mark_retries.get_or_create(&ErrorLabel { reason }));
        }
        registry.register("events_sent", "Events handed to a stream", metrics.sent.clone());
        registry.register(
            "events_redelivered",
            "Events handed to a stream again, because an earlier stream ended before it confirmed them",
            metrics.redelivered.clone(),
        );
        registry.register("events_confirmed", "Events that a subscriber has confirmed", metrics.confirmed.clone());
        registry.register(
            "runs_skipped",
            "Runs for which a subscription received no event, or none yet, by reason",
            metrics.skipped.clone(),
        );
        registry.register(
            "runs_filtered",
            "Runs that a subscription's own filter excludes, by filter, counted once for each subscription",
            metrics.filtered.clone(),
        );
        registry.register(
            "lookup_retries",
            "Failed lookups that are retried, by reason of the failure",
            metrics.lookup_retries.clone(),
        );
        registry.register(
            "mark_retries",
            "Failed patches of marks that are retried, by reason of the failure",
            metrics.mark_retries.clone(),
        );
        registry.register(
            "event_handoff_duration_seconds",
            "Time from a succeeded run's becoming pending for a stream to the hand-off of its event",
            metrics.handoff_duration.clone(),
        );
        registry.register(
            "event_confirmation_duration_seconds",
            "Time from a succeeded run's becoming pending for a stream to the confirmation of its event",
            metrics.confirmation_duration.clone(),
        );
        registry.register(
            "subscribers",
            "Streams attached to a subscription, by namespace",
            metrics.subscribers.clone(),
        );
        registry.register(
            "streams_closed",
            "Streams that the server has ended, by reason",
            metrics.streams_closed.clone(),
        );
        registry.register(
            "subscriptions_shared",
            "Subscriptions with more than one attached stream",
            metrics.shared_subscriptions.clone(),
        );
        registry.register(
            "runs_pending",
            "Runs not yet confirmed by a stream, counted once for each stream, by namespace",
            metrics.pending_runs.clone(),
        );
        registry.register(
            "oldest_pending_run_timestamp_seconds",
            "Time at which the oldest pending run of a namespace became pending, 0 without one",
            metrics.oldest_pending.clone(),
        );
        registry.register(
            "runs_without_context",
            "Runs that are not pending because ML Metadata does not know them, counted once for each stream",
            metrics.runs_without_context.clone(),
        );
        registry.register(
            "marks_pending",
            "Workflows with marks to be written or removed",
            metrics.pending_marks.clone(),
        );
        metrics
    }

    /// The streams that were closed for this reason.
    pub(super) fn streams_closed(&self, reason: CloseReason) -> impl Deref<Target = Counter> {
        self.streams_closed.get_or_create(&ErrorLabel { reason: reason.as_str() })
    }
}
