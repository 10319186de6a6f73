//! The server goes and comes back, with runs that finish before, just then, meanwhile and afterwards.

use std::time::Instant;

use test_support::{RunningServer, Tally, eventually, examples, manifests, model_location, report};

use crate::{Argo, CARRIED, PIPELINE, REDIAL, World, location};

const SUBSCRIPTION: &str = "model-update";
/// How many runs finish in each of the four moments.
const RUNS: usize = 4;

struct Scene {
    world: World,
    namespace: String,
    argo: Argo,
}

impl Scene {
    /// Runs that are about to succeed.
    async fn prepare(&self, moment: &str) -> Vec<String> {
        let runs: Vec<_> = (0..RUNS).map(|index| format!("{moment}-{index}")).collect();
        for run in &runs {
            self.world.pushed(&self.namespace, PIPELINE, run).await;
        }
        runs
    }

    async fn succeed(&self, runs: &[String]) {
        let workflows = self.world.cluster.workflows(&self.namespace).await;
        for run in runs {
            workflows.set_phase(run, "Succeeded").await;
        }
    }

    async fn marked(&self, runs: &[String]) {
        for run in runs {
            self.world.marked(&self.namespace, run, SUBSCRIPTION).await;
        }
    }

    /// The server goes in this way, and another comes at its address.
    async fn replaced(
        &self,
        fault: &'static str,
        word: &str,
        server: RunningServer,
        go: impl AsyncFnOnce(RunningServer),
    ) -> (RunningServer, Tally) {
        let before = self.prepare(&format!("{word}-before")).await;
        self.succeed(&before).await;
        self.marked(&before).await;

        let just_then = self.prepare(&format!("{word}-just-then")).await;
        let away = self.prepare(&format!("{word}-away")).await;
        self.succeed(&just_then).await;
        go(server).await;
        self.succeed(&away).await;

        let connections = self.argo.connections();
        let server = self.world.serve().await;
        let back = Instant::now();
        let connected = async || self.argo.connections() > connections;
        eventually(REDIAL, "Argo Events connects again", connected).await;
        report(format_args!("{fault}: connected again {:.1} s after it was back", back.elapsed().as_secs_f64()));

        // They are the last in their stream, and the bus keeps its order: what comes twice has come before.
        let after = self.prepare(&format!("{word}-after")).await;
        self.succeed(&after).await;
        let runs = [before, just_then, away, after].concat();
        self.marked(&runs).await;
        (server, self.books(fault, &format!("{word}-"), &runs).await)
    }

    /// What the trigger got of these runs, once it has got everything.
    async fn books(&self, fault: &'static str, prefix: &str, runs: &[String]) -> Tally {
        let prefix = location(prefix);
        eventually(CARRIED, "everything in the trigger's log", async || {
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
async fn a_server_replaced_or_killed_is_found_again_and_no_run_is_lost() {
    let world = World::start().await;
    let namespace = world.cluster.namespace("replaced").await;
    let server = world.serve().await;
    let event_source = examples::text("eventsource/plain.yaml").replace("kubeflow-pipelines", &namespace);
    let event_source = examples::find(&manifests(&event_source), "EventSource");
    let sensor = examples::find(&examples::objects("sensor/log.yaml"), "Sensor");
    let argo = world.argo(&event_source, &[&sensor]).await;
    let scene = Scene { world, namespace, argo };

    let terminate = async |server: RunningServer| server.stop().await;
    let (server, books) =
        scene.replaced("server replaced (SIGTERM) below Argo Events", "term", server, terminate).await;
    // It says goodbye only when what it has handed off is confirmed and marked.
    books.conclude(0);

    // When the first of those that succeed just then has been read: its mark is a second away.
    let read = scene.argo.events() + RUNS + 1;
    let kill = async |mut server: RunningServer| {
        eventually(CARRIED, "the event is read", async || scene.argo.events() >= read).await;
        server.process.kill();
    };
    let (server, books) = scene.replaced("server killed (SIGKILL) below Argo Events", "kill", server, kill).await;
    // What was read and not marked yet comes again: that is what at least once means.
    books.conclude(RUNS);
    server.stop().await;
}
