//! ML Metadata is down, slow, wrong or empty: fault 4.
//!
//! In every one of these the same is promised: a run whose models cannot be found out is never taken for one without,
//! it is announced once ML Metadata is well again, and once only; and runs with which nothing is wrong, of the same
//! namespace and of others, do not wait for it.

mod answers;
mod away;
mod proxy;

use std::time::Duration;

use model_update_eventsource::app::Config;
use test_support::{
    Events, MetadataStore, NewWorkflow, Peers, SharedCluster, Tally, Task, TestServer, Workflows, Writer,
    model_location,
};

const PIPELINE: &str = "penguin-pipeline";

/// A server, the store that it asks, and two namespaces.
struct World {
    #[expect(dead_code, reason = "it prints its logs when the test fails")]
    cluster: SharedCluster,
    writer: Writer,
    served: TestServer,
    ours: Team,
    theirs: Team,
}

/// A namespace and what comes out of a subscription to it.
struct Team {
    namespace: String,
    workflows: Workflows,
    events: Events,
}

impl World {
    /// A server that asks the store under `url`, which is `store` or something before it.
    async fn start(peers: &'static Peers, store: &MetadataStore, url: String) -> Self {
        let cluster = peers.cluster().await;
        let config = Config {
            metadata_store: url,
            kubernetes: Some(cluster.admin_config().await),
            confirm_after: Duration::from_millis(100),
            ..Config::default()
        };
        let served = TestServer::start(config).await;
        let ours = Team::subscribe(&cluster, &served, "ours").await;
        let theirs = Team::subscribe(&cluster, &served, "theirs").await;
        Self { cluster, writer: store.writer().await, served, ours, theirs }
    }

    /// Writes down that this run has pushed a model.
    async fn artifacts(&self, run: &str) {
        push(&self.writer, run).await;
    }

    /// Lets a run of ours succeed that has pushed a model.
    async fn ours(&self, run: &str, tally: &mut Tally) {
        self.artifacts(run).await;
        self.ours.succeed(run, tally).await;
    }

    /// The same in the other namespace.
    async fn theirs(&self, run: &str, tally: &mut Tally) {
        self.artifacts(run).await;
        self.theirs.succeed(run, tally).await;
    }

    /// Reads until everything expected has come, and a run after it in each namespace: so what comes twice is seen.
    async fn conclude(mut self, mut tally: Tally) {
        self.ours("the-last-of-ours", &mut tally).await;
        self.theirs("the-last-of-theirs", &mut tally).await;
        for (team, last) in [(&mut self.ours, "the-last-of-ours"), (&mut self.theirs, "the-last-of-theirs")] {
            while team.next(&mut tally).await != at(last) {}
        }
        while !tally.is_complete() {
            // Nothing was expected of theirs that has not come, or this would wait for it in vain and say so.
            self.ours.next(&mut tally).await;
        }
        self.has_guessed_nothing().await;
        tally.conclude(0);
    }

    /// No run was taken for one without a model.
    async fn has_guessed_nothing(&self) {
        assert_eq!(self.served.metric("modelupdate_mlmd_lookups_total", &["outcome=\"no_model\""]).await, 0.0);
        assert_eq!(self.served.metric("modelupdate_runs_skipped_total", &["reason=\"no_model\""]).await, 0.0);
    }

    /// How many lookups have ended so.
    async fn lookups(&self, outcome: &str) -> f64 {
        self.served.metric("modelupdate_mlmd_lookups_total", &[&format!("outcome=\"{outcome}\"")]).await
    }

    /// How many lookups were to be repeated for this reason.
    async fn retries(&self, reason: &str) -> f64 {
        self.served.metric("modelupdate_lookup_retries_total", &[&format!("reason=\"{reason}\"")]).await
    }
}

impl Team {
    async fn subscribe(cluster: &SharedCluster, served: &TestServer, prefix: &str) -> Self {
        let namespace = cluster.namespace(prefix).await;
        let workflows = cluster.workflows(&namespace).await;
        let events = served.subscribe(&format!("kfpNamespace: {namespace}")).await;
        Self { namespace, workflows, events }
    }

    /// Lets a run succeed, of which ML Metadata may know something or not.
    async fn succeed(&self, run: &str, tally: &mut Tally) {
        tally.expect("model-update", &at(run));
        self.workflows.create(NewWorkflow::tfx_v1(run, PIPELINE).phase("Succeeded")).await;
    }

    /// The location of the next event's model.
    async fn next(&mut self, tally: &mut Tally) -> String {
        let payload = self.events.next_payload().await;
        tally.delivered_payload(&payload);
        model_location(&payload)
    }
}

async fn push(writer: &Writer, run: &str) {
    writer.tfx_run(PIPELINE, run).await.task(Task::pusher(&at(run))).await;
}

/// Where the model of this run is.
fn at(run: &str) -> String {
    format!("gs://root/{run}")
}
