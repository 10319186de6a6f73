//! The payload of an event.

use bytes::Bytes;

use crate::{
    model::{
        RunModels, Subscription, Workflow,
        event::{self, SkipReason},
        trace,
    },
    telemetry::Traces,
};

/// Returns the payload of a run's event, with the trace context that the subscriber is to continue.
///
/// # Errors
/// Where the run has no valid event. A retry would fail again.
pub(super) fn encode(
    traces: &Traces,
    workflow: &Workflow,
    models: &RunModels,
    subscription: &Subscription,
) -> Result<Bytes, SkipReason> {
    let sampled = trace::trace_id(workflow).and_then(|trace| traces.propagated(*trace.as_bytes()));
    let traceparent = sampled.and_then(|sampled| trace::traceparent(workflow, &subscription.name, sampled));
    event::payload(workflow, models, subscription.include, traceparent.as_deref()).map(Bytes::from)
}
