//! Runs in ML Metadata, as TFX (on Kubeflow Pipelines v1) and Kubeflow Pipelines v2 write them.

use model_update_eventsource::sim::{Model, Run, RunContext, Task, TaskEvent, Written};
use serde_json::Value as Json;

use super::Writer;
use crate::ml_metadata::{
    Artifact, Context, Event, Execution, Value, artifact,
    event::{Path, path::Step, path::step},
    put_execution_request::ArtifactAndEvent,
    value::Value as AnyValue,
};

/// Number of runs that are written in one transaction.
const BATCH: usize = 500;

/// The contexts of a run, to which tasks are added.
#[derive(Clone, Debug)]
pub struct StoredRun {
    writer: Writer,
    run: Run,
    /// The id of the run's own context.
    pub context: i64,
    pipeline: i64,
}

impl StoredRun {
    /// Writes a task with its artifacts and events in one transaction.
    pub async fn task(&self, task: Task) -> Written {
        let mut contexts = vec![self.context, self.pipeline];
        if let Some(node) = self.run.node_context(&task) {
            contexts.push(self.writer.put_context(node).await);
        }
        let execution_type = self.writer.execution_type(&self.run.execution(&task).0).await;
        let mut pairs = Vec::new();
        for event in &task.events {
            pairs.push(self.pair(event).await);
        }
        self.writer.put_execution(execution(&self.run, &task, execution_type), pairs, &contexts).await
    }

    async fn pair(&self, task_event: &TaskEvent) -> ArtifactAndEvent {
        let model = &task_event.model;
        let artifact = match model.existing {
            // The event contains the id. An artifact in the request would overwrite the stored properties.
            Some(_) => None,
            None => Some(artifact(&self.run, model, self.writer.artifact_type(&model.artifact_type).await)),
        };
        ArtifactAndEvent { artifact, event: Some(event(task_event)) }
    }
}

impl Writer {
    /// Writes the contexts of a run, unless they exist.
    pub async fn put_run(&self, run: &Run) -> StoredRun {
        let [own, pipeline] = run.contexts();
        // ML Metadata refuses to add a parent twice.
        let needs_parent = run.has_parent() && self.find_context(own.context_type, &own.name).await.is_none();
        let (context, pipeline) = (self.put_context(own).await, self.put_context(pipeline).await);
        if needs_parent {
            self.put_parent(context, pipeline).await;
        }
        StoredRun { writer: self.clone(), run: run.clone(), context, pipeline }
    }

    /// Writes a task of a run, and the run's contexts, unless they exist.
    pub async fn put_task(&self, run: &Run, task: Task) -> Written {
        self.put_run(run).await.task(task).await
    }

    /// Writes the contexts of [`Run::tfx_v1`].
    pub async fn tfx_run(&self, pipeline: &str, workflow: &str) -> StoredRun {
        self.put_run(&Run::tfx_v1(pipeline, workflow)).await
    }

    /// Writes the contexts of [`Run::kfp_v2`].
    pub async fn kfp_run(&self, pipeline: &str, run_id: &str, namespace: &str) -> StoredRun {
        self.put_run(&Run::kfp_v2(pipeline, run_id, namespace)).await
    }

    /// Writes new TFX runs, each with one pushed model, in batches: much faster than one by one. The models have the
    /// names that TFX wrote before 1.11. `runs` are the names of the Workflows and the locations of the models.
    pub async fn tfx_runs(&self, pipeline: &str, runs: &[(String, String)]) {
        let runs: Vec<_> = runs
            .iter()
            .map(|(name, uri)| {
                let model = Model::pushed(uri).property("name", format!("{pipeline}:{name}:Pusher:pushed_model:0"));
                (Run::tfx_v1(pipeline, name), Task::new("Pusher").output(model))
            })
            .collect();
        let Some((run, task)) = runs.first() else { return };
        let [own, parent] = run.contexts();
        let run_type = self.context_type(own.context_type).await;
        let execution_type = self.execution_type(&run.execution(task).0).await;
        let model_type = self.artifact_type(&task.events[0].model.artifact_type).await;
        let node = run.node_context(task).expect("a run of TFX");
        let shared = [self.put_context(parent).await, self.put_context(node).await];
        for runs in runs.chunks(BATCH) {
            let contexts = runs.iter().map(|(run, _)| context(run.contexts()[0].clone(), run_type));
            let contexts = self.put_contexts(contexts.collect()).await;
            let executions = runs.iter().map(|(run, task)| execution(run, task, execution_type));
            let executions = self.put_executions(executions.collect()).await;
            let artifacts = runs.iter().map(|(run, task)| artifact(run, &task.events[0].model, model_type));
            let artifacts = self.put_artifacts(artifacts.collect()).await;
            let events = runs.iter().zip(&executions).zip(&artifacts).map(|(((_, task), &execution), &artifact)| {
                Event { execution_id: Some(execution), artifact_id: Some(artifact), ..event(&task.events[0]) }
            });
            self.put_events(events.collect()).await;

            let written = executions.into_iter().zip(artifacts);
            let written: Vec<_> =
                written.map(|(execution, artifact)| Written { execution, artifacts: vec![artifact] }).collect();
            let in_contexts = written
                .iter()
                .zip(contexts)
                .flat_map(|(written, run)| [run, shared[0], shared[1]].map(|context| (context, written)));
            self.add_to_contexts(in_contexts).await;
        }
    }
}

pub(super) fn context(context: RunContext, type_id: i64) -> Context {
    Context {
        type_id: Some(type_id),
        name: Some(context.name),
        custom_properties: properties(&context.properties),
        ..Context::default()
    }
}

fn execution(run: &Run, task: &Task, type_id: i64) -> Execution {
    Execution {
        type_id: Some(type_id),
        last_known_state: Some(task.state),
        custom_properties: properties(&run.execution(task).1),
        ..Execution::default()
    }
}

fn artifact(run: &Run, model: &Model, type_id: i64) -> Artifact {
    Artifact {
        type_id: Some(type_id),
        uri: Some(model.uri.clone()).filter(|uri| !uri.is_empty()),
        name: model.name.clone(),
        custom_properties: properties(&run.artifact_properties(model)),
        state: Some(artifact::State::Live.into()),
        ..Artifact::default()
    }
}

/// Returns the event without an execution. Its artifact is an existing one, or that of the same request.
fn event(event: &TaskEvent) -> Event {
    let steps = [step::Value::Key(event.model.key.clone()), step::Value::Index(event.index)];
    Event {
        artifact_id: event.model.existing,
        path: Some(Path { steps: steps.map(|value| Step { value: Some(value) }).into() }),
        r#type: Some(event.event_type),
        ..Event::default()
    }
}

/// Returns the strings and integers of a JSON object.
fn properties(properties: &Json) -> std::collections::HashMap<String, Value> {
    let value = |value: &Json| match value.as_i64() {
        Some(number) => AnyValue::IntValue(number),
        None => AnyValue::StringValue(value.as_str().expect("a string or an integer").to_owned()),
    };
    let properties = properties.as_object().expect("an object").iter();
    properties.map(|(key, property)| (key.clone(), Value { value: Some(value(property)) })).collect()
}
