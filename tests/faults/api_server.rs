//! The API server dies, forgets, refuses or hangs: faults 1 to 3. Each test has a cluster of its own.

mod forgotten;
mod killed;
mod refused;

use std::{collections::BTreeSet, path::Path};

use model_update_eventsource::model::workflow::MARK_PREFIX;
use test_support::{
    Cluster, GrpcGoClient, Line, MetadataStore, NewWorkflow, Peers, RunningServer, ServerProcess, Tally, Task,
    Workflows, Writer, eventually,
};

use crate::scene::SOON;

const SUBSCRIPTION: &str = "model-update";
const PIPELINE: &str = "penguin-pipeline";
/// A patch that an unreachable API server did not take is tried again after 30 s at most.
const MARKED: std::time::Duration = std::time::Duration::from_secs(60);

/// A cluster of the test's own, and a namespace in it.
struct Site {
    cluster: Cluster,
    namespace: String,
    workflows: Workflows,
    store: MetadataStore,
    writer: Writer,
}

impl Site {
    async fn open() -> Self {
        let peers = Peers::find().await;
        let cluster = peers.private_cluster().await;
        let store = peers.metadata_store().await;
        let namespace = cluster.namespace("team").await;
        let workflows = cluster.workflows(&namespace).await;
        let writer = store.writer().await;
        Self { cluster, namespace, workflows, store, writer }
    }

    /// The real program, ready.
    async fn program(&self, kubeconfig: &Path) -> RunningServer {
        let program = ServerProcess::start(kubeconfig, &self.store.url(), &[]).listening().await;
        program.ready().await;
        program
    }

    async fn subscriber(&self, program: &RunningServer) -> GrpcGoClient {
        let peers = Peers::find().await;
        let config = format!("kfpNamespace: {}", self.namespace);
        let mut client = peers.grpc_go_client(program.listen, &config).name(SUBSCRIPTION).start();
        assert_eq!(client.next(SOON).await, Some(Line::Open(true)));
        client
    }

    /// A run that has pushed its model, and runs on.
    async fn pushed(&self, tally: &mut Tally, name: &str) {
        let location = format!("gs://root/{name}");
        tally.expect(SUBSCRIPTION, &location);
        self.writer.tfx_run(PIPELINE, name).await.task(Task::pusher(&location)).await;
        self.workflows.create(NewWorkflow::tfx_v1(name, PIPELINE).phase("Running")).await;
    }

    async fn succeeded(&self, tally: &mut Tally, name: &str) {
        self.pushed(tally, name).await;
        self.workflows.set_phase(name, "Succeeded").await;
    }

    async fn marked(&self, names: &[&str]) {
        for name in names {
            eventually(MARKED, &format!("the mark on {name}"), async || {
                let marks: BTreeSet<_> = self.workflows.annotations(name, MARK_PREFIX).await.into_keys().collect();
                marks.len() == 1
            })
            .await;
        }
    }
}
