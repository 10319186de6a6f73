//! What subscribers are promised, on the real neighbours: Workflows through a real API server, artifacts through ML
//! Metadata's own API, events over gRPC.
//!
//! That something does *not* come is shown without waiting: a run that must come is made after it, and is next.

mod deliveries;
mod events;
mod server;

use std::time::Duration;

use model_update_eventsource::app::Config;
use test_support::{
    CATCH_UP, MetadataStore, Model, NewWorkflow, Peers, SharedCluster, Task, TestServer, Workflows, Writer, eventually,
    rule,
};

const PIPELINE: &str = "penguin-pipeline";

/// A server, a namespace, and what it takes to make runs in it.
struct World {
    cluster: SharedCluster,
    store: MetadataStore,
    writer: Writer,
    served: TestServer,
    namespace: String,
    workflows: Workflows,
}

impl World {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        let peers = Peers::find().await;
        let cluster = peers.cluster().await;
        let store = peers.metadata_store().await;
        let mut config = Config {
            metadata_store: store.url(),
            kubernetes: Some(cluster.admin_config().await),
            confirm_after: Duration::from_millis(200),
            ..Config::default()
        };
        adjust(&mut config);
        let served = TestServer::start(config).await;
        let namespace = cluster.namespace("team").await;
        let workflows = cluster.workflows(&namespace).await;
        let writer = store.writer().await;
        Self { cluster, store, writer, served, namespace, workflows }
    }

    fn config(&self) -> String {
        format!("kfpNamespace: {}", self.namespace)
    }

    /// A TFX run that pushed a model to `gs://root/<name>`, and has not succeeded yet.
    async fn pushed(&self, name: &str) {
        self.workflows.create(NewWorkflow::tfx_v1(name, PIPELINE)).await;
        self.artifacts(name).await;
    }

    async fn artifacts(&self, name: &str) {
        let run = self.writer.tfx_run(PIPELINE, name).await;
        run.task(Task::pusher(&format!("gs://root/{name}"))).await;
    }

    /// One that has succeeded.
    async fn succeeded(&self, name: &str) {
        self.pushed(name).await;
        self.workflows.set_phase(name, "Succeeded").await;
    }

    async fn marks(&self, name: &str) -> Vec<(String, String)> {
        self.workflows.annotations(name, "published.pipelines.kubeflow.org/").await.into_iter().collect()
    }

    async fn marked(&self, name: &str) {
        eventually(CATCH_UP, &format!("a mark on {name}"), async || !self.marks(name).await.is_empty()).await;
    }
}

fn locations(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("gs://root/{name}")).collect()
}
