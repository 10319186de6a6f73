//! Large inputs: they are handled in slices, and others proceed in between.

use super::*;
use crate::store::Scope;

const RUNS: usize = 100_000;

fn run_in(namespace: &Arc<str>, number: usize) -> Workflow {
    Workflow { namespace: namespace.clone(), uid: Uid::from(number as u128 + 1), ..run(&format!("{number:06}")) }
}

/// Fills a namespace with a hundred thousand runs.
fn fill(store: &Store, namespace: &str) {
    let namespace: Arc<str> = namespace.into();
    (0..RUNS).for_each(|number| store.apply(run_in(&namespace, number)));
}

/// The numbers of changes and records in the turns so far.
fn turns(harness: &Harness) -> Vec<usize> {
    lock(&harness.turns).iter().copied().filter(|handled| *handled > 0).collect()
}

/// The slice of a namespace with which a turn reaches its limit is its last one.
fn assert_bounded(turns: &[usize]) {
    assert!(turns.iter().all(|handled| *handled < OFFERS + OFFERS_OF_NAMESPACE), "{turns:?}");
}

#[tokio::test(start_paused = true)]
async fn others_proceed_between_the_slices_of_a_large_attachment() {
    let harness = Harness::new();
    fill(&harness.store, "large");
    harness.set("large", Behavior::Hangs);
    let mut other = harness.attach(subscription("a"));
    assert_silent(&mut other).await;
    let begun = turns(&harness).len();
    let _large = harness.attach(subscription_in("large", "a"));
    for n in 0..5 {
        harness.store.apply(run(&n.to_string()));
        event(&mut other).await;
    }
    let so_far: usize = turns(&harness)[begun..].iter().sum();
    assert!(so_far < RUNS / 2, "{so_far} records were offered before the events of another namespace");
    assert_silent(&mut other).await;
    let turns = turns(&harness).split_off(begun);
    assert_bounded(&turns);
    assert!(turns.iter().sum::<usize>() >= RUNS && turns.len() >= RUNS / OFFERS, "{} turns", turns.len());
    assert!(harness.metric(&format!("runs_pending{{namespace=\"large\"}} {RUNS}")));
}

/// The order within a namespace stays.
#[tokio::test(start_paused = true)]
async fn a_relist_that_changes_everything_is_handled_in_slices() {
    let harness = Harness::new();
    let mut other = harness.attach(subscription("a"));
    harness.set("large", Behavior::Hangs);
    let _large = harness.attach(subscription_in("large", "a"));
    assert_silent(&mut other).await;
    let begun = turns(&harness).len();
    let list = harness.store.begin_list(Scope::All);
    fill(&harness.store, "large");
    harness.store.apply(run("one"));
    harness.store.finish_list(list);
    event(&mut other).await;
    let so_far: usize = turns(&harness)[begun..].iter().sum();
    assert!(so_far <= 5 * OFFERS, "{so_far} changes before that of another namespace");
    harness.store.finish_list(harness.store.begin_list(Scope::Namespace("large".into())));
    assert_silent(&mut other).await;
    let turns = turns(&harness).split_off(begun);
    assert_bounded(&turns);
    assert_eq!(turns.iter().sum::<usize>(), 2 * RUNS + 1, "each was added and deleted");
}

/// Each change is offered to hundreds of streams, so that fewer are handled in a turn.
#[tokio::test(start_paused = true)]
async fn slices_are_smaller_where_a_change_goes_to_many_streams() {
    let harness = Harness::new();
    harness.set("team", Behavior::Hangs);
    let streams: Vec<_> = (0..200).map(|n| harness.attach(subscription(&format!("s{n}")))).collect();
    let mut other = harness.attach(subscription_in("other", "a"));
    assert_silent(&mut other).await;
    let begun = turns(&harness).len();
    (0..100).for_each(|n| harness.store.apply(run(&n.to_string())));
    assert_silent(&mut other).await;
    let turns = turns(&harness).split_off(begun);
    assert!(turns.iter().all(|handled| *handled <= 5), "{turns:?}");
    assert_eq!(turns.iter().sum::<usize>(), 100);
    drop(streams);
}

#[tokio::test(start_paused = true)]
async fn an_attached_stream_receives_the_oldest_of_many_runs_first() {
    let harness = Harness::new();
    for n in 0..3_000_u32 {
        let created = BEGIN - i64::from(n.wrapping_mul(2_654_435_761) >> 8);
        harness.store.apply(Workflow { created, ..run(&n.to_string()) });
    }
    let include = [crate::model::IncludeField::CreatedAt].into_iter().collect();
    let mut stream = harness.attach(Subscription { include, ..subscription("a") });
    let mut times = Vec::new();
    for _ in 0..3_000 {
        let handoff = event(&mut stream).await;
        let payload = String::from_utf8(handoff.payload.to_vec()).unwrap();
        times.push(payload.split("\"createdAt\":").nth(1).unwrap().to_owned());
        stream.acks.acknowledged(handoff.sequence);
    }
    assert!(times.is_sorted(), "{times:?}");
}

/// The heartbeat is updated at its interval while the task is idle, and in every turn that hands off an event.
#[tokio::test(start_paused = true)]
async fn the_heartbeat_is_updated_while_idle_and_in_every_turn() {
    let harness = Harness::new();
    let mut stream = harness.attach(subscription("a"));
    assert_silent(&mut stream).await;
    for _ in 0..5 {
        tokio::time::sleep(HEARTBEAT - Duration::from_millis(100)).await;
        assert!(harness.heartbeat.age() <= HEARTBEAT, "{:?}", harness.heartbeat.age());
        harness.store.apply(run("one"));
        event(&mut stream).await;
        assert_eq!(harness.heartbeat.age(), Duration::ZERO);
        harness.store.apply(Workflow { phase: crate::model::Phase::Active, ..run("one") });
    }
    harness.task.abort();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(harness.heartbeat.age() >= Duration::from_secs(59), "it stops with the task");
}
