//! Whole runs in ML Metadata, as TFX (on Kubeflow Pipelines v1) and Kubeflow Pipelines v2 write them.

use super::{
    Writer,
    metadata_writer::{
        Pair, Properties, Written, int,
        proto::{Artifact, Context, Execution, artifact, event::Type, execution},
        text,
    },
};

/// How many runs are written in one transaction.
const AT_ONCE: usize = 500;

/// An artifact that a task puts out, or (`existing`) reads.
#[derive(Clone, Debug)]
pub struct Model {
    artifact_type: String,
    artifact: Artifact,
    key: String,
}

impl Model {
    /// A live artifact of this type at this URI; empty: without a URI.
    pub fn new(artifact_type: &str, key: &str, uri: &str) -> Self {
        let uri = (!uri.is_empty()).then(|| uri.to_owned());
        let mut artifact = Artifact { uri, ..Artifact::default() };
        artifact.set_state(artifact::State::Live);
        Self { artifact_type: artifact_type.to_owned(), artifact, key: key.to_owned() }
    }

    /// What the Pusher of TFX puts out when it has pushed.
    pub fn pushed(uri: &str) -> Self {
        Self::new("PushedModel", "pushed_model", uri).number("pushed", 1)
    }

    /// What the Pusher of TFX records for a model that was not blessed.
    pub fn unblessed(uri: &str) -> Self {
        Self::new("PushedModel", "pushed_model", uri).number("pushed", 0)
    }

    /// One that is there already, by its id.
    pub fn existing(id: i64, key: &str) -> Self {
        let mut model = Self::new("", key, "");
        model.artifact.id = Some(id);
        model
    }

    /// With the artifact's own name.
    pub fn named(mut self, name: &str) -> Self {
        self.artifact.name = Some(name.to_owned());
        self
    }

    /// With a custom property that is text (`name` is what TFX wrote until 1.10).
    pub fn text(mut self, property: &str, value: &str) -> Self {
        self.artifact.custom_properties.insert(property.to_owned(), text(value));
        self
    }

    /// With a custom property that is a whole number.
    pub fn number(mut self, property: &str, value: i64) -> Self {
        self.artifact.custom_properties.insert(property.to_owned(), int(value));
        self
    }
}

/// A task of a run, with what it reads and puts out.
#[derive(Clone, Debug)]
pub struct Task {
    name: String,
    execution_type: Option<String>,
    state: execution::State,
    models: Vec<(Type, Model)>,
}

impl Task {
    /// A task of this name that has completed.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), execution_type: None, state: execution::State::Complete, models: Vec::new() }
    }

    /// TFX's Pusher, which has pushed a model to this URI.
    pub fn pusher(uri: &str) -> Self {
        Self::new("Pusher").output(Model::pushed(uri))
    }

    /// Puts this out.
    pub fn output(self, model: Model) -> Self {
        self.event(Type::Output, model)
    }

    /// Reads this.
    pub fn input(self, model: Model) -> Self {
        self.event(Type::Input, model)
    }

    /// Has to do with this in another way.
    pub fn event(mut self, direction: Type, model: Model) -> Self {
        self.models.push((direction, model));
        self
    }

    /// As an execution of another type: an importer is one.
    pub fn executed_as(mut self, execution_type: &str) -> Self {
        self.execution_type = Some(execution_type.to_owned());
        self
    }

    /// In another state than COMPLETE: a cached task of Kubeflow Pipelines v2 is CACHED.
    pub fn state(mut self, state: execution::State) -> Self {
        self.state = state;
        self
    }
}

/// A run's contexts, ready to take tasks.
#[derive(Clone, Debug)]
pub struct Run {
    writer: Writer,
    kind: Kind,
    /// The id of the context that is the run itself.
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
    /// A run of TFX on Kubeflow Pipelines v1: the context `pipeline_run` is named like the Workflow.
    pub async fn tfx_run(&self, pipeline: &str, workflow: &str) -> Run {
        let parent = self.context("pipeline", pipeline, Properties::new()).await;
        let context = self.context("pipeline_run", workflow, Properties::new()).await;
        Run { writer: self.clone(), kind: Kind::Tfx(pipeline.to_owned()), context, contexts: vec![parent, context] }
    }

    /// A run of Kubeflow Pipelines v2: the context `system.PipelineRun` is named by the run's id, below the pipeline's.
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
    /// Many runs of TFX at once, each of which has pushed one model, named as TFX did until 1.10: much faster than one by
    /// one. `runs` are the names of the Workflows and where the models are.
    pub async fn tfx_runs(&self, pipeline: &str, runs: &[(String, String)]) {
        let run_type = Some(self.context_type("pipeline_run").await);
        let pusher = Some(self.execution_type("tfx.components.Pusher").await);
        let model_type = Some(self.artifact_type("PushedModel").await);
        let shared = [
            self.context("pipeline", pipeline, Properties::new()).await,
            self.context("node", &format!("{pipeline}.Pusher"), Properties::new()).await,
        ];
        for runs in runs.chunks(AT_ONCE) {
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

            let written = || executions.iter().zip(&artifacts);
            self.output_events("pushed_model", written()).await;
            let of_each = written()
                .zip(&contexts)
                .flat_map(|(ids, own)| [*own, shared[0], shared[1]].map(|context| (context, *ids.0, *ids.1)));
            self.attribute_all(of_each).await;
        }
    }
}

impl Run {
    /// Writes one task, all that it read and put out included, in one transaction; returns the ids.
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
