//! A namespace whose runs succeed, and the real program before it. Tests share the API server and ML Metadata, and have
//! a namespace and programs of their own; a run's name begins with its namespace's, because ML Metadata knows no
//! namespaces.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use futures::{StreamExt as _, stream};
use model_update_eventsource::model::workflow::MARK_PREFIX;
use test_support::{
    GrpcGoClient, Line, MetadataStore, NewWorkflow, Peers, RunningServer, ServerProcess, SharedCluster, Tally, Task,
    Workflows, Writer, eventually, model_location,
};
use tokio::sync::OnceCell;

/// How long an event, a mark or a figure may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// So many Workflows are written at a time.
const AT_ONCE: usize = 8;
/// ML Metadata takes no message above 4 MB.
const MESSAGE: usize = 3_000_000;

/// See the module.
pub(crate) struct Scene {
    pub(crate) peers: &'static Peers,
    pub(crate) cluster: SharedCluster,
    pub(crate) namespace: String,
    pub(crate) workflows: Workflows,
    store: &'static MetadataStore,
    pub(crate) writer: Writer,
}

impl Scene {
    /// Opens a scene.
    pub(crate) async fn open() -> Self {
        static STORE: OnceCell<MetadataStore> = OnceCell::const_new();
        let peers = Peers::find().await;
        let cluster = peers.cluster().await;
        let store = STORE.get_or_init(|| peers.metadata_store()).await;
        let namespace = cluster.namespace("team").await;
        let workflows = cluster.workflows(&namespace).await;
        Self { peers, cluster, namespace, workflows, store, writer: store.writer().await }
    }

    /// The real program, for this namespace, ready.
    pub(crate) async fn program(&self, more: &[&str]) -> RunningServer {
        self.program_with(&[], &self.cluster.admin_kubeconfig_file(), more).await
    }

    /// One with these variables in its environment, and this way to the API server.
    pub(crate) async fn program_with(&self, environment: &[String], kubeconfig: &Path, more: &[&str]) -> RunningServer {
        let namespaces = format!("--namespaces={}", self.namespace);
        let flags = [&[&*namespaces], more].concat();
        let program =
            ServerProcess::start_with_env(environment, kubeconfig, &self.store.url(), &flags).listening().await;
        program.ready().await;
        program
    }

    /// Where ML Metadata is, for programs that are started otherwise.
    pub(crate) fn store_url(&self) -> String {
        self.store.url()
    }

    /// `EventSource.config` of whoever wants the runs of this namespace.
    pub(crate) fn config(&self) -> String {
        format!("kfpNamespace: {}", self.namespace)
    }

    /// A grpc-go client with a stream of its own on this program, which has accepted it.
    pub(crate) async fn subscriber(&self, program: &RunningServer, subscription: &str) -> GrpcGoClient {
        self.subscriber_at(program.listen, subscription).await
    }

    /// One that may find its server dying.
    pub(crate) fn subscriber_that_may_be_refused(&self, program: &RunningServer, subscription: &str) -> GrpcGoClient {
        self.peers.grpc_go_client(program.listen, &self.config()).name(subscription).start()
    }

    /// One that dials another address.
    pub(crate) async fn subscriber_at(&self, address: SocketAddr, subscription: &str) -> GrpcGoClient {
        let mut client = self.peers.grpc_go_client(address, &self.config()).name(subscription).start();
        assert_eq!(client.next(SOON).await, Some(Line::Open(true)));
        client
    }

    /// So many runs succeed, all at about the same time, each with a model; returns their names. They are expected by
    /// each of these subscriptions.
    pub(crate) async fn succeed(&self, tally: &mut Tally, subscriptions: &[&str], runs: usize) -> Vec<String> {
        self.succeed_with(tally, subscriptions, runs, 0).await
    }

    /// As [`Scene::succeed`], with locations that are longer by so many octets.
    pub(crate) async fn succeed_with(
        &self,
        tally: &mut Tally,
        subscriptions: &[&str],
        runs: usize,
        octets: usize,
    ) -> Vec<String> {
        let made: Vec<_> = (0..runs).map(|_| self.new_run(octets)).collect();
        for some in made.chunks(MESSAGE / (octets + 1_000)) {
            self.writer.tfx_runs(&self.namespace, some).await;
        }
        for (_, location) in &made {
            subscriptions.iter().for_each(|subscription| tally.expect(subscription, location));
        }
        let workflow = async |name: &str| {
            self.workflows.create(NewWorkflow::tfx_v1(name, &self.namespace).phase("Succeeded")).await;
        };
        stream::iter(&made).for_each_concurrent(AT_ONCE, |(name, _)| workflow(name)).await;
        made.into_iter().map(|(name, _)| name).collect()
    }

    /// The name of a run, and where its model is.
    fn new_run(&self, octets: usize) -> (String, String) {
        let name = format!("{}-{}", self.namespace, uuid::Uuid::from_u128(rand::random()).simple());
        let location = format!("gs://root/{name}/{}", "x".repeat(octets));
        (name, location)
    }

    /// A run that pushed a model there, as ML Metadata knows it.
    pub(crate) async fn model(&self, run: &str, location: &str) {
        self.writer.tfx_run(&self.namespace, run).await.task(Task::pusher(location)).await;
    }

    /// Waits until this program has seen what has happened to Workflows so far: a watch keeps their order.
    pub(crate) async fn seen_by(&self, program: &RunningServer) {
        let last = NewWorkflow::tfx_v1(&format!("{}-{}", self.namespace, rand::random::<u32>()), &self.namespace);
        self.workflows.create(last.phase("Running")).await;
        let listed = self.workflows.api().list(&Default::default()).await.expect("a list").items.len();
        eventually(SOON, "the latest Workflow in its memory", async || {
            program.metric("modelupdate_workflows", &[]).await >= listed as f64
        })
        .await;
    }

    /// The subscriptions whose mark a run carries.
    pub(crate) async fn marks(&self, run: &str) -> BTreeSet<String> {
        let marks = self.workflows.annotations(run, MARK_PREFIX).await;
        marks.keys().filter_map(|key| key.strip_prefix(MARK_PREFIX).map(str::to_owned)).collect()
    }

    /// Waits until each of these runs carries the marks of exactly these subscriptions.
    pub(crate) async fn marked(&self, runs: &[String], subscriptions: &[&str]) {
        self.marked_within(SOON, runs, subscriptions).await;
    }

    /// Waits so long for the marks of each.
    pub(crate) async fn marked_within(&self, deadline: Duration, runs: &[String], subscriptions: &[&str]) {
        let wanted: BTreeSet<_> = subscriptions.iter().map(|&name| name.to_owned()).collect();
        for run in runs {
            eventually(deadline, &format!("the marks {wanted:?} on {run}"), async || {
                let marks = self.marks(run).await;
                if marks == wanted { Ok(()) } else { Err(marks) }
            })
            .await;
        }
    }
}

/// The run whose model is there.
pub(crate) fn run_of(location: &str) -> &str {
    location.strip_prefix("gs://root/").and_then(|path| path.split('/').next()).expect("one of ours")
}

/// Takes events of a subscription until everything expected has come, to whomever.
pub(crate) async fn take_all(client: &mut GrpcGoClient, subscription: &str, tally: &mut Tally) {
    while !tally.has_all_of(subscription) {
        take(client, subscription, tally).await;
    }
}

/// Takes the next event; returns its location.
pub(crate) async fn take(client: &mut GrpcGoClient, subscription: &str, tally: &mut Tally) -> String {
    let location = model_location(&client.payload(SOON).await);
    tally.delivered(subscription, &location);
    location
}

/// Books what came and nobody has taken; returns the locations.
pub(crate) fn take_rest(client: &mut GrpcGoClient, subscription: &str, tally: &mut Tally) -> Vec<String> {
    let rest = client.buffered().into_iter().filter_map(|line| match line {
        Line::Event { payload, .. } => Some(model_location(&payload)),
        _ => None,
    });
    rest.inspect(|location| tally.delivered(subscription, location)).collect()
}
