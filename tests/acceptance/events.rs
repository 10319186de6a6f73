//! Which runs are announced, and in which words.

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_succeeded_run_is_announced_byte_for_byte_as_documented_and_marked() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    let run = world.writer.tfx_run(PIPELINE, "run-x").await;
    let model = Model::pushed("gs://root/Pusher/pushed_model/1638")
        .property("name", "penguin-pipeline:run-x:Pusher:pushed_model:0");
    run.task(Task::new("Pusher").output(model)).await;
    world.workflows.create(NewWorkflow::tfx_v1("run-x", PIPELINE)).await;
    world.workflows.set_phase("run-x", "Running").await;
    let workflow = world.workflows.set_phase("run-x", "Succeeded").await;
    assert_eq!(
        events.next_payload().await,
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"penguin-pipeline:run-x:Pusher:pushed_model:0","location":"gs://root/Pusher/pushed_model/1638"}]}"#
    );
    world.marked("run-x").await;
    let uid = workflow.metadata.uid.expect("a UID");
    assert_eq!(world.marks("run-x").await, [("published.pipelines.kubeflow.org/model-update".to_owned(), uid)]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_created_already_succeeded_is_announced() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    world.artifacts("born").await;
    world.workflows.create(NewWorkflow::tfx_v1("born", PIPELINE).phase("Succeeded")).await;
    assert_eq!(events.next_locations().await, locations(&["born"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn runs_that_did_not_succeed_are_not_announced() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    for phase in ["Pending", "Running", "Failed", "Error"] {
        let name = phase.to_lowercase();
        world.pushed(&name).await;
        world.workflows.set_phase(&name, phase).await;
    }
    // Not a run of Kubeflow's.
    world.artifacts("foreign").await;
    world.workflows.create(NewWorkflow::named("foreign").phase("Succeeded")).await;
    world.succeeded("good").await;
    assert_eq!(events.next_locations().await, locations(&["good"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn only_models_that_the_run_itself_pushed_are_announced() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    let old = world.writer.tfx_run(PIPELINE, "older").await.task(Task::pusher("gs://root/older")).await;

    let evaluates = world.writer.tfx_run(PIPELINE, "evaluates").await;
    evaluates.task(Task::new("Evaluator").input(Model::existing(old.artifacts[0], "baseline"))).await;
    let unblessed = world.writer.tfx_run(PIPELINE, "unblessed").await;
    unblessed.task(Task::new("Pusher").output(Model::unblessed("gs://root/unblessed"))).await;
    let nowhere = world.writer.tfx_run(PIPELINE, "nowhere").await;
    nowhere.task(Task::pusher("")).await;
    for name in ["evaluates", "unblessed", "nowhere"] {
        world.workflows.create(NewWorkflow::tfx_v1(name, PIPELINE).phase("Succeeded")).await;
    }
    let reasons = ["reason=\"no_model\""];
    eventually(CATCH_UP, "three runs without a model", async || {
        world.served.metric("modelupdate_runs_skipped_total", &reasons).await == 3.0
    })
    .await;
    world.succeeded("good").await;
    assert_eq!(events.next_locations().await, locations(&["good"]));
    assert!(world.marks("unblessed").await.is_empty(), "a run without a model is never marked");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_model_without_a_name_gets_the_one_that_tfx_used_to_write() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("nameless").await;
    assert_eq!(
        events.next_payload().await,
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"penguin-pipeline:nameless:Pusher:pushed_model:0","location":"gs://root/nameless"}]}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn several_models_of_a_run_come_in_one_event_in_their_order() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    let run = world.writer.tfx_run(PIPELINE, "many").await;
    run.task(Task::new("Pusher").output(Model::pushed("gs://root/1")).output(Model::pushed("gs://root/2"))).await;
    run.task(Task::new("Pusher.b").output(Model::pushed("gs://root/3").named("own name"))).await;
    world.workflows.create(NewWorkflow::tfx_v1("many", PIPELINE).phase("Succeeded")).await;
    assert_eq!(events.next_locations().await, locations(&["1", "2", "3"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_recurring_v1_run_is_named_by_ml_metadata() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    world.artifacts("recurring").await;
    world.workflows.create(NewWorkflow::recurring_v1("recurring")).await;
    world.workflows.set_phase("recurring", "Succeeded").await;
    let payload: serde_json::Value = serde_json::from_str(&events.next_payload().await).expect("JSON");
    assert_eq!(payload["pipelineName"], PIPELINE);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn kfp_v2_runs_are_announced_for_both_artifact_types_and_a_plain_model_only_on_request() {
    let world = World::start().await;
    let mut pushed = world.served.subscribe(&world.config()).await;
    let every = format!("{}\nsubscription: every\nartifactTypes: [system.Model]", world.config());
    let mut every = world.served.subscribe(&every).await;
    for (n, model) in [
        Model::new("system.Model", "model", "gs://root/plain"),
        Model::new("tfx.PushedModel", "pushed_model", "gs://root/tfx").property("pushed", 1),
        Model::new("system.Model", "model", "gs://root/system").property("pushed", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let run_id = uuid::Uuid::from_u128(rand::random()).to_string();
        let run = world.writer.kfp_run("taxi", &run_id, &world.namespace).await;
        run.task(Task::new("pusher").output(model)).await;
        let created = world.workflows.create(NewWorkflow::kfp_v2("taxi", &run_id)).await;
        world.workflows.set_phase(&created.metadata.name.expect("a name"), "Succeeded").await;
        if n > 0 {
            let payload: serde_json::Value = serde_json::from_str(&pushed.next_payload().await).expect("JSON");
            assert_eq!(payload["pipelineName"], "taxi");
            assert_eq!(payload["servingModelArtifacts"][0]["location"], ["", "gs://root/tfx", "gs://root/system"][n]);
        }
    }
    assert_eq!(every.next_locations().await, locations(&["plain"]));
    assert_eq!(every.next_locations().await, locations(&["system"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_late_context_is_waited_for() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    world.workflows.create(NewWorkflow::tfx_v1("late", PIPELINE).phase("Succeeded")).await;
    let no_context = ["reason=\"no_context\""];
    eventually(CATCH_UP, "asked in vain", async || {
        world.served.metric("modelupdate_lookup_retries_total", &no_context).await >= 1.0
    })
    .await;
    world.artifacts("late").await;
    assert_eq!(events.next_locations().await, locations(&["late"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn filters_and_extra_fields_are_the_subscriptions_own() {
    let world = World::start().await;
    let filtered = format!(
        "{}\nsubscription: filtered\npipelines: ['penguin-*']\nmaxAge: 1h\ninclude: [workflowUid, namespace, workflowName, runId, traceparent]",
        world.config()
    );
    let mut events = world.served.subscribe(&filtered).await;
    let taxi = world.writer.tfx_run("taxi", "taxi-run").await;
    taxi.task(Task::pusher("gs://root/taxi")).await;
    world.workflows.create(NewWorkflow::tfx_v1("taxi-run", "taxi").phase("Succeeded")).await;
    world.artifacts("full").await;
    let run_id = "6a1fbb0c-20a5-4a0d-9d8e-5a6f1b1e7b10";
    let created = world.workflows.create(NewWorkflow::tfx_v1("full", PIPELINE).run_id(run_id).phase("Succeeded")).await;
    let uid = created.metadata.uid.expect("a UID");
    let payload = events.next_payload().await;
    let head = format!(
        r#"{{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{{"name":"penguin-pipeline:full:Pusher:pushed_model:0","location":"gs://root/full"}}],"namespace":"{}","workflowName":"full","workflowUid":"{uid}","runId":"{run_id}","traceparent":"00-{}-"#,
        world.namespace,
        uid.replace('-', "")
    );
    assert!(payload.starts_with(&head), "{payload}\n{head}");
}
