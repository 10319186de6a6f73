//! Builders of Workflows and of runs in ML Metadata, as Kubeflow Pipelines writes them. Plain data without I/O: [`Sim`]
//! stores it in memory, tests write it into real servers.
//!
//! [`Sim`]: super::Sim

use serde_json::{Value, json};

use crate::model::workflow::{PHASE_LABEL, PIPELINE_SPEC_ANNOTATION, RUN_ID_LABEL};

pub(super) const API_VERSION: &str = "argoproj.io/v1alpha1";

const COMPLETED_LABEL: &str = "workflows.argoproj.io/completed";
const SDK_VERSION: &str = "pipelines.kubeflow.org/kfp_sdk_version";

// The numbers of ML Metadata's enums `Event.Type` and `Execution.State`.
const INPUT: i32 = 3;
const OUTPUT: i32 = 4;
const COMPLETE: i32 = 3;

/// A Workflow to be created.
#[derive(Clone, Debug)]
pub struct NewWorkflow(Value);

impl NewWorkflow {
    fn new(metadata: Value) -> Self {
        Self(json!({
            "apiVersion": API_VERSION, "kind": "Workflow", "metadata": metadata, "spec": {"entrypoint": "main"},
        }))
    }

    /// A Workflow of this name that is no pipeline run.
    pub fn named(name: &str) -> Self {
        Self::new(json!({"name": name}))
    }

    /// A Workflow that is no pipeline run. The API server appends a random suffix to the prefix, usually ending in `-`.
    pub fn generated(prefix: &str) -> Self {
        Self::new(json!({"generateName": prefix}))
    }

    /// A run of a TFX pipeline on Kubeflow Pipelines v1. The compiler's annotation contains the pipeline's name.
    pub fn tfx_v1(name: &str, pipeline: &str) -> Self {
        let spec = json!({"description": "", "inputs": [], "name": pipeline});
        Self::named(name)
            .label(SDK_VERSION, "1.8.22")
            .annotation(SDK_VERSION, "1.8.22")
            .annotation(PIPELINE_SPEC_ANNOTATION, &spec.to_string())
            .run_name(pipeline)
            .run_id(&super::random_uuid())
    }

    /// A recurring run on Kubeflow Pipelines v1, without the compiler's annotations.
    pub fn recurring_v1(name: &str) -> Self {
        Self::named(name)
            .label("scheduledworkflows.kubeflow.org/isOwnedByScheduledWorkflow", "true")
            .label("scheduledworkflows.kubeflow.org/workflowIndex", "1")
            .run_id(&super::random_uuid())
    }

    /// A run on Kubeflow Pipelines v2. The API server generates its name from the pipeline's.
    pub fn kfp_v2(pipeline: &str, run_id: &str) -> Self {
        Self::generated(&format!("{pipeline}-")).run_name(pipeline).run_id(run_id)
    }

    fn run_name(self, pipeline: &str) -> Self {
        self.annotation("pipelines.kubeflow.org/run_name", &format!("Run of {pipeline}"))
    }

    /// Sets the label that Kubeflow Pipelines puts on every run.
    #[must_use]
    pub fn run_id(self, run_id: &str) -> Self {
        self.label(RUN_ID_LABEL, run_id)
    }

    /// Makes the specification this number of bytes larger.
    #[must_use]
    pub fn spec_bytes(mut self, bytes: usize) -> Self {
        self.0["spec"]["arguments"]["parameters"] = json!([{"name": "padding", "value": "x".repeat(bytes)}]);
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = value.into();
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["annotations"][key] = value.into();
        self
    }

    /// Sets the initial phase.
    #[must_use]
    pub fn phase(mut self, phase: &str) -> Self {
        merge(&mut self.0, &phase_patch(phase));
        self
    }

    /// Returns the object to send to the API server.
    pub fn into_object(self) -> Value {
        self.0
    }
}

/// Returns the merge patch with which Argo's controller sets a phase: status and labels in one update.
pub fn phase_patch(phase: &str) -> Value {
    let completed = matches!(phase, "Succeeded" | "Failed" | "Error");
    let labels = json!({PHASE_LABEL: phase, COMPLETED_LABEL: completed.to_string()});
    json!({"metadata": {"labels": labels}, "status": {"phase": phase}})
}

/// Applies a merge patch (RFC 7386).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            target.as_object_mut().map(|entries| entries.remove(key));
        } else {
            merge(&mut target[key], change);
        }
    }
}

/// An artifact that a task writes or reads.
#[derive(Clone, Debug)]
pub struct Model {
    /// The id of an artifact that exists already. All fields but `key` are unused then.
    pub existing: Option<i64>,
    /// The name of the artifact's type.
    pub artifact_type: String,
    /// The name of the task's output or input.
    pub key: String,
    /// The location; empty: none.
    pub uri: String,
    /// The artifact's own name.
    pub name: Option<String>,
    /// Custom properties: a JSON object of strings and integers.
    pub properties: Value,
}

impl Model {
    /// A live artifact. An empty URI means none.
    pub fn new(artifact_type: &str, key: &str, uri: &str) -> Self {
        Self {
            existing: None,
            artifact_type: artifact_type.to_owned(),
            key: key.to_owned(),
            uri: uri.to_owned(),
            name: None,
            properties: json!({}),
        }
    }

    /// The output of TFX's Pusher after it has pushed a model.
    pub fn pushed(uri: &str) -> Self {
        Self::new("PushedModel", "pushed_model", uri).property("pushed", 1).property("pushed_destination", uri)
    }

    /// The output of TFX's Pusher for a model that was not blessed and thus not pushed.
    pub fn unblessed(uri: &str) -> Self {
        Self::new("PushedModel", "pushed_model", uri).property("pushed", 0)
    }

    /// An existing artifact.
    pub fn existing(id: i64, key: &str) -> Self {
        Self { existing: Some(id), ..Self::new("", key, "") }
    }

    /// Sets the artifact's own name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Sets a custom property: a string or an integer. TFX before 1.11 wrote the artifact's name as `name`.
    #[must_use]
    pub fn property(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.properties[key] = value.into();
        self
    }
}

/// An execution of a run, with the artifacts that it reads and writes.
#[derive(Clone, Debug)]
pub struct Task {
    /// The name of the component.
    pub name: String,
    /// The name of the execution's type; `None`: that of a component of the run's flavor.
    pub execution_type: Option<String>,
    /// The number of a state in ML Metadata's enum `Execution.State`.
    pub state: i32,
    /// The events between the execution and artifacts.
    pub events: Vec<TaskEvent>,
}

/// An event between an execution and an artifact.
#[derive(Clone, Debug)]
pub struct TaskEvent {
    /// The number of a type in ML Metadata's enum `Event.Type`.
    pub event_type: i32,
    /// The position under the artifact's key.
    pub index: i64,
    /// The artifact.
    pub model: Model,
}

impl Task {
    /// A completed task without artifacts.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), execution_type: None, state: COMPLETE, events: Vec::new() }
    }

    /// TFX's Pusher that has pushed a model to this URI.
    pub fn pusher(uri: &str) -> Self {
        Self::new("Pusher").output(Model::pushed(uri))
    }

    /// Adds an output.
    #[must_use]
    pub fn output(self, model: Model) -> Self {
        self.event(OUTPUT, model)
    }

    /// Adds an input.
    #[must_use]
    pub fn input(self, model: Model) -> Self {
        self.event(INPUT, model)
    }

    /// Adds an event of another type, by its number or generated enum.
    #[must_use]
    pub fn event(mut self, event_type: impl Into<i32>, model: Model) -> Self {
        let event_type = event_type.into();
        let earlier = self.events.iter().filter(|it| it.event_type == event_type && it.model.key == model.key);
        let index = i64::try_from(earlier.count()).unwrap_or(i64::MAX);
        self.events.push(TaskEvent { event_type, index, model });
        self
    }

    /// Sets the type of the execution. An importer has a type of its own.
    #[must_use]
    pub fn executed_as(mut self, execution_type: &str) -> Self {
        self.execution_type = Some(execution_type.to_owned());
        self
    }

    /// Sets another state than COMPLETE, by its number or generated enum, for example CACHED for a task from the cache
    /// of Kubeflow Pipelines v2.
    #[must_use]
    pub fn state(mut self, state: impl Into<i32>) -> Self {
        self.state = state.into();
        self
    }
}

/// A context of ML Metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct RunContext {
    /// The name of the context's type.
    pub context_type: &'static str,
    /// The context's name, unique within its type.
    pub name: String,
    /// Custom properties: a JSON object of strings.
    pub properties: Value,
}

/// A pipeline run in ML Metadata.
#[derive(Clone, Debug)]
pub struct Run {
    pipeline: String,
    name: String,
    /// `Some` on Kubeflow Pipelines v2.
    namespace: Option<String>,
}

impl Run {
    /// A run of TFX on Kubeflow Pipelines v1. Its context `pipeline_run` has the Workflow's name.
    pub fn tfx_v1(pipeline: &str, workflow: &str) -> Self {
        Self { pipeline: pipeline.to_owned(), name: workflow.to_owned(), namespace: None }
    }

    /// A run on Kubeflow Pipelines v2. Its context `system.PipelineRun` has the run id as its name.
    pub fn kfp_v2(pipeline: &str, run_id: &str, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..Self::tfx_v1(pipeline, run_id) }
    }

    /// Returns the run's own context and that of its pipeline, which is the parent on Kubeflow Pipelines v2.
    pub fn contexts(&self) -> [RunContext; 2] {
        let context = |context_type, name: &str, properties| RunContext { context_type, name: name.into(), properties };
        let Self { pipeline, name, namespace } = self;
        match namespace {
            None => [context("pipeline_run", name, json!({})), context("pipeline", pipeline, json!({}))],
            Some(namespace) => {
                let properties =
                    json!({"namespace": namespace, "pipeline_root": "gs://root", "resource_name": "run-resource"});
                [context("system.PipelineRun", name, properties), context("system.Pipeline", pipeline, json!({}))]
            }
        }
    }

    /// The run's context is a child of its pipeline's.
    pub fn has_parent(&self) -> bool {
        self.namespace.is_some()
    }

    /// Returns the context of a task's node, which only TFX has.
    pub fn node_context(&self, task: &Task) -> Option<RunContext> {
        let name = format!("{}.{}", self.pipeline, task.name);
        self.namespace.is_none().then(|| RunContext { context_type: "node", name, properties: json!({}) })
    }

    /// Returns the type and the custom properties of a task's execution.
    pub fn execution(&self, task: &Task) -> (String, Value) {
        let name = &task.name;
        let (default, properties) = match &self.namespace {
            None => (format!("tfx.components.{name}"), json!({})),
            Some(namespace) => {
                let properties = json!({"namespace": namespace, "display_name": name, "task_name": name});
                ("system.ContainerExecution".to_owned(), properties)
            }
        };
        (task.execution_type.clone().unwrap_or(default), properties)
    }

    /// Returns the custom properties of an artifact; Kubeflow Pipelines v2 adds a display name.
    pub fn artifact_properties(&self, model: &Model) -> Value {
        let mut properties = model.properties.clone();
        if self.namespace.is_some() && properties["display_name"].is_null() {
            properties["display_name"] = model.key.as_str().into();
        }
        properties
    }
}

/// The ids of a task's rows in ML Metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The execution.
    pub execution: i64,
    /// The artifacts, in the order of the task's events.
    pub artifacts: Vec<i64>,
}
