//! Streams: the order in which runs come, sharing a subscription, and drains.

use std::time::Duration;

use super::bench::*;
use crate::{
    delivery::{StreamId, ledger::Report},
    model::{Phase, Workflow},
};

fn shared(report: &Report) -> bool {
    matches!(report, Report::Shared { peers: 2, .. })
}

#[test]
fn two_streams_of_one_subscription_each_get_everything_and_the_first_confirmation_marks() {
    let mut bench = Bench::new();
    let (first, second) = (bench.attach(subscription("a")), bench.attach(subscription("a")));
    bench.apply(run("one"));
    bench.answer_all(&model());
    assert_eq!((bench.events(first), bench.events(second)), (vec!["one".into()], vec!["one".into()]));
    bench.confirm(second);
    assert_eq!(marks_set(&bench.patches[0]), ["a"]);
    bench.write_marks();
    bench.confirm(first);
    assert!(bench.patches.is_empty());
}

#[test]
fn a_stream_gets_what_its_sibling_has_confirmed_however_often_the_workflow_changes_then() {
    let mut bench = Bench::new();
    let first = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer("one", model());
    let second = bench.attach(subscription("a"));
    bench.confirm(first);
    bench.write_marks();
    for other in ["b", "c"] {
        bench.change("one", |workflow| workflow.marks = [mark("a"), mark(other)].into());
    }
    bench.answer_all(&model());
    assert_eq!(bench.events(second), ["one"]);
}

#[test]
fn what_a_sibling_has_confirmed_does_not_come_again_when_the_slower_stream_ends() {
    let mut bench = Bench::new();
    let (fast, slow) = (bench.attach(subscription("a")), bench.attach(subscription("a")));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(fast);
    bench.end(slow);
    let next = bench.attach(subscription("a"));
    bench.answer_all(&model());
    assert!(bench.events(next).is_empty());
}

#[test]
fn what_a_sibling_has_confirmed_does_not_come_again_after_the_workflow_was_deleted() {
    let mut bench = Bench::new();
    let (fast, slow) = (bench.attach(subscription("a")), bench.attach(subscription("a")));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(fast);
    bench.delete("one");
    bench.end(slow);
    let next = bench.attach(subscription("a"));
    bench.answer_all(&model());
    assert!(bench.events(next).is_empty());
}

#[test]
fn peers_that_share_a_subscription_for_over_a_minute_are_reported_once() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.attach(subscription("b"));
    bench.wait(Duration::from_secs(3600));
    bench.attach(subscription("a"));
    bench.wait(Duration::from_secs(59));
    assert_eq!(bench.reported(shared), 0);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.reported(shared), 1);
    for _ in 0..3 {
        let flapping = bench.attach(subscription("a"));
        bench.wait(Duration::from_secs(90));
        bench.end(flapping);
    }
    assert_eq!(bench.reported(|report| matches!(report, Report::Shared { .. })), 1);
    assert_eq!(bench.ledger.census().shared, 1);
}

#[test]
fn a_peer_that_redials_before_its_old_stream_has_ended_shares_nothing() {
    let mut bench = Bench::new();
    let mut stream = bench.attach(subscription("a"));
    for _ in 0..20 {
        let next = bench.attach(subscription("a"));
        bench.wait(Duration::from_secs(40));
        bench.end(std::mem::replace(&mut stream, next));
        bench.wait(Duration::from_secs(5));
    }
    assert_eq!(bench.reported(shared), 0);
}

#[test]
fn a_drain_closes_idle_streams_at_once_and_others_when_their_last_hand_off_is_confirmed_and_marked() {
    let mut bench = Bench::new();
    let (busy, idle) = (bench.attach(subscription("a")), bench.attach(subscription("b")));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(idle);
    bench.write_marks();
    bench.ledger.drain();
    bench.settle();
    assert_eq!(bench.closed, [idle]);
    bench.end(idle);
    bench.acknowledge(busy);
    assert_eq!(bench.closed, [idle]);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.closed, [idle], "the mark is not written yet, and another replica would not know");
    bench.write_marks();
    assert!(bench.closed.contains(&busy));
    assert!(!bench.ledger.is_drained());
    bench.end(busy);
    assert!(bench.ledger.is_drained());
}

#[test]
fn a_drain_closes_a_stream_whose_mark_another_replica_has_written() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(stream);
    bench.ledger.drain();
    let patch = bench.patch();
    bench.patched(patch, transient());
    assert!(bench.closed.is_empty());
    bench.change("one", |run| run.marks = Box::new([mark("a")]));
    assert_eq!(bench.closed, [stream]);
}

#[test]
fn a_drain_tries_every_mark_that_waits_for_its_next_attempt_once_more() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    ["one", "two"].into_iter().for_each(|name| bench.apply(run(name)));
    bench.answer_all(&model());
    bench.confirm(stream);
    let (first, second) = (bench.patches.remove(0), bench.patches.remove(0));
    bench.patched(first, refused());
    bench.patched(second, transient());
    bench.ledger.drain();
    bench.settle();
    assert_eq!(bench.patches.len(), 2, "what was refused may be allowed by now");
    assert!(!bench.ledger.is_drained() && bench.closed.is_empty());
    let refused_again = bench.patches.remove(0);
    bench.patched(refused_again, refused());
    bench.write_marks();
    assert!(bench.closed.contains(&stream), "a mark that is still refused holds nothing up");
    bench.end(stream);
    assert!(bench.ledger.is_drained());
}

#[test]
fn a_drain_begins_nothing_new() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.ledger.drain();
    bench.settle();
    bench.answer_all(&model());
    bench.apply(run("two"));
    assert!(bench.asked.is_empty() && bench.events(stream).is_empty());
    let late = bench.attach(subscription("b"));
    assert!(bench.closed.contains(&late));
    bench.end(late);
    bench.end(stream);
    assert!(bench.ledger.is_drained());
}

#[test]
fn a_drain_does_not_wait_for_a_mark_that_is_refused() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(stream);
    let patch = bench.patch();
    bench.ledger.drain();
    bench.end(stream);
    assert!(!bench.ledger.is_drained());
    bench.patched(patch, refused());
    assert!(bench.ledger.is_drained());
}

#[test]
fn inputs_about_streams_that_do_not_exist_do_nothing() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.end(stream);
    bench.end(stream);
    bench.acknowledge(stream);
    bench.ledger.acknowledged(StreamId(99), u64::MAX, bench.now);
    bench.apply(run("one"));
    bench.change("one", |workflow| workflow.phase = Phase::Other);
    bench.delete("one");
    bench.settle();
    assert!(bench.handed.is_empty() && bench.patches.is_empty());
}

#[test]
fn the_oldest_pending_run_keeps_its_age_when_its_stream_breaks_again_and_again() {
    let mut bench = Bench::new();
    let begin = bench.now.instant;
    bench.apply(run("one"));
    for _ in 0..10 {
        let stream = bench.attach(subscription("a"));
        bench.wait(Duration::from_secs(400));
        bench.answer_all(&model());
        bench.end(stream);
    }
    bench.attach(subscription("a"));
    assert_eq!(bench.ledger.census().oldest, Some(begin));
}

#[test]
fn answers_that_come_out_of_order_are_put_in_order_for_a_moment() {
    let mut bench = Bench::new();
    for (name, age) in [("old", 20), ("young", 10)] {
        bench.apply(Workflow { created: BEGIN - age, ..run(name) });
    }
    let stream = bench.attach(subscription("a"));
    bench.answer("young", model());
    assert!(bench.events(stream).is_empty());
    bench.answer("old", model());
    assert_eq!(bench.events(stream), ["old", "young"]);
}

#[test]
fn a_slow_or_failed_answer_does_not_hold_up_younger_runs() {
    for fails in [false, true] {
        let mut bench = Bench::new();
        for (name, age) in [("old", 20), ("young", 10)] {
            bench.apply(Workflow { created: BEGIN - age, ..run(name) });
        }
        let stream = bench.attach(subscription("a"));
        bench.answer("young", model());
        if fails {
            bench.answer("old", unavailable());
        } else {
            bench.wait(Duration::from_millis(500));
        }
        assert_eq!(bench.events(stream), ["young"]);
    }
}
