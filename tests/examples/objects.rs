//! The files under `examples/`, as a user has them, and the objects in them.
#![allow(dead_code, reason = "every test binary compiles this module and uses a part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery,
};
use serde_json::Value;

/// Where the examples are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// The text of a file.
///
/// # Panics
/// If it is not there.
pub(crate) fn text(file: &str) -> String {
    fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("examples/{file}: {error}"))
}

/// The objects in YAML, in its order.
///
/// # Panics
/// If one of its documents is none.
pub(crate) fn objects(yaml: &str) -> Vec<Value> {
    let parse = |document| match serde_saphyr::from_str::<Value>(document) {
        Ok(object @ Value::Object(_)) => object,
        other => panic!("{document}\nis no object: {other:?}"),
    };
    yaml.split("\n---\n").map(parse).collect()
}

/// The object of this kind; several: the first.
///
/// # Panics
/// If there is none.
pub(crate) fn find(objects: &[Value], kind: &str) -> Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("there is no {kind}")).clone()
}

/// The one entry of a generic EventSource: its name and what it says.
///
/// # Panics
/// If there is not exactly one.
pub(crate) fn entry(event_source: &Value) -> (&str, &Value) {
    let entries = event_source["spec"]["generic"].as_object().expect("a generic EventSource");
    assert_eq!(entries.len(), 1, "{event_source}");
    let (name, entry) = entries.iter().next().expect("just counted");
    (name, entry)
}

/// Applies an object as `kubectl apply --server-side` does, with unknown fields as errors; where it names no namespace,
/// into this one.
///
/// # Panics
/// If the API server does not take it.
pub(crate) async fn apply(client: &Client, namespace: &str, object: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text: {value} in {object}")).to_owned();
    let version = text(&object["apiVersion"]);
    let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
    let kind = GroupVersionKind::gvk(group, version, &text(&object["kind"]));
    let (resource, _) = discovery::pinned_kind(client, &kind).await.expect("the API server knows the kind");
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(namespace);
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
    let params = PatchParams::apply("examples").validation_strict();
    let applied = api.patch(&text(&object["metadata"]["name"]), &params, &Patch::Apply(object)).await;
    applied.unwrap_or_else(|error| panic!("{error}: {object}"));
}
