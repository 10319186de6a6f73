//! Storing a run in either source.

use std::{collections::HashMap, time::Duration};

use test_support::{
    KfpArtifact, KfpRun, KfpServer, KfpTask, MetadataStore, TaskKind, TaskState, Writer, kfp_task,
    ml_metadata::{
        Artifact, Event, Value, artifact,
        event::{Path, Type, path::Step, path::step},
        execution::State,
        put_execution_request::ArtifactAndEvent,
        value::Value as AnyValue,
    },
};

pub(crate) fn store_in_kfp(server: &KfpServer, runs: &[(KfpRun, Vec<KfpTask>)]) {
    for (run, tasks) in runs {
        server.put_run(run);
        for task in tasks {
            server.put_task(&run.id, task.clone());
        }
    }
}

/// Stores runs in ML Metadata, as Kubeflow Pipelines 2 records them.
pub(crate) struct MlmdStore {
    pub(crate) store: MetadataStore,
    pub(crate) writer: Writer,
    /// The ids of artifacts that others refer to.
    artifacts: HashMap<String, i64>,
}

impl MlmdStore {
    pub(crate) async fn new(store: MetadataStore) -> Self {
        Self { writer: store.writer().await, store, artifacts: HashMap::new() }
    }

    pub(crate) async fn store(&mut self, runs: &[(KfpRun, Vec<KfpTask>)]) {
        for (run, tasks) in runs {
            let pipeline = run.pipeline.as_deref().expect("a name");
            // Each with a pipeline of its own: ML Metadata refuses to create one twice.
            let known = self.writer.find_context("system.Pipeline", pipeline).await;
            let context = match known {
                None => self.writer.put_kfp_v2(pipeline, &run.id, Some(&run.namespace)).await,
                Some(parent) => self.writer.put_kfp_v2_run(parent, &run.id, Some(&run.namespace)).await,
            };
            let root = self.writer.put_kfp_dag(context, "", 0, None).await;
            // Executions by the ids of tasks, and those of iterations.
            let (mut executions, mut iterations) = (HashMap::new(), HashMap::new());
            for task in tasks {
                let mut parent = task.parent.as_ref().map_or(root, |parent| executions[parent]);
                if let (Some(index), Some(id)) = (task.iteration, &task.parent) {
                    let name = &tasks.iter().find(|other| other.id == *id).expect("the loop").name;
                    parent = match iterations.get(&(parent, index)) {
                        Some(known) => *known,
                        None => {
                            let dag = self.writer.put_kfp_dag(context, name, parent, Some(index)).await;
                            iterations.insert((parent, index), dag);
                            dag
                        }
                    };
                }
                let execution = self.task(context, parent, task).await;
                executions.insert(task.id.clone(), execution);
            }
        }
    }

    async fn task(&mut self, context: i64, parent: i64, task: &KfpTask) -> i64 {
        let type_name = match task.kind {
            TaskKind::Runtime => "system.ContainerExecution",
            TaskKind::Importer => "system.ImporterExecution",
            _ => "system.DAGExecution",
        };
        let mut execution = kfp_task(&task.name, parent);
        execution.type_id = Some(self.writer.execution_type(type_name).await);
        execution.set_last_known_state(if task.state == TaskState::Cached { State::Cached } else { State::Complete });
        let mut pairs = Vec::new();
        for (artifacts, kind) in [(&task.inputs, Type::Input), (&task.outputs, Type::Output)] {
            for artifact in artifacts {
                pairs.push(self.pair(artifact, kind).await);
            }
        }
        let written = self.writer.put_execution(execution, pairs, &[context]).await;
        for (artifact, id) in task.inputs.iter().chain(&task.outputs).zip(&written.artifacts) {
            self.artifacts.insert(artifact.id.clone(), *id);
        }
        if task.age > 0 {
            self.store.backdate(written.execution, Duration::from_secs(task.age.unsigned_abs()));
        }
        written.execution
    }

    async fn pair(&self, artifact: &KfpArtifact, kind: Type) -> ArtifactAndEvent {
        let steps = vec![Step { value: Some(step::Value::Key(artifact.key.clone())) }];
        let mut event = Event { path: Some(Path { steps }), ..Event::default() };
        event.set_type(kind);
        if let Some(existing) = &artifact.existing {
            event.artifact_id = Some(self.artifacts[existing]);
            return ArtifactAndEvent { artifact: None, event: Some(event) };
        }
        let metadata = artifact.metadata.as_object().into_iter().flatten();
        let mut properties: HashMap<String, Value> = metadata
            .map(|(key, json)| {
                let value = match json.as_i64() {
                    Some(number) => AnyValue::IntValue(number),
                    None => AnyValue::StringValue(json.as_str().expect("a text").to_owned()),
                };
                (key.clone(), Value { value: Some(value) })
            })
            .collect();
        let key = Value { value: Some(AnyValue::StringValue(artifact.key.clone())) };
        properties.insert("display_name".to_owned(), key);
        let artifact = Artifact {
            type_id: Some(self.writer.artifact_type(&artifact.title).await),
            uri: Some(artifact.uri.clone()),
            state: Some(artifact::State::Live.into()),
            custom_properties: properties,
            ..Artifact::default()
        };
        ArtifactAndEvent { artifact: Some(artifact), event: Some(event) }
    }
}
