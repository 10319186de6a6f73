//! A server whose wall clock is an hour ahead, an hour behind, and correct again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use model_update_eventsource::delivery::WallClock;
use test_support::{Events, NewWorkflow, Peers, SOON, Tally, Task, Workflows, eventually, model_location};

use crate::{
    in_process::{InProcessEnv, PIPELINE, create_succeeded},
    test_env::location_of,
};

const HOUR: i64 = 3600;

/// Offset of the server's clock from the API server's, in seconds.
#[derive(Clone, Debug, Default)]
struct ClockOffset(Arc<AtomicI64>);

impl ClockOffset {
    fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    fn clock(&self) -> WallClock {
        let offset = self.0.clone();
        WallClock::new(move || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
            i64::try_from(now).expect("a time") + offset.load(Ordering::Relaxed)
        })
    }
}

/// The subscriptions of the namespace: without and with a maximum age of 30 minutes.
const UNLIMITED: &str = "unlimited";
const MAX_AGE: &str = "max-age";

/// A server with a clock that can be set, and a subscriber of each subscription.
struct ClockEnv {
    base: InProcessEnv,
    offset: ClockOffset,
    workflows: Workflows,
    unlimited: Events,
    max_age: Events,
    tally: Tally,
}

impl ClockEnv {
    async fn start() -> Self {
        let offset = ClockOffset::default();
        let store = Peers::find().await.metadata_store().await;
        let base = InProcessEnv::start(store, |config| config.clock = offset.clock()).await;
        let namespace = base.cluster.namespace("team").await;
        let workflows = base.cluster.workflows(&namespace).await;
        let config = format!("kfpNamespace: {namespace}");
        let unlimited = base.server.subscribe_as(UNLIMITED, &config).await;
        let max_age = base.server.subscribe_as(MAX_AGE, &format!("{config}\nmaxAge: 30m")).await;
        let tally = Tally::new("the clock jumps by an hour in both directions");
        Self { base, offset, workflows, unlimited, max_age, tally }
    }

    /// Creates a succeeded run with a model.
    async fn succeed(&mut self, run: &str) {
        for subscription in [UNLIMITED, MAX_AGE] {
            self.tally.expect(subscription, &location_of(run));
        }
        self.base.push_model(run).await;
        create_succeeded(&self.workflows, run).await;
    }

    /// Returns the location of the next event's model.
    async fn next(&mut self, subscription: &str) -> String {
        let events = if subscription == MAX_AGE { &mut self.max_age } else { &mut self.unlimited };
        let location = model_location(&events.next_payload().await);
        self.tally.delivered(subscription, &location);
        location
    }

    /// Checks that this run's event is the next one of both subscriptions.
    async fn assert_next(&mut self, run: &str) {
        for subscription in [UNLIMITED, MAX_AGE] {
            assert_eq!(self.next(subscription).await, location_of(run), "{subscription}");
        }
    }
}

/// A wall clock that jumps by an hour loses nothing and causes no duplicate.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_clock_that_jumps_loses_and_repeats_nothing() {
    let mut env = ClockEnv::start().await;
    // The run id of another tenant: this lookup is retried every hour.
    let foreign = env.base.writer.kfp_run(PIPELINE, "foreign-id", "another-namespace").await;
    foreign.task(Task::pusher("gs://elsewhere")).await;
    env.workflows.create(NewWorkflow::kfp_v2(PIPELINE, "foreign-id").phase("Succeeded")).await;
    env.succeed("before").await;
    env.assert_next("before").await;

    // For a server whose clock is ahead, a run that succeeds now is an hour old.
    env.offset.set(HOUR);
    for run in ["ahead", "ahead-too"] {
        env.succeed(run).await;
        assert_eq!(env.next(UNLIMITED).await, location_of(run));
    }

    env.offset.set(0);
    env.succeed("corrected").await;
    assert_eq!(env.next(UNLIMITED).await, location_of("corrected"));
    let mut late = [env.next(MAX_AGE).await, env.next(MAX_AGE).await, env.next(MAX_AGE).await];
    late.sort();
    let expected = ["ahead", "ahead-too", "corrected"].map(location_of);
    assert_eq!(late, expected, "with the runs that were too old for the wrong clock only");

    env.offset.set(-HOUR);
    env.succeed("behind").await;
    env.assert_next("behind").await;
    for seconds in [HOUR, -HOUR, 0] {
        env.offset.set(seconds);
        env.workflows.label("behind", "example.com/touched", &seconds.to_string().replace('-', "minus")).await;
    }
    env.succeed("last").await;
    env.assert_next("last").await;

    let server = &env.base.server;
    eventually(SOON, "nothing pending but the foreign run", async || {
        server.metric("modelupdate_runs_pending", &[]).await <= 2.0
    })
    .await;
    assert_eq!(server.metric("modelupdate_mlmd_lookups_total", &["outcome=\"foreign_context\""]).await, 1.0);
    let events = 2.0 * 6.0;
    for histogram in ["modelupdate_event_handoff_duration_seconds", "modelupdate_event_confirmation_duration_seconds"] {
        let counted = async || server.metric(&format!("{histogram}_count"), &[]).await == events;
        eventually(SOON, &format!("{events} in {histogram}"), counted).await;
        let sum = server.metric(&format!("{histogram}_sum"), &[]).await;
        assert!((0.0..events * SOON.as_secs_f64()).contains(&sum), "{histogram}: {sum} s");
    }
    let page = server.metrics().await;
    let negative: Vec<_> = page.lines().filter(|line| !line.starts_with('#') && line.contains(" -")).collect();
    assert!(negative.is_empty(), "{negative:?}");
    env.tally.conclude(0);
}
