//! Workflows on the API server, as Argo's controller and Kubeflow write them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    error::Status,
};
use model_update_eventsource::sim::{NewWorkflow, phase_patch};
use serde_json::{Value, json};

/// The kind `Workflow` of Argo Workflows.
pub(super) fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Workflow"))
}

/// The Workflows of a namespace.
#[derive(Clone, Debug)]
pub struct Workflows {
    api: Api<DynamicObject>,
}

impl Workflows {
    /// The Workflows of a namespace through this client.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced_with(client, namespace, &resource()) }
    }

    /// Returns kube's API of the Workflows.
    pub fn api(&self) -> &Api<DynamicObject> {
        &self.api
    }

    /// Creates a Workflow and returns it as stored.
    pub async fn create(&self, new: NewWorkflow) -> DynamicObject {
        let workflow = serde_json::from_value(new.into_object()).expect("an object");
        self.api.create(&PostParams::default(), &workflow).await.expect("the Workflow is accepted")
    }

    /// Changes the phase as Argo's controller does: status and labels in one update.
    pub async fn set_phase(&self, name: &str, phase: &str) -> DynamicObject {
        self.merge(name, &phase_patch(phase)).await
    }

    /// Makes a run appear to have ended earlier: changes the time at which Argo's controller last updated the phase label.
    pub async fn backdate_end(&self, name: &str, by: Duration) -> DynamicObject {
        let end = Timestamp::try_from(SystemTime::now() - by).expect("a time that Kubernetes can write");
        let end = Timestamp::from_second(end.as_second()).expect("the same in whole seconds").to_string();
        let labels = json!({"f:workflows.argoproj.io/phase": {}, "f:workflows.argoproj.io/completed": {}});
        let controller = json!({
            "manager": "workflow-controller", "operation": "Update", "apiVersion": "argoproj.io/v1alpha1",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": labels}}, "time": end,
        });
        // The API server ignores a change of nothing but times.
        let annotations = json!({"example.com/ended": end});
        self.merge(name, &json!({"metadata": {"managedFields": [controller], "annotations": annotations}})).await
    }

    /// Sets a label.
    pub async fn label(&self, name: &str, key: &str, value: &str) -> DynamicObject {
        self.merge(name, &json!({"metadata": {"labels": {key: value}}})).await
    }

    /// Sets an annotation, or removes it.
    pub async fn annotate(&self, name: &str, key: &str, value: Option<&str>) -> DynamicObject {
        self.merge(name, &json!({"metadata": {"annotations": {key: value}}})).await
    }

    /// Applies a merge patch and returns the Workflow as stored.
    pub async fn merge(&self, name: &str, patch: &Value) -> DynamicObject {
        self.try_merge(name, patch).await.expect("the patch is accepted")
    }

    /// Applies a merge patch.
    ///
    /// # Errors
    /// The API server's refusal.
    ///
    /// # Panics
    /// If there is no response.
    pub async fn try_merge(&self, name: &str, patch: &Value) -> Result<DynamicObject, Box<Status>> {
        match self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(workflow) => Ok(workflow),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("no response to a patch: {error}"),
        }
    }

    /// Returns a Workflow as stored.
    pub async fn get(&self, name: &str) -> DynamicObject {
        self.api.get(name).await.expect("the Workflow exists")
    }

    /// Returns the annotations with this prefix.
    pub async fn annotations(&self, name: &str, prefix: &str) -> BTreeMap<String, String> {
        let mut annotations = self.get(name).await.metadata.annotations.unwrap_or_default();
        annotations.retain(|key, _| key.starts_with(prefix));
        annotations
    }

    /// Deletes a Workflow at once: it has no finalizers.
    pub async fn delete(&self, name: &str) {
        self.api.delete(name, &DeleteParams::default()).await.expect("the Workflow exists");
    }
}
