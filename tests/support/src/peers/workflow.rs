//! Workflows on the API server, as Argo's controller and Kubeflow write them.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams, PostParams},
    error::Status,
};
use serde_json::{Value, json};

use super::Cluster;
use crate::{SOON, eventually};

/// The label in which Argo's controller copies `status.phase`.
pub const PHASE_LABEL: &str = "workflows.argoproj.io/phase";

const COMPLETED_LABEL: &str = "workflows.argoproj.io/completed";
const RUN_ID_LABEL: &str = "pipeline/runid";

impl Cluster {
    /// Installs the kind `Workflow` of Argo Workflows with a schema that accepts every field.
    pub(super) async fn install_workflow_crd(&self) {
        let crd: CustomResourceDefinition = serde_json::from_value(json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "workflows.argoproj.io"},
            "spec": {
                "group": "argoproj.io",
                "scope": "Namespaced",
                "names": {"kind": "Workflow", "listKind": "WorkflowList", "plural": "workflows", "singular": "workflow"},
                "versions": [{
                    "name": "v1alpha1",
                    "served": true,
                    "storage": true,
                    "schema": {
                        "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    },
                }],
            },
        }))
        .expect("a CustomResourceDefinition");
        let crds = Api::<CustomResourceDefinition>::all(self.client().await);
        crds.create(&PostParams::default(), &crd).await.expect("the CRD is accepted");
        // The API server establishes a kind before it serves it.
        let workflows = Api::<DynamicObject>::all_with(self.client().await, &resource());
        eventually(SOON, "Workflows are served", async || workflows.list(&Default::default()).await).await;
    }
}

fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Workflow"))
}

/// A Workflow that is not created yet.
#[derive(Clone, Debug, Default)]
pub struct NewWorkflow {
    metadata: ObjectMeta,
    phase: Option<String>,
}

impl NewWorkflow {
    /// A Workflow of this name without labels and annotations of Kubeflow.
    pub fn named(name: &str) -> Self {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Self { metadata, phase: None }
    }

    /// A Workflow whose name the API server generates from this prefix.
    fn generated(prefix: &str) -> Self {
        let metadata = ObjectMeta { generate_name: Some(prefix.to_owned()), ..ObjectMeta::default() };
        Self { metadata, phase: None }
    }

    /// A run of a TFX pipeline on Kubeflow Pipelines v1, whose compiler wrote the pipeline's name into an annotation.
    pub fn tfx_v1(name: &str, pipeline: &str) -> Self {
        let spec = json!({"description": "", "inputs": [], "name": pipeline});
        Self::named(name)
            .label("pipelines.kubeflow.org/kfp_sdk_version", "1.8.22")
            .annotation("pipelines.kubeflow.org/kfp_sdk_version", "1.8.22")
            .annotation("pipelines.kubeflow.org/pipeline_spec", &spec.to_string())
            .annotation("pipelines.kubeflow.org/run_name", &format!("Run of {pipeline}"))
            .run_id(&uuid::Uuid::from_u128(rand::random()).to_string())
    }

    /// A recurring run of Kubeflow Pipelines v1, without annotations of the compiler.
    pub fn recurring_v1(name: &str) -> Self {
        Self::named(name)
            .label("scheduledworkflows.kubeflow.org/isOwnedByScheduledWorkflow", "true")
            .label("scheduledworkflows.kubeflow.org/workflowIndex", "1")
            .run_id(&uuid::Uuid::from_u128(rand::random()).to_string())
    }

    /// A run on Kubeflow Pipelines v2, whose name begins with the pipeline's.
    pub fn kfp_v2(pipeline: &str, run_id: &str) -> Self {
        Self::generated(&format!("{pipeline}-"))
            .annotation("pipelines.kubeflow.org/run_name", &format!("Run of {pipeline}"))
            .run_id(run_id)
    }

    /// Sets the label of every run that Kubeflow's API server submits.
    pub fn run_id(self, run_id: &str) -> Self {
        self.label(RUN_ID_LABEL, run_id)
    }

    /// Sets a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the phase.
    pub fn phase(mut self, phase: &str) -> Self {
        self.phase = Some(phase.to_owned());
        self
    }
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
        let mut status = json!({});
        let mut new = new;
        if let Some(phase) = &new.phase {
            let labels = new.metadata.labels.get_or_insert_default();
            labels.insert(PHASE_LABEL.to_owned(), phase.clone());
            labels.insert(COMPLETED_LABEL.to_owned(), completed(phase).to_string());
            status = json!({"phase": phase});
        }
        let mut workflow = DynamicObject::new("", &resource());
        workflow.metadata = new.metadata;
        workflow.data = json!({"spec": {"entrypoint": "main"}, "status": status});
        self.api.create(&PostParams::default(), &workflow).await.expect("the Workflow is accepted")
    }

    /// Changes the phase as Argo's controller does: status and labels in one update.
    pub async fn set_phase(&self, name: &str, phase: &str) -> DynamicObject {
        let labels = json!({PHASE_LABEL: phase, COMPLETED_LABEL: completed(phase).to_string()});
        self.merge(name, &json!({"metadata": {"labels": labels}, "status": {"phase": phase}})).await
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

fn completed(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed" | "Error")
}
