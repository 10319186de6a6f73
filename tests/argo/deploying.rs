//! The Sensors that do something with a model, as the accounts that come with them.

use model_update_eventsource::model::workflow::MARK_PREFIX;
use serde_json::json;
use test_support::{examples, manifests};

use crate::{CARRIED, PIPELINE, World, location, started};

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_new_model_is_deployed_and_a_workflow_started_with_it_once_even_if_the_event_comes_twice() {
    let world = World::start().await;
    let namespace = world.cluster.namespace("deploying").await;
    let services = world.inference_services(&namespace).await;
    services.create("penguin").await;
    let server = world.serve().await;
    let read = |file| manifests(&examples::text(file).replace("team-a", &namespace));
    let event_source = examples::find(&read("eventsource/options.yaml"), "EventSource");
    let mut sensors = Vec::new();
    for file in ["sensor/deploy-inferenceservice.yaml", "sensor/start-workflow.yaml"] {
        let objects = read(file);
        world.apply_rights(&objects).await;
        sensors.push(examples::find(&objects, "Sensor"));
    }
    let argo = world.argo(&event_source, &sensors.iter().collect::<Vec<_>>()).await;

    // The first fits the EventSource's patterns, but not the Sensors' filters.
    world.succeeded(&namespace, "penguin-other", "deploying-other").await;
    argo.received(1).await;
    let uid = world.succeeded(&namespace, PIPELINE, "deploying-1").await;
    argo.triggered(1).await;
    services.serves("penguin", "deploying-1").await;
    let workflows = world.cluster.workflows(&namespace).await;
    let name = format!("roll-out-{uid}");
    assert_eq!(started(&workflows).await, [(name.clone(), vec![json!(PIPELINE), json!(location("deploying-1"))])]);
    let created = workflows.get(&name).await;
    assert_eq!(created.data["spec"]["templates"][0]["container"]["image"], "busybox:1.37");

    // Whoever removes the mark has the event again.
    world.marked(&namespace, "deploying-1", "deployer").await;
    workflows.annotate("deploying-1", &format!("{MARK_PREFIX}deployer"), None).await;
    argo.received(3).await;
    argo.triggered(2).await;
    services.serves("penguin", "deploying-1").await;
    assert_eq!(workflows.get(&name).await.metadata.resource_version, created.metadata.resource_version);

    world.succeeded(&namespace, PIPELINE, "deploying-2").await;
    argo.triggered(3).await;
    services.serves("penguin", "deploying-2").await;
    assert_eq!(started(&workflows).await.len(), 2);
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_inference_service_that_is_not_there_is_waited_for_and_not_made_out_of_a_patch() {
    let world = World::start().await;
    let namespace = world.cluster.namespace("absent").await;
    let services = world.inference_services(&namespace).await;
    let server = world.serve().await;
    let read = |file| manifests(&examples::text(file).replace("team-a", &namespace));
    let objects = read("sensor/deploy-inferenceservice.yaml");
    world.apply_rights(&objects).await;
    let event_source = examples::find(&read("eventsource/options.yaml"), "EventSource");
    let mut argo = world.argo(&event_source, &[&examples::find(&objects, "Sensor")]).await;

    world.succeeded(&namespace, PIPELINE, "absent-1").await;
    let refused = ["Failed to execute a trigger", "deploy-penguin", "forbidden", "cannot create"];
    argo.sensors[0].logged(CARRIED, &refused).await;
    services.create("penguin").await;
    services.serves("penguin", "absent-1").await;
    server.stop().await;
}
