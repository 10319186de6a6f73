//! Runs in ML Metadata, as TFX (on Kubeflow Pipelines v1) and Kubeflow Pipelines v2 write them.

use super::{
    Writer, Written,
    metadata_writer::{Pair, Properties, int, text},
};
use crate::ml_metadata::{Artifact, Context, Execution, artifact, event::Type, execution};

/// Runs that are written in one transaction.
const BATCH: usize = 500;

/// An artifact that a task outputs or reads.
#[derive(Clone, Debug)]
pub struct Model {
    artifact_type: String,
    artifact: Artifact,
    key: String,
}

impl Model {
    /// A live artifact of this type at this URI; an empty URI means none.
    pub fn new(artifact_type: &str, key: &str, uri: &str) -> Self {
        let uri = (!uri.is_empty()).then(|| uri.to_owned());
        let mut artifact = Artifact { uri, ..Artifact::default() };
        artifact.set_state(artifact::State::Live);
        Self { artifact_type: artifact_type.to_owned(), artifact, key: key.to_owned() }
    }

    /// The output of a TFX Pusher that has pushed.
    pub fn pushed(uri: &str) -> Self {
        Self::new("PushedModel", "pushed_model", uri).number("pushed", 1)
    }

    /// The output of a TFX Pusher for a model that was not blessed.
    pub fn unblessed(uri: &str) -> Self {
        Self::new("PushedModel", "pushed_model", uri).number("pushed", 0)
    }

    /// An artifact that exists, by its id.
    pub fn existing(id: i64, key: &str) -> Self {
        let mut model = Self::new("", key, "");
        model.artifact.id = Some(id);
        model
    }

    /// Sets the artifact's name.
    pub fn named(mut self, name: &str) -> Self {
        self.artifact.name = Some(name.to_owned());
        self
    }

    /// Sets a text custom property (TFX wrote `name` until 1.10).
    pub fn text(mut self, property: &str, value: &str) -> Self {
        self.artifact.custom_properties.insert(property.to_owned(), text(value));
        self
    }

    /// Sets an integer custom property.
    pub fn number(mut self, property: &str, value: i64) -> Self {
        self.artifact.custom_properties.insert(property.to_owned(), int(value));
        self
    }
}

/// A task of a run with its inputs and outputs.
#[derive(Clone, Debug)]
pub struct Task {
    name: String,
    execution_type: Option<String>,
    state: execution::State,
    models: Vec<(Type, Model)>,
}

impl Task {
    /// A completed task of this name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), execution_type: None, state: execution::State::Complete, models: Vec::new() }
    }

    /// A TFX Pusher that has pushed a model to this URI.
    pub fn pusher(uri: &str) -> Self {
        Self::new("Pusher").output(Model::pushed(uri))
    }

    /// Adds an output.
    pub fn output(self, model: Model) -> Self {
        self.event(Type::Output, model)
    }

    /// Adds an input.
    pub fn input(self, model: Model) -> Self {
        self.event(Type::Input, model)
    }

    /// Adds an event of another type.
    pub fn event(mut self, direction: Type, model: Model) -> Self {
        self.models.push((direction, model));
        self
    }

    /// Sets the execution type, for example that of an importer.
    pub fn executed_as(mut self, execution_type: &str) -> Self {
        self.execution_type = Some(execution_type.to_owned());
        self
    }

    /// Sets the state: a cached task of Kubeflow Pipelines v2 is CACHED.
    pub fn state(mut self, state: execution::State) -> Self {
        self.state = state;
        self
    }
}

/// The contexts of a run, to which tasks are added.
#[derive(Clone, Debug)]
pub struct Run {
    writer: Writer,
    kind: Kind,
    /// The id of the context of the run itself.
    pub context: i64,
    contexts: Vec<i64>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// The pipeline's name.
    Tfx(String),
    /// The namespace.
    Kfp(String),
}

impl Writer {
    /// Creates a run of TFX on Kubeflow Pipelines v1. Its context `pipeline_run` has the name of the Workflow.
    pub async fn tfx_run(&self, pipeline: &str, workflow: &str) -> Run {
        let parent = self.context("pipeline", pipeline, Properties::new()).await;
        let context = self.context("pipeline_run", workflow, Properties::new()).await;
        Run { writer: self.clone(), kind: Kind::Tfx(pipeline.to_owned()), context, contexts: vec![parent, context] }
    }

    /// Creates a run of Kubeflow Pipelines v2. Its context `system.PipelineRun` has the run's id as its name and the
    /// pipeline's context as its parent.
    pub async fn kfp_run(&self, pipeline: &str, run_id: &str, namespace: &str) -> Run {
        let parent = self.context("system.Pipeline", pipeline, Properties::new()).await;
        let properties = Properties::from([
            ("namespace".to_owned(), text(namespace)),
            ("pipeline_root".to_owned(), text("gs://root")),
            ("resource_name".to_owned(), text("run-resource")),
        ]);
        let context = self.context("system.PipelineRun", run_id, properties).await;
        self.parent(context, parent).await;
        Run { writer: self.clone(), kind: Kind::Kfp(namespace.to_owned()), context, contexts: vec![parent, context] }
    }
}

impl Writer {
    /// Writes TFX runs in batches, each with one pushed model, named as TFX did until 1.10: much faster than one by
    /// one. `runs` are the names of the Workflows and the locations of the models.
    pub async fn tfx_runs(&self, pipeline: &str, runs: &[(String, String)]) {
        let run_type = Some(self.context_type("pipeline_run").await);
        let pusher = Some(self.execution_type("tfx.components.Pusher").await);
        let model_type = Some(self.artifact_type("PushedModel").await);
        let shared = [
            self.context("pipeline", pipeline, Properties::new()).await,
            self.context("node", &format!("{pipeline}.Pusher"), Properties::new()).await,
        ];
        for runs in runs.chunks(BATCH) {
            let contexts = runs.iter().map(|(name, _)| Context {
                type_id: run_type,
                name: Some(name.clone()),
                ..Context::default()
            });
            let contexts = self.contexts(contexts.collect()).await;
            let executions = runs.iter().map(|_| {
                let mut execution = Execution { type_id: pusher, ..Execution::default() };
                execution.set_last_known_state(execution::State::Complete);
                execution
            });
            let executions = self.executions(executions.collect()).await;
            let artifacts = runs.iter().map(|(name, uri)| {
                let model = Model::pushed(uri).text("name", &format!("{pipeline}:{name}:Pusher:pushed_model:0"));
                Artifact { type_id: model_type, ..model.artifact }
            });
            let artifacts = self.artifacts(artifacts.collect()).await;

            let written = executions.into_iter().zip(artifacts);
            let written: Vec<_> =
                written.map(|(execution, artifact)| Written { execution, artifacts: vec![artifact] }).collect();
            self.output_events("pushed_model", &written).await;
            let in_contexts = written
                .iter()
                .zip(contexts)
                .flat_map(|(written, run)| [run, shared[0], shared[1]].map(|context| (context, written)));
            self.add_to_contexts(in_contexts).await;
        }
    }
}

impl Run {
    /// Writes a task with its inputs and outputs in one transaction and returns the ids.
    pub async fn task(&self, task: Task) -> Written {
        let mut contexts = self.contexts.clone();
        let mut custom_properties = Properties::new();
        let execution_type = match &self.kind {
            Kind::Tfx(pipeline) => {
                let node = format!("{pipeline}.{}", task.name);
                contexts.push(self.writer.context("node", &node, Properties::new()).await);
                task.execution_type.unwrap_or_else(|| format!("tfx.components.{}", task.name))
            }
            Kind::Kfp(namespace) => {
                custom_properties.insert("namespace".to_owned(), text(namespace));
                custom_properties.insert("display_name".to_owned(), text(&task.name));
                custom_properties.insert("task_name".to_owned(), text(&task.name));
                task.execution_type.unwrap_or_else(|| "system.ContainerExecution".to_owned())
            }
        };
        let type_id = Some(self.writer.execution_type(&execution_type).await);
        let mut execution = Execution { type_id, custom_properties, ..Execution::default() };
        execution.set_last_known_state(task.state);
        let mut pairs = Vec::new();
        for (direction, model) in task.models {
            let Model { artifact_type, mut artifact, key } = model;
            if artifact.id.is_none() {
                artifact.type_id = Some(self.writer.artifact_type(&artifact_type).await);
                if matches!(self.kind, Kind::Kfp(_)) {
                    artifact.custom_properties.entry("display_name".to_owned()).or_insert_with(|| text(&key));
                }
            }
            let index = pairs.iter().filter(|pair: &&Pair| pair.key == key && pair.direction == direction).count();
            let index = i64::try_from(index).expect("few artifacts");
            pairs.push(Pair { artifact, direction, key, index });
        }
        self.writer.execution(execution, pairs, &contexts).await
    }
}
