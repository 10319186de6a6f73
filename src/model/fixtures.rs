//! Builders for tests.

use super::{Artifact, ArtifactId, Marks, Phase, PipelineName, Workflow};

/// The id of a model in ML Metadata.
#[track_caller]
pub(crate) fn number(model: &Artifact) -> i64 {
    match model.id {
        ArtifactId::Number(id) => id,
        ArtifactId::Text(ref id) => panic!("{id} is no number"),
    }
}

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
        pipeline: pipeline.into(),
        run_id: None,
        trace_id: None,
        marks: Marks::default(),
    }
}
