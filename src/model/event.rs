//! The payload of an event.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{PipelineName, RunModels, RunOutcome, Workflow, workflow::MAX_PIPELINE_NAME};

/// `Event.name` of every event.
pub const NAME: &str = "model-update";
/// Maximum size of a payload in bytes. NATS accepts 1 MB, and base64 adds a third on the way.
pub const MAX_PAYLOAD: usize = 512 * 1024;
/// Namespace of the UUIDs (version 5) that identify events.
const EVENT_IDS: Uuid = Uuid::from_u128(0x6f1c_2f0e_54a1_4b6b_9a57_3c0d_8e2b_7d41);

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
    /// `succeeded` or `failed`. Always present in the payload of a failed run.
    Status,
    /// Creation time of the Workflow.
    CreatedAt,
    /// End of the run.
    FinishedAt,
    /// Identity of the event: equal for a redelivery, different after a restart with another model.
    EventId,
}

impl IncludeField {
    /// Every field, in the order of the payload.
    pub const ALL: [Self; 9] = [
        Self::Namespace,
        Self::WorkflowName,
        Self::WorkflowUid,
        Self::RunId,
        Self::Traceparent,
        Self::Status,
        Self::CreatedAt,
        Self::FinishedAt,
        Self::EventId,
    ];

    /// Key in the payload, and name in the configuration.
    pub fn key(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::WorkflowName => "workflowName",
            Self::WorkflowUid => "workflowUid",
            Self::RunId => "runId",
            Self::Traceparent => "traceparent",
            Self::Status => "status",
            Self::CreatedAt => "createdAt",
            Self::FinishedAt => "finishedAt",
            Self::EventId => "eventId",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// The set of fields that a subscription adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Include(u16);

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

/// The reason why a run that ended has no event. Each is a value of a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SkipReason {
    /// The run produced no serving model of a requested type.
    #[error("the run produced no serving model of a requested type")]
    NoModel,
    /// Neither the Workflow nor the source of models names the pipeline, or its name is too long.
    #[error(
        "neither the Workflow (annotation pipeline_spec, generateName) nor ML Metadata has a name of the pipeline with \
         at most {MAX_PIPELINE_NAME} bytes"
    )]
    NoPipelineName,
    /// The payload would be larger than [`MAX_PAYLOAD`].
    #[error("the payload would be larger than {MAX_PAYLOAD} bytes, the limit for the event bus of Argo Events")]
    TooLarge,
    /// With `latestOnly`, a newer run of the pipeline has a model.
    #[error("a newer run of the pipeline has a model, and the subscription has latestOnly")]
    Superseded,
}

impl SkipReason {
    /// The word for it in metrics, logs, traces and `explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoModel => "no_model",
            Self::NoPipelineName => "no_pipeline_name",
            Self::TooLarge => "too_large",
            Self::Superseded => "superseded",
        }
    }
}

/// Returns the name of the run's pipeline: the name compiled into the Workflow, else the name in ML Metadata, else the
/// one derived from `generateName`. A name that is too long is none.
pub fn pipeline_name<'a>(workflow: &'a Workflow, found: &'a RunModels) -> Option<&'a str> {
    shared_pipeline_name(workflow, found).map(|name| &**name)
}

/// The shared copy of the name that [`pipeline_name`] returns.
pub fn shared_pipeline_name<'a>(workflow: &'a Workflow, found: &'a RunModels) -> Option<&'a Arc<str>> {
    let name = match (&*workflow.pipeline, &found.pipeline) {
        (PipelineName::TooLong, _) | (PipelineName::Unknown, None) => return None,
        (PipelineName::Spec(name), _) | (_, Some(name)) | (PipelineName::Generated(name), None) => name,
    };
    (name.len() <= MAX_PIPELINE_NAME).then_some(name)
}

/// Returns the identity of the run's event.
pub fn event_id(workflow: &Workflow, found: &RunModels) -> Uuid {
    // Lengths before texts: no two lists of locations are the same sequence of bytes.
    let mut content = workflow.uid.as_bytes().to_vec();
    content.extend_from_slice(workflow.outcome().map_or("", RunOutcome::as_str).as_bytes());
    for model in &found.models {
        content.extend_from_slice(&(model.uri.len() as u64).to_be_bytes());
        content.extend_from_slice(model.uri.as_bytes());
    }
    Uuid::new_v5(&EVENT_IDS, &content)
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
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
}

#[derive(Serialize)]
struct ServingModel<'a> {
    name: String,
    location: &'a str,
}

/// Returns the payload of the run's event: that of a success with models, or that of a failure. `traceparent` is used
/// only if `include` contains it.
///
/// # Errors
/// If the run has no event. A retry returns the same error.
pub fn payload(
    workflow: &Workflow,
    found: &RunModels,
    include: Include,
    traceparent: Option<&str>,
) -> Result<Vec<u8>, SkipReason> {
    let failed = workflow.outcome() == Some(RunOutcome::Failed);
    if found.models.is_empty() && !failed {
        return Err(SkipReason::NoModel);
    }
    let pipeline = pipeline_name(workflow, found).ok_or(SkipReason::NoPipelineName)?;
    let model = |model: &'_ super::Artifact| -> String { model.display_name(pipeline, &workflow.name) };
    let models = if failed { &[][..] } else { &found.models };
    let field = |field| include.has(field).then_some(());
    let payload = Payload {
        pipeline_name: pipeline,
        serving_model_artifacts: models.iter().map(|it| ServingModel { name: model(it), location: &it.uri }).collect(),
        namespace: field(IncludeField::Namespace).map(|()| &*workflow.namespace),
        workflow_name: field(IncludeField::WorkflowName).map(|()| &*workflow.name),
        workflow_uid: field(IncludeField::WorkflowUid).map(|()| workflow.uid.to_string()),
        run_id: field(IncludeField::RunId).and(workflow.run_id.as_ref()).map(ToString::to_string),
        traceparent: field(IncludeField::Traceparent).and(traceparent),
        status: (failed || include.has(IncludeField::Status))
            .then(|| workflow.outcome().map(RunOutcome::as_str))
            .flatten(),
        created_at: field(IncludeField::CreatedAt).and_then(|()| rfc3339(workflow.created)),
        finished_at: field(IncludeField::FinishedAt).and_then(|()| rfc3339(workflow.finished)),
        event_id: field(IncludeField::EventId).map(|()| event_id(workflow, found).to_string()),
    };
    let json = serde_json::to_vec(&payload).expect("strings and lists of strings are always valid JSON");
    if json.len() > MAX_PAYLOAD { Err(SkipReason::TooLarge) } else { Ok(json) }
}

/// A time as Kubernetes writes it. `None` for the unknown time 0.
fn rfc3339(seconds: i64) -> Option<String> {
    let time = Timestamp::from_second(seconds).ok().filter(|_| seconds != 0)?;
    Some(time.to_string())
}

#[cfg(test)]
mod tests;
