//! Streams with `remember: false`, which are for people.

use std::time::Duration;

use super::harness::*;
use crate::{
    delivery::{StreamId, ledger::Report},
    model::{Phase, RunId, Subscription, Workflow},
};

fn attach(harness: &mut Harness) -> StreamId {
    harness.attach(Subscription { remember: false, ..subscription("a") })
}

/// A run that has just ended.
fn ended(name: &str) -> Workflow {
    Workflow { finished: BEGIN, ..run(name) }
}

#[test]
fn a_guest_receives_what_ends_from_now_on() {
    let mut harness = Harness::new();
    harness.apply(run("before"));
    harness.apply(Workflow { phase: Phase::Active, ..run("running") });
    let guest = attach(&mut harness);
    harness.change("before", |workflow| workflow.run_id = Some(RunId::new("changed")));
    harness.change("running", |workflow| workflow.phase = Phase::Succeeded);
    harness.apply(Workflow { finished: BEGIN + 1, ..run("new") });
    harness.apply(Workflow { finished: BEGIN - 3600, ..run("old, seen late") });
    harness.answer_all(&model());
    let mut events = harness.events(guest);
    events.sort();
    assert_eq!(events, ["new", "running"]);
}

/// Once: neither a change of a past run nor a second reading of the records repeats it.
#[test]
fn a_guest_with_a_maximum_age_begins_with_past_runs() {
    let mut harness = Harness::new();
    for (name, age) in [("old", 7200), ("recent", 1800), ("delivered", 600)] {
        harness.apply(Workflow { finished: BEGIN - age, ..run(name) });
    }
    harness.change("delivered", |workflow| workflow.marks = [mark("a")].into());
    harness.apply(Workflow { phase: Phase::Active, ..run("running") });
    let max_age = Some(Duration::from_secs(3600));
    let guest = harness.attach(Subscription { remember: false, max_age, ..subscription("a") });
    harness.answer_all(&model());
    let mut events = harness.events(guest);
    events.sort();
    assert_eq!(events, ["delivered", "recent"]);
    assert_eq!(harness.reported(|report| matches!(report, Report::Filtered { .. })), 0, "counted for the stream only");
    harness.confirm(guest);
    harness.change("recent", |workflow| workflow.run_id = Some(RunId::new("changed")));
    harness.change("running", |workflow| workflow.phase = Phase::Succeeded);
    harness.answer_all(&model());
    assert_eq!(harness.events(guest), ["running"]);
    harness.confirm(guest);
    assert!(harness.patches.is_empty());
}

#[test]
fn a_guest_receives_each_run_once_whatever_else_happens_to_it() {
    let mut harness = Harness::new();
    let guest = attach(&mut harness);
    harness.apply(Workflow { phase: Phase::Active, ..run("one") });
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    harness.answer_all(&model());
    harness.change("one", |workflow| workflow.marks = [mark("a"), mark("b")].into());
    harness.confirm(guest);
    for marks in [vec![mark("b")], vec![]] {
        harness.change("one", |workflow| workflow.marks = marks.into());
    }
    harness.answer_all(&model());
    assert_eq!(harness.events(guest), ["one"]);
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    harness.answer_all(&model());
    assert_eq!(harness.events(guest), ["one"], "it ended again");
}

#[test]
fn a_guest_marks_nothing_and_takes_no_deliveries() {
    let mut harness = Harness::new();
    let guest = attach(&mut harness);
    let subscriber = harness.attach(subscription("a"));
    harness.apply(ended("one"));
    harness.answer_all(&model());
    harness.confirm(guest);
    assert!(harness.patches.is_empty());
    harness.end(subscriber);
    let next = harness.attach(subscription("a"));
    harness.answer_all(&model());
    assert_eq!(harness.events(next), ["one"]);
    assert!(harness.handoffs.iter().all(|event| event.stream != next || event.redelivery));
    harness.confirm(next);
    assert_eq!(marks_set(&harness.patch()), ["a"]);
    assert_eq!(harness.ledger.stats().shared_subscriptions, 0);
}

#[test]
fn a_subscriber_takes_no_deliveries_from_a_guest() {
    let mut harness = Harness::new();
    let subscriber = harness.attach(subscription("a"));
    let guest = attach(&mut harness);
    harness.apply(ended("one"));
    harness.apply(ended("two"));
    harness.answer("one", model());
    harness.confirm(subscriber);
    harness.write_marks();
    harness.answer_all(&model());
    assert_eq!(harness.events(guest), ["one", "two"]);
}

/// An event that crashes the client of a guest is not put into quarantine for others.
#[test]
fn a_guest_that_breaks_leaves_no_trace() {
    let mut harness = Harness::new();
    for _ in 0..5 {
        let guest = attach(&mut harness);
        harness.apply(Workflow { phase: Phase::Active, ..run("one") });
        harness.apply(run("one"));
        harness.answer_all(&model());
        assert_eq!(harness.events(guest).len(), 1);
        harness.end(guest);
    }
    let subscriber = harness.attach(subscription("a"));
    harness.answer_all(&model());
    let events: Vec<_> = harness.handoffs.iter().map(|event| (event.stream, event.redelivery)).collect();
    assert_eq!(events, [(subscriber, false)]);
    harness.end(subscriber);
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.delete("one");
    harness.wait(Duration::from_secs(2 * 3600));
    harness.assert_empty();
}

#[test]
fn a_deleted_run_is_not_kept_for_a_guest() {
    let mut harness = Harness::new();
    let guest = attach(&mut harness);
    harness.apply(ended("sent"));
    harness.answer_all(&model());
    harness.apply(ended("pending"));
    ["sent", "pending"].into_iter().for_each(|name| harness.delete(name));
    harness.answer_all(&model());
    harness.confirm(guest);
    assert_eq!(harness.events(guest), ["sent"]);
    harness.wait(Duration::from_secs(2 * 3600));
    assert_eq!(harness.reported(|report| matches!(report, Report::Expired { .. })), 0);
    assert_eq!(harness.ledger.stats().pending_runs(), 0);
}

#[test]
fn a_drain_waits_for_no_mark_of_a_guest() {
    let mut harness = Harness::new();
    let subscriber = harness.attach(subscription("a"));
    let guest = attach(&mut harness);
    harness.apply(ended("one"));
    harness.answer_all(&model());
    [subscriber, guest].into_iter().for_each(|stream| harness.confirm(stream));
    harness.ledger.drain();
    harness.perform_actions();
    assert_eq!(harness.closed, [guest]);
}
