//! The driver with the real store, under paused time: its waits end at once, or after exactly their time.

mod ahead;
mod slices;
mod status;

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::*;
use crate::{
    delivery::{Attached, Handoff, fixtures::*},
    model::{ArtifactTypes, Subscription, Uid},
};

/// The behavior of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Behavior {
    #[default]
    Works,
    Hangs,
    Panics,
    Fails,
}

/// ML Metadata, by namespace.
#[derive(Default)]
struct FakeLookup {
    behaviors: Mutex<HashMap<String, Behavior>>,
    forgotten: Mutex<Vec<Uid>>,
    looked_ahead: Mutex<Vec<Uid>>,
}

impl ArtifactLookup for FakeLookup {
    fn find<'a>(&'a self, run: &'a Workflow, _: &'a Arc<ArtifactTypes>) -> BoxFuture<'a, Answer> {
        let behavior = lock(&self.behaviors).get(&*run.namespace).copied().unwrap_or_default();
        Box::pin(async move {
            match behavior {
                Behavior::Works => model(),
                Behavior::Hangs => pending().await,
                Behavior::Panics => panic!("a lookup panics for this test"),
                Behavior::Fails => unavailable(),
            }
        })
    }

    fn look_ahead<'a>(&'a self, run: &'a Workflow) -> BoxFuture<'a, Result<KnownAhead, LookupError>> {
        lock(&self.looked_ahead).push(run.uid);
        Box::pin(async move { self.find(run, &Arc::default()).await.map(|_| KnownAhead::All) })
    }

    fn forget(&self, run: Uid) {
        lock(&self.forgotten).push(run);
    }
}

/// The API server and its watch.
struct FakeMarker {
    behavior: Mutex<Behavior>,
    store: Arc<Store>,
    patched: watch::Sender<Vec<MarkPatch>>,
}

impl Marker for FakeMarker {
    fn patch<'a>(&'a self, patch: &'a MarkPatch) -> BoxFuture<'a, Result<(), MarkError>> {
        let behavior = *lock(&self.behavior);
        Box::pin(async move {
            match behavior {
                Behavior::Works => {
                    let record = self.store.get(&patch.namespace, &patch.name).ok_or(MarkError::Gone)?;
                    self.store.apply(with_patch(&record, &patch.change));
                    self.patched.send_modify(|patched| patched.push(patch.clone()));
                    Ok(())
                }
                Behavior::Hangs => pending().await,
                Behavior::Panics => panic!("a patch panics for this test"),
                Behavior::Fails => transient(),
            }
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

struct Harness {
    store: Arc<Store>,
    lookup: Arc<FakeLookup>,
    marker: Arc<FakeMarker>,
    deliveries: Deliveries,
    drain: CancellationToken,
    registry: Registry,
    heartbeat: Heartbeat,
    /// The numbers of changes and records in the turns so far.
    turns: Arc<Mutex<Vec<usize>>>,
    /// Grows whenever the task runs.
    clock_readings: Arc<AtomicUsize>,
    /// Seconds by which the clock is fast.
    ahead: Arc<AtomicI64>,
    status: StatusReader,
    task: JoinHandle<Result<(), JoinError>>,
}

impl Harness {
    fn new() -> Self {
        let clock_readings = Arc::new(AtomicUsize::new(0));
        let readings = clock_readings.clone();
        let ahead = Arc::new(AtomicI64::new(0));
        let seconds = ahead.clone();
        let clock = WallClock::new(move || {
            readings.fetch_add(1, Ordering::Relaxed);
            BEGIN + seconds.load(Ordering::Relaxed)
        });
        let store = Arc::new(Store::new(clock.clone()));
        let lookup = Arc::new(FakeLookup::default());
        let patched = watch::Sender::default();
        let marker = Arc::new(FakeMarker { behavior: Mutex::default(), store: store.clone(), patched });
        let mut registry = Registry::default();
        let metrics = DeliveryMetrics::new(&mut registry);
        let (heartbeat, options) = (Heartbeat::default(), Options::default());
        let (lookups, marks) = (lookup.clone(), marker.clone());
        let (deliveries, driver) =
            Driver::new(store.clone(), lookups, marks, options, clock, metrics, heartbeat.clone());
        let (turns, status) = (driver.turns.clone(), driver.status());
        let drain = CancellationToken::new();
        let task = tokio::spawn(driver.run(drain.clone()));
        Self {
            store,
            lookup,
            marker,
            deliveries,
            drain,
            registry,
            heartbeat,
            turns,
            clock_readings,
            ahead,
            status,
            task,
        }
    }

    fn attach(&self, subscription: Subscription) -> Attached {
        self.deliveries.attach(subscription, None, None)
    }

    fn set(&self, namespace: &str, behavior: Behavior) {
        lock(&self.lookup.behaviors).insert(namespace.into(), behavior);
    }

    /// Waits until this number of patches was applied.
    async fn patched(&self, count: usize) -> Vec<MarkPatch> {
        let mut patched = self.marker.patched.subscribe();
        let enough = patched.wait_for(|patched| patched.len() >= count);
        timeout(Duration::from_secs(3600), enough).await.expect("enough patches in time").unwrap().clone()
    }

    fn metric(&self, line: &str) -> bool {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text.lines().any(|each| each == line)
    }
}

/// Waits for the next event of a stream.
async fn event(stream: &mut Attached) -> Handoff {
    timeout(Duration::from_secs(60), stream.events.recv()).await.expect("an event in time").expect("an open stream")
}

/// Asserts that no event follows within a minute.
async fn assert_silent(stream: &mut Attached) {
    let silent = timeout(Duration::from_secs(60), stream.events.recv()).await;
    assert!(silent.is_err(), "{silent:?}");
}

/// The time after which a drain ends at the latest.
fn drain_time() -> Duration {
    let options = Options::default();
    options.drain_confirmations + options.drain_marks
}

#[tokio::test(start_paused = true)]
async fn a_run_is_delivered_and_marked() {
    let harness = Harness::new();
    let mut stream = harness.attach(subscription("a"));
    harness.store.apply(run("one"));
    let handoff = event(&mut stream).await;
    assert_eq!(
        handoff.payload,
        r#"{"pipelineName":"penguin","servingModelArtifacts":[{"name":"model","location":"gs://models/1"}]}"#
    );
    let acknowledged = Instant::now();
    stream.acks.acknowledged(handoff.sequence);
    let patches = harness.patched(1).await;
    assert_eq!(Instant::now() - acknowledged, Options::default().confirm_after);
    assert_eq!((&*patches[0].name, patches[0].uid), ("one", uid("one")));
    assert!(harness.store.get("team", "one").unwrap().is_marked_for(&name("a")));
    assert_silent(&mut stream).await;
    for line in ["events_sent_total{namespace=\"team\"} 1", "events_confirmed_total{namespace=\"team\"} 1"] {
        assert!(harness.metric(line), "{line}");
    }
    assert!(harness.metric("runs_pending{namespace=\"team\"} 0") && harness.metric("marks_pending 0"));
}

#[tokio::test(start_paused = true)]
async fn runs_already_in_the_store_are_delivered_oldest_first() {
    let harness = Harness::new();
    for (name, age) in [("young", 1), ("old", 3), ("middle", 2)] {
        harness.store.apply(Workflow { created: BEGIN - age, ..run(name) });
    }
    let include = [crate::model::IncludeField::WorkflowName].into_iter().collect();
    let mut stream = harness.attach(Subscription { include, ..subscription("a") });
    for name in ["old", "middle", "young"] {
        let payload = event(&mut stream).await.payload;
        assert!(String::from_utf8_lossy(&payload).contains(&format!("\"workflowName\":\"{name}\"")), "{payload:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn runs_excluded_by_a_wrong_clock_are_read_again() {
    let harness = Harness::new();
    harness.ahead.store(3600, Ordering::Relaxed);
    let mut stream = harness.attach(Subscription { max_age: Some(Duration::from_secs(1800)), ..subscription("a") });
    harness.store.apply(Workflow { finished: BEGIN, ..run("one") });
    assert_silent(&mut stream).await;
    harness.ahead.store(0, Ordering::Relaxed);
    event(&mut stream).await;
    assert_silent(&mut stream).await;
}

#[tokio::test(start_paused = true)]
async fn only_unconfirmed_events_are_redelivered_on_the_next_stream() {
    let harness = Harness::new();
    harness.store.apply(run("one"));
    let mut first = harness.attach(subscription("a"));
    event(&mut first).await;
    drop(first);
    let mut second = harness.attach(subscription("a"));
    let handoff = event(&mut second).await;
    second.acks.acknowledged(handoff.sequence);
    harness.patched(1).await;
    drop(second);
    assert_silent(&mut harness.attach(subscription("a"))).await;
    assert!(harness.metric("events_redelivered_total{namespace=\"team\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_run_is_delivered_again() {
    let harness = Harness::new();
    let mut stream = harness.attach(subscription("a"));
    harness.store.apply(run("one"));
    let handoff = event(&mut stream).await;
    stream.acks.acknowledged(handoff.sequence);
    harness.patched(1).await;
    let marks = harness.store.get("team", "one").unwrap().marks.at_version("7");
    harness.store.apply(Workflow { phase: crate::model::Phase::Active, marks, ..run("one") });
    harness.patched(2).await;
    harness.store.apply(run("one"));
    event(&mut stream).await;
}

#[tokio::test(start_paused = true)]
async fn hanging_lookups_delay_no_other_namespace() {
    let harness = Harness::new();
    harness.set("hanging", Behavior::Hangs);
    let mut hanging = harness.attach(subscription_in("hanging", "a"));
    let mut fine = harness.attach(subscription("a"));
    for n in 0..100 {
        harness.store.apply(Workflow { namespace: "hanging".into(), ..run(&format!("hanging-{n}")) });
    }
    harness.store.apply(run("one"));
    let begin = Instant::now();
    event(&mut fine).await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_silent(&mut hanging).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_reads_nothing_delays_no_other() {
    let harness = Harness::new();
    let _dead = harness.attach(subscription("dead"));
    let mut alive = harness.attach(subscription("alive"));
    for n in 0..1_000 {
        harness.store.apply(run(&n.to_string()));
        let handoff = event(&mut alive).await;
        alive.acks.acknowledged(handoff.sequence);
    }
    harness.patched(1_000).await;
}

#[tokio::test(start_paused = true)]
async fn failing_lookups_and_patches_are_retried_until_they_succeed() {
    let harness = Harness::new();
    harness.set("team", Behavior::Fails);
    *lock(&harness.marker.behavior) = Behavior::Fails;
    let mut stream = harness.attach(subscription("a"));
    harness.store.apply(run("one"));
    assert_silent(&mut stream).await;
    harness.set("team", Behavior::Works);
    let handoff = event(&mut stream).await;
    stream.acks.acknowledged(handoff.sequence);
    assert_silent(&mut stream).await;
    *lock(&harness.marker.behavior) = Behavior::Works;
    harness.patched(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_panicking_lookup_or_patch_ends_the_task_and_every_stream() {
    for lookup_panics in [true, false] {
        let harness = Harness::new();
        if lookup_panics {
            harness.set("team", Behavior::Panics);
        } else {
            *lock(&harness.marker.behavior) = Behavior::Panics;
        }
        let mut stream = harness.attach(subscription("a"));
        harness.store.apply(run("one"));
        if let Some(handoff) = stream.events.recv().await {
            stream.acks.acknowledged(handoff.sequence);
            assert!(stream.events.recv().await.is_none());
        }
        let error = timeout(Duration::from_secs(60), harness.task).await.unwrap().unwrap().unwrap_err();
        assert!(error.is_panic());
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_unconfirmed_events_ends_at_once() {
    let harness = Harness::new();
    let mut stream = harness.attach(subscription("a"));
    assert_silent(&mut stream).await;
    let begin = Instant::now();
    harness.drain.cancel();
    assert!(stream.events.recv().await.is_none());
    drop(stream);
    harness.task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_last_confirmation_and_its_mark() {
    let harness = Harness::new();
    let mut stream = harness.attach(subscription("a"));
    harness.store.apply(run("one"));
    let handoff = event(&mut stream).await;
    harness.drain.cancel();
    stream.acks.acknowledged(handoff.sequence);
    let begin = Instant::now();
    assert!(stream.events.recv().await.is_none());
    assert_eq!(begin.elapsed(), Options::default().confirm_after);
    drop(stream);
    assert_eq!(harness.patched(1).await.len(), 1);
    harness.task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), Options::default().confirm_after);
}

#[tokio::test(start_paused = true)]
async fn a_drain_hands_nothing_off_and_refuses_new_streams() {
    let harness = Harness::new();
    harness.set("team", Behavior::Hangs);
    let mut stream = harness.attach(subscription("a"));
    harness.store.apply(run("one"));
    assert_silent(&mut stream).await;
    harness.drain.cancel();
    assert!(stream.events.recv().await.is_none());
    let mut late = harness.attach(subscription("b"));
    assert!(late.events.recv().await.is_none());
    drop((stream, late));
    harness.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_confirmations_and_marks_their_time() {
    let harness = Harness::new();
    *lock(&harness.marker.behavior) = Behavior::Hangs;
    let (mut fine, mut dead) = (harness.attach(subscription("fine")), harness.attach(subscription("dead")));
    harness.store.apply(run("one"));
    let handoff = event(&mut fine).await;
    event(&mut dead).await;
    fine.acks.acknowledged(handoff.sequence);
    let begin = Instant::now();
    harness.drain.cancel();
    assert!(fine.events.recv().await.is_none());
    drop(fine);
    assert!(dead.events.recv().await.is_none());
    assert_eq!(begin.elapsed(), Options::default().drain_confirmations);
    drop(dead);
    harness.task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), drain_time());
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_despite_a_stream_that_does_not_end() {
    let harness = Harness::new();
    let mut stream = harness.attach(subscription("a"));
    assert_silent(&mut stream).await;
    let begin = Instant::now();
    harness.drain.cancel();
    harness.task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), drain_time());
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_drain_after_the_last_handle_does_not_spin() {
    let Harness { store, marker, deliveries, task, .. } = Harness::new();
    let mut stream = deliveries.attach(subscription("a"), None, None);
    store.apply(run("one"));
    let handoff = event(&mut stream).await;
    stream.acks.acknowledged(handoff.sequence);
    *lock(&marker.behavior) = Behavior::Hangs;
    assert_silent(&mut stream).await;
    let begin = Instant::now();
    drop((stream, deliveries));
    // Paused time does not advance while a task is busy: a loop that spins would never end.
    task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), drain_time());
}

#[tokio::test(start_paused = true)]
async fn an_idle_task_does_not_run() {
    let harness = Harness::new();
    let mut stream = harness.attach(subscription("a"));
    assert_silent(&mut stream).await;
    let readings = harness.clock_readings.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1800)).await;
    assert_eq!(harness.clock_readings.load(Ordering::Relaxed), readings, "the task has run");
    assert!(harness.heartbeat.age() <= HEARTBEAT, "the heartbeat continues");
}
