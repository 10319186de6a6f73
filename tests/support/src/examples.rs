//! The files under `examples/` and the objects in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::manifests;

/// The folder of the examples.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// Returns the text of a file.
///
/// # Panics
/// If the file is missing.
pub fn text(file: &str) -> String {
    fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("examples/{file}: {error}"))
}

/// Returns the objects in a file, in their order.
///
/// # Panics
/// If the file is missing or not YAML.
pub fn objects(file: &str) -> Vec<Value> {
    manifests(&text(file))
}

/// Returns the first object of this kind.
///
/// # Panics
/// If there is none.
pub fn find(objects: &[Value], kind: &str) -> Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}")).clone()
}

/// Returns the name and the value of the single entry of a generic EventSource.
///
/// # Panics
/// If there is not exactly one.
pub fn entry(event_source: &Value) -> (&str, &Value) {
    let entries = event_source["spec"]["generic"].as_object().expect("a generic EventSource");
    assert_eq!(entries.len(), 1, "{event_source}");
    let (name, entry) = entries.iter().next().expect("just counted");
    (name, entry)
}
