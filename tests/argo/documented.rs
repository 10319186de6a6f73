//! The documented EventSource and Sensor.

use test_support::{eventually, examples};

use crate::{CARRIED, PIPELINE, World, location};

const NAMESPACE: &str = "kubeflow-pipelines";

fn payload(run: &str) -> String {
    let location = location(run);
    format!(
        r#"{{"pipelineName":"{PIPELINE}","servingModelArtifacts":[{{"name":"{PIPELINE}:{run}:Pusher:pushed_model:0","location":"{location}"}}]}}"#
    )
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_documented_sensor_lets_its_pipeline_through_to_its_trigger_and_stops_another() {
    let world = World::start().await;
    world.create_namespace(NAMESPACE).await;
    let server = world.serve().await;
    let event_source = examples::find(&examples::objects("eventsource/plain.yaml"), "EventSource");
    let sensor = examples::find(&examples::objects("sensor/log.yaml"), "Sensor");
    let argo = world.argo(&event_source, &[&sensor]).await;

    // In turns, and all over the bus, which keeps their order: what a trigger has got at the end is all that it gets.
    for (index, pipeline) in ["other-pipeline", PIPELINE, "other-pipeline", PIPELINE].into_iter().enumerate() {
        world.succeeded(NAMESPACE, pipeline, &format!("documented-{index}")).await;
        argo.received(index + 1).await;
    }
    eventually(CARRIED, "both triggers", async || (argo.logged().len() >= 2).then_some(()).ok_or(argo.logged())).await;
    assert_eq!(argo.logged(), [payload("documented-1"), payload("documented-3")]);
    for index in 0..4 {
        world.marked(NAMESPACE, &format!("documented-{index}"), "model-update").await;
    }
    server.stop().await;
}
