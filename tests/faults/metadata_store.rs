//! A source of models that is down, hangs, loses its data, or answers late, with errors or with malformed messages. Each
//! test has one body for the real ML Metadata and for the test server of Kubeflow's API.
//!
//! All these tests check the same promise: a run whose lookup fails never counts as a run without a model, its event is
//! delivered once the source has recovered, and only once. Other runs, in other namespaces and in ML Metadata also in its
//! own, are not delayed.

mod answers;
mod outages;
mod proxy;
mod source;
mod unknown;

use std::time::Duration;

use model_update_eventsource::app::Config;
use test_support::{Events, Peers, SharedCluster, Tally, TestServer, Workflows, model_location};

use self::source::{Source, Store};
use crate::test_env::{SUBSCRIPTION, location_of};

/// Indexes into [`StoreEnv::teams`].
const TEAM_A: usize = 0;
const TEAM_B: usize = 1;

/// A server in this process, with a source of models and two namespaces.
struct StoreEnv {
    source: Source,
    store: Store,
    server: TestServer,
    teams: [Team; 2],
    tally: Tally,
}

/// A namespace with its subscriber.
struct Team {
    namespace: String,
    workflows: Workflows,
    events: Events,
}

impl StoreEnv {
    /// Starts a server that connects to `url`: the store's, or that of a proxy before it.
    async fn start(fault: &str, source: Source, store: Store, url: String) -> Self {
        let cluster = Peers::find().await.cluster().await;
        let mut config = Config {
            kubernetes: Some(cluster.admin_config().await),
            confirm_after: Duration::from_millis(100),
            ..Config::default()
        };
        store.configure(url, &mut config);
        let server = TestServer::start(config).await;
        let teams =
            [Team::subscribe(&cluster, &server, "team-a").await, Team::subscribe(&cluster, &server, "team-b").await];
        Self { source, store, server, teams, tally: Tally::new(format!("{source:?} {fault}")) }
    }

    /// Starts a server that is directly connected to a new store.
    async fn with_store(fault: &str, source: Source) -> Self {
        let store = Store::start(source).await;
        let url = store.url();
        Self::start(fault, source, store, url).await
    }

    /// Creates a succeeded run that has pushed a model.
    async fn succeed(&mut self, team: usize, run: &str) {
        self.store.push_models(&[run]).await;
        self.create_succeeded(team, run).await;
    }

    /// Creates the succeeded Workflow of a run, whose models the source may have or not.
    async fn create_succeeded(&mut self, team: usize, run: &str) {
        self.tally.expect(SUBSCRIPTION, &location_of(run));
        self.source.create_succeeded(&self.teams[team].workflows, run).await;
    }

    /// Returns the location of the next event's model.
    async fn next(&mut self, team: usize) -> String {
        let payload = self.teams[team].events.next_payload().await;
        self.tally.delivered_payload(&payload);
        model_location(&payload)
    }

    /// Checks that this run's event is the next one.
    async fn assert_next(&mut self, team: usize, run: &str) {
        assert_eq!(self.next(team).await, location_of(run));
    }

    /// Receives everything that is expected and one more run in each namespace: any duplicate would arrive before it.
    async fn conclude(mut self) {
        for (team, last) in [(TEAM_A, "last-of-team-a"), (TEAM_B, "last-of-team-b")] {
            self.succeed(team, last).await;
        }
        for (team, last) in [(TEAM_A, "last-of-team-a"), (TEAM_B, "last-of-team-b")] {
            while self.next(team).await != location_of(last) {}
        }
        while !self.tally.is_complete() {
            // Only team A may lack an event here; one of team B that is lost lets this time out.
            self.next(TEAM_A).await;
        }
        self.assert_no_run_without_model().await;
        self.tally.conclude(0);
    }

    /// Checks that no run counts as one without a model.
    async fn assert_no_run_without_model(&self) {
        assert_eq!(self.lookups("no_model").await, 0.0);
        assert_eq!(self.server.metric("modelupdate_runs_skipped_total", &["reason=\"no_model\""]).await, 0.0);
    }

    /// Returns the number of lookups with this outcome.
    async fn lookups(&self, outcome: &str) -> f64 {
        let metric = format!("modelupdate_{}_lookups_total", self.source.metric());
        self.server.metric(&metric, &[&format!("outcome=\"{outcome}\"")]).await
    }

    /// Returns the number of lookups that were retried for this reason.
    async fn retries(&self, reason: &str) -> f64 {
        self.server.metric("modelupdate_lookup_retries_total", &[&format!("reason=\"{reason}\"")]).await
    }
}

impl Team {
    async fn subscribe(cluster: &SharedCluster, server: &TestServer, prefix: &str) -> Self {
        let namespace = cluster.namespace(prefix).await;
        let workflows = cluster.workflows(&namespace).await;
        let events = server.subscribe(&format!("kfpNamespace: {namespace}")).await;
        Self { namespace, workflows, events }
    }
}
