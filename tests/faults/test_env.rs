//! Test environment with server processes and grpc-go subscribers.
//!
//! Each test has a namespace and servers of its own. Most tests share the API server and ML Metadata. ML Metadata has no
//! namespaces, so the name of a run starts with the name of its namespace there.

use std::{collections::BTreeSet, net::SocketAddr, ops::Deref, path::Path, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use kube::ResourceExt as _;
use model_update_eventsource::model::workflow::MARK_PREFIX;
use test_support::{
    CATCH_UP, Cluster, GrpcGoClient, Line, MetadataStore, NewWorkflow, Peers, RunningServer, ServerProcess,
    SharedCluster, Tally, Task, Workflows, Writer, eventually, model_location,
};
use tokio::sync::OnceCell;

/// Subscription of tests with a single one.
pub(crate) const SUBSCRIPTION: &str = "model-update";
/// Workflows that are created concurrently.
const CONCURRENT_CREATES: usize = 8;
/// Size of a request to ML Metadata in bytes; it rejects more than 4 MB.
const MAX_REQUEST: usize = 3_000_000;
/// Prefix of the location of every model.
const ROOT: &str = "gs://root/";

/// A cluster that no other test uses.
pub(crate) type PrivateCluster = Box<Cluster>;

/// A namespace in a cluster, and what creates runs in it.
pub(crate) struct TestEnv<C = SharedCluster> {
    pub(crate) peers: &'static Peers,
    pub(crate) cluster: C,
    pub(crate) namespace: String,
    pub(crate) workflows: Workflows,
    pub(crate) writer: Writer,
    store: Arc<MetadataStore>,
    server_flags: Vec<String>,
}

impl TestEnv {
    /// An environment in the shared cluster, with the shared store. Its servers watch its namespace only.
    pub(crate) async fn shared() -> Self {
        static STORE: OnceCell<Arc<MetadataStore>> = OnceCell::const_new();
        let peers = Peers::find().await;
        let cluster = peers.cluster().await;
        let store = STORE.get_or_init(|| async { Arc::new(peers.metadata_store().await) }).await;
        let mut env = Self::new(peers, cluster, store.clone()).await;
        env.server_flags.push(format!("--namespaces={}", env.namespace));
        env
    }
}

impl TestEnv<PrivateCluster> {
    /// An environment with a cluster and a store of its own. Its servers watch all namespaces.
    pub(crate) async fn private() -> Self {
        let peers = Peers::find().await;
        let cluster = Box::new(peers.private_cluster().await);
        Self::new(peers, cluster, Arc::new(peers.metadata_store().await)).await
    }
}

impl<C: Deref<Target = Cluster>> TestEnv<C> {
    async fn new(peers: &'static Peers, cluster: C, store: Arc<MetadataStore>) -> Self {
        let namespace = cluster.namespace("team").await;
        let workflows = cluster.workflows(&namespace).await;
        let writer = store.writer().await;
        Self { peers, cluster, namespace, workflows, writer, store, server_flags: Vec::new() }
    }

    /// Starts a server and waits until it is ready.
    pub(crate) async fn server(&self, flags: &[&str]) -> RunningServer {
        self.server_with(&[], &self.cluster.admin_kubeconfig_file(), flags).await
    }

    /// Starts a server with these environment variables and this kubeconfig, and waits until it is ready.
    pub(crate) async fn server_with(&self, environment: &[String], kubeconfig: &Path, flags: &[&str]) -> RunningServer {
        let flags: Vec<_> = self.server_flags.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let server = ServerProcess::start_with_env(environment, kubeconfig, &self.store.url(), &flags);
        let server = server.listening().await;
        server.ready().await;
        server
    }

    /// URL of ML Metadata.
    pub(crate) fn store_url(&self) -> String {
        self.store.url()
    }

    /// `EventSource.config` of a subscriber of this namespace.
    pub(crate) fn config(&self) -> String {
        format!("kfpNamespace: {}", self.namespace)
    }

    /// Starts a subscriber and waits until the server has accepted its stream.
    pub(crate) async fn subscriber(&self, server: &RunningServer, subscription: &str) -> Subscriber {
        self.subscriber_at(server.listen, subscription).await
    }

    /// As [`TestEnv::subscriber`], at another address.
    pub(crate) async fn subscriber_at(&self, address: SocketAddr, subscription: &str) -> Subscriber {
        let mut subscriber = self.unaccepted_subscriber(address, subscription);
        assert_eq!(subscriber.client.next(CATCH_UP).await, Some(Line::Open(true)));
        subscriber
    }

    /// Starts a subscriber whose server may end before it accepts the stream.
    pub(crate) fn unaccepted_subscriber(&self, address: SocketAddr, subscription: &str) -> Subscriber {
        let client = self.peers.grpc_go_client(address, &self.config()).name(subscription).start();
        Subscriber::new(client, subscription)
    }

    /// Creates succeeded runs with a model, which each of these subscriptions must receive, and returns their names.
    pub(crate) async fn succeed(&self, tally: &mut Tally, subscriptions: &[&str], runs: usize) -> Vec<String> {
        self.succeed_with(tally, subscriptions, runs, 0).await
    }

    /// As [`TestEnv::succeed`], with `bytes` more bytes in each model's location.
    pub(crate) async fn succeed_with(
        &self,
        tally: &mut Tally,
        subscriptions: &[&str],
        runs: usize,
        bytes: usize,
    ) -> Vec<String> {
        let runs: Vec<_> = (0..runs).map(|_| self.new_run(bytes)).collect();
        // Each artifact contains its location twice: as its URI and as the destination of the push.
        for batch in runs.chunks(MAX_REQUEST / (2 * bytes + 1_000)) {
            self.writer.tfx_runs(&self.namespace, batch).await;
        }
        for (_, location) in &runs {
            subscriptions.iter().for_each(|subscription| tally.expect(subscription, location));
        }
        stream::iter(&runs)
            .for_each_concurrent(CONCURRENT_CREATES, |(name, _)| async {
                self.workflows.create(self.workflow(name).phase("Succeeded")).await;
            })
            .await;
        runs.into_iter().map(|(name, _)| name).collect()
    }

    /// Returns a name for a run and a location for its model.
    fn new_run(&self, bytes: usize) -> (String, String) {
        let name = format!("{}-{}", self.namespace, uuid::Uuid::from_u128(rand::random()).simple());
        let location = format!("{}/{}", location_of(&name), "x".repeat(bytes));
        (name, location)
    }

    /// A TFX Workflow of this name.
    pub(crate) fn workflow(&self, name: &str) -> NewWorkflow {
        NewWorkflow::tfx_v1(name, &self.namespace)
    }

    /// Records in ML Metadata that a run has pushed a model, and returns the model's location.
    pub(crate) async fn push_model(&self, run: &str) -> String {
        let location = location_of(run);
        self.writer.tfx_run(&self.namespace, run).await.task(Task::pusher(&location)).await;
        location
    }

    /// Waits until a server has seen all changes of Workflows so far: a watch keeps their order.
    pub(crate) async fn caught_up(&self, server: &RunningServer) {
        let last = self.workflow(&format!("{}-{}", self.namespace, rand::random::<u32>()));
        self.workflows.create(last.phase("Running")).await;
        let listed = self.workflows.api().list(&Default::default()).await.expect("a list").items.len();
        eventually(CATCH_UP, "the server has the latest Workflow", async || {
            server.metric("modelupdate_workflows", &[]).await >= listed as f64
        })
        .await;
    }

    /// Returns the subscriptions whose marks a run has.
    pub(crate) async fn marks(&self, run: &str) -> BTreeSet<String> {
        let workflow = self.workflows.get(run).await;
        let keys = workflow.annotations().keys().chain(workflow.labels().keys());
        keys.filter_map(|key| key.strip_prefix(MARK_PREFIX).map(str::to_owned)).collect()
    }

    /// Waits until each of these runs has the marks of exactly these subscriptions.
    pub(crate) async fn marked(&self, runs: &[impl AsRef<str>], subscriptions: &[&str]) {
        self.marked_within(CATCH_UP, runs, subscriptions).await;
    }

    /// As [`TestEnv::marked`], with a deadline for each run.
    pub(crate) async fn marked_within(&self, deadline: Duration, runs: &[impl AsRef<str>], subscriptions: &[&str]) {
        let expected: BTreeSet<_> = subscriptions.iter().map(|&name| name.to_owned()).collect();
        for run in runs.iter().map(AsRef::as_ref) {
            eventually(deadline, &format!("the marks {expected:?} on {run}"), async || {
                let marks = self.marks(run).await;
                if marks == expected { Ok(()) } else { Err(marks) }
            })
            .await;
        }
    }
}

/// A grpc-go client with the name of its subscription.
pub(crate) struct Subscriber {
    pub(crate) client: GrpcGoClient,
    subscription: String,
}

impl Subscriber {
    pub(crate) fn new(client: GrpcGoClient, subscription: &str) -> Self {
        Self { client, subscription: subscription.to_owned() }
    }

    /// Waits for the next event and returns its model's location.
    pub(crate) async fn next_location(&mut self) -> String {
        model_location(&self.client.payload(CATCH_UP).await)
    }

    /// Waits for the next event, counts it and returns its model's location.
    pub(crate) async fn receive(&mut self, tally: &mut Tally) -> String {
        let location = self.next_location().await;
        tally.delivered(&self.subscription, &location);
        location
    }

    /// Receives until the subscription has every expected event, also counting those that other subscribers received.
    pub(crate) async fn receive_all(&mut self, tally: &mut Tally) {
        while !tally.has_all_of(&self.subscription) {
            self.receive(tally).await;
        }
    }

    /// Counts the events that have arrived and were not received yet, and returns their models' locations.
    pub(crate) fn receive_buffered(&mut self, tally: &mut Tally) -> Vec<String> {
        let buffered = self.client.buffered().into_iter().filter_map(|line| match line {
            Line::Event { payload, .. } => Some(model_location(&payload)),
            _ => None,
        });
        buffered.inspect(|location| tally.delivered(&self.subscription, location)).collect()
    }

    /// Waits for the end of the stream. Returns the locations of the models until then, and the gRPC code of the end
    /// unless the client has died.
    pub(crate) async fn until_end(&mut self) -> (Vec<String>, Option<String>) {
        let mut locations = Vec::new();
        loop {
            match self.client.next(CATCH_UP).await {
                Some(Line::Event { payload, .. }) => locations.push(model_location(&payload)),
                Some(Line::Open(_)) => {}
                Some(Line::Status { code, .. }) => return (locations, Some(code)),
                None => return (locations, None),
            }
        }
    }
}

/// Returns the location of a run's model.
pub(crate) fn location_of(run: &str) -> String {
    format!("{ROOT}{run}")
}

/// Returns the run that pushed the model at this location.
pub(crate) fn run_of(location: &str) -> &str {
    location.strip_prefix(ROOT).and_then(|path| path.split('/').next()).expect("a location of these tests")
}
