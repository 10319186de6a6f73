//! The files under `examples/`, which users copy: each parses, applies to a real API server, passes Argo Events' own
//! validation, and has a configuration that the server accepts. `tests/argo` runs them.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{collections::BTreeSet, fs, path::Path};

use model_update_eventsource::tools::lint::Linter;
use serde_json::Value;
use test_support::{Line, Peers, SOON, TestServer, examples, manifests};

/// Every file, and the kinds of the objects in it.
const EXAMPLES: [(&str, &[&str]); 13] = [
    ("eventbus/jetstream.yaml", &["EventBus"]),
    ("eventbus/native-nats.yaml", &["EventBus"]),
    ("eventsource/auth-secret.yaml", &["ServiceAccount", "RoleBinding", "Secret", "EventSource"]),
    ("eventsource/failed-runs.yaml", &["EventSource"]),
    ("eventsource/options.yaml", &["EventSource"]),
    ("eventsource/plain.yaml", &["EventSource"]),
    ("multi-tenant/team-a.yaml", &["EventBus", "EventSource", "Sensor", "ServiceAccount", "Role", "RoleBinding"]),
    ("multi-tenant/team-b.yaml", &["EventBus", "EventSource", "Sensor", "ServiceAccount", "Role", "RoleBinding"]),
    ("sensor/alert-failed-runs.yaml", &["Sensor"]),
    ("sensor/deploy-inferenceservice.yaml", &["Sensor", "ServiceAccount", "Role", "RoleBinding"]),
    ("sensor/keep-newest-model.yaml", &["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]),
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

fn sensors() -> impl Iterator<Item = (&'static str, Value)> {
    all_objects().filter(|(_, object)| object["kind"] == "Sensor")
}

/// Returns the values under this key, at any depth.
fn values_of<'a>(object: &'a Value, key: &str) -> Vec<&'a Value> {
    match object {
        Value::Object(entries) => {
            let nested = |(name, value): (&String, &'a Value)| {
                if name == key { vec![value] } else { values_of(value, key) }
            };
            entries.iter().flat_map(nested).collect()
        }
        Value::Array(items) => items.iter().flat_map(|item| values_of(item, key)).collect(),
        _ => Vec::new(),
    }
}

/// Argo Events searches the regular expressions of a filter anywhere in a text.
#[test]
fn filters_of_sensors_match_whole_texts() {
    let mut names = 0;
    for (file, sensor) in sensors() {
        for filter in values_of(&sensor, "data").into_iter().filter_map(Value::as_array).flatten() {
            for value in filter["value"].as_array().unwrap() {
                let value = value.as_str().unwrap();
                let text = value.strip_prefix('^').and_then(|rest| rest.strip_suffix('$'));
                let text = text.unwrap_or_else(|| panic!("{file}: {value} is not anchored"));
                if text == ".+" {
                    continue;
                }
                let mut before = ' ';
                for character in text.chars() {
                    let escaped = before == '\\' || !".+*?()[]{}^$|".contains(character);
                    assert!(escaped, "{file}: {character} of {value} is not escaped");
                    before = character;
                }
                let explained = "searches this regular";
                assert!(examples::text(file).contains(explained), "{file} does not say why {value} is anchored");
                names += 1;
            }
        }
    }
    assert_eq!(names, 3, "Sensors with a filter for a pipeline");
}

/// The newest model, by its name rather than its position, and one roll-out for each event.
#[test]
fn deploying_sensors_take_one_model_of_the_newest_run() {
    let mut deploying = 0;
    for (file, sensor) in sensors().filter(|(_, sensor)| !values_of(sensor, "k8s").is_empty()) {
        let source = &sensor["spec"]["dependencies"][0]["eventSourceName"];
        let namespace = &sensor["metadata"]["namespace"];
        let is_source =
            |found: &Value| (&found["metadata"]["namespace"], &found["metadata"]["name"]) == (namespace, source);
        let (_, event_source) = event_sources().find(|(_, found)| is_source(found)).unwrap();
        let config = manifests(examples::entry(&event_source).1["config"].as_str().unwrap());
        assert_eq!(config[0]["latestOnly"], true, "{file}");
        let included = config[0]["include"].as_array().unwrap();
        for key in values_of(&sensor, "dataKey").into_iter().chain(values_of(&sensor, "path")) {
            let key = key.as_str().unwrap().strip_prefix("body.").unwrap();
            let is_model = key.starts_with("servingModelArtifacts.#(name%");
            assert!(is_model || key == "pipelineName" || included.contains(&key.into()), "{file}: {key}");
        }
        let creates = values_of(&sensor, "kind").contains(&&"Workflow".into());
        let id = if creates { "body.eventId" } else { "body.finishedAt" };
        assert!(values_of(&sensor, "dataKey").contains(&&id.into()), "{file} does not use {id}");
        deploying += 1;
    }
    assert_eq!(deploying, 4);
}

/// Each file by itself, and all in one call.
#[test]
fn lint_finds_nothing() {
    let linter = || Linter::new(None, Vec::new());
    let mut all = linter();
    for (file, kinds) in EXAMPLES {
        let text = examples::text(file);
        all.add(file, text.as_bytes());
        if kinds.iter().any(|kind| ["EventSource", "Sensor"].contains(kind)) {
            let mut one = linter();
            one.add(file, text.as_bytes());
            assert_eq!(one.finish().findings, [], "{file}");
        }
    }
    let report = all.finish();
    assert_eq!(report.findings, []);
    let objects = event_sources().chain(sensors()).filter(|(file, _)| *file != "README.md").count();
    assert_eq!(report.objects, objects);
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
async fn without_access_control_a_token_is_ignored() {
    assert!(examples::text("eventsource/auth-secret.yaml").contains("the default, the server ignores it."));
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
    cluster.install_argo_events(&peers.argo_crds()).await;
    for team in ["team-a", "team-b"] {
        cluster.create_namespace(team).await;
    }
    for (file, _) in EXAMPLES {
        let namespace = cluster.namespace("example").await;
        for mut object in examples::objects(file) {
            if object["apiVersion"] != "admissionregistration.k8s.io/v1" {
                let metadata = object["metadata"].as_object_mut().unwrap();
                metadata.entry("namespace").or_insert_with(|| namespace.as_str().into());
            }
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
    assert_eq!(validated, 19, "buses, EventSources and Sensors");
}
