//! A Workflow as the API server stores it, and the forms in which it is shown.

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt};
use serde_json::{Map, Value, json};

use super::{
    Refusal,
    selector::{label_key, label_value},
};

pub(in crate::sim) const API_VERSION: &str = "argoproj.io/v1alpha1";
pub(in crate::sim) const KIND: &str = "Workflow";

/// The fields of the metadata that are kept; the API server drops all others.
const METADATA: [&str; 12] = [
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "uid",
];

/// Whether clients see whole objects or only their metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Full,
    Metadata,
}

/// A Workflow. Never changed, only replaced.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sim) struct Object {
    value: Value,
    labels: BTreeMap<String, String>,
}

impl Object {
    /// Takes an object whose metadata says all that the API server adds to it.
    pub(super) fn new(mut value: Value) -> Result<Self, Refusal> {
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.ok_or_else(|| Refusal::bad_request("metadata is not an object"))?;
        metadata.retain(|field, value| METADATA.contains(&field.as_str()) && !value.is_null());
        let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let labels = texts(metadata, &name, "labels")?;
        let annotations = texts(metadata, &name, "annotations")?;
        // A prefix in capitals is taken in annotations, as kube-apiserver does; it is compared in lower case.
        if let Some(key) = annotations.keys().find(|key| label_key(&key.to_lowercase()).is_none()) {
            return Err(invalid(&name, "metadata.annotations", key, "not a valid key"));
        }
        if let Some((key, _)) = labels.iter().find(|(key, _)| label_key(key).is_none()) {
            return Err(invalid(&name, "metadata.labels", key, "not a valid key"));
        }
        if let Some(value) = labels.values().find(|value| label_value(value).is_none()) {
            return Err(invalid(&name, "metadata.labels", value, "not a valid label"));
        }
        // One without entries is left out.
        for (field, entries) in [("labels", &labels), ("annotations", &annotations)] {
            if entries.is_empty() {
                metadata.remove(field);
            }
        }
        Ok(Self { value, labels })
    }

    /// A field of the metadata that is text.
    pub(in crate::sim) fn text(&self, field: &str) -> &str {
        self.value["metadata"][field].as_str().unwrap_or_default()
    }

    pub(in crate::sim) fn metadata(&self) -> &Value {
        &self.value["metadata"]
    }

    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    pub(super) fn matches(&self, selector: &Selector) -> bool {
        selector.matches(&self.labels)
    }

    /// The same with another value of a field of its metadata.
    pub(super) fn with(mut self, field: &str, value: Value) -> Self {
        self.value["metadata"][field] = value;
        self
    }

    /// Whether anything differs beside the metadata.
    pub(super) fn differs_beside_metadata(&self, other: &Self) -> bool {
        let rest = |object: &Self| {
            let entries = object.value.as_object().into_iter().flatten();
            entries
                .filter(|(field, _)| *field != "metadata")
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<Map<_, _>>()
        };
        rest(self) != rest(other)
    }

    pub(super) fn shown(&self, form: Form) -> Value {
        match form {
            Form::Full => self.value.clone(),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": self.value["metadata"],
            }),
        }
    }
}

fn texts(metadata: &Map<String, Value>, name: &str, field: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let Some(value) = metadata.get(field) else { return Ok(BTreeMap::new()) };
    let wrong = || invalid(name, &format!("metadata.{field}"), &value.to_string(), "must be a map of strings");
    let entries = value.as_object().ok_or_else(wrong)?.iter();
    entries.map(|(key, value)| Ok((key.clone(), value.as_str().ok_or_else(wrong)?.to_owned()))).collect()
}

pub(super) fn invalid(name: &str, field: &str, value: &str, why: &str) -> Refusal {
    Refusal::invalid(name, "FieldValueInvalid", field, &format!("Invalid value: {value:?}: {why}"))
}

/// Applies a merge patch (RFC 7386).
pub(in crate::sim) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    if let Value::Object(entries) = target {
        for (key, change) in changes {
            if change.is_null() {
                entries.remove(key);
            } else {
                merge(entries.entry(key.clone()).or_insert(Value::Null), change);
            }
        }
    }
}
