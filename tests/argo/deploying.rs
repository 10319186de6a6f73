//! Sensors whose triggers change the cluster, with their own service accounts.

use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use model_update_eventsource::model::workflow::MARK_PREFIX;
use serde_json::{Value, json};
use test_support::{PIPELINE, SOON, eventually, examples, manifests};

use crate::{DELIVERY, Harness, location, started};

/// Returns the objects of an example, in this namespace.
fn read(file: &str, namespace: &str) -> Vec<Value> {
    manifests(&examples::text(file).replace("team-a", namespace))
}

/// A run that was retried with another model is rolled out again; a redelivered event starts no second Workflow.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn each_event_deploys_its_model_and_starts_one_workflow() {
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

    // These pipelines match the patterns of the EventSource. The names contain each other, but are not the Sensors'.
    for (number, pipeline) in
        ["penguin-pipeline-experimental", "penguin-pipeline2", "penguin-pipelin"].iter().enumerate()
    {
        harness.succeed(&namespace, pipeline, &format!("deploying-other-{number}")).await;
    }
    argo.received(3).await;
    // The model of another node has a lower id. A run that pushes nothing else triggers nothing.
    harness.push(PIPELINE, "deploying-canary", "Pusher.canary", "gs://models/canary").await;
    harness.complete(&namespace, PIPELINE, "deploying-canary").await;
    argo.received(4).await;
    harness.push(PIPELINE, "deploying-1", "Pusher.canary", "gs://models/canary").await;
    harness.succeed(&namespace, PIPELINE, "deploying-1").await;
    argo.triggered(1).await;
    services.serves("penguin", "deploying-1").await;
    let workflows = harness.cluster.workflows(&namespace).await;
    let roll_out = |run: &str| vec![json!(PIPELINE), json!(location(run))];
    let [(name, parameters)] = started(&workflows).await.try_into().unwrap();
    assert_eq!(parameters, roll_out("deploying-1"));
    let id = name.strip_prefix("roll-out-").and_then(|id| id.parse::<uuid::Uuid>().ok());
    assert_eq!(id.map(|id| id.get_version_num()), Some(5), "{name}");
    let created = workflows.get(&name).await;
    assert_eq!(created.data["spec"]["templates"][0]["container"]["image"], "busybox:1.37");

    // The removal of a mark causes a redelivery.
    harness.marked(&namespace, "deploying-1", "deployer").await;
    workflows.annotate("deploying-1", &format!("{MARK_PREFIX}deployer"), None).await;
    argo.received(6).await;
    argo.triggered(2).await;
    services.serves("penguin", "deploying-1").await;
    assert_eq!(workflows.get(&name).await.resource_version(), created.resource_version());

    harness.succeed(&namespace, PIPELINE, "deploying-2").await;
    argo.triggered(3).await;
    services.serves("penguin", "deploying-2").await;
    assert_eq!(started(&workflows).await.len(), 2);

    // A mark that is removed from an older run brings no older model back; the run is only marked again.
    harness.marked(&namespace, "deploying-1", "deployer").await;
    workflows.annotate("deploying-1", &format!("{MARK_PREFIX}deployer"), None).await;
    harness.marked(&namespace, "deploying-1", "deployer").await;

    // The last run is retried, and pushes another model.
    harness.marked(&namespace, "deploying-2", "deployer").await;
    workflows.set_phase("deploying-2", "Running").await;
    harness.push(PIPELINE, "deploying-2", "Pusher", &location("deploying-retried")).await;
    workflows.set_phase("deploying-2", "Succeeded").await;
    argo.triggered(4).await;
    argo.received(8).await;
    services.serves("penguin", "deploying-retried").await;
    let parameters: Vec<_> = started(&workflows).await.into_iter().map(|(_, parameters)| parameters).collect();
    assert_eq!(parameters.len(), 3);
    assert!(parameters.contains(&roll_out("deploying-retried")), "{parameters:?}");
    server.stop().await;
}

/// Events of all runs follow once more: the EventSource gets another subscription, without `latestOnly`.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_older_event_on_the_bus_does_not_roll_back() {
    let harness = Harness::start().await;
    let namespace = harness.cluster.namespace("repeated").await;
    let services = harness.inference_services(&namespace).await;
    services.create("penguin").await;
    let server = harness.serve().await;
    let mut sensors = Vec::new();
    for file in ["sensor/deploy-inferenceservice.yaml", "sensor/start-workflow.yaml"] {
        let objects = read(file, &namespace);
        harness.apply_accounts(&objects).await;
        sensors.push(examples::find(&objects, "Sensor"));
    }
    harness.apply_accounts(&read("sensor/keep-newest-model.yaml", &namespace)).await;
    let event_source = read("eventsource/options.yaml", &namespace);
    let argo = harness.argo(&examples::find(&event_source, "EventSource"), &sensors.iter().collect::<Vec<_>>()).await;
    let workflows = harness.cluster.workflows(&namespace).await;
    harness.succeed(&namespace, PIPELINE, "repeated-1").await;
    services.serves("penguin", "repeated-1").await;
    // Times in Kubernetes are in whole seconds.
    let first = Instant::now();
    eventually(SOON, "the next second", async || first.elapsed() > Duration::from_millis(1050)).await;
    harness.succeed(&namespace, PIPELINE, "repeated-2").await;
    services.serves("penguin", "repeated-2").await;
    argo.triggered(2).await;

    let mut replay = examples::find(&event_source, "EventSource");
    let config = replay["spec"]["generic"]["model-update"]["config"].as_str().unwrap().replace("deployer", "replay");
    replay["spec"]["generic"]["model-update"]["config"] =
        json!(config.replace("latestOnly: true", "latestOnly: false"));
    let mut argo = harness.replace_event_source(argo, &replay).await;
    let refused = ["Failed to execute a trigger", "is newer than that of"];
    argo.sensors[0].logged(DELIVERY, &refused).await;
    argo.sensor_triggered(1, 4).await;
    services.serves("penguin", "repeated-2").await;
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
