//! Builders for tests.

use super::{Phase, PipelineName, Workflow};

/// A succeeded run with nothing but the required fields.
pub(crate) fn succeeded(pipeline: PipelineName) -> Workflow {
    Workflow {
        namespace: "team".into(),
        name: "run-x".into(),
        uid: 1.into(),
        created: 0,
        finished: 0,
        phase: Phase::Succeeded,
        resubmitted: false,
        events_published: false,
        pipeline,
        run_id: None,
        trace_id: None,
        marks: Box::default(),
        resource_version: None,
    }
}
