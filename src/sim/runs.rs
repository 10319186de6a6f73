//! What runs of Kubeflow Pipelines look like: their Workflows on the API server, and what they write into ML Metadata.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    kubernetes::{API_VERSION, KIND, merge},
    random_uuid,
};
use crate::model::workflow::{PHASE_LABEL, PIPELINE_SPEC_ANNOTATION, RUN_ID_LABEL};

const COMPLETED_LABEL: &str = "workflows.argoproj.io/completed";
const RUN_NAME_ANNOTATION: &str = "pipelines.kubeflow.org/run_name";
const SDK_VERSION: &str = "pipelines.kubeflow.org/kfp_sdk_version";
const RECURRING_LABEL: &str = "scheduledworkflows.kubeflow.org/isOwnedByScheduledWorkflow";

/// A Workflow to be created.
#[derive(Clone, Debug, Default)]
pub struct NewWorkflow {
    name: String,
    generate_name: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    phase: Option<String>,
}

impl NewWorkflow {
    /// One of this name, without anything that says it was a pipeline's run.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// A run of a TFX pipeline on Kubeflow Pipelines v1: its compiler wrote the pipeline's name down.
    pub fn tfx_v1(name: &str, pipeline: &str) -> Self {
        let spec = json!({"description": "", "inputs": [], "name": pipeline});
        Self::named(name)
            .label(SDK_VERSION, "1.8.22")
            .annotation(SDK_VERSION, "1.8.22")
            .annotation(PIPELINE_SPEC_ANNOTATION, &spec.to_string())
            .annotation(RUN_NAME_ANNOTATION, &format!("Run of {pipeline}"))
            .run_id(&random_uuid())
    }

    /// A recurring run of Kubeflow Pipelines v1: nothing on it was written by the compiler.
    pub fn recurring_v1(name: &str) -> Self {
        Self::named(name)
            .label(RECURRING_LABEL, "true")
            .label("scheduledworkflows.kubeflow.org/workflowIndex", "1")
            .run_id(&random_uuid())
    }

    /// A run on Kubeflow Pipelines v2: the API server makes its name from the pipeline's.
    pub fn kfp_v2(pipeline: &str, run_id: &str) -> Self {
        Self { generate_name: format!("{pipeline}-"), ..Self::default() }
            .annotation(RUN_NAME_ANNOTATION, &format!("Run of {pipeline}"))
            .run_id(run_id)
    }

    /// With a name that the API server makes from this prefix; a prefix ends with `-` by custom.
    #[must_use]
    pub fn generated(mut self, prefix: &str) -> Self {
        self.name.clear();
        prefix.clone_into(&mut self.generate_name);
        self
    }

    /// With the label that Kubeflow's API server puts on every run that it submits.
    #[must_use]
    pub fn run_id(self, run_id: &str) -> Self {
        self.label(RUN_ID_LABEL, run_id)
    }

    /// With this label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// In this phase from the start.
    #[must_use]
    pub fn phase(mut self, phase: &str) -> Self {
        self.phase = Some(phase.to_owned());
        self
    }

    /// The object to send to the API server.
    pub(super) fn into_object(self) -> Value {
        let Self { name, generate_name, labels, annotations, phase } = self;
        let mut metadata = json!({"labels": labels, "annotations": annotations});
        for (field, value) in [("name", name), ("generateName", generate_name)] {
            if !value.is_empty() {
                metadata[field] = value.into();
            }
        }
        let mut object =
            json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {"entrypoint": "main"}});
        if let Some(phase) = phase {
            merge(&mut object, &phase_patch(&phase));
        }
        object
    }
}

/// What Argo's controller changes when a phase begins: status and labels in one update.
pub(super) fn phase_patch(phase: &str) -> Value {
    let completed = matches!(phase, "Succeeded" | "Failed" | "Error");
    let labels = json!({PHASE_LABEL: phase, COMPLETED_LABEL: completed.to_string()});
    json!({"metadata": {"labels": labels}, "status": {"phase": phase}})
}

/// An artifact that a task puts out, or reads.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) existing: Option<i64>,
    pub(super) artifact_type: String,
    pub(super) key: String,
    pub(super) uri: String,
    pub(super) name: Option<String>,
    pub(super) texts: BTreeMap<String, String>,
    pub(super) numbers: BTreeMap<String, i64>,
}

impl Model {
    /// A live artifact of this type at this URI, under this key of the task's outputs. An empty URI stands for none.
    pub fn new(artifact_type: &str, key: &str, uri: &str) -> Self {
        Self {
            existing: None,
            artifact_type: artifact_type.to_owned(),
            key: key.to_owned(),
            uri: uri.to_owned(),
            name: None,
            texts: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// What the Pusher of TFX puts out when it has pushed.
    pub fn pushed(uri: &str) -> Self {
        Self::new("PushedModel", "pushed_model", uri).number("pushed", 1).text("pushed_destination", uri)
    }

    /// What the Pusher of TFX records for a model that was not blessed, and so not pushed.
    pub fn unblessed(uri: &str) -> Self {
        Self::new("PushedModel", "pushed_model", uri).number("pushed", 0)
    }

    /// One that is there already, by its id.
    pub fn existing(id: i64, key: &str) -> Self {
        Self { existing: Some(id), ..Self::new("", key, "") }
    }

    /// With the artifact's own name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// With a custom property that is text (`name` is what TFX wrote until 1.10).
    #[must_use]
    pub fn text(mut self, property: &str, value: &str) -> Self {
        self.texts.insert(property.to_owned(), value.to_owned());
        self
    }

    /// With a custom property that is a whole number.
    #[must_use]
    pub fn number(mut self, property: &str, value: i64) -> Self {
        self.numbers.insert(property.to_owned(), value);
        self
    }
}

/// A task of a run that has completed, with what it read and put out.
#[derive(Clone, Debug)]
pub struct Task {
    pub(super) name: String,
    pub(super) cached: bool,
    pub(super) inputs: Vec<Model>,
    pub(super) outputs: Vec<Model>,
}

impl Task {
    /// A task of this name that read nothing and put nothing out.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), cached: false, inputs: Vec::new(), outputs: Vec::new() }
    }

    /// TFX's Pusher, which has pushed a model to this URI.
    pub fn pusher(uri: &str) -> Self {
        Self::new("Pusher").output(Model::pushed(uri))
    }

    /// Puts this out.
    #[must_use]
    pub fn output(mut self, model: Model) -> Self {
        self.outputs.push(model);
        self
    }

    /// Reads this.
    #[must_use]
    pub fn input(mut self, model: Model) -> Self {
        self.inputs.push(model);
        self
    }

    /// Taken from Kubeflow's cache: a new execution that puts out existing artifacts.
    #[must_use]
    pub fn cached(mut self) -> Self {
        self.cached = true;
        self
    }
}

/// A run's contexts in ML Metadata, ready to take tasks.
#[derive(Clone, Debug)]
pub struct Run {
    /// The id of the context that is the run itself.
    pub context: i64,
    pub(super) pipeline: i64,
    pub(super) kind: RunKind,
}

#[derive(Clone, Debug)]
pub(super) enum RunKind {
    /// TFX on Kubeflow Pipelines v1; the pipeline's name.
    Tfx(String),
    /// Kubeflow Pipelines v2; the namespace.
    Kfp(String),
}

/// What a task has become in ML Metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The execution's id.
    pub execution: i64,
    /// The artifacts' ids: the inputs', then the outputs', in their order.
    pub artifacts: Vec<i64>,
}
