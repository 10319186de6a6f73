//! Settings of the delivery task.

use std::time::Duration;

use crate::telemetry::Traces;

/// Settings of the delivery task.
#[derive(Clone, Debug)]
pub struct Options {
    /// The time that a stream has to stay open after an acknowledgement before the event counts as delivered.
    pub confirm_after: Duration,
    /// Runs with the label `pipelines.kubeflow.org/events-published: "true"` count as delivered.
    pub skip_labelled: bool,
    /// Lookups in flight.
    pub lookups: LookupLimits,
    /// The highest number of patches in flight.
    pub patches: usize,
    /// The time that a drain waits for the last confirmations.
    pub drain_confirmations: Duration,
    /// The time that a drain waits for the last marks after that.
    pub drain_marks: Duration,
    /// The destination of the runs' traces.
    pub traces: Traces,
}

/// The highest numbers of lookups in flight. Slow ones count only in `total`, up to three times `per_namespace` of a
/// namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupLimits {
    /// Of one namespace.
    pub per_namespace: usize,
    /// Of all namespaces.
    pub total: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            confirm_after: Duration::from_secs(1),
            skip_labelled: false,
            lookups: LookupLimits { per_namespace: 8, total: 1024 },
            patches: 64,
            drain_confirmations: Duration::from_millis(4500),
            drain_marks: Duration::from_millis(2500),
            traces: Traces::default(),
        }
    }
}
