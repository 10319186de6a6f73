//! The files under `examples/`, as a user has them, and the objects in them.
#![allow(dead_code, reason = "every test binary compiles this module and uses a part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::peers::manifests;

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

/// The objects in a file, in its order.
///
/// # Panics
/// If it is not there, or not YAML.
pub(crate) fn objects(file: &str) -> Vec<Value> {
    manifests(&text(file))
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
