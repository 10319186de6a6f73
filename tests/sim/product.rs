//! The product on the simulation. These tests run without the real peers.

use http::StatusCode;
use model_update_eventsource::sim::Sim;
use test_support::{Model, NewWorkflow, Run, SOON, Task, TestServer};
use tokio::time::timeout;

const MARK: &str = "published.pipelines.kubeflow.org/model-update";

/// Waits for the mark of a delivery, which is the Workflow's UID.
async fn marked(sim: &Sim, name: &str) {
    let is_marked = |_: &u64| {
        let workflow = sim.workflow("demo", name).expect("stored");
        workflow["metadata"]["annotations"][MARK] == workflow["metadata"]["uid"]
    };
    let mut version = sim.version();
    timeout(SOON, version.wait_for(is_marked)).await.expect("a mark in time").expect("a running simulation");
}

/// Simulates a TFX run that writes this model and succeeds.
fn succeed(sim: &Sim, name: &str, model: Model) {
    sim.create_workflow("demo", NewWorkflow::tfx_v1(name, "penguin")).expect("created");
    sim.put_task(&Run::tfx_v1("penguin", name), Task::new("Pusher").output(model));
    sim.set_phase("demo", name, "Succeeded").expect("stored");
}

#[tokio::test]
async fn runs_of_both_flavors_are_sent_and_marked() {
    let (sim, server) = TestServer::start_with_sim().await;
    let mut events = server.subscribe("kfpNamespace: demo").await;
    let by_shim = Model::new("system.Model", "pushed_model", "gs://models/2").property("pushed", 1);
    let flavors = [
        (NewWorkflow::tfx_v1("run-1", "penguin"), Run::tfx_v1("penguin", "run-1"), Model::pushed("gs://models/1")),
        (NewWorkflow::kfp_v2("penguin", "2"), Run::kfp_v2("penguin", "2", "demo"), by_shim),
    ];
    for (new, run, model) in flavors {
        let location = model.uri.clone();
        let workflow = sim.create_workflow("demo", new).expect("created");
        let name = workflow["metadata"]["name"].as_str().expect("a name");
        sim.set_phase("demo", name, "Running").expect("stored");
        sim.put_task(&run, Task::new("Trainer").output(Model::new("Model", "model", "")));
        sim.put_task(&run, Task::new("Pusher").output(model));
        sim.set_phase("demo", name, "Succeeded").expect("stored");
        let event = events.next_event().await;
        assert_eq!(event["pipelineName"], "penguin");
        assert_eq!(event["servingModelArtifacts"][0]["location"], location);
        marked(&sim, name).await;
    }
    let requests = *sim.requests().borrow();
    assert_eq!((requests.watches, requests.patches), (1, 2));
    // The context, artifacts, executions and events, and the node or the pipeline, whose name the event has.
    assert_eq!(server.metric("modelupdate_mlmd_calls_total", &[]).await, 2.0 * 5.0);
    server.stop().await;
}

/// The run succeeded before the subscriber connected, and only ML Metadata contains its pipeline's name.
#[tokio::test]
async fn an_earlier_recurring_run_is_sent_with_its_pipelines_name() {
    let (sim, server) = TestServer::start_with_sim().await;
    let model = Model::pushed("gs://models/1").named("own name");
    sim.put_task(&Run::tfx_v1("penguin", "run-1"), Task::new("Pusher").output(model));
    sim.create_workflow("demo", NewWorkflow::recurring_v1("run-1").phase("Succeeded")).expect("created");
    let mut events = server.subscribe("kfpNamespace: demo").await;
    let expected =
        r#"{"pipelineName":"penguin","servingModelArtifacts":[{"name":"own name","location":"gs://models/1"}]}"#;
    assert_eq!(events.next_payload().await, expected);
    server.stop().await;
}

#[tokio::test]
async fn models_that_were_not_blessed_or_only_read_are_not_sent() {
    let (sim, server) = TestServer::start_with_sim().await;
    let mut events = server.subscribe("kfpNamespace: demo").await;
    succeed(&sim, "unblessed", Model::unblessed("gs://models/0"));
    let pushed = sim.put_task(&Run::kfp_v2("penguin", "1", "demo"), Task::pusher("gs://models/elsewhere"));
    let reader = Task::new("Evaluator").input(Model::existing(pushed.artifacts[0], "model"));
    sim.put_task(&Run::tfx_v1("penguin", "reader"), reader);
    let reader = NewWorkflow::tfx_v1("reader", "penguin").phase("Succeeded");
    sim.create_workflow("demo", reader).expect("created");
    succeed(&sim, "blessed", Model::pushed("gs://models/1"));
    assert_eq!(events.next_locations().await, ["gs://models/1"]);
    server.stop().await;
}

#[tokio::test]
async fn a_refused_mark_is_retried_without_a_redelivery() {
    let (sim, server) = TestServer::start_with_sim().await;
    let mut events = server.subscribe("kfpNamespace: demo").await;
    sim.refuse_patches(Some(StatusCode::SERVICE_UNAVAILABLE));
    succeed(&sim, "first", Model::pushed("gs://models/1"));
    assert_eq!(events.next_locations().await, ["gs://models/1"]);
    let mut requests = sim.requests();
    let retried = requests.wait_for(|requests| requests.patches >= 2);
    timeout(SOON, retried).await.expect("a retry in time").expect("a running simulation");
    sim.refuse_patches(None);
    marked(&sim, "first").await;
    succeed(&sim, "second", Model::pushed("gs://models/2"));
    assert_eq!(events.next_locations().await, ["gs://models/2"]);
    server.stop().await;
}
