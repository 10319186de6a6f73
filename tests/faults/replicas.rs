//! Two replicas, and two streams of one subscription. Each replica serves the streams that are connected to it; the
//! replicas share state only through the marks on the Workflows.
//!
//! Duplicates that guarantee G2 allows here:
//! - Two **streams of one subscription**, on one replica or on two, each receive every event: a subscription is one
//!   logical consumer, and no stream of it has precedence. The first confirmation marks the run, and a stream without
//!   the event by then does not receive it any more. So there is at most one delivery for each stream.
//! - When a **replica is killed**, the other one repeats what it had handed off and not marked.
//! - Streams of **different subscriptions** receive each event once, on any replica.
//!
//! The report about a subscription that is shared for over a minute is covered by unit tests with paused time
//! (`delivery::ledger`, `tests/streams.rs`). These tests check the metric.

use std::{collections::BTreeSet, time::Instant};

use test_support::{RunningServer, Tally, report};

use crate::test_env::{Subscriber, TestEnv, run_of};

/// The subscription with two streams.
const SHARED: &str = "shared";

/// A stream of the shared subscription with what it received.
struct Stream {
    subscriber: Subscriber,
    received: Vec<String>,
}

impl Stream {
    async fn open(env: &TestEnv, server: &RunningServer) -> Self {
        Self { subscriber: env.subscriber(server, SHARED).await, received: Vec::new() }
    }

    async fn receive(&mut self) {
        self.received.push(self.subscriber.next_location().await);
    }

    /// Counts all deliveries and checks that none was repeated on this stream.
    fn close(mut self, tally: &mut Tally) {
        self.received.iter().for_each(|location| tally.delivered(SHARED, location));
        self.received.extend(self.subscriber.receive_buffered(tally));
        let distinct: BTreeSet<_> = self.received.iter().collect();
        assert_eq!(distinct.len(), self.received.len(), "duplicates on one stream: {:?}", self.received);
    }
}

/// Receives on both streams until each of these runs was received on either.
async fn receive_on_either(a: &mut Stream, b: &mut Stream, runs: &[String]) {
    while !runs.iter().all(|run| a.received.iter().chain(&b.received).any(|location| run_of(location) == run)) {
        tokio::select! {
            () = a.receive() => {}
            () = b.receive() => {}
        }
    }
}

/// Different subscriptions on two replicas each receive every event once, also after they change replicas.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn subscriptions_on_two_replicas_receive_every_event_once() {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("two replicas, different subscriptions");
    let both = ["first", "second"];
    let replicas = [env.server(&[]).await, env.server(&[]).await];
    let mut first = env.subscriber(&replicas[0], "first").await;
    let mut second = env.subscriber(&replicas[1], "second").await;
    let runs = env.succeed(&mut tally, &both, 20).await;
    first.receive_all(&mut tally).await;
    second.receive_all(&mut tally).await;
    env.marked(&runs, &both).await;

    // After they change replicas, the next run is their next event: the other replica has the marks.
    for replica in &replicas {
        env.caught_up(replica).await;
    }
    (first, second) = (env.subscriber(&replicas[1], "first").await, env.subscriber(&replicas[0], "second").await);
    let next = env.succeed(&mut tally, &both, 1).await;
    for subscriber in [&mut first, &mut second] {
        assert_eq!(run_of(&subscriber.receive(&mut tally).await), next[0]);
    }
    tally.conclude(0);
}

/// One subscription on two replicas receives an event at most once per stream, and the marks are common.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn one_subscription_on_two_replicas_has_common_marks() {
    let env = TestEnv::shared().await;
    let tally = Tally::new("two replicas, the same subscription");
    let [one, other] = [env.server(&[]).await, env.server(&[]).await];
    check_two_streams(&env, tally, &one, &other).await;
}

/// Two streams of one subscription on one replica each receive every event, and neither waits for the other.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn two_streams_of_one_subscription_do_not_wait_for_each_other() {
    let env = TestEnv::shared().await;
    let tally = Tally::new("one replica, two streams of one subscription");
    let server = env.server(&[]).await;
    check_two_streams(&env, tally, &server, &server).await;
}

/// Delivers to two streams of one subscription, then freezes and kills one of them.
async fn check_two_streams(env: &TestEnv, mut tally: Tally, one: &RunningServer, other: &RunningServer) {
    let same = one.listen == other.listen;
    let (mut reading, mut frozen) = (Stream::open(env, one).await, Stream::open(env, other).await);
    one.metric_is("modelupdate_subscriptions_shared", &[], if same { 1.0 } else { 0.0 }).await;
    let runs = env.succeed(&mut tally, &[SHARED], 20).await;
    receive_on_either(&mut reading, &mut frozen, &runs).await;
    env.marked(&runs, &[SHARED]).await;
    for replica in [one, other] {
        replica.metric_is("modelupdate_runs_pending", &[], 0.0).await;
    }

    // The reading stream confirms for the subscription, without waiting for the frozen one.
    frozen.subscriber.client.pause();
    let started = Instant::now();
    let meanwhile = env.succeed(&mut tally, &[SHARED], 10).await;
    receive_on_either(&mut reading, &mut frozen, &meanwhile).await;
    env.marked(&meanwhile, &[SHARED]).await;
    report(format_args!(
        "  10 runs created, delivered to one stream and marked while the other is frozen: {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    frozen.subscriber.client.kill();
    other.logged_for("stream ended", SHARED).await;
    env.caught_up(other).await;

    // The frozen stream's successor receives no confirmed run: the next run is its first event.
    let mut successor = Stream::open(env, other).await;
    let next = env.succeed(&mut tally, &[SHARED], 1).await;
    successor.receive().await;
    assert_eq!(run_of(&successor.received[0]), next[0]);
    env.marked(&next, &[SHARED]).await;
    one.metric_is("modelupdate_runs_pending", &[], 0.0).await;
    [reading, frozen, successor].into_iter().for_each(|stream| stream.close(&mut tally));
    // A second stream of the subscription receives at most the first 20 runs and the last one.
    tally.conclude(21);
}

/// A replica killed during a burst loses nothing, and only its unmarked deliveries are repeated by the other replica.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_replica_killed_in_a_burst_repeats_only_unmarked_events() {
    const BURST: usize = 150;
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("one of two replicas SIGKILLed during a burst");
    let both = ["argo", "bystander"];
    let flags = ["--confirm-after=100ms"];
    let (mut killed, survivor) = (env.server(&flags).await, env.server(&flags).await);
    let mut bystander = env.subscriber(&survivor, "bystander").await;
    let mut argo = env.subscriber(&killed, "argo").await;
    let mut received = Vec::new();
    let kill_in_burst = async {
        while received.len() < BURST / 5 {
            received.push(argo.next_location().await);
        }
        killed.process.kill();
        let (rest, code) = argo.until_end().await;
        assert_eq!(code.as_deref(), Some("Unavailable"));
        received.extend(rest);
        let mut unmarked = 0;
        for location in &received {
            unmarked += usize::from(!env.marks(run_of(location)).await.contains("argo"));
        }
        env.caught_up(&survivor).await;
        // Argo redials and reaches the other replica.
        (env.subscriber(&survivor, "argo").await, unmarked)
    };
    let (runs, (mut argo, unmarked)) = tokio::join!(env.succeed(&mut tally, &both, BURST), kill_in_burst);
    report(format_args!(
        "  {} of {BURST} events received when the replica was killed, {unmarked} unmarked",
        received.len()
    ));
    assert!(received.len() < BURST, "the replica is killed during the burst");
    received.iter().for_each(|location| tally.delivered("argo", location));
    argo.receive_all(&mut tally).await;
    bystander.receive_all(&mut tally).await;
    env.marked(&runs, &both).await;
    argo.receive_buffered(&mut tally);
    bystander.receive_buffered(&mut tally);
    tally.conclude(unmarked);
}
