//! Runs that the builders of `sim` do not cover: with DAGs as Kubeflow Pipelines v2 writes them, and of the SDK of v1.

use std::collections::HashMap;

use super::Writer;
use crate::ml_metadata::{
    Artifact, Context, ContextType, Event, Execution, PropertyType, PutContextTypeRequest, Value, artifact,
    event::{Path, Type, path::Step, path::step},
    put_execution_request::ArtifactAndEvent,
    value::Value as AnyValue,
};

type Properties = HashMap<String, Value>;

fn text(text: &str) -> Value {
    Value { value: Some(AnyValue::StringValue(text.to_owned())) }
}

fn int(number: i64) -> Value {
    Value { value: Some(AnyValue::IntValue(number)) }
}

fn properties<const N: usize>(all: [(&str, Value); N]) -> Properties {
    all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The execution of a task of Kubeflow Pipelines v2 in a DAG; 0: none.
pub fn kfp_task(task: &str, dag: i64) -> Execution {
    let mut custom_properties = properties([("task_name", text(task)), ("display_name", text(task))]);
    if dag > 0 {
        custom_properties.insert("parent_dag_id".to_owned(), int(dag));
    }
    Execution { custom_properties, ..Execution::default() }
}

/// The output of an execution, with a path as Kubeflow Pipelines writes it: a key without an index.
#[derive(Debug)]
pub struct KfpOutput {
    artifact: Artifact,
    key: &'static str,
}

impl Writer {
    /// Writes a run's context as the root driver of Kubeflow Pipelines v2 does, with its parent. Returns its id.
    pub async fn put_kfp_v2(&self, pipeline: &str, run_id: &str, namespace: Option<&str>) -> i64 {
        let parent = Context { name: Some(pipeline.to_owned()), ..Context::default() };
        let parent = self.put_named("system.Pipeline", parent).await;
        self.put_kfp_v2_run(parent, run_id, namespace).await
    }

    /// Writes a run's context like [`Writer::put_kfp_v2`], for a pipeline whose context exists.
    pub async fn put_kfp_v2_run(&self, parent: i64, run_id: &str, namespace: Option<&str>) -> i64 {
        let custom_properties = namespace.map(|namespace| properties([("namespace", text(namespace))]));
        let custom_properties = custom_properties.unwrap_or_default();
        let run = self
            .put_named(
                "system.PipelineRun",
                Context { name: Some(run_id.to_owned()), custom_properties, ..Context::default() },
            )
            .await;
        self.put_parent(run, parent).await;
        run
    }

    async fn put_named(&self, context_type: &str, context: Context) -> i64 {
        let type_id = Some(self.context_type(context_type).await);
        self.put_contexts(vec![Context { type_id, ..context }]).await[0]
    }

    /// Writes an execution into a context, with its outputs. Returns its id.
    pub async fn put_kfp_execution(
        &self,
        context: i64,
        type_name: &str,
        execution: Execution,
        outputs: impl IntoIterator<Item = KfpOutput>,
    ) -> i64 {
        let type_id = Some(self.execution_type(type_name).await);
        let pairs = outputs.into_iter().map(|output| {
            let steps = vec![Step { value: Some(step::Value::Key(output.key.to_owned())) }];
            let mut event = Event { path: Some(Path { steps }), ..Event::default() };
            event.set_type(Type::Output);
            ArtifactAndEvent { artifact: Some(output.artifact), event: Some(event) }
        });
        self.put_execution(Execution { type_id, ..execution }, pairs.collect(), &[context]).await.execution
    }

    /// Writes a task of Kubeflow Pipelines v2 in a DAG; 0: none. Returns its execution.
    pub async fn put_kfp_task(
        &self,
        run: i64,
        task: &str,
        dag: i64,
        outputs: impl IntoIterator<Item = KfpOutput>,
    ) -> i64 {
        self.put_kfp_execution(run, "system.ContainerExecution", kfp_task(task, dag), outputs).await
    }

    /// Writes a DAG of Kubeflow Pipelines v2: the run's own without a parent, or an iteration of a loop. Returns its
    /// execution.
    pub async fn put_kfp_dag(&self, run: i64, task: &str, parent: i64, iteration: Option<i64>) -> i64 {
        let mut execution = kfp_task(task, parent);
        execution.custom_properties.extend(iteration.map(|index| ("iteration_index".to_owned(), int(index))));
        self.put_kfp_execution(run, "system.DAGExecution", execution, []).await
    }

    /// Returns a new model that was pushed, as the output `model`.
    pub async fn kfp_model(&self, uri: &str) -> KfpOutput {
        let artifact = Artifact {
            type_id: Some(self.artifact_type("system.Model").await),
            uri: Some(uri.to_owned()),
            state: Some(artifact::State::Live.into()),
            custom_properties: properties([("pushed", int(1)), ("display_name", text("model"))]),
            ..Artifact::default()
        };
        KfpOutput { artifact, key: "model" }
    }

    /// Writes the context of a run of the SDK of Kubeflow Pipelines v1, as its metadata-writer does. Returns its id.
    pub async fn put_kfp_v1(&self, workflow: &str) -> i64 {
        let declared = ["pipeline_name", "run_id"].map(|name| (name.to_owned(), PropertyType::String.into()));
        let context_type =
            ContextType { name: Some("KfpRun".to_owned()), properties: declared.into(), ..ContextType::default() };
        let request = PutContextTypeRequest { context_type: Some(context_type) };
        let written = self.client.clone().put_context_type(request).await.expect("PutContextType");
        let context = Context {
            type_id: Some(written.into_inner().type_id()),
            name: Some(workflow.to_owned()),
            properties: properties([("pipeline_name", text(workflow)), ("run_id", text(workflow))]),
            ..Context::default()
        };
        self.put_contexts(vec![context]).await[0]
    }

    /// Writes the execution of a Pod of such a run, with its output `model` in the object store.
    pub async fn put_kfp_pod(&self, run: i64, pod: &str, uri: Option<&str>) {
        let execution =
            Execution { custom_properties: properties([("kfp_pod_name", text(pod))]), ..Execution::default() };
        let mut outputs = Vec::new();
        if let Some(uri) = uri {
            let artifact = Artifact {
                type_id: Some(self.artifact_type("Model").await),
                uri: Some(uri.to_owned()),
                custom_properties: properties([("name", text("model")), ("run_id", text("run-x"))]),
                ..Artifact::default()
            };
            outputs.push(KfpOutput { artifact, key: "model" });
        }
        self.put_kfp_execution(run, "components.Push model@sha256=0e1f", execution, outputs).await;
    }
}
