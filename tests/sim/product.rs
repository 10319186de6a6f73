//! The product on the simulated world: no neighbours are needed, so these run everywhere.

use std::time::Duration;

use http::StatusCode;
use model_update_eventsource::{
    app::Config,
    sim::{
        Model, NewWorkflow, Sim, Task,
        play::{Form, Play, Player, What},
    },
};
use test_support::{CATCH_UP, TestServer};
use tokio::{sync::mpsc, time::timeout};

const MARK: &str = "published.pipelines.kubeflow.org/model-update";

async fn start() -> (Sim, TestServer) {
    let sim = Sim::start().await.expect("a simulation");
    let config = Config {
        metadata_store: sim.metadata_url(),
        kubernetes: Some(sim.kube_config()),
        confirm_after: Duration::from_millis(100),
        ..Config::default()
    };
    let served = TestServer::start(config).await;
    (sim, served)
}

/// Waits for the mark of a delivery, which is the Workflow's UID.
async fn marked(sim: &Sim, name: &str) {
    let is_marked = || {
        let workflow = sim.workflow("demo", name).expect("it is there");
        workflow.annotations.get(MARK) == Some(&workflow.uid)
    };
    let mut version = sim.version();
    let marked = version.wait_for(|_| is_marked());
    timeout(CATCH_UP, marked).await.expect("a mark in time").expect("the simulation goes on");
}

/// A run that pushed this, as it is when it has succeeded.
fn succeeded(sim: &Sim, name: &str, model: Model) {
    sim.create_workflow("demo", NewWorkflow::tfx_v1(name, "penguin")).expect("created");
    sim.put_task(&sim.put_tfx_run("penguin", name), Task::new("Pusher").output(model));
    sim.set_phase("demo", name, "Succeeded").expect("it is there");
}

#[tokio::test]
async fn what_is_played_is_announced_and_marked() {
    let (sim, served) = start().await;
    let mut events = served.subscribe("kfpNamespace: demo").await;
    for form in [Form::TfxV1, Form::KfpV2] {
        let (steps, mut taken) = mpsc::channel(16);
        let play = Play { form, pace: Duration::ZERO, ..Play::default() };
        Player::new(&sim, play, steps).run().await.expect("the API server takes it all");
        let event: serde_json::Value = serde_json::from_str(&events.next_payload().await).expect("JSON");
        assert_eq!(event["pipelineName"], "penguin-pipeline");
        let location = "gs://models/penguin-pipeline/Pusher/pushed_model/1";
        assert_eq!(event["servingModelArtifacts"][0]["location"], location);
        let submitted = taken.recv().await.expect("a step");
        assert_eq!(submitted.what, What::Submitted);
        marked(&sim, &submitted.workflow).await;
    }
    let requests = *sim.requests().borrow();
    assert_eq!((requests.watches, requests.patches), (1, 2));
    served.stop().await;
}

#[tokio::test]
async fn a_recurring_run_that_succeeded_before_anybody_listened_is_announced_by_the_name_in_ml_metadata() {
    let (sim, served) = start().await;
    let model = Model::pushed("gs://models/1").named("own name");
    sim.put_task(&sim.put_tfx_run("penguin", "run-1"), Task::new("Pusher").output(model));
    sim.create_workflow("demo", NewWorkflow::recurring_v1("run-1").phase("Succeeded")).expect("created");
    let mut events = served.subscribe("kfpNamespace: demo").await;
    let expected =
        r#"{"pipelineName":"penguin","servingModelArtifacts":[{"name":"own name","location":"gs://models/1"}]}"#;
    assert_eq!(events.next_payload().await, expected);
    served.stop().await;
}

#[tokio::test]
async fn models_that_were_not_blessed_or_only_read_are_not_announced() {
    let (sim, served) = start().await;
    let mut events = served.subscribe("kfpNamespace: demo").await;
    succeeded(&sim, "unblessed", Model::unblessed("gs://models/0"));
    let run = sim.put_kfp_run("penguin", "1", "demo");
    let pushed = sim.put_task(&run, Task::pusher("gs://models/elsewhere"));
    let reader = sim.put_tfx_run("penguin", "reader");
    sim.put_task(&reader, Task::new("Evaluator").input(Model::existing(pushed.artifacts[0], "model")));
    let reader = NewWorkflow::tfx_v1("reader", "penguin").phase("Succeeded");
    sim.create_workflow("demo", reader).expect("created");
    succeeded(&sim, "blessed", Model::pushed("gs://models/1"));
    assert_eq!(events.next_locations().await, ["gs://models/1"]);
    served.stop().await;
}

#[tokio::test]
async fn a_mark_that_was_refused_is_written_later_and_its_event_is_not_sent_again() {
    let (sim, served) = start().await;
    let mut events = served.subscribe("kfpNamespace: demo").await;
    sim.refuse_patches(Some(StatusCode::SERVICE_UNAVAILABLE));
    succeeded(&sim, "first", Model::pushed("gs://models/1"));
    assert_eq!(events.next_locations().await, ["gs://models/1"]);
    let mut requests = sim.requests();
    timeout(CATCH_UP, requests.wait_for(|requests| requests.patches >= 2))
        .await
        .expect("tried again")
        .expect("it goes on");
    sim.refuse_patches(None);
    marked(&sim, "first").await;
    succeeded(&sim, "second", Model::pushed("gs://models/2"));
    assert_eq!(events.next_locations().await, ["gs://models/2"]);
    served.stop().await;
}
