//! Argo Events' EventSource, bus and Sensor, end to end without the product. `tests/argo` tests them with it.

use test_support::{Peers, SOON, START};

use crate::subscriber::{Server, event};

fn event_source(server: &Server) -> String {
    format!(
        "apiVersion: argoproj.io/v1alpha1\nkind: EventSource\nmetadata:\n  name: models\nspec:\n  generic:\n    \
         model-update:\n      insecure: true\n      url: {}\n      jsonBody: true\n      config: |-\n        \
         kfpNamespace: team\n",
        server.addr
    )
}

const SENSOR: &str = "apiVersion: argoproj.io/v1alpha1
kind: Sensor
metadata:
  name: models
spec:
  dependencies:
    - name: update
      eventSourceName: models
      eventName: model-update
  triggers:
    - template:
        name: print
        log: {}
";

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn argo_delivers_an_event_through_the_bus_to_its_sensor() {
    let peers = Peers::with(&["argo-events", "nats-server"]).await;
    let mut server = Server::start().await;
    let bus = peers.jet_stream().await;
    let mut argo = peers.argo_events(&bus, Some(&event_source(&server)), Some(SENSOR));

    let (_, source, events) = server.stream().await;
    assert_eq!(source.name, "model-update");
    assert_eq!(source.config, b"kfpNamespace: team");
    argo.logged(START, &["sensor", "Subscribing to subject"]).await;
    events.send(event(r#"{"pipelineName":"penguin-pipeline"}"#)).await.expect("the stream is open");
    argo.logged(SOON, &["\"dependencyName\":\"update\"", "penguin-pipeline"]).await;
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn argo_validates_as_its_controller_does() {
    let peers = Peers::with(&["argo-events", "nats-server"]).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("sensor.yaml");
    std::fs::write(&file, SENSOR).expect("the file is writable");
    assert_eq!(peers.argo_validates(&file), Ok(()));
    // As in the documentation of the Go server.
    std::fs::write(&file, SENSOR.replace("        name: print\n", "")).expect("the file is writable");
    let refusal = peers.argo_validates(&file).expect_err("a trigger needs a name");
    assert!(refusal.contains("name"), "{refusal}");
    assert!(peers.argo_crds().join("argoproj.io_sensors.yaml").exists());
}
