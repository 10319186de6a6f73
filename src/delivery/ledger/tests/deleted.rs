//! Runs whose Workflow was deleted or has left the selector: the limits, and the return of the Workflow.

use std::time::Duration;

use super::{
    super::deleted::{MAX_PARTIES, MAX_RUNS},
    harness::*,
};
use crate::{
    delivery::{StreamId, ledger::Report},
    model::{Phase, RunOutcome, Workflow},
    telemetry::Limit,
};

const HOUR: Duration = Duration::from_secs(3600);

fn expired(harness: &Harness) -> Vec<&str> {
    let expired = harness.reports.iter().filter_map(|report| match report {
        Report::Expired { workflow, .. } => Some(&*workflow.name),
        _ => None,
    });
    expired.collect()
}

fn hits(harness: &Harness) -> usize {
    harness.reported(|report| matches!(report, Report::LimitHit(Limit::DeletedRuns)))
}

/// Applies and deletes runs of a namespace, a millisecond after each other.
fn delete_pending(harness: &mut Harness, namespace: &str, names: impl IntoIterator<Item = String>) {
    for name in names {
        harness.apply(Workflow { namespace: namespace.into(), ..run(&name) });
        harness.wait(Duration::from_millis(1));
        harness.delete(&name);
    }
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

// === limits ===

/// A tenant deletes 15,000 pending runs, while another has a few.
#[test]
fn the_namespace_with_most_deleted_runs_gives_way() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription_in("small", "a"));
    harness.attach(subscription_in("large", "a"));
    delete_pending(&mut harness, "small", numbered("small", 10));
    delete_pending(&mut harness, "large", numbered("large", MAX_RUNS + 5_000));
    delete_pending(&mut harness, "small", ["last".to_owned()]);
    assert_eq!((harness.ledger.deleted.len(), hits(&harness)), (MAX_RUNS, 5_011));
    let gone = expired(&harness);
    assert_eq!((gone.len(), gone[0], gone[5_010]), (5_011, "large-0", "large-5010"));
    harness.end(stream);
    let next = harness.attach(subscription_in("small", "a"));
    for _ in 0..3 {
        harness.answer_all(&model());
        harness.confirm(next);
    }
    assert_eq!(harness.handoffs.iter().filter(|event| event.stream == next).count(), 11);
}

#[test]
fn the_claims_of_many_subscriptions_are_limited() {
    let mut harness = Harness::new();
    harness.attach(subscription_in("small", "a"));
    for n in 0..300 {
        harness.attach(subscription_in("large", &format!("s{n}")));
    }
    delete_pending(&mut harness, "small", ["small".to_owned()]);
    delete_pending(&mut harness, "large", numbered("large", 150));
    assert_eq!(harness.ledger.deleted.len(), 1 + (MAX_PARTIES - 1) / 300);
    assert!(expired(&harness).iter().all(|name| name.starts_with("large")));
    assert_eq!(hits(&harness), expired(&harness).len());
}

#[test]
fn remembered_deliveries_give_way_before_pending_runs() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    delete_pending(&mut harness, "team", ["pending".to_owned()]);
    for n in 0..10 {
        let name = format!("delivered-{n}");
        harness.apply(run(&name));
        harness.answer(&name, model());
        harness.wait(Duration::from_secs(1));
        harness.confirm(stream);
        let patch = harness.patch();
        harness.answer_patch(patch, transient());
        harness.delete(&name);
    }
    let first = numbered("more", MAX_RUNS - 11);
    delete_pending(&mut harness, "team", first);
    assert_eq!((harness.ledger.deleted.len(), hits(&harness)), (MAX_RUNS, 0));
    delete_pending(&mut harness, "team", numbered("others", 10));
    assert_eq!((hits(&harness), expired(&harness).len()), (10, 0));
    delete_pending(&mut harness, "team", ["another".to_owned()]);
    assert_eq!(expired(&harness), ["pending"]);
}

// === return ===

/// The run `one`, handed off, and its stream.
fn handed_off() -> (Harness, StreamId) {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
    (harness, stream)
}

/// Asserts that `one` is marked, and not sent again, now or to the next stream.
fn assert_marked_once(harness: &mut Harness, stream: StreamId) {
    harness.answer_all(&model());
    harness.wait(Duration::from_secs(1));
    assert_eq!(marks_set(&harness.patches[0]), ["a"]);
    harness.end(stream);
    let next = harness.attach(subscription("a"));
    harness.answer_all(&model());
    harness.write_marks();
    assert!(harness.store["one"].is_marked_for(&name("a")));
    assert!(harness.events(stream).is_empty() && harness.events(next).is_empty());
}

#[test]
fn a_run_delivered_while_its_workflow_was_away_is_marked() {
    let (mut harness, stream) = handed_off();
    harness.delete("one");
    harness.confirm(stream);
    assert!(harness.patches.is_empty());
    harness.wait(HOUR / 2);
    harness.apply(run("one"));
    assert_marked_once(&mut harness, stream);
}

#[test]
fn a_run_delivered_before_its_workflow_left_is_marked() {
    let (mut harness, stream) = handed_off();
    harness.confirm(stream);
    let patch = harness.patch();
    harness.delete("one");
    harness.answer_patch(patch, Err(crate::delivery::MarkError::Gone));
    harness.apply(run("one"));
    assert_marked_once(&mut harness, stream);
}

#[test]
fn a_run_whose_workflow_returns_before_its_delivery_is_marked() {
    let (mut harness, stream) = handed_off();
    harness.delete("one");
    harness.apply(run("one"));
    harness.confirm(stream);
    assert_marked_once(&mut harness, stream);
    assert_eq!(harness.ledger.deleted.len(), 0);
}

/// The namespace is not followed any more, so the next stream shows the Workflow.
#[test]
fn a_workflow_may_return_before_a_stream_attaches() {
    let (mut harness, stream) = handed_off();
    harness.confirm(stream);
    let patch = harness.patch();
    harness.answer_patch(patch, transient());
    harness.end(stream);
    harness.delete("one");
    harness.store.insert("one".into(), run("one").into());
    let next = harness.attach(subscription("a"));
    assert_eq!(marks_set(&harness.patches[0]), ["a"]);
    harness.answer_all(&model());
    assert!(harness.events(next).is_empty());
    let other = harness.attach(subscription("b"));
    harness.answer_all(&model());
    assert_eq!(harness.events(other), ["one"]);
}

#[test]
fn a_workflow_may_return_with_its_mark() {
    let (mut harness, stream) = handed_off();
    harness.confirm(stream);
    let patch = harness.patch();
    harness.answer_patch(patch, Ok(()));
    harness.delete("one");
    harness.apply(Workflow { marks: [mark("a")].into(), ..run("one") });
    harness.answer_all(&model());
    assert!(harness.patches.is_empty() && harness.events(stream).is_empty());
    harness.change("one", |workflow| workflow.marks = [].into());
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"], "a user has removed it");
}

#[test]
fn a_workflow_that_returns_restarted_is_sent_again() {
    let (mut harness, stream) = handed_off();
    harness.confirm(stream);
    harness.patches.clear();
    harness.delete("one");
    harness.apply(Workflow { phase: Phase::Unknown, ..run("one") });
    assert_eq!(harness.ledger.deleted.len(), 1, "nothing follows from an unknown phase");
    harness.apply(Workflow { phase: Phase::Active, ..run("one") });
    harness.apply(run("one"));
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn deliveries_of_deleted_runs_are_remembered_for_an_hour() {
    let (mut harness, stream) = handed_off();
    harness.confirm(stream);
    harness.patches.clear();
    harness.delete("one");
    harness.wait(HOUR);
    assert_eq!((harness.ledger.deleted.len(), expired(&harness).len()), (0, 0));
    harness.apply(run("one"));
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn a_mark_of_another_outcome_is_not_restored() {
    let (mut harness, stream) = handed_off();
    harness.delete("one");
    let failed = crate::model::Mark { outcome: RunOutcome::Failed, ..mark("a") };
    assert!(harness.ledger.deleted.deliver(uid("one"), &failed, &mut harness.ledger.timers));
    harness.apply(run("one"));
    assert!(harness.patches.is_empty());
    harness.end(stream);
}
