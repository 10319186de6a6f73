//! The documented EventSource and Sensor.

use test_support::{PIPELINE, eventually, examples};

use crate::{DELIVERY, Harness, location};

const NAMESPACE: &str = "kubeflow-pipelines";

fn payload(run: &str) -> String {
    let location = location(run);
    format!(
        r#"{{"pipelineName":"{PIPELINE}","servingModelArtifacts":[{{"name":"{PIPELINE}:{run}:Pusher:pushed_model:0","location":"{location}"}}]}}"#
    )
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_documented_sensor_triggers_for_its_pipeline_only() {
    let harness = Harness::start().await;
    harness.cluster.create_namespace(NAMESPACE).await;
    let server = harness.serve().await;
    let event_source = examples::find(&examples::objects("eventsource/plain.yaml"), "EventSource");
    let sensor = examples::find(&examples::objects("sensor/log.yaml"), "Sensor");
    let argo = harness.argo(&event_source, &[&sensor]).await;

    // The bus keeps the order, so an event that wrongly passes the filter is logged before the last one.
    let pipelines = ["penguin-pipeline-experimental", PIPELINE, "my-penguin-pipeline", PIPELINE];
    for (index, pipeline) in pipelines.into_iter().enumerate() {
        harness.succeed(NAMESPACE, pipeline, &format!("documented-{index}")).await;
        argo.received(index + 1).await;
    }
    eventually(DELIVERY, "both triggers", async || (argo.logged().len() >= 2).then_some(()).ok_or(argo.logged())).await;
    assert_eq!(argo.logged(), [payload("documented-1"), payload("documented-3")]);
    for index in 0..4 {
        harness.marked(NAMESPACE, &format!("documented-{index}"), "model-update").await;
    }
    server.stop().await;
}
