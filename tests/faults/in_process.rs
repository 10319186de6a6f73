//! Test environment with the server in this process, where a test can set its clock and its endpoints.

use std::time::Duration;

use model_update_eventsource::app::Config;
use test_support::{MetadataStore, NewWorkflow, Peers, SharedCluster, Task, TestServer, Workflows, Writer};

use crate::test_env::location_of;

pub(crate) const PIPELINE: &str = "penguin-pipeline";

/// A server in this process with its peers.
pub(crate) struct InProcessEnv {
    pub(crate) cluster: SharedCluster,
    /// Ends when it is dropped.
    _store: MetadataStore,
    pub(crate) writer: Writer,
    pub(crate) server: TestServer,
}

impl InProcessEnv {
    /// Starts a server after `adjust` has changed its configuration.
    pub(crate) async fn start(store: MetadataStore, adjust: impl FnOnce(&mut Config)) -> Self {
        let cluster = Peers::find().await.cluster().await;
        let mut config = Config {
            metadata_store: store.url(),
            kubernetes: Some(cluster.admin_config().await),
            confirm_after: Duration::from_millis(100),
            ..Config::default()
        };
        adjust(&mut config);
        let server = TestServer::start(config).await;
        Self { cluster, writer: store.writer().await, _store: store, server }
    }

    /// Records in ML Metadata that a run has pushed a model.
    pub(crate) async fn push_model(&self, run: &str) {
        self.writer.tfx_run(PIPELINE, run).await.task(Task::pusher(&location_of(run))).await;
    }
}

/// Creates the succeeded Workflow of a run.
pub(crate) async fn create_succeeded(workflows: &Workflows, run: &str) {
    workflows.create(NewWorkflow::tfx_v1(run, PIPELINE).phase("Succeeded")).await;
}
