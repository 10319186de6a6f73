//! Kinds of runs beside the plain ones: retried, resubmitted, with loops and repeated tasks, and of the SDK of KFP v1.

use test_support::{kfp_task, ml_metadata::Execution};

use super::*;

/// Kubeflow's Retry created the deleted Workflow again. What had succeeded was not executed again.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_kfp_v2_run_retried_after_its_deletion_has_its_model() {
    let harness = Harness::start().await;
    let run = harness.writer.put_kfp_v2("taxi", RUN_ID, Some("team-a")).await;
    let root = harness.writer.put_kfp_dag(run, "", 0, None).await;
    let pushed = harness.writer.put_kfp_task(run, "push", root, [harness.writer.kfp_model("gs://root/1").await]).await;
    for execution in [root, pushed] {
        harness.store.backdate(execution, LONG_AGO);
    }
    harness.writer.put_kfp_task(run, "notify", root, []).await;
    let found = harness.find(&kfp_v2()).await.expect("models");
    assert_models(&kfp_v2(), &found, &[("taxi:taxi-x7k2p:push:model:0", "gs://root/1")]);
    assert_eq!(found.foreign_executions, 0);
}

/// Older versions of Kubeflow Pipelines write no namespace, and v1 never does: there, the age decides.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn without_a_namespace_an_old_execution_is_foreign() {
    let harness = Harness::start().await;
    let run = harness.writer.put_kfp_v2("taxi", RUN_ID, None).await;
    let old = harness.writer.put_kfp_task(run, "push", 0, [harness.writer.kfp_model("gs://root/old").await]).await;
    harness.store.backdate(old, LONG_AGO);
    let only_old = RunModels { foreign_executions: 1, ..RunModels::default() };
    assert_eq!(harness.find(&kfp_v2()).await, Ok(Arc::new(only_old)));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_resubmitted_run_has_only_the_new_model() {
    let harness = Harness::start().await;
    let run = harness.writer.put_kfp_v2("taxi", RUN_ID, Some("team-a")).await;
    let root = harness.writer.put_kfp_dag(run, "", 0, None).await;
    let old = harness.writer.put_kfp_task(run, "push", root, [harness.writer.kfp_model("gs://root/old").await]).await;
    for execution in [root, old] {
        harness.store.backdate(execution, Duration::from_secs(60));
    }
    // Newer versions of Kubeflow Pipelines use the run's DAG again.
    harness.writer.put_kfp_task(run, "push", root, [harness.writer.kfp_model("gs://root/new").await]).await;
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
    let run = harness.writer.put_kfp_v2("taxi", RUN_ID, Some("team-a")).await;
    let root = harness.writer.put_kfp_dag(run, "", 0, None).await;
    harness.writer.put_kfp_task(run, "push", root, [harness.writer.kfp_model("gs://root/7").await]).await;
    let sub = harness.writer.put_kfp_dag(run, "sub-pipeline", root, None).await;
    harness.writer.put_kfp_task(run, "push", sub, [harness.writer.kfp_model("gs://root/8").await]).await;
    let last = harness.writer.put_kfp_task(run, "push", root, [harness.writer.kfp_model("gs://root/9").await]).await;
    let workflow = kfp_v2();
    let found = harness.find(&workflow).await.expect("models");
    let expected =
        [("taxi:taxi-x7k2p:sub-pipeline/push:model:0", "gs://root/8"), ("taxi:taxi-x7k2p:push:model:0", "gs://root/9")];
    assert_models(&workflow, &found, &expected);
    // The Pod was restarted within its execution.
    let execution = Execution { id: Some(last), ..kfp_task("push", root) };
    harness
        .writer
        .put_kfp_execution(
            run,
            "system.ContainerExecution",
            execution,
            [harness.writer.kfp_model("gs://root/10").await],
        )
        .await;
    harness.mlmd.forget(workflow.uid);
    assert_eq!(harness.locations(&workflow).await, ["gs://root/8", "gs://root/10"]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn three_iterations_of_a_loop_are_three_models() {
    let harness = Harness::start().await;
    let run = harness.writer.put_kfp_v2("taxi", RUN_ID, Some("team-a")).await;
    let root = harness.writer.put_kfp_dag(run, "", 0, None).await;
    let each = harness.writer.put_kfp_dag(run, "for-loop-1", root, None).await;
    for iteration in [2, 0, 1] {
        let dag = harness.writer.put_kfp_dag(run, "for-loop-1", each, Some(iteration)).await;
        harness
            .writer
            .put_kfp_task(run, "push", dag, [harness.writer.kfp_model(&format!("gs://root/{iteration}")).await])
            .await;
        harness.writer.put_kfp_task(run, "copy", dag, [harness.writer.kfp_model("gs://root/same").await]).await;
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
        let run = harness.writer.put_kfp_v2(context, RUN_ID, Some("team-a")).await;
        harness.writer.put_kfp_task(run, "push", 0, [harness.writer.kfp_model("gs://root/1").await]).await;
        let recurring = workflow("penguin-x7k2p", PipelineName::Unknown, RUN_ID);
        assert_eq!(harness.find(&recurring).await.expect("models").pipeline.as_deref(), Some(expected));
        let failed = Workflow { phase: Phase::Failed, ..recurring };
        let found = harness.find(&failed).await.expect("the pipeline's name");
        assert_eq!((found.pipeline.as_deref(), found.models.len()), (Some(expected), 0));
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_of_the_sdk_of_kfp_v1_has_models_of_the_wanted_types() {
    let harness = Harness::start().await;
    let run = harness.writer.put_kfp_v1("run-x").await;
    harness.writer.put_kfp_pod(run, "run-x-1", Some("minio://mlpipeline/artifacts/1/model.tgz")).await;
    let workflow = compiled("run-x");
    assert_eq!(harness.find(&workflow).await, Ok(Arc::default()), "no model of the default types");

    let types = Arc::new(ArtifactTypes::named(["Model"]));
    let found = harness.mlmd.find(&workflow, &types).await.expect("models");
    assert_models(&workflow, &found, &[("model", "minio://mlpipeline/artifacts/1/model.tgz")]);
    // The Pod again, and that of another task of the component.
    harness.writer.put_kfp_pod(run, "run-x-1", Some("minio://mlpipeline/artifacts/2/model.tgz")).await;
    harness.writer.put_kfp_pod(run, "run-x-2", Some("minio://mlpipeline/artifacts/3/model.tgz")).await;
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
async fn a_kfp_v1_run_that_just_ended_is_looked_up_again() {
    let harness = Harness::start().await;
    let run = harness.writer.put_kfp_v1("run-x").await;
    harness.writer.put_kfp_pod(run, "run-x-1", None).await;
    let types = Arc::new(ArtifactTypes::named(["Model"]));
    let created = compiled("run-x");
    let just_ended = Workflow { finished: created.created, ..created };
    assert_eq!(harness.mlmd.find(&just_ended, &types).await, Err(LookupError::NoContext));
    harness.writer.put_kfp_pod(run, "run-x-2", Some("minio://mlpipeline/artifacts/1/model.tgz")).await;
    assert_eq!(harness.mlmd.find(&just_ended, &types).await.expect("models").models.len(), 1);
    let long_ago = Workflow { finished: 1, uid: 7.into(), ..just_ended };
    assert_eq!(harness.find(&long_ago).await, Ok(Arc::default()));
}
