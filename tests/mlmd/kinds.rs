//! Kinds of runs beside the plain ones: retried, resubmitted, with loops and repeated tasks, and of the SDK of KFP v1.

use std::collections::HashMap;

use test_support::ml_metadata::{
    Association, Attribution, Context, ContextType, Event, Execution, ParentContext, PropertyType,
    PutAttributionsAndAssociationsRequest, PutContextTypeRequest, PutContextsRequest, PutExecutionRequest,
    PutParentContextsRequest, Value,
    event::{Path, path::Step, path::step},
    put_execution_request::ArtifactAndEvent,
    value::Value as AnyValue,
};

use super::*;

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
fn task_execution(task: &str, dag: i64) -> Execution {
    let mut custom_properties = properties([("task_name", text(task)), ("display_name", text(task))]);
    if dag > 0 {
        custom_properties.insert("parent_dag_id".to_owned(), int(dag));
    }
    Execution { custom_properties, ..Execution::default() }
}

/// The output of an execution, with a path as Kubeflow Pipelines writes it: a key without an index.
struct Output {
    artifact: Artifact,
    key: &'static str,
}

impl Harness {
    async fn put_context(&self, type_id: i64, context: Context) -> i64 {
        let request = PutContextsRequest { contexts: vec![Context { type_id: Some(type_id), ..context }] };
        self.writer.client.clone().put_contexts(request).await.expect("PutContexts").into_inner().context_ids[0]
    }

    /// Writes a run's context as the root driver of Kubeflow Pipelines v2 does, with its parent.
    async fn put_kfp_v2(&self, pipeline: &str, namespace: Option<&str>) -> i64 {
        let named = |name: &str| Context { name: Some(name.to_owned()), ..Context::default() };
        let parent = self.put_context(self.writer.context_type("system.Pipeline").await, named(pipeline)).await;
        let custom_properties = namespace.map(|namespace| properties([("namespace", text(namespace))]));
        let custom_properties = custom_properties.unwrap_or_default();
        let run_type = self.writer.context_type("system.PipelineRun").await;
        let run = self.put_context(run_type, Context { custom_properties, ..named(RUN_ID) }).await;
        let link = ParentContext { child_id: Some(run), parent_id: Some(parent) };
        let request = PutParentContextsRequest { parent_contexts: vec![link] };
        self.writer.client.clone().put_parent_contexts(request).await.expect("PutParentContexts");
        run
    }

    /// Writes an execution into a context, with its outputs. Returns its id.
    async fn put_execution(
        &self,
        context: i64,
        type_name: &str,
        execution: Execution,
        outputs: impl IntoIterator<Item = Output>,
    ) -> i64 {
        let type_id = Some(self.writer.execution_type(type_name).await);
        let pairs = outputs.into_iter().map(|output| {
            let steps = vec![Step { value: Some(step::Value::Key(output.key.to_owned())) }];
            let mut event = Event { path: Some(Path { steps }), ..Event::default() };
            event.set_type(Type::Output);
            // An artifact that exists is named by the event alone.
            event.artifact_id = output.artifact.id;
            let artifact = Some(output.artifact).filter(|artifact| artifact.id.is_none());
            ArtifactAndEvent { artifact, event: Some(event) }
        });
        let request = PutExecutionRequest {
            execution: Some(Execution { type_id, ..execution }),
            artifact_event_pairs: pairs.collect(),
            ..PutExecutionRequest::default()
        };
        let mut client = self.writer.client.clone();
        let written = client.put_execution(request).await.expect("PutExecution").into_inner();
        let context_id = Some(context);
        let attribution = |&artifact: &i64| Attribution { artifact_id: Some(artifact), context_id };
        let request = PutAttributionsAndAssociationsRequest {
            attributions: written.artifact_ids.iter().map(attribution).collect(),
            associations: vec![Association { execution_id: written.execution_id, context_id }],
        };
        client.put_attributions_and_associations(request).await.expect("PutAttributionsAndAssociations");
        written.execution_id()
    }

    /// Writes a task of Kubeflow Pipelines v2 in a DAG; 0: none.
    async fn put_task(&self, run: i64, task: &str, dag: i64, outputs: impl IntoIterator<Item = Output>) -> i64 {
        self.put_execution(run, "system.ContainerExecution", task_execution(task, dag), outputs).await
    }

    /// Writes a DAG of Kubeflow Pipelines v2: the run's own without a parent, or an iteration of a loop.
    async fn put_dag(&self, run: i64, task: &str, parent: i64, iteration: Option<i64>) -> i64 {
        let mut execution = task_execution(task, parent);
        execution.custom_properties.extend(iteration.map(|index| ("iteration_index".to_owned(), int(index))));
        self.put_execution(run, "system.DAGExecution", execution, []).await
    }

    /// A new model that was pushed, as the output `model`.
    async fn model(&self, uri: &str) -> Output {
        let artifact = Artifact {
            type_id: Some(self.writer.artifact_type("system.Model").await),
            uri: Some(uri.to_owned()),
            state: Some(artifact::State::Live.into()),
            custom_properties: properties([("pushed", int(1)), ("display_name", text("model"))]),
            ..Artifact::default()
        };
        Output { artifact, key: "model" }
    }
}

/// Kubeflow's Retry created the deleted Workflow again. What had succeeded was not executed again.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_kfp_v2_run_retried_after_its_deletion_has_its_model() {
    let harness = Harness::start().await;
    let run = harness.put_kfp_v2("taxi", Some("team-a")).await;
    let root = harness.put_dag(run, "", 0, None).await;
    let pushed = harness.put_task(run, "push", root, [harness.model("gs://root/1").await]).await;
    for execution in [root, pushed] {
        harness.store.backdate(execution, LONG_AGO);
    }
    harness.put_task(run, "notify", root, []).await;
    let found = harness.find(&kfp_v2()).await.expect("models");
    assert_models(&kfp_v2(), &found, &[("taxi:taxi-x7k2p:push:model:0", "gs://root/1")]);
    assert_eq!(found.foreign_executions, 0);
}

/// Older versions of Kubeflow Pipelines write no namespace, and v1 never does: there, the age decides.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn without_a_namespace_an_old_execution_is_foreign() {
    let harness = Harness::start().await;
    let run = harness.put_kfp_v2("taxi", None).await;
    let old = harness.put_task(run, "push", 0, [harness.model("gs://root/old").await]).await;
    harness.store.backdate(old, LONG_AGO);
    let only_old = RunModels { foreign_executions: 1, ..RunModels::default() };
    assert_eq!(harness.find(&kfp_v2()).await, Ok(Arc::new(only_old)));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_resubmitted_run_has_only_the_new_model() {
    let harness = Harness::start().await;
    let run = harness.put_kfp_v2("taxi", Some("team-a")).await;
    let root = harness.put_dag(run, "", 0, None).await;
    let old = harness.put_task(run, "push", root, [harness.model("gs://root/old").await]).await;
    for execution in [root, old] {
        harness.store.backdate(execution, Duration::from_secs(60));
    }
    // Newer versions of Kubeflow Pipelines use the run's DAG again.
    harness.put_task(run, "push", root, [harness.model("gs://root/new").await]).await;
    let resubmitted = Workflow { resubmitted: true, ..kfp_v2() };
    assert_eq!(harness.locations(&resubmitted).await, ["gs://root/new"]);
    assert_eq!(harness.find(&resubmitted).await.expect("models").foreign_executions, 2);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_tfx_component_that_ran_again_has_its_last_model() {
    let harness = Harness::start().await;
    let run = harness.writer.tfx_run("penguin", "run-x").await;
    run.task(Task::pusher("gs://root/Pusher/pushed_model/7")).await;
    run.task(Task::new("Evaluator").output(Model::new("ModelEvaluation", "evaluation", "gs://root/8"))).await;
    run.task(Task::pusher("gs://root/Pusher/pushed_model/9")).await;
    let compiled = compiled("run-x");
    let found = harness.find(&compiled).await.expect("models");
    assert_models(&compiled, &found, &[("penguin:run-x:Pusher:pushed_model:0", "gs://root/Pusher/pushed_model/9")]);
    // Another node of the same component.
    let eu = Task::new("Pusher.eu").executed_as("tfx.components.Pusher").output(Model::pushed("gs://eu/10"));
    run.task(eu).await;
    harness.mlmd.forget(compiled.uid);
    assert_eq!(harness.locations(&compiled).await, ["gs://root/Pusher/pushed_model/9", "gs://eu/10"]);
    run.task(Task::new("Pusher").output(Model::unblessed("gs://root/Pusher/pushed_model/11"))).await;
    harness.mlmd.forget(compiled.uid);
    assert_eq!(harness.locations(&compiled).await, ["gs://eu/10"], "the last one was not pushed");
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_kfp_v2_task_that_ran_again_has_its_last_model() {
    let harness = Harness::start().await;
    let run = harness.put_kfp_v2("taxi", Some("team-a")).await;
    let root = harness.put_dag(run, "", 0, None).await;
    harness.put_task(run, "push", root, [harness.model("gs://root/7").await]).await;
    let sub = harness.put_dag(run, "sub-pipeline", root, None).await;
    harness.put_task(run, "push", sub, [harness.model("gs://root/8").await]).await;
    let last = harness.put_task(run, "push", root, [harness.model("gs://root/9").await]).await;
    let workflow = kfp_v2();
    let found = harness.find(&workflow).await.expect("models");
    let expected =
        [("taxi:taxi-x7k2p:sub-pipeline/push:model:0", "gs://root/8"), ("taxi:taxi-x7k2p:push:model:0", "gs://root/9")];
    assert_models(&workflow, &found, &expected);
    // The Pod was restarted within its execution.
    let execution = Execution { id: Some(last), ..task_execution("push", root) };
    harness.put_execution(run, "system.ContainerExecution", execution, [harness.model("gs://root/10").await]).await;
    harness.mlmd.forget(workflow.uid);
    assert_eq!(harness.locations(&workflow).await, ["gs://root/8", "gs://root/10"]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn three_iterations_of_a_loop_are_three_models() {
    let harness = Harness::start().await;
    let run = harness.put_kfp_v2("taxi", Some("team-a")).await;
    let root = harness.put_dag(run, "", 0, None).await;
    let each = harness.put_dag(run, "for-loop-1", root, None).await;
    for iteration in [2, 0, 1] {
        let dag = harness.put_dag(run, "for-loop-1", each, Some(iteration)).await;
        harness.put_task(run, "push", dag, [harness.model(&format!("gs://root/{iteration}")).await]).await;
        harness.put_task(run, "copy", dag, [harness.model("gs://root/same").await]).await;
    }
    let workflow = kfp_v2();
    let expected = [
        ("taxi:taxi-x7k2p:push:model:2", "gs://root/2"),
        ("taxi:taxi-x7k2p:copy:model:2", "gs://root/same"),
        ("taxi:taxi-x7k2p:push:model:0", "gs://root/0"),
        ("taxi:taxi-x7k2p:push:model:1", "gs://root/1"),
    ];
    assert_models(&workflow, &harness.find(&workflow).await.expect("models"), &expected);
}

/// KFP 1.7 to 2.0 prefixed the names of pipelines.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_pipelines_name_has_no_prefix_of_its_namespace() {
    for (context, expected) in [
        ("namespace/team-a/pipeline/penguin", "penguin"),
        ("pipeline/penguin", "penguin"),
        ("namespace/team-b/pipeline/penguin", "namespace/team-b/pipeline/penguin"),
    ] {
        let harness = Harness::start().await;
        let run = harness.put_kfp_v2(context, Some("team-a")).await;
        harness.put_task(run, "push", 0, [harness.model("gs://root/1").await]).await;
        let recurring = workflow("penguin-x7k2p", PipelineName::Unknown, RUN_ID);
        assert_eq!(harness.find(&recurring).await.expect("models").pipeline.as_deref(), Some(expected));
        let failed = Workflow { phase: Phase::Failed, ..recurring };
        let found = harness.find(&failed).await.expect("the pipeline's name");
        assert_eq!((found.pipeline.as_deref(), found.models.len()), (Some(expected), 0));
    }
}

impl Harness {
    /// Writes a run of the SDK of KFP v1, as its metadata-writer does.
    async fn put_kfp_v1(&self, workflow: &str) -> i64 {
        let declared = ["pipeline_name", "run_id"].map(|name| (name.to_owned(), PropertyType::String.into()));
        let context_type =
            ContextType { name: Some("KfpRun".to_owned()), properties: declared.into(), ..ContextType::default() };
        let request = PutContextTypeRequest { context_type: Some(context_type) };
        let written = self.writer.client.clone().put_context_type(request).await.expect("PutContextType");
        let context = Context {
            name: Some(workflow.to_owned()),
            properties: properties([("pipeline_name", text(workflow)), ("run_id", text(workflow))]),
            ..Context::default()
        };
        self.put_context(written.into_inner().type_id(), context).await
    }

    /// Writes the execution of a Pod, with its output `model` in the object store.
    async fn put_pod(&self, run: i64, pod: &str, uri: Option<&str>) {
        let execution =
            Execution { custom_properties: properties([("kfp_pod_name", text(pod))]), ..Execution::default() };
        let mut outputs = Vec::new();
        if let Some(uri) = uri {
            let artifact = Artifact {
                type_id: Some(self.writer.artifact_type("Model").await),
                uri: Some(uri.to_owned()),
                custom_properties: properties([("name", text("model")), ("run_id", text("run-x"))]),
                ..Artifact::default()
            };
            outputs.push(Output { artifact, key: "model" });
        }
        self.put_execution(run, "components.Push model@sha256=0e1f", execution, outputs).await;
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_of_the_sdk_of_kfp_v1_has_models_of_the_wanted_types() {
    let harness = Harness::start().await;
    let run = harness.put_kfp_v1("run-x").await;
    harness.put_pod(run, "run-x-1", Some("minio://mlpipeline/artifacts/1/model.tgz")).await;
    let workflow = compiled("run-x");
    assert_eq!(harness.find(&workflow).await, Ok(Arc::default()), "no model of the default types");

    let types = Arc::new(ArtifactTypes::named(["Model"]));
    let found = harness.mlmd.find(&workflow, &types).await.expect("models");
    assert_models(&workflow, &found, &[("model", "minio://mlpipeline/artifacts/1/model.tgz")]);
    // The Pod again, and that of another task of the component.
    harness.put_pod(run, "run-x-1", Some("minio://mlpipeline/artifacts/2/model.tgz")).await;
    harness.put_pod(run, "run-x-2", Some("minio://mlpipeline/artifacts/3/model.tgz")).await;
    harness.mlmd.forget(workflow.uid);
    let found = harness.mlmd.find(&workflow, &types).await.expect("models");
    let expected = [
        ("penguin:run-x:Push model:model:0", "minio://mlpipeline/artifacts/2/model.tgz"),
        ("penguin:run-x:Push model:model:1", "minio://mlpipeline/artifacts/3/model.tgz"),
    ];
    assert_models(&workflow, &found, &expected);
}

/// The metadata-writer records a Pod's outputs after the Pod has ended.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_of_the_sdk_of_kfp_v1_that_just_ended_is_looked_up_again() {
    let harness = Harness::start().await;
    let run = harness.put_kfp_v1("run-x").await;
    harness.put_pod(run, "run-x-1", None).await;
    let types = Arc::new(ArtifactTypes::named(["Model"]));
    let created = compiled("run-x");
    let just_ended = Workflow { finished: created.created, ..created };
    assert_eq!(harness.mlmd.find(&just_ended, &types).await, Err(LookupError::NoContext));
    harness.put_pod(run, "run-x-2", Some("minio://mlpipeline/artifacts/1/model.tgz")).await;
    assert_eq!(harness.mlmd.find(&just_ended, &types).await.expect("models").models.len(), 1);
    let long_ago = Workflow { finished: 1, uid: 7.into(), ..just_ended };
    assert_eq!(harness.find(&long_ago).await, Ok(Arc::default()));
}
