//! The driver with the real store, under paused time: what it waits for is there at once, or after exactly so long.

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
    delivery::{Attached, fixtures::*},
    model::{ArtifactTypes, Subscription, Uid},
};

/// How a neighbour behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mood {
    #[default]
    Fine,
    Hangs,
    Panics,
    Fails,
}

/// ML Metadata, by namespace.
#[derive(Default)]
struct FakeLookup {
    moods: Mutex<HashMap<String, Mood>>,
    forgotten: Mutex<Vec<Uid>>,
}

impl ArtifactLookup for FakeLookup {
    fn find<'a>(&'a self, run: &'a Workflow, _: &'a Arc<ArtifactTypes>) -> BoxFuture<'a, Answer> {
        let mood = lock(&self.moods).get(&*run.namespace).copied().unwrap_or_default();
        Box::pin(async move {
            match mood {
                Mood::Fine => model(),
                Mood::Hangs => pending().await,
                Mood::Panics => panic!("a lookup panics, as this test wants it to"),
                Mood::Fails => unavailable(),
            }
        })
    }

    fn forget(&self, run: Uid) {
        lock(&self.forgotten).push(run);
    }
}

/// The API server, and the watch that shows what it holds.
struct FakeMarker {
    mood: Mutex<Mood>,
    store: Arc<Store>,
    patched: watch::Sender<Vec<MarkPatch>>,
}

impl Marker for FakeMarker {
    fn patch<'a>(&'a self, patch: &'a MarkPatch) -> BoxFuture<'a, Result<(), MarkError>> {
        let mood = *lock(&self.mood);
        Box::pin(async move {
            match mood {
                Mood::Fine => {
                    let record = self.store.get(&patch.namespace, &patch.name).ok_or(MarkError::Gone)?;
                    self.store.apply(with_patch(&record, &patch.change));
                    self.patched.send_modify(|patched| patched.push(patch.clone()));
                    Ok(())
                }
                Mood::Hangs => pending().await,
                Mood::Panics => panic!("a patch panics, as this test wants it to"),
                Mood::Fails => transient(),
            }
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

struct Rig {
    store: Arc<Store>,
    lookup: Arc<FakeLookup>,
    marker: Arc<FakeMarker>,
    deliveries: Deliveries,
    drain: CancellationToken,
    registry: Registry,
    /// The task looks at the clock whenever it runs.
    clock_readings: Arc<AtomicUsize>,
    /// By how many seconds the clock is ahead.
    ahead: Arc<AtomicI64>,
    task: JoinHandle<Result<(), JoinError>>,
}

impl Rig {
    fn new() -> Self {
        let store = Arc::new(Store::default());
        let lookup = Arc::new(FakeLookup::default());
        let patched = watch::Sender::default();
        let marker = Arc::new(FakeMarker { mood: Mutex::default(), store: store.clone(), patched });
        let mut registry = Registry::default();
        let metrics = DeliveryMetrics::new(&mut registry);
        let clock_readings = Arc::new(AtomicUsize::new(0));
        let readings = clock_readings.clone();
        let ahead = Arc::new(AtomicI64::new(0));
        let seconds = ahead.clone();
        let clock = WallClock::new(move || {
            readings.fetch_add(1, Ordering::Relaxed);
            BEGIN + seconds.load(Ordering::Relaxed)
        });
        let (deliveries, driver) =
            Driver::new(store.clone(), lookup.clone(), marker.clone(), Options::default(), clock, metrics);
        let drain = CancellationToken::new();
        let task = tokio::spawn(driver.run(drain.clone()));
        Self { store, lookup, marker, deliveries, drain, registry, clock_readings, ahead, task }
    }

    fn attach(&self, subscription: Subscription) -> Attached {
        self.deliveries.attach(subscription, None, None)
    }

    fn set(&self, namespace: &str, mood: Mood) {
        lock(&self.lookup.moods).insert(namespace.into(), mood);
    }

    /// Waits until so many patches were applied.
    async fn patched(&self, count: usize) -> Vec<MarkPatch> {
        let mut patched = self.marker.patched.subscribe();
        let enough = patched.wait_for(|patched| patched.len() >= count);
        timeout(Duration::from_secs(3600), enough).await.expect("so many patches").unwrap().clone()
    }

    fn metric(&self, line: &str) -> bool {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text.lines().any(|each| each == line)
    }
}

/// The next event of a stream.
async fn event(stream: &mut Attached) -> Handoff {
    timeout(Duration::from_secs(60), stream.events.recv()).await.expect("an event in time").expect("an open stream")
}

/// No event comes in a while.
async fn assert_silent(stream: &mut Attached) {
    let silent = timeout(Duration::from_secs(60), stream.events.recv()).await;
    assert!(silent.is_err(), "{silent:?}");
}

fn drain_confirmations() -> Duration {
    Options::default().drain_confirmations
}

fn drain_marks() -> Duration {
    Options::default().drain_marks
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_from_the_store_to_the_stream_and_its_mark_to_the_api_server() {
    let rig = Rig::new();
    let mut stream = rig.attach(subscription("a"));
    rig.store.apply(run("one"));
    let handoff = event(&mut stream).await;
    assert_eq!(
        handoff.payload,
        r#"{"pipelineName":"penguin","servingModelArtifacts":[{"name":"model","location":"gs://models/1"}]}"#
    );
    let acknowledged = Instant::now();
    stream.acks.acknowledged(handoff.sequence);
    let patches = rig.patched(1).await;
    assert_eq!(Instant::now() - acknowledged, Options::default().confirm_after);
    assert_eq!((&*patches[0].name, patches[0].uid), ("one", uid("one")));
    assert!(rig.store.get("team", "one").unwrap().is_marked_for(&name("a")));
    assert_silent(&mut stream).await;
    for line in ["events_sent_total{namespace=\"team\"} 1", "events_confirmed_total{namespace=\"team\"} 1"] {
        assert!(rig.metric(line), "{line}");
    }
    assert!(rig.metric("runs_pending 0") && rig.metric("marks_pending 0"));
}

#[tokio::test(start_paused = true)]
async fn what_was_in_the_store_before_is_caught_up_with() {
    let rig = Rig::new();
    for (name, age) in [("young", 1), ("old", 3), ("middle", 2)] {
        rig.store.apply(Workflow { created: BEGIN - age, ..run(name) });
    }
    let include = [crate::model::IncludeField::WorkflowName].into_iter().collect();
    let mut stream = rig.attach(Subscription { include, ..subscription("a") });
    for name in ["old", "middle", "young"] {
        let payload = event(&mut stream).await.payload;
        assert!(String::from_utf8_lossy(&payload).contains(&format!("\"workflowName\":\"{name}\"")), "{payload:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_declined_for_its_age_is_read_again_when_the_clock_was_set() {
    let rig = Rig::new();
    rig.ahead.store(3600, Ordering::Relaxed);
    let mut stream = rig.attach(Subscription { max_age: Some(Duration::from_secs(1800)), ..subscription("a") });
    rig.store.apply(run("one"));
    assert_silent(&mut stream).await;
    rig.ahead.store(0, Ordering::Relaxed);
    event(&mut stream).await;
    assert_silent(&mut stream).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_not_confirmed_comes_again_on_the_next_stream_and_one_that_was_does_not() {
    let rig = Rig::new();
    rig.store.apply(run("one"));
    let mut first = rig.attach(subscription("a"));
    event(&mut first).await;
    drop(first);
    let mut second = rig.attach(subscription("a"));
    let handoff = event(&mut second).await;
    second.acks.acknowledged(handoff.sequence);
    rig.patched(1).await;
    drop(second);
    assert_silent(&mut rig.attach(subscription("a"))).await;
    assert!(rig.metric("events_redelivered_total{namespace=\"team\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_run_is_forgotten_by_the_lookup_and_comes_again() {
    let rig = Rig::new();
    let mut stream = rig.attach(subscription("a"));
    rig.store.apply(run("one"));
    let handoff = event(&mut stream).await;
    stream.acks.acknowledged(handoff.sequence);
    rig.patched(1).await;
    let marks = rig.store.get("team", "one").unwrap().marks.clone();
    let resource_version = Some("7".into());
    rig.store.apply(Workflow { phase: crate::model::Phase::Other, marks, resource_version, ..run("one") });
    rig.patched(2).await;
    rig.store.apply(run("one"));
    event(&mut stream).await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_lookups_hang_does_not_hold_up_another() {
    let rig = Rig::new();
    rig.set("hanging", Mood::Hangs);
    let mut hanging = rig.attach(elsewhere("hanging", "a"));
    let mut fine = rig.attach(subscription("a"));
    for n in 0..100 {
        rig.store.apply(Workflow { namespace: "hanging".into(), ..run(&format!("hanging-{n}")) });
    }
    rig.store.apply(run("one"));
    let begin = Instant::now();
    event(&mut fine).await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_silent(&mut hanging).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_nothing_does_not_hold_up_another() {
    let rig = Rig::new();
    let _dead = rig.attach(subscription("dead"));
    let mut alive = rig.attach(subscription("alive"));
    for n in 0..1_000 {
        rig.store.apply(run(&n.to_string()));
        let handoff = event(&mut alive).await;
        alive.acks.acknowledged(handoff.sequence);
    }
    rig.patched(1_000).await;
}

#[tokio::test(start_paused = true)]
async fn failing_neighbours_are_asked_again_until_they_are_well() {
    let rig = Rig::new();
    rig.set("team", Mood::Fails);
    *lock(&rig.marker.mood) = Mood::Fails;
    let mut stream = rig.attach(subscription("a"));
    rig.store.apply(run("one"));
    assert_silent(&mut stream).await;
    rig.set("team", Mood::Fine);
    let handoff = event(&mut stream).await;
    stream.acks.acknowledged(handoff.sequence);
    assert_silent(&mut stream).await;
    *lock(&rig.marker.mood) = Mood::Fine;
    rig.patched(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_lookup_or_a_patch_that_panics_ends_the_task_with_an_error_and_every_stream_with_it() {
    for lookup_panics in [true, false] {
        let rig = Rig::new();
        if lookup_panics {
            rig.set("team", Mood::Panics);
        } else {
            *lock(&rig.marker.mood) = Mood::Panics;
        }
        let mut stream = rig.attach(subscription("a"));
        rig.store.apply(run("one"));
        if let Some(handoff) = stream.events.recv().await {
            stream.acks.acknowledged(handoff.sequence);
            assert!(stream.events.recv().await.is_none());
        }
        let error = timeout(Duration::from_secs(60), rig.task).await.unwrap().unwrap().unwrap_err();
        assert!(error.is_panic());
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_with_nothing_open_ends_at_once() {
    let rig = Rig::new();
    let mut stream = rig.attach(subscription("a"));
    assert_silent(&mut stream).await;
    let begin = Instant::now();
    rig.drain.cancel();
    assert!(stream.events.recv().await.is_none());
    drop(stream);
    rig.task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_last_confirmation_and_its_mark() {
    let rig = Rig::new();
    let mut stream = rig.attach(subscription("a"));
    rig.store.apply(run("one"));
    let handoff = event(&mut stream).await;
    rig.drain.cancel();
    stream.acks.acknowledged(handoff.sequence);
    let begin = Instant::now();
    assert!(stream.events.recv().await.is_none());
    assert_eq!(begin.elapsed(), Options::default().confirm_after);
    drop(stream);
    assert_eq!(rig.patched(1).await.len(), 1);
    rig.task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), Options::default().confirm_after);
}

#[tokio::test(start_paused = true)]
async fn a_drain_hands_nothing_off_and_turns_new_streams_away() {
    let rig = Rig::new();
    rig.set("team", Mood::Hangs);
    let mut stream = rig.attach(subscription("a"));
    rig.store.apply(run("one"));
    assert_silent(&mut stream).await;
    rig.drain.cancel();
    assert!(stream.events.recv().await.is_none());
    let mut late = rig.attach(subscription("b"));
    assert!(late.events.recv().await.is_none());
    drop((stream, late));
    rig.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_streams_of_dead_peers_after_five_seconds_and_gives_hanging_marks_three_more() {
    let rig = Rig::new();
    *lock(&rig.marker.mood) = Mood::Hangs;
    let (mut fine, mut dead) = (rig.attach(subscription("fine")), rig.attach(subscription("dead")));
    rig.store.apply(run("one"));
    let handoff = event(&mut fine).await;
    event(&mut dead).await;
    fine.acks.acknowledged(handoff.sequence);
    let begin = Instant::now();
    rig.drain.cancel();
    assert!(fine.events.recv().await.is_none());
    drop(fine);
    assert!(dead.events.recv().await.is_none());
    assert_eq!(begin.elapsed(), drain_confirmations());
    drop(dead);
    rig.task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), drain_confirmations() + drain_marks());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_end_when_it_is_told_to_does_not_keep_a_drain_from_ending() {
    let rig = Rig::new();
    let mut stream = rig.attach(subscription("a"));
    assert_silent(&mut stream).await;
    let begin = Instant::now();
    rig.drain.cancel();
    rig.task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), drain_confirmations() + drain_marks());
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn when_every_handle_is_gone_the_last_marks_are_waited_for_without_spinning() {
    let Rig { store, marker, deliveries, task, .. } = Rig::new();
    let mut stream = deliveries.attach(subscription("a"), None, None);
    store.apply(run("one"));
    let handoff = event(&mut stream).await;
    stream.acks.acknowledged(handoff.sequence);
    *lock(&marker.mood) = Mood::Hangs;
    assert_silent(&mut stream).await;
    let begin = Instant::now();
    drop((stream, deliveries));
    // Time stands still for as long as any task is busy: a loop that spins would never end.
    task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), drain_confirmations() + drain_marks());
}

#[tokio::test(start_paused = true)]
async fn while_nothing_happens_nothing_is_done() {
    let rig = Rig::new();
    let mut stream = rig.attach(subscription("a"));
    assert_silent(&mut stream).await;
    let readings = rig.clock_readings.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1800)).await;
    assert_eq!(rig.clock_readings.load(Ordering::Relaxed), readings, "the task has run");
}
