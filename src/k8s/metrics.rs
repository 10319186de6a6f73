//! Metrics of the Kubernetes adapter.

use std::{fmt, sync::atomic::AtomicU64};

use http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{delivery::MarkError, telemetry::label_values};

label_values! {
    /// The verb of a request to the API server.
    pub(super) enum Verb {
        List = "list",
        Watch = "watch",
        Patch = "patch",
        Other = "other",
    }
}

label_values! {
    /// The kind of a watch error.
    pub(super) enum WatchErrorKind {
        /// The list failed.
        List = "list",
        /// The watch was refused.
        Start = "start",
        /// The resource version is too old: 410.
        Expired = "expired",
        /// Another error object in the stream.
        Status = "status",
        /// The stream broke.
        Stream = "stream",
        Other = "other",
    }
}

label_values! {
    /// The outcome of a patch.
    pub(super) enum PatchOutcome {
        Ok = "ok",
        Gone = "gone",
        Conflict = "conflict",
        NoRoom = "no_room",
        Transient = "transient",
        Refused = "refused",
    }
}

label_values! {
    /// The outcome of a notice: a Kubernetes Event, or none.
    pub(super) enum EventOutcome {
        Created = "created",
        /// An Event of this content exists.
        Exists = "exists",
        /// The namespace is deleted, or about to be.
        Gone = "gone",
        Refused = "refused",
        /// There was no answer, or that of an API server in trouble.
        Failed = "failed",
        /// The queue was full.
        Dropped = "dropped",
    }
}

impl From<&Result<(), MarkError>> for PatchOutcome {
    fn from(result: &Result<(), MarkError>) -> Self {
        match result {
            Ok(()) => Self::Ok,
            Err(MarkError::Gone) => Self::Gone,
            Err(MarkError::Conflict) => Self::Conflict,
            Err(MarkError::NoRoom) => Self::NoRoom,
            Err(MarkError::Transient { .. }) => Self::Transient,
            Err(MarkError::Refused { .. }) => Self::Refused,
        }
    }
}

/// The HTTP status of an answer, or `error` where there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Code {
    Status(StatusCode),
    Error,
}

impl EncodeLabelValue for Code {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Status(status) => status.as_u16().encode(encoder),
            Self::Error => "error".encode(encoder),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) verb: Verb,
    pub(super) code: Code,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct VerbLabel {
    pub(super) verb: Verb,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WatchErrorLabel {
    pub(super) kind: WatchErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    pub(super) outcome: PatchOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EventLabel {
    pub(super) outcome: EventOutcome,
}

/// The scope of a watch: one namespace, or none for all. Bounded by `--namespaces`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ScopeLabel {
    pub(super) namespace: String,
}

/// Metrics of the watches and of every request to the API server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KubernetesMetrics {
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) request_duration: Family<VerbLabel, Histogram>,
    pub(super) watches_up: Gauge,
    pub(super) watches: Gauge,
    pub(super) scope_up: Family<ScopeLabel, Gauge>,
    pub(super) watch_errors: Family<WatchErrorLabel, Counter>,
    pub(super) lists: Counter,
    pub(super) last_event: Gauge<f64, AtomicU64>,
    pub(super) workflows: Gauge,
    pub(super) namespaces: Gauge,
    pub(super) malformed: Counter,
    pub(super) undecidable: Counter,
    pub(super) mark_patches: Family<OutcomeLabel, Counter>,
    pub(super) mark_patch_duration: Histogram,
    pub(super) events: Family<EventLabel, Counter>,
}

fn duration() -> Histogram {
    Histogram::new([0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl KubernetesMetrics {
    /// Registers the metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            request_duration: Family::new_with_constructor(duration),
            watches_up: Gauge::default(),
            watches: Gauge::default(),
            scope_up: Family::default(),
            watch_errors: Family::default(),
            lists: Counter::default(),
            last_event: Gauge::default(),
            workflows: Gauge::default(),
            namespaces: Gauge::default(),
            malformed: Counter::default(),
            undecidable: Counter::default(),
            mark_patches: Family::default(),
            mark_patch_duration: duration(),
            events: Family::default(),
        };
        // A series has no rate before its second sample: every known label exists from the start, with zero.
        for &verb in Verb::ALL {
            drop(metrics.request_duration.get_or_create(&VerbLabel { verb }));
        }
        for &kind in WatchErrorKind::ALL {
            drop(metrics.watch_errors.get_or_create(&WatchErrorLabel { kind }));
        }
        for &outcome in PatchOutcome::ALL {
            drop(metrics.mark_patches.get_or_create(&OutcomeLabel { outcome }));
        }
        for &outcome in EventOutcome::ALL {
            drop(metrics.events.get_or_create(&EventLabel { outcome }));
        }
        registry.register(
            "kubernetes_requests",
            "Requests to the Kubernetes API server by verb and HTTP status (or error)",
            metrics.requests.clone(),
        );
        registry.register(
            "kubernetes_request_duration_seconds",
            "Time from a request to the Kubernetes API server to the headers of its answer",
            metrics.request_duration.clone(),
        );
        registry.register("watches_up", "Established watches of Workflows", metrics.watches_up.clone());
        registry.register("watches", "Configured watches of Workflows", metrics.watches.clone());
        registry.register(
            "watch_scope_up",
            "Whether the watch of a namespace is established; without a namespace: that of all namespaces",
            metrics.scope_up.clone(),
        );
        registry.register(
            "watch_errors",
            "Errors of a watch of Workflows by kind, each followed by a retry",
            metrics.watch_errors.clone(),
        );
        registry.register("watch_lists", "Completed lists of Workflows", metrics.lists.clone());
        registry.register(
            "watch_last_event_timestamp_seconds",
            "Time of the last list or change received from the API server, since the Unix epoch",
            metrics.last_event.clone(),
        );
        registry.register("workflows", "Workflows held in memory", metrics.workflows.clone());
        registry.register("namespaces", "Namespaces of the Workflows held in memory", metrics.namespaces.clone());
        registry.register(
            "workflows_malformed",
            "Workflows ignored because their metadata has no valid UID, or cannot be read",
            metrics.malformed.clone(),
        );
        registry.register(
            "workflows_undecidable",
            "Changes of Workflows that have ended without a phase label, so that their outcome is not known",
            metrics.undecidable.clone(),
        );
        registry.register("mark_patches", "Patches of marks by outcome", metrics.mark_patches.clone());
        registry.register(
            "mark_patch_duration_seconds",
            "Duration of the patches of marks, their answers included",
            metrics.mark_patch_duration.clone(),
        );
        registry.register(
            "kubernetes_events",
            "Notices about runs for Kubernetes Events by outcome, with --kubernetes-events",
            metrics.events.clone(),
        );
        metrics
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn known_series_exist_from_the_start_and_labels_are_lower_case() {
        let mut registry = Registry::default();
        let metrics = KubernetesMetrics::new(&mut registry);
        for code in [Code::Status(StatusCode::NOT_FOUND), Code::Error] {
            metrics.requests.get_or_create(&RequestLabels { verb: Verb::List, code }).inc();
        }
        metrics.request_duration.get_or_create(&VerbLabel { verb: Verb::Watch }).observe(0.007);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "kubernetes_requests_total{verb=\"list\",code=\"404\"} 1",
            "kubernetes_requests_total{verb=\"list\",code=\"error\"} 1",
            "kubernetes_request_duration_seconds_bucket{le=\"0.01\",verb=\"watch\"} 1",
            "watch_errors_total{kind=\"expired\"} 0",
            "mark_patches_total{outcome=\"gone\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
