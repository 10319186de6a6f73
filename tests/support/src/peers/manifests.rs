//! Kubernetes objects in YAML, applied as with `kubectl apply --server-side`.

use std::{fs, path::Path};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    core::TypeMeta,
    discovery,
    error::Status,
};
use serde_json::{Value, json};

use super::Cluster;
use crate::{SOON, eventually};

/// Returns the objects in a YAML text with any number of documents.
///
/// # Panics
/// If the text is not YAML.
pub fn manifests(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}:\n{yaml}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// Returns the object of this kind and name.
///
/// # Panics
/// If there is none.
pub fn find_object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

impl Cluster {
    /// Installs a namespaced kind with a schema that accepts every field, and waits until it is served.
    pub async fn install_kind(&self, kind: &ApiResource) {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version = json!({
            "name": kind.version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        });
        let names = json!({
            "kind": kind.kind, "listKind": format!("{}List", kind.kind), "plural": kind.plural,
            "singular": kind.kind.to_lowercase(),
        });
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{}", kind.plural, kind.group)},
            "spec": {"group": kind.group, "scope": "Namespaced", "names": names, "versions": [version]},
        });
        self.apply("tests", &crd).await.expect("the CustomResourceDefinition is accepted");
        // The API server establishes a kind before it serves it.
        let objects = Api::<DynamicObject>::all_with(self.client().await, kind);
        let what = format!("{} are served", kind.plural);
        eventually(SOON, &what, async || objects.list(&Default::default()).await).await;
    }

    /// Installs the kinds of Argo Events from this folder ([`Peers::argo_crds`](super::Peers::argo_crds)), and waits until
    /// they are established.
    ///
    /// # Panics
    /// If the API server refuses one.
    pub async fn install_argo_events(&self, folder: &Path) {
        let crds = Api::<CustomResourceDefinition>::all(self.client().await);
        for kind in ["eventbus", "eventsources", "sensors"] {
            let file = fs::read_to_string(folder.join(format!("argoproj.io_{kind}.yaml"))).expect("a readable file");
            let crd = serde_saphyr::from_str(&file).expect("a CustomResourceDefinition");
            crds.create(&PostParams::default(), &crd).await.expect("the CustomResourceDefinition is accepted");
            let name = format!("{kind}.argoproj.io");
            eventually(SOON, &format!("{name} is established"), async || {
                let conditions = crds.get(&name).await.ok()?.status?.conditions?;
                conditions.iter().any(|found| found.type_ == "Established" && found.status == "True").then_some(())
            })
            .await;
        }
    }

    /// Applies an object as this field manager (server-side apply) and returns it as stored. Unknown fields are an
    /// error.
    ///
    /// # Errors
    /// The API server's refusal.
    ///
    /// # Panics
    /// If the object has no kind or name, or there is no response.
    pub async fn apply(&self, manager: &str, manifest: &Value) -> Result<Value, Box<Status>> {
        let types: TypeMeta = serde_json::from_value(manifest.clone()).expect("apiVersion and kind");
        let kind = GroupVersionKind::try_from(&types).expect("an apiVersion");
        let client = self.client().await;
        // Plurals need discovery: that of EventBus is `eventbus`.
        let discovered = discovery::pinned_kind(&client, &kind).await;
        let (resource, _) = discovered.unwrap_or_else(|error| panic!("{error}: {manifest}"));
        let text = |field: &str| manifest["metadata"][field].as_str();
        let name = text("name").unwrap_or_else(|| panic!("no name: {manifest}"));
        let api: Api<DynamicObject> = match text("namespace") {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        match api.patch(name, &PatchParams::apply(manager).validation_strict(), &Patch::Apply(manifest)).await {
            Ok(stored) => Ok(serde_json::to_value(stored).expect("an object is JSON")),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("no response to {manifest}: {error}"),
        }
    }
}
