//! The files under `examples/`, which users copy: each parses, applies to a real API server, passes Argo Events' own
//! validation, and has a configuration that the server accepts. `tests/argo` runs them.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{collections::BTreeSet, fs, path::Path};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, api::PostParams};
use serde_json::Value;
use test_support::{Line, Peers, SOON, TestServer, eventually, examples, manifests};

/// Every file, and the kinds of the objects in it.
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

/// Address of the Service that the chart creates when it is installed as documented.
const URL: &str = "kfp-operator-model-update-eventsource-server.kfp-operator-system.svc:50051";

/// Returns the objects of every file, and those of the manifest in the README.
fn all_objects() -> impl Iterator<Item = (&'static str, Value)> {
    let readme = examples::text("../README.md");
    let manifest = readme.split("```yaml\n").find(|block| block.starts_with("apiVersion: ")).expect("a manifest");
    let manifest = manifests(manifest.split("```").next().expect("never empty"));
    let examples = EXAMPLES.into_iter().map(|(file, _)| (file, examples::objects(file)));
    let files = examples.chain([("README.md", manifest)]);
    files.flat_map(|(file, objects)| objects.into_iter().map(move |object| (file, object)))
}

fn event_sources() -> impl Iterator<Item = (&'static str, Value)> {
    all_objects().filter(|(_, object)| object["kind"] == "EventSource")
}

#[test]
fn every_file_is_tested_and_listed_in_the_readme() {
    let mut found = BTreeSet::new();
    walk(&examples::folder(), &mut found);
    assert!(found.remove("README.md"));
    let known: BTreeSet<String> = EXAMPLES.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(found, known, "left: files under examples/; right: EXAMPLES in this file");
    let readme = examples::text("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| [")?.split_once(']'));
    let listed: Vec<&str> = rows.map(|(file, _)| file).collect();
    assert_eq!(
        listed.iter().map(|&file| file.to_owned()).collect::<BTreeSet<_>>(),
        known,
        "left: table in the README; right: EXAMPLES in this file"
    );
    for file in listed {
        assert!(readme.contains(&format!("| [{file}]({file}) | ")), "{file}: its row has no link to it");
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

/// A comment at the top describes the file, and another what to change, if anything.
#[test]
fn every_file_has_its_kinds_and_comments() {
    for (file, kinds) in EXAMPLES {
        let text = examples::text(file);
        let objects = examples::objects(file);
        let mut found: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        let mut seen = BTreeSet::new();
        found.retain(|kind| seen.insert(*kind));
        assert_eq!(found, kinds, "{file}");
        assert!(text.starts_with("# "), "{file} has no description");
        assert!(text.contains("Change") || file == "eventbus/native-nats.yaml", "{file} does not say what to change");
    }
}

#[test]
fn every_event_source_uses_the_documented_service_without_tls() {
    for (file, event_source) in event_sources() {
        let (name, entry) = examples::entry(&event_source);
        assert_eq!(name, "model-update", "{file}");
        assert_eq!((&entry["url"], &entry["insecure"]), (&URL.into(), &true.into()), "{file}");
    }
}

#[test]
fn every_sensor_depends_on_an_event_source_of_the_examples() {
    // Namespace and name.
    let key = |namespace: &Value, name: &Value| (namespace.clone(), name.clone());
    let known: Vec<_> =
        event_sources().map(|(_, source)| key(&source["metadata"]["namespace"], &source["metadata"]["name"])).collect();
    for (file, sensor) in all_objects().filter(|(_, object)| object["kind"] == "Sensor") {
        for dependency in sensor["spec"]["dependencies"].as_array().unwrap() {
            assert_eq!(dependency["eventName"], "model-update", "{file}");
            let needed = key(&sensor["metadata"]["namespace"], &dependency["eventSourceName"]);
            assert!(known.contains(&needed), "{file}: {needed:?} is none of {known:?}");
        }
    }
}

#[tokio::test]
async fn the_server_accepts_every_event_source_configuration() {
    let (_sim, server) = TestServer::start_with_sim().await;
    let mut streams = Vec::new();
    for (file, event_source) in event_sources() {
        let (name, entry) = examples::entry(&event_source);
        let config = entry["config"].as_str().unwrap();
        let accepted = server.try_subscribe(name, config).await;
        streams.push(accepted.unwrap_or_else(|refusal| panic!("{file}: {refusal}")));
        // A wrong configuration is refused.
        let wrong = config.replace("kfpNamespace", "kfpNamspace");
        let Err(refusal) = server.try_subscribe(name, &wrong).await else { panic!("{file}: {wrong} was accepted") };
        assert!(refusal.to_string().contains("did you mean kfpNamespace"), "{file}: {refusal}");
    }
    drop(streams);
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_token_is_ignored_as_its_example_says() {
    assert!(examples::text("eventsource/auth-secret.yaml").contains("# - The server ignores the token today."));
    let peers = Peers::find().await;
    let (_sim, server) = TestServer::start_with_sim().await;
    let event_source = examples::find(&examples::objects("eventsource/auth-secret.yaml"), "EventSource");
    let config = examples::entry(&event_source).1["config"].as_str().unwrap();
    let mut subscriber = peers.grpc_go_client(server.address, config).token("invalid").start();
    assert_eq!(subscriber.next(SOON).await, Some(Line::Open(true)));
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_api_server_accepts_every_object() {
    let peers = Peers::with(&["argo-events"]).await;
    let cluster = peers.private_cluster().await;
    let crds = Api::<CustomResourceDefinition>::all(cluster.client().await);
    for kind in ["eventbus", "eventsources", "sensors"] {
        let file = fs::read_to_string(peers.argo_crds().join(format!("argoproj.io_{kind}.yaml"))).unwrap();
        let crd = serde_saphyr::from_str(&file).unwrap();
        crds.create(&PostParams::default(), &crd).await.unwrap();
        let name = format!("{kind}.argoproj.io");
        eventually(SOON, &format!("{name} is established"), async || {
            let conditions = crds.get(&name).await.ok()?.status?.conditions?;
            conditions.iter().any(|found| found.type_ == "Established" && found.status == "True").then_some(())
        })
        .await;
    }
    for team in ["team-a", "team-b"] {
        cluster.create_namespace(team).await;
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
async fn argo_events_validates_every_object() {
    let peers = Peers::with(&["argo-events"]).await;
    let folder = tempfile::tempdir().unwrap();
    let mut validated = 0;
    for (index, (file, object)) in all_objects().enumerate() {
        if matches!(object["kind"].as_str(), Some("EventBus" | "EventSource" | "Sensor")) {
            let path = folder.path().join(index.to_string());
            fs::write(&path, object.to_string()).unwrap();
            assert_eq!(peers.argo_validates(&path), Ok(()), "{file}");
            validated += 1;
        }
    }
    assert_eq!(validated, 17, "buses, EventSources and Sensors");
}
