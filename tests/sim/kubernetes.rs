//! Scenarios for the API server.

mod lists;
mod patches;
mod watches;

use http::{Method, Request};
use kube::{Client, Config, core::Status};
use model_update_eventsource::sim::Sim;
use serde_json::{Value, json};
use test_support::{NewWorkflow, Peers, SOON, SharedCluster, Workflows};
use tokio::time::timeout;

/// What a client says to get metadata only.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// A namespace of an API server.
struct World {
    namespace: String,
    client: Client,
    workflows: Workflows,
    _server: Server,
}

enum Server {
    Simulated { _sim: Sim },
    Real { _cluster: SharedCluster },
}

impl World {
    async fn simulated() -> Self {
        let sim = Sim::start().await.expect("a simulation");
        let config = sim.kube_config();
        Self::new("team".to_owned(), config, Server::Simulated { _sim: sim })
    }

    async fn real() -> Self {
        let cluster = Peers::find().await.cluster().await;
        let (namespace, config) = (cluster.namespace("sim").await, cluster.admin_config().await);
        Self::new(namespace, config, Server::Real { _cluster: cluster })
    }

    fn new(namespace: String, mut config: Config, server: Server) -> Self {
        // Or a 504 is asked again many times.
        config.default_retry = false;
        let client = Client::try_from(config).expect("a client");
        let workflows = Workflows::new(client.clone(), &namespace);
        Self { namespace, client, workflows, _server: server }
    }

    /// The path of the namespace's Workflows, and what comes after it.
    fn path(&self, rest: &str) -> String {
        format!("/apis/argoproj.io/v1alpha1/namespaces/{}/workflows{rest}", self.namespace)
    }

    async fn get(&self, rest: &str, accept: &str) -> Result<Value, Status> {
        let request = Request::get(self.path(rest)).header("accept", accept).body(Vec::new());
        self.send(request.expect("a request")).await
    }

    async fn send_json(&self, method: Method, rest: &str, kind: &str, body: &str) -> Result<Value, Status> {
        let request = Request::builder().method(method).uri(self.path(rest)).header("content-type", kind);
        self.send(request.body(body.as_bytes().to_vec()).expect("a request")).await
    }

    async fn patch(&self, name: &str, patch: Value) -> Result<Value, Status> {
        self.send_json(Method::PATCH, &format!("/{name}"), "application/merge-patch+json", &patch.to_string()).await
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Value, Status> {
        match timeout(SOON, self.client.request(request)).await.expect("an answer in time") {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err(*status),
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// Workflows of these names, each with itself as its label `l`.
    async fn create(&self, names: &[&str]) {
        for name in names {
            self.workflows.create(NewWorkflow::named(name).label("l", name)).await;
        }
    }
}

/// The names in a list, in its order.
fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list has items");
    items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name")).collect()
}

/// What a client can go by in a refusal.
fn outcome(refusal: &Status) -> (u16, &str, &str) {
    (refusal.code, &refusal.reason, &refusal.message)
}

/// The fields that a refusal names.
fn fields(refusal: &Status) -> Vec<&str> {
    let causes = refusal.details.iter().flat_map(|details| &details.causes);
    let mut fields: Vec<_> = causes.map(|cause| cause.field.as_str()).collect();
    fields.dedup();
    fields
}

/// Where an object stands: its version, and how often its content changed.
fn numbers(object: &Value) -> (&str, u64) {
    let metadata = &object["metadata"];
    let version = metadata["resourceVersion"].as_str().expect("a version");
    (version, metadata["generation"].as_u64().expect("a generation"))
}

fn label(key: &str, value: Value) -> Value {
    json!({"metadata": {"labels": {key: value}}})
}
