//! The peers of a test, and the observation of another tenant, of the probes and of the memory while a hostile tenant acts.
//!
//! ```ignore
//! let _exclusive = exclusive().await;
//! let env = Real::start().await;
//! let server = env.server(&[]).await;
//! let observation = Observation::start("row 1: patterns", &server, env.tenant().await).await;
//! // Here the hostile tenant acts.
//! observation.finish().await.assert_unharmed();
//! ```

mod figures;
mod observation;
mod tenant;

use std::sync::Arc;

use kube::api::{DeleteParams, ListParams};
use model_update_eventsource::{model::workflow::MARK_PREFIX, sim::Sim};
use test_support::{
    MetadataStore, Peers, RunningServer, ServerProcess, SharedCluster, Workflows, Writer, plain_kubeconfig,
};
use tokio::sync::OnceCell;

pub(crate) use self::{figures::MAX_LATENCY, observation::Observation, tenant::Tenant};

/// The API server and the ML Metadata store that all tests of this binary share. A test deletes its large Workflows
/// ([`Real::clear`]): the server of the next one lists all.
pub(crate) struct Real {
    pub(crate) cluster: SharedCluster,
    pub(crate) store_url: String,
    pub(crate) writer: Writer,
}

impl Real {
    pub(crate) async fn start() -> Self {
        static STORE: OnceCell<MetadataStore> = OnceCell::const_new();
        let peers = Peers::find().await;
        let (cluster, store) = tokio::join!(peers.cluster(), STORE.get_or_init(|| peers.metadata_store()));
        Self { cluster, store_url: store.url(), writer: store.writer().await }
    }

    /// Returns a new namespace and its Workflows.
    pub(crate) async fn namespace(&self, prefix: &str) -> (String, Workflows) {
        let namespace = self.cluster.namespace(prefix).await;
        let workflows = self.cluster.workflows(&namespace).await;
        (namespace, workflows)
    }

    /// Deletes the Workflows of a namespace.
    pub(crate) async fn clear(&self, workflows: &Workflows) {
        let deleted = workflows.api().delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        drop(deleted.expect("deleted"));
    }

    /// Starts the program with these flags and waits until it is ready.
    pub(crate) async fn server(&self, flags: &[&str]) -> RunningServer {
        let kubeconfig = self.cluster.admin_kubeconfig_file();
        let server = ServerProcess::start(&kubeconfig, &self.store_url, flags).listening().await;
        server.ready().await;
        server
    }

    /// Returns the tenant that is observed, in a new namespace.
    pub(crate) async fn tenant(&self) -> Tenant {
        let (namespace, workflows) = self.namespace("observed").await;
        Tenant::real(&namespace, workflows, self.writer.clone())
    }
}

/// The simulation of the peers, for numbers of Workflows that take minutes on a real API server.
pub(crate) struct Simulated {
    pub(crate) sim: Arc<Sim>,
    kubeconfig: tempfile::TempDir,
}

impl Simulated {
    pub(crate) async fn start() -> Self {
        let sim = Arc::new(Sim::start().await.expect("free ports"));
        Self { sim, kubeconfig: tempfile::tempdir().expect("a temporary folder") }
    }

    /// Starts the program with these flags and waits until it is ready.
    pub(crate) async fn server(&self, flags: &[&str]) -> RunningServer {
        self.server_at(&self.sim.kube_config().cluster_url.to_string(), &self.sim.metadata_url(), flags).await
    }

    /// As [`Simulated::server`], with another address of the API server or of ML Metadata: that of a proxy.
    pub(crate) async fn server_at(&self, api_server: &str, metadata_store: &str, flags: &[&str]) -> RunningServer {
        let kubeconfig = plain_kubeconfig(self.kubeconfig.path(), api_server);
        let server = ServerProcess::start(&kubeconfig, metadata_store, flags).listening().await;
        server.ready().await;
        server
    }

    /// Returns the tenant that is observed.
    pub(crate) fn tenant(&self) -> Tenant {
        Tenant::simulated("observed", self.sim.clone())
    }
}

/// Returns whether a Workflow has a mark of this subscription.
pub(crate) fn is_marked(env: &Simulated, namespace: &str, name: &str, subscription: &str) -> bool {
    let workflow = env.sim.workflow(namespace, name).expect("it exists");
    let uid = &workflow["metadata"]["uid"];
    workflow["metadata"]["annotations"][format!("{MARK_PREFIX}{subscription}")] == *uid
}
