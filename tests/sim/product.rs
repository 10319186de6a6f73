//! The product on the simulated world: what is played is announced.

use std::time::Duration;

use model_update_eventsource::{
    app::Config,
    sim::{
        Sim,
        play::{Form, Play, Player, What},
    },
};
use tokio::{sync::mpsc, time::timeout};

use crate::served::{SOON, Served};

#[tokio::test]
async fn what_is_played_is_announced_and_marked() {
    let sim = Sim::start().await.expect("a simulation");
    let config = Config {
        metadata_store: sim.metadata_url(),
        kubernetes: Some(sim.kube_config()),
        confirm_after: Duration::from_millis(100),
        ..Config::default()
    };
    let served = Served::start(config).await;
    let mut events = served.subscribe("kfpNamespace: demo").await;
    for form in [Form::TfxV1, Form::KfpV2] {
        let (steps, mut taken) = mpsc::channel(16);
        let play = Play { form, pace: Duration::ZERO, ..Play::default() };
        let location = "gs://models/penguin-pipeline/Pusher/pushed_model/1";
        Player::new(&sim, play, steps).run().await.expect("the API server takes it all");
        let event: serde_json::Value = serde_json::from_str(&events.next().await).expect("JSON");
        assert_eq!(event["pipelineName"], "penguin-pipeline");
        assert_eq!(event["servingModelArtifacts"][0]["location"], location);

        let submitted = taken.recv().await.expect("a step");
        assert_eq!(submitted.what, What::Submitted);
        let mut requests = sim.requests();
        timeout(
            SOON,
            requests.wait_for(|_| {
                let workflow = sim.workflow("demo", &submitted.workflow).expect("it is there");
                workflow.annotations.get("published.pipelines.kubeflow.org/model-update") == Some(&submitted.uid)
            }),
        )
        .await
        .expect("a mark in time")
        .expect("the simulation goes on");
    }
    let requests = *sim.requests().borrow();
    assert_eq!((requests.watches, requests.patches), (1, 2));
    served.stop().await;
}
