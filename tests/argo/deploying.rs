//! Sensors whose triggers change the cluster, with their own service accounts.

use kube::ResourceExt as _;
use model_update_eventsource::model::workflow::MARK_PREFIX;
use serde_json::{Value, json};
use test_support::{PIPELINE, examples, manifests};

use crate::{DELIVERY, Harness, location, started};

/// Returns the objects of an example, in this namespace.
fn read(file: &str, namespace: &str) -> Vec<Value> {
    manifests(&examples::text(file).replace("team-a", namespace))
}

/// A redelivered event does not start a second Workflow.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn each_model_is_deployed_and_starts_one_workflow() {
    let harness = Harness::start().await;
    let namespace = harness.cluster.namespace("deploying").await;
    let services = harness.inference_services(&namespace).await;
    services.create("penguin").await;
    let server = harness.serve().await;
    let event_source = examples::find(&read("eventsource/options.yaml", &namespace), "EventSource");
    let mut sensors = Vec::new();
    for file in ["sensor/deploy-inferenceservice.yaml", "sensor/start-workflow.yaml"] {
        let objects = read(file, &namespace);
        harness.apply_accounts(&objects).await;
        sensors.push(examples::find(&objects, "Sensor"));
    }
    let argo = harness.argo(&event_source, &sensors.iter().collect::<Vec<_>>()).await;

    // This pipeline matches the patterns of the EventSource, but not the filters of the Sensors.
    harness.succeed(&namespace, "penguin-other", "deploying-other").await;
    argo.received(1).await;
    let uid = harness.succeed(&namespace, PIPELINE, "deploying-1").await;
    argo.triggered(1).await;
    services.serves("penguin", "deploying-1").await;
    let workflows = harness.cluster.workflows(&namespace).await;
    let name = format!("roll-out-{uid}");
    assert_eq!(started(&workflows).await, [(name.clone(), vec![json!(PIPELINE), json!(location("deploying-1"))])]);
    let created = workflows.get(&name).await;
    assert_eq!(created.data["spec"]["templates"][0]["container"]["image"], "busybox:1.37");

    // The removal of a mark causes a redelivery.
    harness.marked(&namespace, "deploying-1", "deployer").await;
    workflows.annotate("deploying-1", &format!("{MARK_PREFIX}deployer"), None).await;
    argo.received(3).await;
    argo.triggered(2).await;
    services.serves("penguin", "deploying-1").await;
    assert_eq!(workflows.get(&name).await.resource_version(), created.resource_version());

    harness.succeed(&namespace, PIPELINE, "deploying-2").await;
    argo.triggered(3).await;
    services.serves("penguin", "deploying-2").await;
    assert_eq!(started(&workflows).await.len(), 2);
    server.stop().await;
}

/// The trigger is retried until the InferenceService exists; its patch does not create one.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_trigger_without_its_inference_service_is_retried() {
    let harness = Harness::start().await;
    let namespace = harness.cluster.namespace("absent").await;
    let services = harness.inference_services(&namespace).await;
    let server = harness.serve().await;
    let objects = read("sensor/deploy-inferenceservice.yaml", &namespace);
    harness.apply_accounts(&objects).await;
    let event_source = examples::find(&read("eventsource/options.yaml", &namespace), "EventSource");
    let mut argo = harness.argo(&event_source, &[&examples::find(&objects, "Sensor")]).await;

    harness.succeed(&namespace, PIPELINE, "absent-1").await;
    let refused = ["Failed to execute a trigger", "deploy-penguin", "forbidden", "cannot create"];
    argo.sensors[0].logged(DELIVERY, &refused).await;
    services.create("penguin").await;
    services.serves("penguin", "absent-1").await;
    server.stop().await;
}
