//! Kinds of runs: the program as users start it, a subscriber with grpc-go, and the event that it reads.

use std::collections::BTreeMap;

use model_update_eventsource::model::workflow::{COMPLETED_LABEL, PHASE_LABEL, RESUBMITTED_LABEL};
use serde_json::json;

use super::*;

/// Age of what a run did before its Workflow was deleted.
const YESTERDAY: Duration = Duration::from_secs(24 * 3600);

/// Returns the name and the location of each model of an event.
fn models(event: &Value) -> Vec<(&str, &str)> {
    let models = event["servingModelArtifacts"].as_array().expect("a list").iter();
    models.map(|model| (model["name"].as_str().expect("text"), model["location"].as_str().expect("text"))).collect()
}

/// Kubeflow's Retry creates the deleted Workflow again, under a new UID, and does not execute again what had succeeded.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_kfp_v2_run_retried_after_its_deletion_is_sent() {
    let (env, server, mut events) = serve("include: [eventId]").await;
    let run_id = run_id();
    let run = env.writer.put_kfp_v2("taxi", &run_id, Some(&env.namespace)).await;
    let root = env.writer.put_kfp_dag(run, "", 0, None).await;
    let pushed = env.writer.put_kfp_task(run, "push", root, [env.writer.kfp_model("gs://root/yesterday").await]).await;
    for execution in [root, pushed] {
        env.store.backdate(execution, YESTERDAY);
    }
    let created = env.workflows.create(NewWorkflow::kfp_v2("taxi", &run_id).phase("Succeeded")).await;
    let name = created.metadata.name.expect("a generated name");
    let first = event(&mut events).await;
    assert_eq!(models(&first), [(&*format!("taxi:{name}:push:model:0"), "gs://root/yesterday")]);
    env.marked(&name, 1).await;

    env.workflows.delete(&name).await;
    env.workflows.create(NewWorkflow::named(&name).run_id(&run_id).phase("Running")).await;
    env.writer.put_kfp_task(run, "notify", root, []).await;
    env.workflows.set_phase(&name, "Succeeded").await;
    let second = event(&mut events).await;
    assert_eq!((&second["pipelineName"], models(&second)), (&"taxi".into(), models(&first)));
    assert_ne!(second["eventId"], first["eventId"], "another Workflow");
    assert_eq!(server.metric(SKIPPED, &[]).await, 0.0);
}

/// In v1, ML Metadata does not say whose run pushed a model, so an old one does not count. That is visible.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_tfx_run_retried_after_its_deletion_has_no_old_model() {
    let (env, server, mut events) = serve("").await;
    let pushed = env.push_model("retried").await;
    env.store.backdate(pushed.execution, YESTERDAY);
    env.writer.tfx_run(PIPELINE, "retried").await.task(Task::new("Notifier")).await;
    env.workflows.create(NewWorkflow::tfx_v1("retried", PIPELINE).phase("Succeeded")).await;
    server.metric_is(SKIPPED, &["reason=\"foreign_execution\""], 1.0).await;
    server.metric_is(SKIPPED, &["reason=\"no_model\""], 1.0).await;
    let message = "ignoring executions older than the run, its context belongs to another run too";
    let line = server.process.logged(message).await;
    assert_eq!((&line["workflow"], &line["count"]), (&"retried".into(), &1.into()));

    // A component that is executed again pushes a model that counts.
    env.workflows.set_phase("retried", "Running").await;
    env.writer.tfx_run(PIPELINE, "retried").await.task(Task::pusher("gs://root/today")).await;
    env.workflows.set_phase("retried", "Succeeded").await;
    assert_eq!(locations_of(&event(&mut events).await), ["gs://root/today"]);
}

/// `argo resubmit` copies the run id, so both runs have one context.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_quickly_resubmitted_run_has_only_its_new_model() {
    let (env, server, mut events) = serve("").await;
    let run_id = run_id();
    let run = env.writer.put_kfp_v2("taxi", &run_id, Some(&env.namespace)).await;
    let root = env.writer.put_kfp_dag(run, "", 0, None).await;
    let pushed = env.writer.put_kfp_task(run, "push", root, [env.writer.kfp_model("gs://root/old").await]).await;
    for execution in [root, pushed] {
        env.store.backdate(execution, Duration::from_secs(60));
    }
    let original = env.workflows.create(NewWorkflow::kfp_v2("taxi", &run_id).phase("Succeeded")).await;
    let original = original.metadata.name.expect("a generated name");
    assert_eq!(locations_of(&event(&mut events).await), ["gs://root/old"]);

    let copy = NewWorkflow::kfp_v2("taxi", &run_id).label(RESUBMITTED_LABEL, &original);
    let copy = env.workflows.create(copy.phase("Running")).await.metadata.name.expect("a generated name");
    // Another task than the first run's, too: nothing of that run counts.
    env.writer.put_kfp_task(run, "push-eu", root, [env.writer.kfp_model("gs://root/new").await]).await;
    env.workflows.set_phase(&copy, "Succeeded").await;
    let name = format!("taxi:{copy}:push-eu:model:0");
    assert_eq!(models(&event(&mut events).await), [(&*name, "gs://root/new")]);
    assert_eq!(server.metric(SKIPPED, &["reason=\"foreign_execution\""]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_maximum_age_counts_from_the_end_of_a_run() {
    let (env, server, mut events) = serve("maxAge: 5s").await;
    env.create_run("slow").await;
    env.workflows.set_phase("slow", "Running").await;
    let begun = std::time::Instant::now();
    eventually(CATCH_UP, "8 s of work", async || begun.elapsed() >= Duration::from_secs(8)).await;
    env.workflows.set_phase("slow", "Succeeded").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["slow"]));
    assert_eq!(server.metric(FILTERED, &[]).await, 0.0);
}

/// Without `artifactTypes` the run has no model, which is certain once the metadata-writer would have recorded it.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_of_the_sdk_of_kfp_v1_is_sent_by_its_type() {
    let env = TestEnv::start(Peers::find().await).await;
    let location = "minio://mlpipeline/artifacts/sdk/sdk-1/push-model.tgz";
    for (name, workflow) in [
        ("sdk", NewWorkflow::tfx_v1("sdk", PIPELINE)),
        ("recurring", NewWorkflow::recurring_v1("recurring")),
        ("last", NewWorkflow::tfx_v1("last", PIPELINE)),
    ] {
        let run = env.writer.put_kfp_v1(name).await;
        env.writer.put_kfp_pod(run, &format!("{name}-1"), Some(location)).await;
        env.workflows.create(workflow.phase("Succeeded")).await;
        env.workflows.backdate_end(name, Duration::from_secs(90)).await;
    }
    let server = start_program(&env).await;
    let mut events = subscribe(&env, &server, "subscription: models\nartifactTypes: [Model]").await;
    let _plain = subscribe(&env, &server, "subscription: plain").await;
    for _ in ["sdk", "last"] {
        let event = event(&mut events).await;
        assert_eq!((&event["pipelineName"], models(&event)), (&PIPELINE.into(), vec![("model", location)]));
    }
    // The metadata-writer does not record the pipeline's name.
    server.metric_is(SKIPPED, &["reason=\"no_pipeline_name\""], 1.0).await;
    server.metric_is(SKIPPED, &["reason=\"no_model\""], 3.0).await;
    assert_eq!(server.metric("modelupdate_lookup_retries_total", &[]).await, 0.0);

    // A run that has just ended is sent, too. It has no model yet only for the other subscription.
    let run = env.writer.put_kfp_v1("fresh").await;
    env.writer.put_kfp_pod(run, "fresh-1", Some(location)).await;
    env.workflows.create(NewWorkflow::tfx_v1("fresh", PIPELINE).phase("Succeeded")).await;
    assert_eq!(locations_of(&event(&mut events).await), [location]);
}

/// A component that was restarted, or a task that KFP's Retry executed again.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_node_that_ran_again_is_sent_with_its_last_model() {
    let (env, _server, mut events) = serve("").await;
    let run = env.writer.tfx_run(PIPELINE, "tfx").await;
    for model in ["gs://root/Pusher/pushed_model/7", "gs://root/Pusher/pushed_model/9"] {
        run.task(Task::pusher(model)).await;
    }
    env.workflows.create(NewWorkflow::tfx_v1("tfx", PIPELINE).phase("Succeeded")).await;
    let name = format!("{PIPELINE}:tfx:Pusher:pushed_model:0");
    assert_eq!(models(&event(&mut events).await), [(&*name, "gs://root/Pusher/pushed_model/9")]);

    let run_id = run_id();
    let run = env.writer.put_kfp_v2("taxi", &run_id, Some(&env.namespace)).await;
    let root = env.writer.put_kfp_dag(run, "", 0, None).await;
    for model in ["gs://root/push/7", "gs://root/push/9"] {
        env.writer.put_kfp_task(run, "push", root, [env.writer.kfp_model(model).await]).await;
    }
    env.workflows.create(NewWorkflow::kfp_v2("taxi", &run_id).phase("Succeeded")).await;
    assert_eq!(locations_of(&event(&mut events).await), ["gs://root/push/9"]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn iterations_of_a_loop_are_models_of_different_names() {
    let (env, _server, mut events) = serve("").await;
    let run_id = run_id();
    let run = env.writer.put_kfp_v2("taxi", &run_id, Some(&env.namespace)).await;
    let root = env.writer.put_kfp_dag(run, "", 0, None).await;
    let each = env.writer.put_kfp_dag(run, "for-loop-1", root, None).await;
    for (iteration, model) in ["gs://root/eu", "gs://root/us", "gs://root/asia"].into_iter().enumerate() {
        let iteration = i64::try_from(iteration).expect("a small number");
        let dag = env.writer.put_kfp_dag(run, "for-loop-1", each, Some(iteration)).await;
        env.writer.put_kfp_task(run, "push", dag, [env.writer.kfp_model(model).await]).await;
        env.writer.put_kfp_task(run, "copy", dag, [env.writer.kfp_model("gs://root/eu").await]).await;
    }
    let workflow = env.workflows.create(NewWorkflow::kfp_v2("taxi", &run_id).phase("Succeeded")).await;
    let workflow = workflow.metadata.name.expect("a generated name");
    let names = [0, 1, 2].map(|iteration| format!("taxi:{workflow}:push:model:{iteration}"));
    let expected = [(&*names[0], "gs://root/eu"), (&*names[1], "gs://root/us"), (&*names[2], "gs://root/asia")];
    assert_eq!(models(&event(&mut events).await), expected);
}

/// Recurring runs of KFP v1's SDK in V2_COMPATIBLE mode: only ML Metadata names the pipeline, with a prefix.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_v2_compatible_run_is_filtered_by_its_pipelines_name() {
    let (env, server, mut events) = serve("pipelines: [penguin]").await;
    let prefix = format!("namespace/{}/pipeline/", env.namespace);
    for (name, pipeline) in
        [("another", format!("{prefix}penguin-2")), ("foreign", "namespace/t/pipeline/penguin".to_owned())]
    {
        put_compatible(&env, name, &pipeline).await;
    }
    server.metric_is(FILTERED, &["reason=\"pipelines\""], 2.0).await;
    put_compatible(&env, "recurring", &format!("{prefix}penguin")).await;
    let event = event(&mut events).await;
    assert_eq!((&event["pipelineName"], locations_of(&event)), (&"penguin".into(), vec!["gs://root/recurring"]));
}

async fn put_compatible(env: &TestEnv, name: &str, pipeline: &str) {
    let run_id = run_id();
    let run = env.writer.put_kfp_v2(pipeline, &run_id, Some(&env.namespace)).await;
    env.writer.put_kfp_task(run, "push", 0, [env.writer.kfp_model(&format!("gs://root/{name}")).await]).await;
    env.workflows.create(NewWorkflow::recurring_v1(name).run_id(&run_id).phase("Succeeded")).await;
}

/// The name of a pipeline that Kubeflow installs. As a pattern it would be a class of characters.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_pipelines_name_with_brackets_matches_itself() {
    const DEMO: &str = "[Demo] TFX - Taxi tip prediction model trainer";
    let (env, server, mut events) = serve(&format!("pipelines: [{DEMO:?}]")).await;
    for (name, pipeline) in [("class", "D TFX - Taxi tip prediction model trainer 2"), ("demo", DEMO)] {
        env.writer.tfx_run(pipeline, name).await.task(Task::pusher(&format!("gs://root/{name}"))).await;
        env.workflows.create(NewWorkflow::tfx_v1(name, pipeline).phase("Succeeded")).await;
    }
    let event = event(&mut events).await;
    assert_eq!((&event["pipelineName"], locations_of(&event)), (&DEMO.into(), vec!["gs://root/demo"]));
    assert_eq!(server.metric(FILTERED, &["reason=\"pipelines\""]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_phase_label_that_vanishes_and_returns_repeats_nothing() {
    let (env, _server, mut events) = serve("").await;
    let uid = env.succeed("edited").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["edited"]));
    env.marked("edited", 1).await;
    let mark: BTreeMap<_, _> = [(MARK.to_owned(), uid)].into();
    for labels in [json!({PHASE_LABEL: null}), json!({PHASE_LABEL: null, COMPLETED_LABEL: null})] {
        env.workflows.merge("edited", &json!({"metadata": {"labels": labels}})).await;
        // The watch has shown the change before this run.
        let next = format!("next-{}", labels.as_object().expect("an object").len());
        env.succeed(&next).await;
        assert_eq!(locations_of(&event(&mut events).await), locations(&[&next]));
        assert_eq!(env.marks("edited").await, mark);
        env.workflows.set_phase("edited", "Succeeded").await;
    }
    env.succeed("last").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["last"]));
    assert_eq!(env.marks("edited").await, mark);
}

/// `argo retry` of Argo 4 creates an archived Workflow again with its old phase, but without the label for its completion.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_retried_run_of_the_archive_is_sent_once_at_its_end() {
    let (env, _server, mut events) = serve("").await;
    let run = env.writer.tfx_run(PIPELINE, "archived").await;
    run.task(Task::pusher("gs://root/old")).await;
    env.workflows.create(NewWorkflow::tfx_v1("archived", PIPELINE).label(PHASE_LABEL, "Succeeded")).await;
    env.succeed("meanwhile").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["meanwhile"]));
    env.workflows.set_phase("archived", "Running").await;
    run.task(Task::pusher("gs://root/new")).await;
    env.workflows.set_phase("archived", "Succeeded").await;
    assert_eq!(locations_of(&event(&mut events).await), ["gs://root/new"]);
    env.succeed("last").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["last"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_completed_run_without_a_phase_is_logged_and_counted() {
    let (env, server, mut events) = serve("").await;
    env.push_model("unclear").await;
    env.workflows.create(NewWorkflow::tfx_v1("unclear", PIPELINE).label(COMPLETED_LABEL, "true")).await;
    eventually(CATCH_UP, "the count", async || {
        server.metric("modelupdate_workflows_undecidable_total", &[]).await >= 1.0
    })
    .await;
    let line = server.process.logged("run has ended without a phase label, whether it succeeded is not known").await;
    assert_eq!((&line["namespace"], &line["workflow"]), (&env.namespace.clone().into(), &"unclear".into()));
    env.workflows.label("unclear", PHASE_LABEL, "Succeeded").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["unclear"]));
}
