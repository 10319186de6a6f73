//! What users copy has to work as it stands: every file under `examples/` parses, applies to a real API server, passes
//! Argo Events' own validation, and asks our server for something that it grants. tests/argo runs them.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{collections::BTreeSet, fs, path::Path};

use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use model_update_eventsource::{app::Config, sim::Sim};
use serde_json::Value;
use test_support::{Line, Peers, SOON, TestServer, eventually, examples, manifests};

/// Every file, and the kinds of the objects in it: what is not here is no example.
const EXAMPLES: [(&str, &[&str]); 10] = [
    ("eventbus/jetstream.yaml", &["EventBus"]),
    ("eventbus/native-nats.yaml", &["EventBus"]),
    ("eventsource/auth-secret.yaml", &["ServiceAccount", "Secret", "EventSource"]),
    ("eventsource/options.yaml", &["EventSource"]),
    ("eventsource/plain.yaml", &["EventSource"]),
    ("multi-tenant/team-a.yaml", &["EventBus", "EventSource", "Sensor", "ServiceAccount", "Role", "RoleBinding"]),
    ("multi-tenant/team-b.yaml", &["EventBus", "EventSource", "Sensor", "ServiceAccount", "Role", "RoleBinding"]),
    ("sensor/deploy-inferenceservice.yaml", &["Sensor", "ServiceAccount", "Role", "RoleBinding"]),
    ("sensor/log.yaml", &["Sensor"]),
    ("sensor/start-workflow.yaml", &["Sensor", "ServiceAccount", "Role", "RoleBinding"]),
];

/// Where the chart, released as documented, puts the server.
const URL: &str = "kfp-operator-model-update-eventsource-server.kfp-operator-system.svc:50051";

/// The objects of every file, and those of the manifest in the README.
fn all_objects() -> impl Iterator<Item = (&'static str, Value)> {
    let readme = examples::text("../README.md");
    let manifest = readme.split("```yaml\n").find(|block| block.starts_with("apiVersion: ")).expect("a manifest");
    let manifest = manifests(manifest.split("```").next().expect("never empty"));
    let examples =
        EXAMPLES.into_iter().flat_map(|(file, _)| examples::objects(file).into_iter().map(move |o| (file, o)));
    examples.chain(manifest.into_iter().map(|object| ("README.md", object)))
}

fn event_sources() -> impl Iterator<Item = (&'static str, Value)> {
    all_objects().filter(|(_, object)| object["kind"] == "EventSource")
}

#[test]
fn every_file_is_an_example_that_the_tests_know_and_the_readme_lists() {
    let mut found = BTreeSet::new();
    walk(&examples::folder(), &mut found);
    assert!(found.remove("README.md"));
    let known: BTreeSet<String> = EXAMPLES.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(found, known, "left: the files under examples/; right: EXAMPLES in this file");
    let readme = examples::text("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| [")?.split_once(']'));
    let listed: Vec<&str> = rows.map(|(file, _)| file).collect();
    assert_eq!(listed.iter().map(|&file| file.to_owned()).collect::<BTreeSet<_>>(), known, "the table in the README");
    for file in listed {
        assert!(readme.contains(&format!("| [{file}]({file}) | ")), "{file}: its link leads elsewhere");
    }
}

fn walk(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.insert(path.strip_prefix(examples::folder()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn every_file_holds_what_it_is_there_for_and_says_what_to_change() {
    for (file, kinds) in EXAMPLES {
        let text = examples::text(file);
        let objects = examples::objects(file);
        let mut found: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        let mut seen = BTreeSet::new();
        found.retain(|kind| seen.insert(*kind));
        assert_eq!(found, kinds, "{file}");
        assert!(text.starts_with("# "), "{file} begins with what it is");
        assert!(text.contains("Change") || file == "eventbus/native-nats.yaml", "{file}: what is there to change?");
    }
}

#[test]
fn every_event_source_dials_the_documented_service_in_plaintext() {
    for (file, event_source) in event_sources() {
        let (name, entry) = examples::entry(&event_source);
        assert_eq!(name, "model-update", "{file}");
        assert_eq!((&entry["url"], &entry["insecure"]), (&URL.into(), &true.into()), "{file}");
    }
}

#[test]
fn every_sensor_depends_on_an_event_source_of_the_examples_in_its_namespace() {
    let place = |object: &Value| (object["metadata"]["namespace"].clone(), object["metadata"]["name"].clone());
    let there: Vec<_> = event_sources().map(|(_, source)| place(&source)).collect();
    for (file, sensor) in all_objects().filter(|(_, object)| object["kind"] == "Sensor") {
        for dependency in sensor["spec"]["dependencies"].as_array().unwrap() {
            assert_eq!(dependency["eventName"], "model-update", "{file}");
            let wanted = (place(&sensor).0, dependency["eventSourceName"].clone());
            assert!(there.contains(&wanted), "{file}: {wanted:?} is none of {there:?}");
        }
    }
}

/// A server before a simulation, which a subscription does not see the difference of.
async fn serve() -> (Sim, TestServer) {
    let sim = Sim::start().await.unwrap();
    let config =
        Config { metadata_store: sim.metadata_url(), kubernetes: Some(sim.kube_config()), ..Config::default() };
    let served = TestServer::start(config).await;
    (sim, served)
}

#[tokio::test]
async fn our_server_takes_the_configuration_of_every_event_source() {
    let (_sim, served) = serve().await;
    let mut streams = Vec::new();
    for (file, event_source) in event_sources() {
        let (name, entry) = examples::entry(&event_source);
        let config = entry["config"].as_str().unwrap();
        let taken = served.try_subscribe(name, config).await;
        streams.push(taken.unwrap_or_else(|refusal| panic!("{file}: {refusal}")));
        // The test would notice a configuration that the server does not take.
        let broken = config.replace("kfpNamespace", "kfpNamspace");
        let Err(refusal) = served.try_subscribe(name, &broken).await else { panic!("{file}: {broken} was taken") };
        assert!(refusal.to_string().contains("did you mean kfpNamespace"), "{file}: {refusal}");
    }
    drop(streams);
    served.stop().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_token_is_ignored_today_as_its_example_says() {
    assert!(examples::text("eventsource/auth-secret.yaml").contains("# - The server ignores the token today."));
    let peers = Peers::find().await;
    let (_sim, served) = serve().await;
    let event_source = examples::find(&examples::objects("eventsource/auth-secret.yaml"), "EventSource");
    let config = examples::entry(&event_source).1["config"].as_str().unwrap();
    let mut subscriber = peers.grpc_go_client(served.address, config).token("nobody's").start();
    assert_eq!(subscriber.next(SOON).await, Some(Line::Open(true)));
    served.stop().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn every_object_applies_to_an_api_server_with_argo_events_kinds() {
    let peers = Peers::with(&["argo-events"]).await;
    let cluster = peers.private_cluster().await;
    let client = cluster.client().await;
    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    for kind in ["eventbus", "eventsources", "sensors"] {
        let file = fs::read_to_string(peers.argo_crds().join(format!("argoproj.io_{kind}.yaml"))).unwrap();
        let crd = serde_saphyr::from_str(&file).unwrap();
        crds.create(&PostParams::default(), &crd).await.unwrap();
        let name = format!("{kind}.argoproj.io");
        eventually(SOON, &format!("{name} is served"), async || {
            let conditions = crds.get(&name).await.ok()?.status?.conditions?;
            conditions.iter().any(|found| found.type_ == "Established" && found.status == "True").then_some(())
        })
        .await;
    }
    let namespaces = Api::<Namespace>::all(client.clone());
    for team in ["team-a", "team-b"] {
        let metadata = ObjectMeta { name: Some(team.to_owned()), ..ObjectMeta::default() };
        namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await.unwrap();
    }
    for (file, _) in EXAMPLES {
        let namespace = cluster.namespace("example").await;
        for mut object in examples::objects(file) {
            object["metadata"].as_object_mut().unwrap().entry("namespace").or_insert_with(|| namespace.as_str().into());
            let applied = cluster.apply("examples", &object).await;
            applied.unwrap_or_else(|refusal| panic!("{file}: {}: {object}", refusal.message));
        }
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn argo_events_own_validation_finds_nothing_wrong() {
    let peers = Peers::with(&["argo-events"]).await;
    let folder = tempfile::tempdir().unwrap();
    let mut judged = 0;
    for (index, (file, object)) in all_objects().enumerate() {
        if matches!(object["kind"].as_str(), Some("EventBus" | "EventSource" | "Sensor")) {
            let path = folder.path().join(index.to_string());
            fs::write(&path, object.to_string()).unwrap();
            assert_eq!(peers.argo_validates(&path), Ok(()), "{file}");
            judged += 1;
        }
    }
    assert_eq!(judged, 17, "buses, EventSources and Sensors");
}
