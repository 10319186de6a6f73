//! The payload of an event.

use bytes::Bytes;

use crate::{
    model::{RunModels, SkipReason, Subscription, Workflow, event, trace},
    store::Store,
    telemetry::Traces,
};

/// Returns the payload of a run's event, with the trace context that the subscriber is to continue.
///
/// # Errors
/// If the run has no valid event. A retry would fail again.
pub(super) fn encode(
    traces: &Traces,
    store: &Store,
    workflow: &Workflow,
    models: &RunModels,
    subscription: &Subscription,
) -> Result<Bytes, SkipReason> {
    let traceparent = store.trace_id(workflow).and_then(|trace| {
        let sampled = traces.propagated(*trace.as_bytes())?;
        Some(trace::traceparent(trace, workflow.uid, &subscription.name, sampled))
    });
    event::payload(workflow, models, subscription.include, traceparent.as_deref()).map(Bytes::from)
}
