//! Restarts of the server, with runs that succeed before, during and after the downtime.

use std::time::Instant;

use test_support::{PIPELINE, RunningServer, Tally, eventually, examples, manifests, model_location, report};

use crate::{Argo, DELIVERY, Harness, RECONNECT, location};

const SUBSCRIPTION: &str = "model-update";

/// Runs that succeed at each of the four moments of a restart.
const RUNS: usize = 4;

struct RestartTest {
    harness: Harness,
    namespace: String,
    argo: Argo,
}

impl RestartTest {
    /// Creates runs that have not succeeded yet.
    async fn create_runs(&self, prefix: &str) -> Vec<String> {
        let runs: Vec<_> = (0..RUNS).map(|index| format!("{prefix}-{index}")).collect();
        for run in &runs {
            self.harness.create_run(&self.namespace, PIPELINE, run).await;
        }
        runs
    }

    async fn succeed(&self, runs: &[String]) {
        let workflows = self.harness.cluster.workflows(&self.namespace).await;
        for run in runs {
            workflows.set_phase(run, "Succeeded").await;
        }
    }

    async fn marked(&self, runs: &[String]) {
        for run in runs {
            self.harness.marked(&self.namespace, run, SUBSCRIPTION).await;
        }
    }

    /// Ends the server with `end` and starts another at its address. `prefix` begins the names of the runs.
    async fn restart(
        &self,
        fault: &'static str,
        prefix: &str,
        server: RunningServer,
        end: impl AsyncFnOnce(RunningServer),
    ) -> (RunningServer, Tally) {
        let before = self.create_runs(&format!("{prefix}-before")).await;
        self.succeed(&before).await;
        self.marked(&before).await;

        let at_the_end = self.create_runs(&format!("{prefix}-at-the-end")).await;
        let meanwhile = self.create_runs(&format!("{prefix}-meanwhile")).await;
        self.succeed(&at_the_end).await;
        end(server).await;
        self.succeed(&meanwhile).await;

        let connections = self.argo.connections();
        let server = self.harness.serve().await;
        let started = Instant::now();
        let connected = async || self.argo.connections() > connections;
        eventually(RECONNECT, "a reconnect of Argo Events", connected).await;
        report(format_args!("{fault}: reconnected {:.1} s after the restart", started.elapsed().as_secs_f64()));

        // The stream and the bus keep the order, so every duplicate is delivered before these.
        let after = self.create_runs(&format!("{prefix}-after")).await;
        self.succeed(&after).await;
        let runs = [before, at_the_end, meanwhile, after].concat();
        self.marked(&runs).await;
        (server, self.tally(fault, &format!("{prefix}-"), &runs).await)
    }

    /// Returns the events of these runs that the trigger has received, when none is missing.
    async fn tally(&self, fault: &'static str, prefix: &str, runs: &[String]) -> Tally {
        let prefix = location(prefix);
        eventually(DELIVERY, "every event in the log of the trigger", async || {
            let mut tally = Tally::new(fault);
            runs.iter().for_each(|run| tally.expect(SUBSCRIPTION, &location(run)));
            let triggered = self.argo.logged();
            let triggered = triggered.iter().filter(|payload| model_location(payload).starts_with(&prefix));
            triggered.for_each(|payload| tally.delivered_payload(payload));
            if tally.is_complete() { Ok(tally) } else { Err(tally) }
        })
        .await
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn argo_events_reconnects_to_a_restarted_server() {
    let harness = Harness::start().await;
    let namespace = harness.cluster.namespace("restarted").await;
    let server = harness.serve().await;
    let event_source = examples::text("eventsource/plain.yaml").replace("kubeflow-pipelines", &namespace);
    let event_source = examples::find(&manifests(&event_source), "EventSource");
    let sensor = examples::find(&examples::objects("sensor/log.yaml"), "Sensor");
    let argo = harness.argo(&event_source, &[&sensor]).await;
    let test = RestartTest { harness, namespace, argo };

    let terminate = async |server: RunningServer| server.stop().await;
    let (server, tally) = test.restart("server restarted (SIGTERM), with Argo Events", "term", server, terminate).await;
    // A shutdown waits until the events that were handed off are confirmed and marked.
    tally.conclude(0);

    // The server is killed when the first event is read. Its mark follows a second later.
    let read = test.argo.events() + RUNS + 1;
    let kill = async |mut server: RunningServer| {
        eventually(DELIVERY, "the event is read", async || test.argo.events() >= read).await;
        server.process.kill();
    };
    let (server, tally) = test.restart("server killed (SIGKILL), with Argo Events", "kill", server, kill).await;
    // Events that were read and not marked are redelivered: at least once.
    tally.conclude(RUNS);
    server.stop().await;
}
