//! Runs whose events are sent, and their payload.

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_succeeded_run_is_sent_as_documented_and_marked() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    let run = env.writer.tfx_run(PIPELINE, "run-x").await;
    let model = Model::pushed("gs://root/Pusher/pushed_model/1638")
        .property("name", "penguin-pipeline:run-x:Pusher:pushed_model:0");
    run.task(Task::new("Pusher").output(model)).await;
    env.workflows.create(NewWorkflow::tfx_v1("run-x", PIPELINE)).await;
    env.workflows.set_phase("run-x", "Running").await;
    let workflow = env.workflows.set_phase("run-x", "Succeeded").await;
    assert_eq!(
        events.next_payload().await,
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"penguin-pipeline:run-x:Pusher:pushed_model:0","location":"gs://root/Pusher/pushed_model/1638"}]}"#
    );
    env.marked("run-x", 1).await;
    let uid = workflow.metadata.uid.expect("a UID");
    assert_eq!(env.marks("run-x").await, [(MARK.to_owned(), uid)].into());
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_created_in_phase_succeeded_is_sent() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    env.push_model("created").await;
    env.workflows.create(NewWorkflow::tfx_v1("created", PIPELINE).phase("Succeeded")).await;
    assert_eq!(events.next_locations().await, locations(&["created"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn runs_that_did_not_succeed_are_not_sent() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    for phase in ["Pending", "Running", "Failed", "Error"] {
        let name = phase.to_lowercase();
        env.create_run(&name).await;
        env.workflows.set_phase(&name, phase).await;
    }
    // A Workflow that Kubeflow did not create.
    env.push_model("foreign").await;
    env.workflows.create(NewWorkflow::named("foreign").phase("Succeeded")).await;
    env.succeed("good").await;
    assert_eq!(events.next_locations().await, locations(&["good"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn only_models_that_the_run_pushed_are_sent() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    let older = env.push_model("older").await;
    for (name, task) in [
        ("evaluates", Task::new("Evaluator").input(Model::existing(older.artifacts[0], "baseline"))),
        ("unblessed", Task::new("Pusher").output(Model::unblessed("gs://root/unblessed"))),
        ("without-location", Task::pusher("")),
    ] {
        env.writer.tfx_run(PIPELINE, name).await.task(task).await;
        env.workflows.create(NewWorkflow::tfx_v1(name, PIPELINE).phase("Succeeded")).await;
    }
    let reasons = ["reason=\"no_model\""];
    eventually(CATCH_UP, "three runs without a model", async || {
        server.metric("modelupdate_runs_skipped_total", &reasons).await == 3.0
    })
    .await;
    env.succeed("good").await;
    assert_eq!(events.next_locations().await, locations(&["good"]));
    assert!(env.marks("unblessed").await.is_empty(), "a run without a model is never marked");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_unnamed_model_gets_the_name_that_tfx_used_to_write() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    env.succeed("nameless").await;
    assert_eq!(
        events.next_payload().await,
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"penguin-pipeline:nameless:Pusher:pushed_model:0","location":"gs://root/nameless"}]}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn models_of_a_run_are_in_one_event_in_their_order() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    let run = env.writer.tfx_run(PIPELINE, "many").await;
    run.task(Task::new("Pusher").output(Model::pushed("gs://root/1")).output(Model::pushed("gs://root/2"))).await;
    run.task(Task::new("Pusher.b").output(Model::pushed("gs://root/3").named("own name"))).await;
    env.workflows.create(NewWorkflow::tfx_v1("many", PIPELINE).phase("Succeeded")).await;
    assert_eq!(events.next_locations().await, locations(&["1", "2", "3"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_recurring_v1_run_has_its_pipeline_name_from_ml_metadata() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    env.push_model("recurring").await;
    env.workflows.create(NewWorkflow::recurring_v1("recurring")).await;
    env.workflows.set_phase("recurring", "Succeeded").await;
    assert_eq!(events.next_event().await["pipelineName"], PIPELINE);
}

/// Pushed models of both artifact types are sent. A `system.Model` that is not pushed is sent on request.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn kfp_v2_models_are_sent_and_plain_models_on_request() {
    let (env, server) = start().await;
    let mut pushed = server.subscribe(&env.config()).await;
    let every = format!("{}\nsubscription: every\nartifactTypes: [system.Model]", env.config());
    let mut every = server.subscribe(&every).await;
    for (model, is_pushed) in [
        (Model::new("system.Model", "model", "gs://root/plain"), false),
        (Model::new("tfx.PushedModel", "pushed_model", "gs://root/tfx").property("pushed", 1), true),
        (Model::new("system.Model", "model", "gs://root/system").property("pushed", 1), true),
    ] {
        let location = model.uri.clone();
        let run_id = uuid::Uuid::from_u128(rand::random()).to_string();
        let run = env.writer.kfp_run("taxi", &run_id, &env.namespace).await;
        run.task(Task::new("pusher").output(model)).await;
        let created = env.workflows.create(NewWorkflow::kfp_v2("taxi", &run_id)).await;
        env.workflows.set_phase(&created.metadata.name.expect("a name"), "Succeeded").await;
        if is_pushed {
            let event = pushed.next_event().await;
            assert_eq!(event["pipelineName"], "taxi");
            assert_eq!(event["servingModelArtifacts"][0]["location"], location);
        }
    }
    assert_eq!(every.next_locations().await, locations(&["plain"]));
    assert_eq!(every.next_locations().await, locations(&["system"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_with_a_late_context_is_sent() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    env.workflows.create(NewWorkflow::tfx_v1("late", PIPELINE).phase("Succeeded")).await;
    let no_context = ["reason=\"no_context\""];
    eventually(CATCH_UP, "a failed lookup", async || {
        server.metric("modelupdate_lookup_retries_total", &no_context).await >= 1.0
    })
    .await;
    env.push_model("late").await;
    assert_eq!(events.next_locations().await, locations(&["late"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_subscription_has_its_own_filters_and_extra_fields() {
    let (env, server) = start().await;
    let filtered = format!(
        "{}\nsubscription: filtered\npipelines: ['penguin-*']\nmaxAge: 1h\ninclude: [workflowUid, namespace, workflowName, runId, traceparent]",
        env.config()
    );
    let mut events = server.subscribe(&filtered).await;
    env.writer.tfx_run("taxi", "taxi-run").await.task(Task::pusher("gs://root/taxi")).await;
    env.workflows.create(NewWorkflow::tfx_v1("taxi-run", "taxi").phase("Succeeded")).await;
    env.push_model("full").await;
    let run_id = "6a1fbb0c-20a5-4a0d-9d8e-5a6f1b1e7b10";
    let created = env.workflows.create(NewWorkflow::tfx_v1("full", PIPELINE).run_id(run_id).phase("Succeeded")).await;
    let uid = created.metadata.uid.expect("a UID");
    let payload = events.next_payload().await;
    let head = format!(
        r#"{{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{{"name":"penguin-pipeline:full:Pusher:pushed_model:0","location":"gs://root/full"}}],"namespace":"{}","workflowName":"full","workflowUid":"{uid}","runId":"{run_id}","traceparent":"00-{}-"#,
        env.namespace,
        uid.replace('-', "")
    );
    assert!(payload.starts_with(&head), "{payload}\n{head}");
}

/// The models of the present id are sent, whether the former one was absent, or was that of a run without a model.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_id_that_is_set_late_or_corrected_is_looked_up() {
    let (env, server) = start_with(|config| config.selector = "example.com/run".to_owned()).await;
    let mut events = server.subscribe(&env.config()).await;
    let write = async |id: &str, task: Task| env.writer.kfp_run("penguin", id, &env.namespace).await.task(task).await;
    let pushed = |name: &str| Model::new("system.Model", "model", &format!("gs://root/{name}")).property("pushed", 1);
    write("other", Task::new("train")).await;
    for name in ["late", "corrected"] {
        write(name, Task::new("push").output(pushed(name))).await;
    }
    let workflow = |name: &str| NewWorkflow::named(name).label("example.com/run", "yes").phase("Succeeded");
    env.workflows.create(workflow("late")).await;
    env.workflows.create(workflow("corrected").run_id("other")).await;
    for (metric, reason) in [("lookup_retries", "no_context"), ("runs_skipped", "no_model")] {
        eventually(CATCH_UP, reason, async || {
            let (metric, label) = (format!("modelupdate_{metric}_total"), format!("reason=\"{reason}\""));
            server.metric(&metric, &[&label]).await >= 1.0
        })
        .await;
    }
    for name in ["late", "corrected"] {
        env.workflows.label(name, RUN_ID_LABEL, name).await;
        assert_eq!(events.next_locations().await, locations(&[name]));
        env.marked(name, 1).await;
    }
}
