//! Manifests: YAML as people keep it in files, applied as `kubectl apply --server-side` does it.

use kube::{
    Api,
    api::{DynamicObject, GroupVersionKind, Patch, PatchParams},
    core::TypeMeta,
    discovery,
    error::Status,
};
use serde_json::Value;

use super::Cluster;

/// The objects in a YAML text of any number of documents.
///
/// # Panics
/// If it is not YAML.
pub fn manifests(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}:\n{yaml}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

impl Cluster {
    /// Applies an object on the server's side, in the name of this field manager: what the API server does not know is
    /// an error. Returns it as stored.
    ///
    /// # Errors
    /// The API server's refusal.
    ///
    /// # Panics
    /// If the manifest is none, or there is no answer.
    pub async fn apply(&self, manager: &str, manifest: &Value) -> Result<Value, Box<Status>> {
        let types: TypeMeta = serde_json::from_value(manifest.clone()).expect("apiVersion and kind");
        let kind = GroupVersionKind::try_from(&types).expect("an apiVersion");
        let client = self.client().await;
        // Not every plural follows a rule: one EventBus, many `eventbus`.
        let known = discovery::pinned_kind(&client, &kind).await;
        let (resource, _) = known.unwrap_or_else(|error| panic!("{error}: {manifest}"));
        let text = |field: &str| manifest["metadata"][field].as_str();
        let name = text("name").unwrap_or_else(|| panic!("without a name: {manifest}"));
        let api: Api<DynamicObject> = match text("namespace") {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        match api.patch(name, &PatchParams::apply(manager).validation_strict(), &Patch::Apply(manifest)).await {
            Ok(stored) => Ok(serde_json::to_value(stored).expect("an object is JSON")),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("no answer to {manifest}: {error}"),
        }
    }
}
