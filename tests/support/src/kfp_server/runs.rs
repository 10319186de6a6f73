//! Runs and tasks as the drivers and launchers of Kubeflow Pipelines 3 write them.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::{Struct, Timestamp, Value, value::Kind};
use serde_json::Value as Json;

use super::{State, StoredRun, Users};
pub use crate::kfp_api::pipeline_task::{TaskState, TaskType as TaskKind};
use crate::kfp_api::{
    Artifact, InputOutputs, IoArtifact, IoProducer, IoType, PipelineTask, Run,
    artifact::ArtifactType,
    pipeline_task::{TaskPod, TypeAttributes},
};

/// A run.
#[derive(Clone, Debug)]
pub struct KfpRun {
    /// The run id, which the Workflow has as a label.
    pub id: String,
    /// The namespace of its experiment.
    pub namespace: String,
    /// The name in the specification of its pipeline. `None`: the run only refers to a version of a pipeline.
    pub pipeline: Option<String>,
    /// The name of its Workflow, with which the names of its Pods begin.
    pub workflow: String,
}

impl KfpRun {
    /// A run of this pipeline, with a Workflow of the same name as the run.
    pub fn new(id: &str, namespace: &str, pipeline: &str) -> Self {
        let (id, pipeline) = (id.to_owned(), Some(pipeline.to_owned()));
        Self { workflow: id.clone(), id, namespace: namespace.to_owned(), pipeline }
    }

    /// Sets the name of the Workflow.
    #[must_use]
    pub fn of_workflow(mut self, name: &str) -> Self {
        self.workflow = name.to_owned();
        self
    }
}

/// An artifact of a task.
#[derive(Clone, Debug)]
pub struct KfpArtifact {
    /// The id; empty: a random one.
    pub id: String,
    /// The key of the output or input.
    pub key: String,
    /// The title of its schema. Titles of Kubeflow's own types become the enum.
    pub title: String,
    /// The location; empty: none.
    pub uri: String,
    /// The metadata: a JSON object.
    pub metadata: Json,
    /// The id of an artifact that exists already, in whatever run.
    pub existing: Option<String>,
    /// The namespace, if it is not that of the run. Kubeflow refuses to write such a link.
    pub namespace: Option<String>,
}

impl KfpArtifact {
    /// An artifact of this type. TFX writes its schema in YAML.
    pub fn new(title: &str, key: &str, uri: &str) -> Self {
        Self {
            id: String::new(),
            key: key.to_owned(),
            title: title.to_owned(),
            uri: uri.to_owned(),
            metadata: serde_json::json!({}),
            existing: None,
            namespace: None,
        }
    }

    /// The output of kfp-operator's shim for TFX after it has pushed a model.
    pub fn pushed(uri: &str) -> Self {
        Self::new("system.Model", "model", uri).metadata("pushed", 1)
    }

    /// An artifact that exists already.
    pub fn existing(id: &str, key: &str) -> Self {
        Self { existing: Some(id.to_owned()), ..Self::new("", key, "") }
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = id.to_owned();
        self
    }

    /// Sets a key of the metadata.
    #[must_use]
    pub fn metadata(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.metadata[key] = value.into();
        self
    }
}

/// A task.
#[derive(Clone, Debug)]
pub struct KfpTask {
    /// The id; empty: a random one.
    pub id: String,
    /// Its key in the DAG that contains it.
    pub name: String,
    /// Its type.
    pub kind: TaskKind,
    /// Its state.
    pub state: TaskState,
    /// The id of the task that contains it; `None`: the run's own.
    pub parent: Option<String>,
    /// The iteration of a loop.
    pub iteration: Option<i64>,
    /// The number of iterations of a loop.
    pub iterations: Option<i64>,
    /// Its age in seconds.
    pub age: i64,
    /// Its outputs.
    pub outputs: Vec<KfpArtifact>,
    /// Its inputs.
    pub inputs: Vec<KfpArtifact>,
    /// True if the tasks that contain it declare its outputs as their own.
    pub is_propagated: bool,
}

impl KfpTask {
    /// A container that succeeded, without artifacts.
    pub fn new(name: &str) -> Self {
        Self {
            id: String::new(),
            name: name.to_owned(),
            kind: TaskKind::Runtime,
            state: TaskState::Succeeded,
            parent: None,
            iteration: None,
            iterations: None,
            age: 0,
            outputs: Vec::new(),
            inputs: Vec::new(),
            is_propagated: true,
        }
    }

    /// A task of another type, with an id, to which its children refer.
    pub fn container(kind: TaskKind, id: &str, name: &str) -> Self {
        Self { id: id.to_owned(), kind, ..Self::new(name) }
    }

    /// Puts the task into another.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.parent = Some(parent.to_owned());
        self
    }

    /// Makes the task one of an iteration.
    #[must_use]
    pub fn iteration(mut self, iteration: i64) -> Self {
        self.iteration = Some(iteration);
        self
    }

    /// Makes the task this number of seconds old.
    #[must_use]
    pub fn aged(mut self, seconds: i64) -> Self {
        self.age = seconds;
        self
    }

    /// Sets the state.
    #[must_use]
    pub fn state(mut self, state: TaskState) -> Self {
        self.state = state;
        self
    }

    /// Adds an input.
    #[must_use]
    pub fn input(mut self, artifact: KfpArtifact) -> Self {
        self.inputs.push(artifact);
        self
    }

    /// Adds an output.
    #[must_use]
    pub fn output(mut self, artifact: KfpArtifact) -> Self {
        self.outputs.push(artifact);
        self
    }
}

impl State {
    pub(super) fn put_run(&mut self, run: &KfpRun) {
        let spec = run.pipeline.as_ref().map(|name| {
            let spec = serde_json::json!({
                "components": {"comp-push": {"executorLabel": "exec-push", "pipelineInfo": {"name": "not this one"}}},
                "pipelineInfo": {"name": name, "description": "a pipeline"},
                "schemaVersion": "2.1.0",
            });
            structure(&spec)
        });
        let stored = StoredRun {
            namespace: run.namespace.clone(),
            workflow: run.workflow.clone(),
            run: Run { run_id: run.id.clone(), pipeline_spec: spec, ..Run::default() },
            tasks: Vec::new(),
        };
        self.runs.insert(run.id.clone(), stored);
        self.put_task(&run.id, KfpTask { kind: TaskKind::Root, ..KfpTask::new("") });
    }

    pub(super) fn put_task(&mut self, run_id: &str, new: KfpTask) -> String {
        let is_single = matches!(self.users, Users::One);
        let known: Vec<Artifact> = self.runs.values().flat_map(|run| run.tasks.iter().flat_map(artifacts)).collect();
        let stored = self.runs.get_mut(run_id).expect("the run exists");
        let namespace = stored.namespace.clone();
        let id = id_or_random(&new.id);
        let root = stored.tasks.first().map(|root| root.task_id.clone());
        let parent_task_id = new.parent.clone().or(root);
        let parent = stored.tasks.iter().find(|task| Some(&task.task_id) == parent_task_id.as_ref());
        // The path of the DAGs, without iterations (inferred).
        let scope_path = match parent {
            Some(parent) if !parent.name.is_empty() => format!("{}/{}", parent.scope_path, parent.name),
            Some(parent) => parent.scope_path.clone(),
            None => "root".to_owned(),
        };
        let created = now() - new.age;
        let link = |new: &KfpArtifact, kind: IoType, task: &KfpTask| {
            let existing = new.existing.as_ref().map(|id| known.iter().find(|it| it.artifact_id == *id));
            let artifact = match existing {
                Some(existing) => existing.expect("the artifact exists").clone(),
                None => artifact(new, if is_single { "" } else { &namespace }, created),
            };
            let producer = IoProducer { task_name: task.name.clone(), iteration: task.iteration };
            IoArtifact {
                artifacts: vec![artifact],
                r#type: kind.into(),
                artifact_key: new.key.clone(),
                producer: Some(producer),
            }
        };
        let own = if new.iteration.is_some() { IoType::IteratorOutput } else { IoType::Output };
        let outputs: Vec<IoArtifact> = new.outputs.iter().map(|output| link(output, own, &new)).collect();
        let inputs = new.inputs.iter().map(|input| link(input, IoType::TaskOutputInput, &new)).collect();
        let attributes = TypeAttributes { iteration_index: new.iteration, iteration_count: new.iterations };
        let task = PipelineTask {
            name: new.name.clone(),
            display_name: format!("The task {}", new.name),
            task_id: id.clone(),
            run_id: run_id.to_owned(),
            pods: vec![TaskPod { name: format!("{}-system-driver-1", stored.workflow) }],
            create_time: Some(Timestamp { seconds: created, nanos: 0 }),
            end_time: Some(Timestamp { seconds: created, nanos: 0 }),
            state: new.state.into(),
            r#type: new.kind.into(),
            type_attributes: Some(attributes),
            parent_task_id: parent_task_id.clone(),
            inputs: Some(InputOutputs { artifacts: inputs }),
            outputs: Some(InputOutputs { artifacts: merged(outputs.clone()) }),
            scope_path,
        };
        stored.tasks.push(task);
        if new.is_propagated {
            propagate(&mut stored.tasks, parent_task_id, &outputs);
        }
        id
    }
}

/// Links outputs again to the tasks that contain theirs.
fn propagate(tasks: &mut [PipelineTask], parent: Option<String>, outputs: &[IoArtifact]) {
    let mut next = parent;
    while let Some(task) = next.and_then(|id| tasks.iter_mut().find(|task| task.task_id == id)) {
        let kind = match task.r#type() {
            TaskKind::ConditionBranch => Some(IoType::OneOfOutput),
            _ => None,
        };
        let repeated = outputs
            .iter()
            .cloned()
            .map(|output| IoArtifact { r#type: kind.map_or(output.r#type, Into::into), ..output });
        let all = task.outputs.get_or_insert_default();
        all.artifacts = merged(all.artifacts.drain(..).chain(repeated).collect());
        next = task.parent_task_id.clone();
    }
}

/// Joins the links of one type, key and producer. The artifacts of a key come ordered by UUID.
fn merged(links: Vec<IoArtifact>) -> Vec<IoArtifact> {
    let mut all: Vec<IoArtifact> = Vec::new();
    for link in links {
        let same = |other: &&mut IoArtifact| {
            (other.r#type, &other.artifact_key, &other.producer) == (link.r#type, &link.artifact_key, &link.producer)
        };
        match all.iter_mut().find(same) {
            Some(known) => known.artifacts.extend(link.artifacts),
            None => all.push(link),
        }
    }
    for link in &mut all {
        link.artifacts.sort_by(|a, b| a.artifact_id.cmp(&b.artifact_id));
    }
    all
}

fn artifacts(task: &PipelineTask) -> Vec<Artifact> {
    let links = [&task.inputs, &task.outputs].into_iter().flatten().flat_map(|side| &side.artifacts);
    links.flat_map(|link| link.artifacts.clone()).collect()
}

fn artifact(new: &KfpArtifact, namespace: &str, created: i64) -> Artifact {
    let kind = match &*new.title {
        "system.Artifact" => Some(ArtifactType::Artifact),
        "system.Model" => Some(ArtifactType::Model),
        "system.Dataset" => Some(ArtifactType::Dataset),
        "system.Metrics" => Some(ArtifactType::Metric),
        _ => None,
    };
    let mut metadata = structure(&new.metadata).fields;
    if kind.is_none() {
        metadata.insert("_kfp_schema_title".to_owned(), value(&Json::from(new.title.clone())));
    }
    Artifact {
        artifact_id: id_or_random(&new.id),
        // Container tasks get the key of the output.
        name: new.key.clone(),
        r#type: kind.unwrap_or(ArtifactType::Artifact).into(),
        uri: (!new.uri.is_empty()).then(|| new.uri.clone()),
        metadata: metadata.into_iter().collect(),
        created_at: Some(Timestamp { seconds: created, nanos: 0 }),
        namespace: new.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
        ..Artifact::default()
    }
}

fn id_or_random(id: &str) -> String {
    if id.is_empty() { crate::random_uuid() } else { id.to_owned() }
}

fn structure(json: &Json) -> Struct {
    let fields = json.as_object().into_iter().flatten();
    Struct { fields: fields.map(|(key, json)| (key.clone(), value(json))).collect() }
}

/// Numbers become doubles, booleans stay booleans.
fn value(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => Kind::StringValue(value.clone()),
        Json::Array(values) => Kind::ListValue(prost_types::ListValue { values: values.iter().map(value).collect() }),
        Json::Object(_) => Kind::StructValue(structure(json)),
    };
    Value { kind: Some(kind) }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("a few decades")
}
