//! Two servers, and two streams on one subscription: fault 8. Each replica serves the streams that landed on it, and
//! they know of each other by the marks on the Workflows alone.
//!
//! What G2 allows here, and why:
//! - Two **streams of one subscription**, on one replica or on two, each get every event: a subscription is one logical
//!   consumer, and nothing tells which of its streams is the one that counts. The first confirmation marks the run, and
//!   a stream that comes to it after its mark does not get it any more. So there is at most one delivery a stream.
//! - When a **replica is killed**, what it had handed off and not marked comes again, through the other one.
//! - Streams of **different subscriptions** get each event once, wherever they landed.
//!
//! That a subscription which is shared for over a minute is reported is shown under paused time, in the unit tests of
//! `delivery::ledger` (`tests/streams.rs`); here only that it counts as shared meanwhile.

use std::{collections::BTreeSet, time::Instant};

use test_support::{GrpcGoClient, Line, RunningServer, Tally, model_location, report};

use crate::scene::{SOON, Scene, run_of, take, take_all, take_rest};

/// The subscription that two streams have.
const SHARED: &str = "shared";

/// A stream of the shared subscription, and what came by it.
struct Stream {
    client: GrpcGoClient,
    received: Vec<String>,
}

impl Stream {
    async fn of(scene: &Scene, program: &RunningServer) -> Self {
        Self { client: scene.subscriber(program, SHARED).await, received: Vec::new() }
    }

    async fn take(&mut self) {
        self.received.push(model_location(&self.client.payload(SOON).await));
    }

    /// Books all that came, each of it once.
    fn close(mut self, tally: &mut Tally) {
        self.received.iter().for_each(|location| tally.delivered(SHARED, location));
        self.received.extend(take_rest(&mut self.client, SHARED, tally));
        let distinct: BTreeSet<_> = self.received.iter().collect();
        assert_eq!(distinct.len(), self.received.len(), "twice on one stream: {:?}", self.received);
    }
}

/// Until each of these runs has come by either.
async fn until_all_came(a: &mut Stream, b: &mut Stream, runs: &[String]) {
    while !runs.iter().all(|run| a.received.iter().chain(&b.received).any(|location| run_of(location) == run)) {
        tokio::select! {
            () = a.take() => {}
            () = b.take() => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn different_subscriptions_on_two_replicas_each_get_every_event_once() {
    let scene = Scene::open().await;
    let mut tally = Tally::new("two replicas, different subscriptions");
    let both = ["first", "second"];
    let replicas = [scene.program(&[]).await, scene.program(&[]).await];
    let mut first = scene.subscriber(&replicas[0], "first").await;
    let mut second = scene.subscriber(&replicas[1], "second").await;
    let runs = scene.succeed(&mut tally, &both, 20).await;
    take_all(&mut first, "first", &mut tally).await;
    take_all(&mut second, "second", &mut tally).await;
    scene.marked(&runs, &both).await;

    // The marks are common: each finds its runs delivered on the other replica, too, and gets the next one first.
    for replica in &replicas {
        scene.seen_by(replica).await;
    }
    (first, second) = (scene.subscriber(&replicas[1], "first").await, scene.subscriber(&replicas[0], "second").await);
    let next = scene.succeed(&mut tally, &both, 1).await;
    for (client, subscription) in [(&mut first, "first"), (&mut second, "second")] {
        assert_eq!(run_of(&take(client, subscription, &mut tally).await), next[0]);
    }
    tally.conclude(0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn one_subscription_on_two_replicas_gets_every_event_at_most_once_a_stream_and_marks_are_common() {
    let scene = Scene::open().await;
    let tally = Tally::new("two replicas, the same subscription");
    let [one, other] = [scene.program(&[]).await, scene.program(&[]).await];
    two_streams(&scene, tally, &one, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn two_streams_of_one_subscription_on_one_replica_each_get_every_event_and_neither_waits() {
    let scene = Scene::open().await;
    let tally = Tally::new("two streams on one subscription of one replica");
    let program = scene.program(&[]).await;
    two_streams(&scene, tally, &program, &program).await;
}

/// Two streams of one subscription share runs; then one freezes and is killed.
async fn two_streams(scene: &Scene, mut tally: Tally, one: &RunningServer, other: &RunningServer) {
    let same = one.listen == other.listen;
    let (mut reads, mut freezes) = (Stream::of(scene, one).await, Stream::of(scene, other).await);
    one.metric_is("modelupdate_subscriptions_shared", &[], if same { 1.0 } else { 0.0 }).await;
    let runs = scene.succeed(&mut tally, &[SHARED], 20).await;
    until_all_came(&mut reads, &mut freezes, &runs).await;
    scene.marked(&runs, &[SHARED]).await;
    for replica in [one, other] {
        replica.metric_is("modelupdate_runs_pending", &[], 0.0).await;
    }

    // The other one confirms for both, and waits for nobody.
    freezes.client.pause();
    let began = Instant::now();
    let alone = scene.succeed(&mut tally, &[SHARED], 10).await;
    until_all_came(&mut reads, &mut freezes, &alone).await;
    scene.marked(&alone, &[SHARED]).await;
    let lasted = began.elapsed().as_secs_f64();
    report(format_args!(
        "  10 runs made, delivered to one stream and marked, while the other is frozen: {lasted:.1} s"
    ));
    freezes.client.kill();
    other.logged_for("stream ended", SHARED).await;
    scene.seen_by(other).await;

    // What one has confirmed is done for its sibling's successor: the next run is the first that it gets.
    let mut successor = Stream::of(scene, other).await;
    let next = scene.succeed(&mut tally, &[SHARED], 1).await;
    successor.take().await;
    assert_eq!(run_of(&successor.received[0]), next[0]);
    scene.marked(&next, &[SHARED]).await;
    one.metric_is("modelupdate_runs_pending", &[], 0.0).await;
    [reads, freezes, successor].into_iter().for_each(|stream| stream.close(&mut tally));
    // To a second stream of the subscription went 20 runs at most, and one more.
    tally.conclude(21);
}

/// What a client has received when its stream has ended.
async fn to_the_end(client: &mut GrpcGoClient, received: &mut Vec<String>) {
    loop {
        match client.next(SOON).await {
            Some(Line::Event { payload, .. }) => received.push(model_location(&payload)),
            Some(Line::Open(_)) => {}
            Some(Line::Status { code, .. }) => return assert_eq!(code, "Unavailable"),
            None => panic!("it ends with a status"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_replica_killed_in_mid_burst_loses_nothing_and_only_what_it_had_not_marked_comes_again() {
    const BURST: usize = 150;
    let scene = Scene::open().await;
    let mut tally = Tally::new("one of two replicas SIGKILLed in mid-burst");
    let both = ["argo", "bystander"];
    let fast = ["--confirm-after=100ms"];
    let (mut killed, stays) = (scene.program(&fast).await, scene.program(&fast).await);
    let mut bystander = scene.subscriber(&stays, "bystander").await;
    let mut argo = scene.subscriber(&killed, "argo").await;
    let mut received = Vec::new();
    let mid_burst = async {
        while received.len() < BURST / 5 {
            received.push(model_location(&argo.payload(SOON).await));
        }
        killed.process.kill();
        to_the_end(&mut argo, &mut received).await;
        let mut unmarked = 0;
        for location in &received {
            unmarked += usize::from(!scene.marks(run_of(location)).await.contains("argo"));
        }
        scene.seen_by(&stays).await;
        // Argo redials, and lands on the other replica.
        (scene.subscriber(&stays, "argo").await, unmarked)
    };
    let (runs, (mut argo, unmarked)) = tokio::join!(scene.succeed(&mut tally, &both, BURST), mid_burst);
    report(format_args!(
        "  {} of {BURST} had come when it was killed, {unmarked} of these were not marked",
        received.len()
    ));
    assert!(received.len() < BURST, "it was to be killed in mid-burst");
    received.iter().for_each(|location| tally.delivered("argo", location));
    take_all(&mut argo, "argo", &mut tally).await;
    take_all(&mut bystander, "bystander", &mut tally).await;
    scene.marked(&runs, &both).await;
    take_rest(&mut argo, "argo", &mut tally);
    take_rest(&mut bystander, "bystander", &mut tally);
    tally.conclude(unmarked);
}
