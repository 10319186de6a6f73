//! The form in which a run is announced.

use serde::Serialize;

use super::{PipelineName, RunModels, Workflow};

/// `Event.name` of every event.
pub const NAME: &str = "model-update";
/// The largest payload that is sent, in octets. NATS takes 1 MB, and base64 on the way makes it a third larger.
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
    /// Every field, in the order in which they stand in the payload.
    pub const ALL: [Self; 5] = [Self::Namespace, Self::WorkflowName, Self::WorkflowUid, Self::RunId, Self::Traceparent];

    /// The key in the payload, and the word in the configuration.
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
    /// Whether the field is in the set.
    pub fn has(self, field: IncludeField) -> bool {
        self.0 & field.bit() != 0
    }
}

impl FromIterator<IncludeField> for Include {
    fn from_iter<I: IntoIterator<Item = IncludeField>>(fields: I) -> Self {
        Self(fields.into_iter().fold(0, |bits, field| bits | field.bit()))
    }
}

/// Why a run is not announced although it succeeded. Each is a label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unannounced {
    /// The run put out no serving model of a wanted type.
    #[error("the run put out no serving model of a wanted type")]
    NoModel,
    /// Neither the Workflow nor ML Metadata says what the pipeline is called.
    #[error("neither the Workflow (annotation pipeline_spec, generateName) nor ML Metadata names its pipeline")]
    NoPipelineName,
    /// The payload would be larger than [`MAX_PAYLOAD`].
    #[error("its payload would be larger than {MAX_PAYLOAD} octets, which Argo Events' bus cannot carry")]
    TooLarge,
}

/// The name of the run's pipeline: as compiled into the Workflow, else as ML Metadata knows it, else guessed from
/// `generateName`.
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

/// The payload that announces this run. `traceparent` is used only where the subscription includes it.
///
/// # Errors
/// Where there is nothing that could be announced; no error is worth a retry.
pub fn payload(
    workflow: &Workflow,
    found: &RunModels,
    include: Include,
    traceparent: Option<&str>,
) -> Result<Vec<u8>, Unannounced> {
    if found.models.is_empty() {
        return Err(Unannounced::NoModel);
    }
    let pipeline = pipeline_name(workflow, found).ok_or(Unannounced::NoPipelineName)?;
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
    if json.len() > MAX_PAYLOAD { Err(Unannounced::TooLarge) } else { Ok(json) }
}

#[cfg(test)]
mod tests;
