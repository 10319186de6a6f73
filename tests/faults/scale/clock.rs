//! The server's clock is an hour ahead, an hour behind, and set again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use model_update_eventsource::clock::WallClock;
use test_support::{Events, SOON, eventually, model_location};

use super::*;

const HOUR: i64 = 3600;

/// By how many seconds the server's clock is ahead of the API server's.
#[derive(Clone, Debug, Default)]
struct Ahead(Arc<AtomicI64>);

impl Ahead {
    fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    fn clock(&self) -> WallClock {
        let ahead = self.0.clone();
        WallClock::new(move || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
            i64::try_from(now).expect("a time") + ahead.load(Ordering::Relaxed)
        })
    }
}

/// Who is subscribed to the one namespace: with a limit of age, and without.
const SUBSCRIPTIONS: [&str; 2] = ["plain", "young"];

struct Jumps {
    scene: Scene,
    workflows: Workflows,
    plain: Events,
    young: Events,
    tally: Tally,
}

impl Jumps {
    async fn start(ahead: &Ahead) -> Self {
        let scene = Scene::start(|config| config.clock = ahead.clock()).await;
        let namespace = scene.cluster.namespace("team").await;
        let workflows = scene.cluster.workflows(&namespace).await;
        let plain = scene.served.subscribe_as("plain", &format!("kfpNamespace: {namespace}")).await;
        let young = format!("kfpNamespace: {namespace}\nmaxAge: 30m");
        let young = scene.served.subscribe_as("young", &young).await;
        Self { scene, workflows, plain, young, tally: Tally::new("the clock jumps an hour, both ways") }
    }

    async fn succeed(&mut self, run: &str) {
        for subscription in SUBSCRIPTIONS {
            self.tally.expect(subscription, &at(run));
        }
        self.scene.succeed(&self.workflows, run).await;
    }

    async fn next(&mut self, subscription: &str) -> String {
        let events = if subscription == "young" { &mut self.young } else { &mut self.plain };
        let location = model_location(&events.next_payload().await);
        self.tally.delivered(subscription, &location);
        location
    }

    /// Every subscription gets this run next.
    async fn is_next(&mut self, run: &str) {
        for subscription in SUBSCRIPTIONS {
            assert_eq!(self.next(subscription).await, at(run), "{subscription}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_clock_that_jumps_an_hour_loses_nothing_and_repeats_nothing() {
    let ahead = Ahead::default();
    let mut jumps = Jumps::start(&ahead).await;
    // A question that is asked hourly: another tenant's run has this run's id.
    let foreign = jumps.scene.writer.kfp_run(PIPELINE, "foreign-id", "somebody-else").await;
    foreign.task(Task::pusher("gs://elsewhere")).await;
    jumps.workflows.create(NewWorkflow::kfp_v2(PIPELINE, "foreign-id").phase("Succeeded")).await;
    jumps.succeed("calm").await;
    jumps.is_next("calm").await;

    // A run that begins and succeeds now is an hour old, as far as the server can tell.
    ahead.set(HOUR);
    jumps.succeed("ahead").await;
    assert_eq!(jumps.next("plain").await, at("ahead"));
    jumps.succeed("ahead-too").await;
    assert_eq!(jumps.next("plain").await, at("ahead-too"));

    ahead.set(0);
    jumps.succeed("set").await;
    assert_eq!(jumps.next("plain").await, at("set"));
    let mut late = [jumps.next("young").await, jumps.next("young").await, jumps.next("young").await];
    late.sort();
    assert_eq!(late, ["ahead", "ahead-too", "set"].map(at), "what was too old only by a wrong clock");

    ahead.set(-HOUR);
    jumps.succeed("behind").await;
    jumps.is_next("behind").await;
    for seconds in [HOUR, -HOUR, 0] {
        ahead.set(seconds);
        jumps.workflows.label("behind", "example.com/touched", &seconds.to_string().replace('-', "minus")).await;
    }
    jumps.succeed("the-last").await;
    jumps.is_next("the-last").await;

    let served = &jumps.scene.served;
    eventually(SOON, "nothing pending but the foreign run", async || {
        served.metric("modelupdate_runs_pending", &[]).await <= 2.0
    })
    .await;
    assert_eq!(served.metric("modelupdate_mlmd_lookups_total", &["outcome=\"foreign_context\""]).await, 1.0);
    let events = 2.0 * 6.0;
    for histogram in ["modelupdate_event_handoff_duration_seconds", "modelupdate_event_confirmation_duration_seconds"] {
        let counted = async || served.metric(&format!("{histogram}_count"), &[]).await == events;
        eventually(SOON, &format!("{events} in {histogram}"), counted).await;
        let sum = served.metric(&format!("{histogram}_sum"), &[]).await;
        assert!((0.0..events * SOON.as_secs_f64()).contains(&sum), "{histogram}: {sum} s");
    }
    let page = served.metrics().await;
    let negative: Vec<_> = page.lines().filter(|line| !line.starts_with('#') && line.contains(" -")).collect();
    assert!(negative.is_empty(), "{negative:?}");
    jumps.tally.conclude(0);
}
