//! The payload of an event.

use serde::Serialize;

use super::{PipelineName, RunModels, Workflow};

/// `Event.name` of every event.
pub const NAME: &str = "model-update";
/// Maximum size of a payload in bytes. NATS accepts 1 MB, and base64 adds a third on the way.
pub const MAX_PAYLOAD: usize = 512 * 1024;

/// A field that a subscription can add to the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeField {
    /// The run's namespace.
    Namespace,
    /// The Workflow's name.
    WorkflowName,
    /// The Workflow's UID.
    WorkflowUid,
    /// Kubeflow's run id.
    RunId,
    /// A W3C trace context that continues the run's trace.
    Traceparent,
}

impl IncludeField {
    /// Every field, in the order of the payload.
    pub const ALL: [Self; 5] = [Self::Namespace, Self::WorkflowName, Self::WorkflowUid, Self::RunId, Self::Traceparent];

    /// Key in the payload, and name in the configuration.
    pub fn key(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::WorkflowName => "workflowName",
            Self::WorkflowUid => "workflowUid",
            Self::RunId => "runId",
            Self::Traceparent => "traceparent",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The set of fields that a subscription adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Include(u8);

impl Include {
    /// Returns whether the set contains the field.
    pub fn has(self, field: IncludeField) -> bool {
        self.0 & field.bit() != 0
    }
}

impl FromIterator<IncludeField> for Include {
    fn from_iter<I: IntoIterator<Item = IncludeField>>(fields: I) -> Self {
        Self(fields.into_iter().fold(0, |bits, field| bits | field.bit()))
    }
}

/// The reason why a succeeded run has no event. Each is a value of a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// The run produced no serving model of a requested type.
    #[error("the run produced no serving model of a requested type")]
    NoModel,
    /// Neither the Workflow nor ML Metadata names the pipeline.
    #[error("neither the Workflow (annotation pipeline_spec, generateName) nor ML Metadata names the pipeline")]
    NoPipelineName,
    /// The payload would be larger than [`MAX_PAYLOAD`].
    #[error("the payload would be larger than {MAX_PAYLOAD} bytes, the limit for the event bus of Argo Events")]
    TooLarge,
}

/// Returns the name of the run's pipeline: the name compiled into the Workflow, else the name in ML Metadata, else the
/// one derived from `generateName`.
pub fn pipeline_name<'a>(workflow: &'a Workflow, found: &'a RunModels) -> Option<&'a str> {
    match (&workflow.pipeline, &found.pipeline) {
        (PipelineName::Spec(name), _) | (_, Some(name)) | (PipelineName::Generated(name), None) => Some(name),
        (PipelineName::Unknown, None) => None,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    pipeline_name: &'a str,
    serving_model_artifacts: Vec<ServingModel<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
}

#[derive(Serialize)]
struct ServingModel<'a> {
    name: String,
    location: &'a str,
}

/// Returns the payload of the run's event. `traceparent` is used only if `include` contains it.
///
/// # Errors
/// If the run has no event. A retry returns the same error.
pub fn payload(
    workflow: &Workflow,
    found: &RunModels,
    include: Include,
    traceparent: Option<&str>,
) -> Result<Vec<u8>, SkipReason> {
    if found.models.is_empty() {
        return Err(SkipReason::NoModel);
    }
    let pipeline = pipeline_name(workflow, found).ok_or(SkipReason::NoPipelineName)?;
    let field = |field| include.has(field).then_some(());
    let payload = Payload {
        pipeline_name: pipeline,
        serving_model_artifacts: found
            .models
            .iter()
            .map(|model| ServingModel { name: model.display_name(pipeline, &workflow.name), location: &model.uri })
            .collect(),
        namespace: field(IncludeField::Namespace).map(|()| &*workflow.namespace),
        workflow_name: field(IncludeField::WorkflowName).map(|()| &*workflow.name),
        workflow_uid: field(IncludeField::WorkflowUid).map(|()| workflow.uid.to_string()),
        run_id: field(IncludeField::RunId).and(workflow.run_id.as_ref()).map(ToString::to_string),
        traceparent: field(IncludeField::Traceparent).and(traceparent),
    };
    let json = serde_json::to_vec(&payload).expect("strings and lists of strings are always valid JSON");
    if json.len() > MAX_PAYLOAD { Err(SkipReason::TooLarge) } else { Ok(json) }
}

#[cfg(test)]
mod tests;
