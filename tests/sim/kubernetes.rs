//! Scenarios for the API server.

mod lists;
mod patches;
mod watches;

use std::sync::Arc;

use http::{Method, Request};
use kube::{Client, Config, core::Status};
use model_update_eventsource::sim::Sim;
use serde_json::{Value, json};
use test_support::{NewWorkflow, Peers, SOON, SharedCluster};
use tokio::time::timeout;

/// The `Accept` headers for metadata without the rest of the objects.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// A namespace of an API server.
struct TestEnv {
    namespace: String,
    client: Client,
    server: Server,
}

enum Server {
    Simulated(Sim),
    Real { _cluster: SharedCluster },
}

impl TestEnv {
    async fn simulated() -> Self {
        let sim = Sim::start().await.expect("a simulation");
        let config = sim.kube_config();
        Self::new("team".to_owned(), config, Server::Simulated(sim))
    }

    async fn real() -> Self {
        let cluster = Peers::find().await.cluster().await;
        let (namespace, config) = (cluster.namespace("sim").await, cluster.admin_config().await);
        Self::new(namespace, config, Server::Real { _cluster: cluster })
    }

    fn new(namespace: String, config: Config, server: Server) -> Self {
        Self { namespace, client: Client::try_from(config).expect("a client"), server }
    }

    /// Returns the path of the namespace's Workflows with this suffix.
    fn path(&self, suffix: &str) -> String {
        format!("/apis/argoproj.io/v1alpha1/namespaces/{}/workflows{suffix}", self.namespace)
    }

    async fn get(&self, suffix: &str, accept: &str) -> Result<Value, Box<Status>> {
        let request = Request::get(self.path(suffix)).header("accept", accept).body(Vec::new());
        self.send(request.expect("a request")).await
    }

    async fn send_json(
        &self,
        method: Method,
        suffix: &str,
        content_type: &str,
        body: &str,
    ) -> Result<Value, Box<Status>> {
        let request = Request::builder().method(method).uri(self.path(suffix)).header("content-type", content_type);
        self.send(request.body(body.as_bytes().to_vec()).expect("a request")).await
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Value, Box<Status>> {
        match timeout(SOON, self.client.request(request)).await.expect("an answer in time") {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("no answer: {error}"),
        }
    }

    async fn create(&self, new: NewWorkflow) -> Result<Value, Box<Status>> {
        match &self.server {
            Server::Simulated(sim) => sim.create_workflow(&self.namespace, new).map(Arc::unwrap_or_clone),
            Server::Real { .. } => {
                self.send_json(Method::POST, "", "application/json", &new.into_object().to_string()).await
            }
        }
    }

    async fn stored(&self, name: &str) -> Result<Value, Box<Status>> {
        match &self.server {
            Server::Simulated(sim) => sim.workflow(&self.namespace, name).map(Arc::unwrap_or_clone),
            Server::Real { .. } => self.get(&format!("/{name}"), "*/*").await,
        }
    }

    async fn delete(&self, name: &str) -> Result<(), Box<Status>> {
        match &self.server {
            Server::Simulated(sim) => sim.delete_workflow(&self.namespace, name),
            Server::Real { .. } => {
                let deleted = self.send_json(Method::DELETE, &format!("/{name}"), "application/json", "{}").await;
                deleted.map(drop)
            }
        }
    }

    async fn patch(&self, name: &str, patch: Value) -> Result<Value, Box<Status>> {
        self.send_json(Method::PATCH, &format!("/{name}"), MERGE_PATCH, &patch.to_string()).await
    }

    /// Creates Workflows of these names, each with its name as its label `l`.
    async fn create_labelled(&self, names: &[&str]) {
        for name in names {
            self.create(NewWorkflow::named(name).label("l", name)).await.expect("created");
        }
    }
}

/// Returns the names in a list, in its order.
fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().into_iter().flatten();
    items.map(|item| item["metadata"]["name"].as_str().expect("a name")).collect()
}

/// Code, reason and message of a refusal.
fn outcome(refusal: &Status) -> (u16, &str, &str) {
    (refusal.code, &refusal.reason, &refusal.message)
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok()).expect("a version")
}

fn label(key: &str, value: Value) -> Value {
    json!({"metadata": {"labels": {key: value}}})
}
