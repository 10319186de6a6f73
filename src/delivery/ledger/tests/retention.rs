//! Subscriptions and namespaces without a stream: how many are remembered, and for how long.

use std::time::Duration;

use super::{
    super::retention::{MAX_DELIVERIES, MAX_NAMESPACES, MAX_SUBSCRIPTIONS},
    harness::*,
};
use crate::{
    delivery::ledger::Report,
    model::{Phase, workflow::MAX_MARKS},
    telemetry::Limit,
};

const HOUR: Duration = Duration::from_secs(3600);

fn hits(harness: &Harness) -> usize {
    harness.reported(|report| matches!(report, Report::LimitHit(Limit::Subscriptions)))
}

/// The subscriptions that are remembered.
fn remembered(harness: &Harness) -> Vec<&str> {
    let mut names: Vec<_> =
        harness.ledger.registry.namespaces["team"].subscriptions.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    names
}

/// A stream of this subscription ends before it confirms anything.
fn fail(harness: &mut Harness, name: &str) {
    let stream = harness.attach(subscription(name));
    harness.answer_all(&model());
    assert!(!harness.events(stream).is_empty());
    harness.end(stream);
}

#[test]
fn failures_are_forgotten_after_an_hour() {
    let mut harness = Harness::new();
    harness.apply(run("one"));
    for _ in 0..3 {
        fail(&mut harness, "a");
    }
    fail(&mut harness, "b");
    let attached = harness.attach(subscription("b"));
    harness.wait(HOUR - Duration::from_secs(1));
    assert_eq!(remembered(&harness), ["a", "b"]);
    harness.wait(Duration::from_secs(1));
    assert_eq!(remembered(&harness), ["b"], "it has a stream");
    assert!(harness.ledger.registry.namespaces["team"].subscriptions[&name("b")].failed.is_empty());
    harness.handoffs.clear();
    let stream = harness.attach(subscription("a"));
    harness.answer_all(&model());
    assert!(harness.handoffs.iter().all(|event| !event.redelivery));
    assert_eq!(harness.events(stream), ["one"], "it is no longer in quarantine");
    assert_eq!(hits(&harness), 0);
    harness.end(attached);
}

#[test]
fn a_subscription_that_fails_again_and_again_is_remembered() {
    let mut harness = Harness::new();
    harness.apply(run("one"));
    for _ in 0..20 {
        let stream = harness.attach(subscription("a"));
        harness.wait(HOUR / 3);
        harness.answer_all(&model());
        harness.wait(HOUR / 3);
        harness.end(stream);
    }
    let state = &harness.ledger.registry.namespaces["team"].subscriptions[&name("a")];
    assert!(state.failed.next_probe(uid("one")).is_some());
}

#[test]
fn at_most_256_subscriptions_without_a_stream_are_remembered() {
    let mut harness = Harness::new();
    harness.apply(run("one"));
    let confirmed = harness.attach(subscription("confirmed"));
    harness.answer_all(&model());
    harness.confirm(confirmed);
    harness.end(confirmed);
    let attached = harness.attach(subscription("attached"));
    for n in 0..1000 {
        fail(&mut harness, &format!("s{n:04}"));
        harness.wait(Duration::from_millis(1));
    }
    let names = remembered(&harness);
    assert_eq!((names.len(), hits(&harness)), (MAX_SUBSCRIPTIONS + 1, 1001 - MAX_SUBSCRIPTIONS));
    assert_eq!((names[0], names[1], names[2]), ("attached", "confirmed", "s0745"), "the oldest give way");
    harness.end(attached);
}

/// Each of these has confirmed the run, and its mark is refused.
#[test]
fn confirmed_deliveries_give_way_last() {
    let mut harness = Harness::new();
    harness.apply(run("one"));
    for n in 0..=MAX_SUBSCRIPTIONS {
        let stream = harness.attach(subscription(&format!("s{n:04}")));
        harness.answer_all(&model());
        harness.confirm(stream);
        harness.end(stream);
    }
    assert_eq!((remembered(&harness).len(), hits(&harness)), (MAX_SUBSCRIPTIONS, 1));
    fail(&mut harness, "failed");
    assert!(!remembered(&harness).contains(&"failed"));
    assert_eq!(remembered(&harness)[0], "s0001");
}

#[test]
fn the_remembered_deliveries_of_a_namespace_are_limited() {
    let mut harness = Harness::new();
    let runs = MAX_DELIVERIES / 3;
    for n in 0..runs {
        harness.apply(run(&n.to_string()));
    }
    for n in 0..4 {
        let stream = harness.attach(subscription(&format!("s{n}")));
        while !harness.ledger.registry.streams[&stream].runs.is_empty() {
            harness.answer_all(&model());
            harness.confirm(stream);
        }
        harness.end(stream);
    }
    assert_eq!((remembered(&harness), hits(&harness)), (vec!["s1", "s2", "s3"], 1));
}

#[test]
fn a_confirmed_delivery_is_remembered_while_its_mark_is_pending() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(stream);
    harness.end(stream);
    let patch = harness.patch();
    harness.answer_patch(patch, refused());
    for _ in 0..5 {
        harness.wait(3 * HOUR);
        let patch = harness.patch();
        harness.answer_patch(patch, refused());
    }
    let next = harness.attach(subscription("a"));
    harness.answer_all(&model());
    assert!(harness.events(next).is_empty());
}

#[test]
fn a_delivery_without_a_mark_is_forgotten_after_an_hour() {
    let mut harness = Harness::new();
    let marks: Vec<_> = (0..MAX_MARKS).map(|n| mark(&format!("other-{n}"))).collect();
    harness.apply(crate::model::Workflow { marks: marks.into(), ..run("one") });
    let stream = harness.attach(subscription("a"));
    harness.answer_all(&model());
    harness.confirm(stream);
    harness.end(stream);
    harness.wait(HOUR - Duration::from_secs(1));
    assert_eq!(remembered(&harness), ["a"]);
    harness.wait(HOUR);
    harness.wait(HOUR);
    assert_eq!(harness.unfollowed, ["team"]);
    harness.assert_empty();
}

#[test]
fn at_most_1024_namespaces_without_a_stream_are_followed() {
    let mut harness = Harness::new();
    let confirmed = harness.confirm_runs("confirmed", ["one".to_owned()]);
    harness.end(confirmed);
    let attached = harness.attach(subscription_in("attached", "a"));
    for n in 0..MAX_NAMESPACES + 9 {
        let stream = harness.attach(subscription_in(&format!("made-up-{n:04}"), "a"));
        harness.wait(Duration::from_millis(1));
        harness.end(stream);
    }
    assert_eq!((harness.unfollowed.len(), hits(&harness)), (10, 10));
    assert_eq!((&*harness.unfollowed[0], &*harness.unfollowed[9]), ("made-up-0000", "made-up-0009"));
    assert_eq!(harness.ledger.registry.namespaces.len(), MAX_NAMESPACES + 1);
    harness.end(attached);
    harness.write_marks();
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.write_marks();
    harness.wait(3 * HOUR);
    harness.assert_empty();
}
