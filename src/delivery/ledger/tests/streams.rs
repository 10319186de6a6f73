//! Streams: the order of events, shared subscriptions, and drains.

use std::time::Duration;

use super::harness::*;
use crate::{
    delivery::{StreamId, ledger::Report},
    model::{Phase, Workflow},
};

fn shared(report: &Report) -> bool {
    matches!(report, Report::Shared { peers: 2, .. })
}

#[test]
fn streams_of_one_subscription_each_get_every_event() {
    let mut harness = Harness::new();
    let (first, second) = (harness.attach(subscription("a")), harness.attach(subscription("a")));
    harness.apply(run("one"));
    harness.answer_all(&model());
    assert_eq!((harness.events(first), harness.events(second)), (vec!["one".into()], vec!["one".into()]));
    harness.confirm(second);
    assert_eq!(marks_set(&harness.patches[0]), ["a"]);
    harness.write_marks();
    harness.confirm(first);
    assert!(harness.patches.is_empty());
}

/// However often the Workflow changes after that.
#[test]
fn a_stream_gets_events_that_its_sibling_has_confirmed() {
    let mut harness = Harness::new();
    let first = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer("one", model());
    let second = harness.attach(subscription("a"));
    harness.confirm(first);
    harness.write_marks();
    for other in ["b", "c"] {
        harness.change("one", |workflow| workflow.marks = [mark("a"), mark(other)].into());
    }
    harness.answer_all(&model());
    assert_eq!(harness.events(second), ["one"]);
}

/// The slower stream ends before it confirms the run itself.
#[test]
fn a_run_confirmed_by_a_sibling_is_not_redelivered() {
    let mut harness = Harness::new();
    let (fast, slow) = (harness.attach(subscription("a")), harness.attach(subscription("a")));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(fast);
    harness.end(slow);
    let next = harness.attach(subscription("a"));
    harness.answer_all(&model());
    assert!(harness.events(next).is_empty());
}

#[test]
fn a_deleted_run_confirmed_by_a_sibling_is_not_redelivered() {
    let mut harness = Harness::new();
    let (fast, slow) = (harness.attach(subscription("a")), harness.attach(subscription("a")));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(fast);
    harness.delete("one");
    harness.end(slow);
    let next = harness.attach(subscription("a"));
    harness.answer_all(&model());
    assert!(harness.events(next).is_empty());
}

#[test]
fn peers_that_share_a_subscription_are_reported_once() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.attach(subscription("b"));
    harness.wait(Duration::from_secs(3600));
    harness.attach(subscription("a"));
    harness.wait(Duration::from_secs(59));
    assert_eq!(harness.reported(shared), 0);
    harness.wait(Duration::from_secs(1));
    assert_eq!(harness.reported(shared), 1);
    for _ in 0..3 {
        let flapping = harness.attach(subscription("a"));
        harness.wait(Duration::from_secs(90));
        harness.end(flapping);
    }
    assert_eq!(harness.reported(|report| matches!(report, Report::Shared { .. })), 1);
    assert_eq!(harness.ledger.stats().shared_subscriptions, 1);
}

#[test]
fn a_peer_that_redials_early_shares_nothing() {
    let mut harness = Harness::new();
    let mut stream = harness.attach(subscription("a"));
    for _ in 0..20 {
        let next = harness.attach(subscription("a"));
        harness.wait(Duration::from_secs(40));
        harness.end(std::mem::replace(&mut stream, next));
        harness.wait(Duration::from_secs(5));
    }
    assert_eq!(harness.reported(shared), 0);
}

/// Idle streams are closed at once.
#[test]
fn a_drain_closes_each_stream_once_its_events_are_marked() {
    let mut harness = Harness::new();
    let (busy, idle) = (harness.attach(subscription("a")), harness.attach(subscription("b")));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(idle);
    harness.write_marks();
    harness.ledger.drain();
    harness.perform_actions();
    assert_eq!(harness.closed, [idle]);
    harness.end(idle);
    harness.acknowledge(busy);
    assert_eq!(harness.closed, [idle]);
    harness.wait(Duration::from_secs(1));
    assert_eq!(harness.closed, [idle], "the mark is not written yet");
    harness.write_marks();
    assert!(harness.closed.contains(&busy));
    assert!(!harness.ledger.is_drained());
    harness.end(busy);
    assert!(harness.ledger.is_drained());
}

#[test]
fn a_drain_closes_a_stream_marked_by_another_replica() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(stream);
    harness.ledger.drain();
    let patch = harness.patch();
    harness.answer_patch(patch, transient());
    assert!(harness.closed.is_empty());
    harness.change("one", |run| run.marks = [mark("a")].into());
    assert_eq!(harness.closed, [stream]);
}

#[test]
fn a_drain_retries_every_pending_mark_once() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    ["one", "two"].into_iter().for_each(|name| harness.apply(run(name)));
    harness.answer_all(&model());
    harness.confirm(stream);
    let (first, second) = (harness.patches.remove(0), harness.patches.remove(0));
    harness.answer_patch(first, refused());
    harness.answer_patch(second, transient());
    harness.ledger.drain();
    harness.perform_actions();
    assert_eq!(harness.patches.len(), 2, "a refused patch may be allowed by now");
    assert!(!harness.ledger.is_drained() && harness.closed.is_empty());
    let refused_again = harness.patches.remove(0);
    harness.answer_patch(refused_again, refused());
    harness.write_marks();
    assert!(harness.closed.contains(&stream), "a refused mark delays nothing");
    harness.end(stream);
    assert!(harness.ledger.is_drained());
}

#[test]
fn a_drain_begins_nothing_new() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.ledger.drain();
    harness.perform_actions();
    harness.answer_all(&model());
    harness.apply(run("two"));
    assert!(harness.lookups.is_empty() && harness.events(stream).is_empty());
    let late = harness.attach(subscription("b"));
    assert!(harness.closed.contains(&late));
    harness.end(late);
    harness.end(stream);
    assert!(harness.ledger.is_drained());
}

#[test]
fn a_drain_does_not_wait_for_a_refused_mark() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(stream);
    let patch = harness.patch();
    harness.ledger.drain();
    harness.end(stream);
    assert!(!harness.ledger.is_drained());
    harness.answer_patch(patch, refused());
    assert!(harness.ledger.is_drained());
}

#[test]
fn inputs_about_unknown_streams_have_no_effect() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.end(stream);
    harness.end(stream);
    harness.acknowledge(stream);
    harness.ledger.handle_ack(StreamId(99), u64::MAX, harness.now);
    harness.apply(run("one"));
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.delete("one");
    harness.perform_actions();
    assert!(harness.handoffs.is_empty() && harness.patches.is_empty());
}

#[test]
fn the_oldest_pending_run_keeps_its_age_across_streams() {
    let mut harness = Harness::new();
    let begin = harness.now.instant;
    harness.apply(run("one"));
    for _ in 0..10 {
        let stream = harness.attach(subscription("a"));
        harness.wait(Duration::from_secs(400));
        harness.answer_all(&model());
        harness.end(stream);
    }
    harness.attach(subscription("a"));
    assert_eq!(harness.ledger.stats().oldest_pending(), Some(begin));
}

#[test]
fn answers_out_of_order_are_put_in_order_for_a_moment() {
    let mut harness = Harness::new();
    for (name, age) in [("old", 20), ("young", 10)] {
        harness.apply(Workflow { created: BEGIN - age, ..run(name) });
    }
    let stream = harness.attach(subscription("a"));
    harness.answer("young", model());
    assert!(harness.events(stream).is_empty());
    harness.answer("old", model());
    assert_eq!(harness.events(stream), ["old", "young"]);
}

#[test]
fn a_slow_or_failed_answer_delays_no_younger_run() {
    for fails in [false, true] {
        let mut harness = Harness::new();
        for (name, age) in [("old", 20), ("young", 10)] {
            harness.apply(Workflow { created: BEGIN - age, ..run(name) });
        }
        let stream = harness.attach(subscription("a"));
        harness.answer("young", model());
        if fails {
            harness.answer("old", unavailable());
        } else {
            harness.wait(Duration::from_millis(500));
        }
        assert_eq!(harness.events(stream), ["young"]);
    }
}
