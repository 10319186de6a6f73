//! A namespace with runs, on the shared API server and a store of its own.

use std::collections::BTreeMap;

use model_update_eventsource::{
    app::Config,
    sim::{NewWorkflow, Task, Written},
};

use crate::{
    CATCH_UP, MetadataStore, Peers, RunningServer, ServerProcess, SharedCluster, Workflows, Writer, eventually,
};

/// Pipeline of the runs in a [`TestEnv`].
pub const PIPELINE: &str = "penguin-pipeline";

const MARK_PREFIX: &str = "published.pipelines.kubeflow.org/";

/// A namespace of the API server that all tests of a binary share, and an ML Metadata store.
#[derive(Debug)]
pub struct TestEnv {
    /// The shared API server.
    pub cluster: SharedCluster,
    /// The store.
    pub store: MetadataStore,
    /// A client of the store.
    pub writer: Writer,
    /// The name of the namespace.
    pub namespace: String,
    /// The Workflows of the namespace.
    pub workflows: Workflows,
}

impl TestEnv {
    /// Creates a namespace and starts a store.
    pub async fn start(peers: &Peers) -> Self {
        let cluster = peers.cluster().await;
        let store = peers.metadata_store().await;
        let namespace = cluster.namespace("team").await;
        let workflows = cluster.workflows(&namespace).await;
        Self { cluster, writer: store.writer().await, store, namespace, workflows }
    }

    /// `EventSource.config` of a subscription to all runs of the namespace.
    pub fn config(&self) -> String {
        format!("kfpNamespace: {}", self.namespace)
    }

    /// Configuration of a server in the test's process.
    pub async fn server_config(&self) -> Config {
        Config {
            metadata_store: self.store.url(),
            kubernetes: Some(self.cluster.admin_config().await),
            ..Config::default()
        }
    }

    /// Starts the program with these environment variables and further flags, and waits until it is ready.
    pub async fn start_server(&self, environment: &[String], flags: &[&str]) -> RunningServer {
        let kubeconfig = self.cluster.admin_kubeconfig_file();
        let process = ServerProcess::start_with_env(environment, &kubeconfig, &self.store.url(), flags);
        let server = process.listening().await;
        server.ready().await;
        server
    }

    /// Writes the run of a Workflow to ML Metadata, with a pushed model at `gs://root/<name>`.
    pub async fn push_model(&self, name: &str) -> Written {
        self.writer.tfx_run(PIPELINE, name).await.task(Task::pusher(&format!("gs://root/{name}"))).await
    }

    /// Creates a run that has pushed a model and has not succeeded yet.
    pub async fn create_run(&self, name: &str) {
        self.workflows.create(NewWorkflow::tfx_v1(name, PIPELINE)).await;
        self.push_model(name).await;
    }

    /// Creates a run that pushes a model and then succeeds. Returns the UID of its Workflow.
    pub async fn succeed(&self, name: &str) -> String {
        self.create_run(name).await;
        self.workflows.set_phase(name, "Succeeded").await.metadata.uid.expect("a UID")
    }

    /// Returns the marks of a run: annotations by key.
    pub async fn marks(&self, name: &str) -> BTreeMap<String, String> {
        self.workflows.annotations(name, MARK_PREFIX).await
    }

    /// Waits until a run has this number of marks.
    pub async fn marked(&self, name: &str, count: usize) {
        eventually(CATCH_UP, &format!("{count} marks on {name}"), async || {
            let marks = self.marks(name).await;
            if marks.len() == count { Ok(()) } else { Err(marks) }
        })
        .await;
    }
}
