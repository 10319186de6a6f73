//! The contexts, executions, artifacts and events: a small ML Metadata. Synchronous, without I/O.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::super::{
    proto::{
        self, Artifact, Context, Event, Execution, artifact,
        event::{Path, Type, path::Step, path::step},
    },
    runs::{Model, Run, RunKind, Task, Written},
};

const COMPLETE: i32 = 3;
const CACHED: i32 = 5;

/// All that is stored. Ids grow, so that order by id is the order of creation.
#[derive(Debug, Default)]
pub(super) struct Store {
    types: BTreeMap<(TypeKind, String), i64>,
    pub(super) contexts: BTreeMap<i64, Context>,
    pub(super) executions: BTreeMap<i64, Execution>,
    pub(super) artifacts: BTreeMap<i64, Artifact>,
    pub(super) events: Vec<Event>,
    /// By context.
    pub(super) attributions: BTreeMap<i64, BTreeSet<i64>>,
    /// By context.
    pub(super) associations: BTreeMap<i64, BTreeSet<i64>>,
    /// By child.
    pub(super) parents: BTreeMap<i64, BTreeSet<i64>>,
    last_id: BTreeMap<&'static str, i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TypeKind {
    Artifact,
    Execution,
    Context,
}

impl Store {
    /// The id of a type of artifacts, if there have been any.
    pub(super) fn artifact_type(&self, name: &str) -> Option<i64> {
        self.types.get(&(TypeKind::Artifact, name.to_owned())).copied()
    }

    pub(super) fn context(&self, type_name: &str, name: &str) -> Option<&Context> {
        self.contexts.values().find(|context| context.r#type() == type_name && context.name() == name)
    }

    /// A run of TFX on Kubeflow Pipelines v1: the context `pipeline_run` is named like the Workflow.
    pub(super) fn tfx_run(&mut self, pipeline: &str, workflow: &str) -> Run {
        let parent = self.put_context("pipeline", pipeline, &[]);
        let context = self.put_context("pipeline_run", workflow, &[]);
        Run { context, pipeline: parent, kind: RunKind::Tfx(pipeline.to_owned()) }
    }

    /// A run of Kubeflow Pipelines v2: the context `system.PipelineRun` is named by the run's id, below the pipeline's.
    pub(super) fn kfp_run(&mut self, pipeline: &str, run_id: &str, namespace: &str) -> Run {
        let parent = self.put_context("system.Pipeline", pipeline, &[]);
        let properties = [("namespace", namespace), ("pipeline_root", "gs://root"), ("resource_name", "run-resource")];
        let context = self.put_context("system.PipelineRun", run_id, &properties);
        self.parents.entry(context).or_default().insert(parent);
        Run { context, pipeline: parent, kind: RunKind::Kfp(namespace.to_owned()) }
    }

    /// Writes a task, and attributes all that it read and put out to its run: inputs too, as the real clients do.
    pub(super) fn task(&mut self, run: &Run, task: Task) -> Written {
        // KFP v2 associates tasks with their pipeline as well as with their run, and TFX also with its node.
        let mut contexts = vec![run.pipeline, run.context];
        let (type_name, custom_properties) = match &run.kind {
            RunKind::Tfx(pipeline) => {
                contexts.push(self.put_context("node", &format!("{pipeline}.{}", task.name), &[]));
                (format!("tfx.components.{}", task.name), Vec::new())
            }
            RunKind::Kfp(namespace) => {
                let name = task.name.as_str();
                let properties = vec![("namespace", namespace.as_str()), ("display_name", name), ("task_name", name)];
                ("system.ContainerExecution".to_owned(), properties)
            }
        };
        let execution = self.next_id("execution");
        let state = if task.cached { CACHED } else { COMPLETE };
        let row = Execution {
            id: Some(execution),
            type_id: Some(self.type_id(TypeKind::Execution, &type_name)),
            r#type: Some(type_name),
            last_known_state: Some(state),
            custom_properties: texts(custom_properties),
            create_time_since_epoch: Some(Timestamp::now().as_millisecond()),
            ..Execution::default()
        };
        self.executions.insert(execution, row);

        let mut artifacts = Vec::new();
        for (direction, models) in [(Type::Input, task.inputs), (Type::Output, task.outputs)] {
            let mut places: BTreeMap<String, i64> = BTreeMap::new();
            for model in models {
                let key = model.key.clone();
                let artifact = self.put_artifact(model, matches!(run.kind, RunKind::Kfp(_)));
                let place = places.entry(key.clone()).or_default();
                let steps = [step::Value::Key(key), step::Value::Index(*place)];
                *place += 1;
                self.events.push(Event {
                    artifact_id: Some(artifact),
                    execution_id: Some(execution),
                    path: Some(Path { steps: steps.map(|value| Step { value: Some(value) }).into() }),
                    r#type: Some(direction.into()),
                });
                artifacts.push(artifact);
            }
        }
        for context in contexts {
            self.associations.entry(context).or_default().insert(execution);
            self.attributions.entry(context).or_default().extend(&artifacts);
        }
        Written { execution, artifacts }
    }

    /// Takes a run out, with its executions and what they put out. The real store never forgets; a demo that goes on for
    /// ever has to.
    pub(super) fn forget(&mut self, run: &Run) {
        let executions = self.associations.remove(&run.context).unwrap_or_default();
        self.attributions.remove(&run.context);
        self.contexts.remove(&run.context);
        self.parents.remove(&run.context);
        let mut artifacts = BTreeSet::new();
        self.events.retain(|event| {
            let forgotten = executions.contains(&event.execution_id());
            if forgotten && event.r#type() == Type::Output {
                artifacts.insert(event.artifact_id());
            }
            !forgotten
        });
        // What another run has read, or taken from a cache, stays.
        for event in &self.events {
            artifacts.remove(&event.artifact_id());
        }
        self.executions.retain(|id, _| !executions.contains(id));
        self.artifacts.retain(|id, _| !artifacts.contains(id));
        for members in self.associations.values_mut() {
            members.retain(|id| !executions.contains(id));
        }
        for members in self.attributions.values_mut() {
            members.retain(|id| !artifacts.contains(id));
        }
    }

    /// The id of the context of this type and name, which is made where it is not there.
    fn put_context(&mut self, type_name: &str, name: &str, properties: &[(&str, &str)]) -> i64 {
        if let Some(context) = self.context(type_name, name) {
            return context.id();
        }
        let id = self.next_id("context");
        let context = Context {
            id: Some(id),
            type_id: Some(self.type_id(TypeKind::Context, type_name)),
            r#type: Some(type_name.to_owned()),
            name: Some(name.to_owned()),
            custom_properties: texts(properties.iter().copied()),
            create_time_since_epoch: Some(Timestamp::now().as_millisecond()),
            ..Context::default()
        };
        self.contexts.insert(id, context);
        id
    }

    fn put_artifact(&mut self, model: Model, display_name: bool) -> i64 {
        if let Some(id) = model.existing {
            return id;
        }
        let id = self.next_id("artifact");
        let mut custom_properties = texts(model.texts.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let number = |value| proto::Value { value: Some(proto::value::Value::IntValue(value)) };
        custom_properties.extend(model.numbers.into_iter().map(|(key, value)| (key, number(value))));
        if display_name {
            custom_properties.entry("display_name".to_owned()).or_insert_with(|| text(&model.key));
        }
        let artifact = Artifact {
            id: Some(id),
            type_id: Some(self.type_id(TypeKind::Artifact, &model.artifact_type)),
            r#type: Some(model.artifact_type),
            // Empty where there is none.
            uri: Some(model.uri),
            name: model.name,
            custom_properties,
            state: Some(artifact::State::Live.into()),
            ..Artifact::default()
        };
        self.artifacts.insert(id, artifact);
        id
    }

    fn type_id(&mut self, kind: TypeKind, name: &str) -> i64 {
        let next = 10 + i64::try_from(self.types.len()).unwrap_or_default();
        *self.types.entry((kind, name.to_owned())).or_insert(next)
    }

    fn next_id(&mut self, of: &'static str) -> i64 {
        let last = self.last_id.entry(of).or_default();
        *last += 1;
        *last
    }
}

type Properties = std::collections::HashMap<String, proto::Value>;

fn text(value: &str) -> proto::Value {
    proto::Value { value: Some(proto::value::Value::StringValue(value.to_owned())) }
}

fn texts<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Properties {
    entries.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect()
}
