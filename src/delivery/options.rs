//! Settings of the delivery task.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use super::NoticeSink;
use crate::{
    model::SubscriptionsInUse,
    telemetry::{LimitHits, Traces},
};

/// Settings of the delivery task.
#[derive(Clone, Debug)]
pub struct Options {
    /// The time that a stream has to stay open after an acknowledgement before the event counts as delivered.
    pub confirm_after: Duration,
    /// The age at which a stream ends, so that its client may reconnect to another replica. `None`: streams do not age.
    pub max_connection_age: Option<Duration>,
    /// Runs with the label `pipelines.kubeflow.org/events-published: "true"` count as delivered.
    pub skip_labelled: bool,
    /// Lookups in flight.
    pub lookups: LookupLimits,
    /// Patches in flight.
    pub patches: PatchLimits,
    /// The highest number of patches a second, after a burst of as many. Does not apply in a drain. `None` for no limit.
    pub mark_rate: Option<NonZeroU32>,
    /// The time that a drain waits for the last confirmations.
    pub drain_confirmations: Duration,
    /// The time that a drain waits for the last marks after that.
    pub drain_marks: Duration,
    /// The destination of the runs' traces.
    pub traces: Traces,
    /// The counter of hits of limits.
    pub limits: LimitHits,
    /// Receives the subscriptions with streams.
    pub in_use: SubscriptionsInUse,
    /// The destination of notices to the owners of runs; `None`: there are no notices.
    pub notices: Option<Arc<dyn NoticeSink>>,
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

/// The highest numbers of patches in flight. Slow ones do not count, up to three times `per_namespace` of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchLimits {
    /// Of one namespace. In a drain, a namespace may have `total`.
    pub per_namespace: usize,
    /// Of all namespaces.
    pub total: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            confirm_after: Duration::from_secs(1),
            max_connection_age: None,
            skip_labelled: false,
            lookups: LookupLimits { per_namespace: 8, total: 1024 },
            patches: PatchLimits { per_namespace: 16, total: 64 },
            mark_rate: None,
            drain_confirmations: Duration::from_millis(4500),
            drain_marks: Duration::from_millis(2500),
            traces: Traces::default(),
            limits: LimitHits::default(),
            in_use: SubscriptionsInUse::default(),
            notices: None,
        }
    }
}
