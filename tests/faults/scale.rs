//! The clock jumps, ten thousand runs finish in a minute, a namespace comes late: fault 9.

mod burst;
mod clock;

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use model_update_eventsource::app::Config;
use test_support::{MetadataStore, NewWorkflow, Peers, SharedCluster, Tally, Task, TestServer, Workflows, Writer};

const PIPELINE: &str = "penguin-pipeline";

/// A server in this process, and its neighbours.
struct Scene {
    cluster: SharedCluster,
    writer: Writer,
    served: TestServer,
    _store: MetadataStore,
}

impl Scene {
    async fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        let peers = Peers::find().await;
        let cluster = peers.cluster().await;
        let store = peers.metadata_store().await;
        let mut config = Config {
            metadata_store: store.url(),
            kubernetes: Some(cluster.admin_config().await),
            confirm_after: Duration::from_millis(100),
            ..Config::default()
        };
        adjust(&mut config);
        Self { cluster, writer: store.writer().await, served: TestServer::start(config).await, _store: store }
    }

    /// Lets a run succeed that has pushed a model.
    async fn succeed(&self, workflows: &Workflows, run: &str) {
        self.writer.tfx_run(PIPELINE, run).await.task(Task::pusher(&at(run))).await;
        workflows.create(NewWorkflow::tfx_v1(run, PIPELINE).phase("Succeeded")).await;
    }
}

/// Where the model of this run is.
fn at(run: &str) -> String {
    format!("gs://root/{run}")
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_namespace_that_is_created_after_its_subscriber_is_served() {
    let scene = Scene::start(|_| {}).await;
    let mut tally = Tally::new("a namespace is created after its subscriber");
    let namespace = format!("late-{}", uuid::Uuid::from_u128(rand::random()));
    let mut events = scene.served.subscribe(&format!("kfpNamespace: {namespace}")).await;

    let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
    let namespaces = Api::<Namespace>::all(scene.cluster.client().await);
    let late = Namespace { metadata, ..Namespace::default() };
    namespaces.create(&PostParams::default(), &late).await.expect("a namespace");
    let workflows = scene.cluster.workflows(&namespace).await;
    for run in ["first", "second"] {
        tally.expect("model-update", &at(run));
        scene.succeed(&workflows, run).await;
        tally.delivered_payload(&events.next_payload().await);
    }
    tally.conclude(0);
}
