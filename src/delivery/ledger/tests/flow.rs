//! The bytes that are held for streams: their limits, the shares of namespaces, and subscribers that do not read.

use std::time::Duration;

use super::{
    super::{
        budget::SMALL,
        flow::{MAX_SILENCE, READY_LIMIT, UNACKNOWLEDGED_LIMIT},
    },
    harness::*,
};
use crate::{
    delivery::{CloseReason, StreamId, ledger::Report},
    model::Workflow,
    telemetry::Limit,
};

const KIB: usize = 1024;

/// Models whose event has about this size.
fn models_of(bytes: usize) -> Answer {
    model_at("x".repeat(bytes).into())
}

fn apply(harness: &mut Harness, namespace: &str, names: impl IntoIterator<Item = String>) {
    for name in names {
        harness.apply(Workflow { namespace: namespace.into(), ..run(&name) });
    }
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n:03}")).collect()
}

/// Attaches a stream that reads nothing, with 20 runs of this size.
fn attach_holder(harness: &mut Harness, namespace: &str, bytes: usize) -> StreamId {
    let stream = harness.attach(subscription_in(namespace, "a"));
    apply(harness, namespace, numbered(namespace, 20));
    harness.answer_all(&models_of(bytes));
    stream
}

fn unacknowledged(harness: &Harness) -> usize {
    harness.ledger.flow.unacknowledged.total()
}

fn hits(harness: &Harness) -> usize {
    harness.reported(|report| matches!(report, Report::LimitHit(Limit::UnacknowledgedBytes)))
}

// === unacknowledged payloads ===

#[test]
fn a_namespace_leaves_room_for_another() {
    let mut harness = Harness::new();
    apply(&mut harness, "large", numbered("large", 20));
    for n in 0..20 {
        harness.attach(subscription_in("large", &format!("s{n}")));
        harness.answer_all(&models_of(500 * KIB));
    }
    assert!(unacknowledged(&harness) <= UNACKNOWLEDGED_LIMIT / 2, "{}", unacknowledged(&harness));
    let stream = attach_holder(&mut harness, "team", 500 * KIB);
    assert!(harness.events(stream).len() >= 5);
    assert!(unacknowledged(&harness) <= UNACKNOWLEDGED_LIMIT);
}

/// A hundred namespaces take whatever they can get.
#[test]
fn unacknowledged_bytes_are_limited_in_all() {
    let mut harness = Harness::new();
    for n in 0..100 {
        attach_holder(&mut harness, &format!("large-{n}"), 100 * KIB);
    }
    assert!(unacknowledged(&harness) <= UNACKNOWLEDGED_LIMIT);
    assert!(unacknowledged(&harness) > UNACKNOWLEDGED_LIMIT * 9 / 10, "{}", unacknowledged(&harness));
    assert!(hits(&harness) >= 50, "each stream is counted when it begins to wait");
}

#[test]
fn small_events_are_sent_where_there_is_no_room() {
    let mut harness = Harness::new();
    for n in 0..100 {
        attach_holder(&mut harness, &format!("large-{n}"), 15 * KIB);
    }
    let before = unacknowledged(&harness);
    let stream = harness.attach(subscription("a"));
    apply(&mut harness, "team", numbered("one", 3));
    harness.answer_all(&models_of(SMALL - KIB));
    for n in 0..3 {
        let events = harness.events(stream);
        assert!(!events.is_empty() && unacknowledged(&harness) < before + 4 * SMALL, "event {n}");
        harness.acknowledge(stream);
        harness.answer_all(&models_of(SMALL - KIB));
        if harness.ledger.registry.streams[&stream].runs.values().all(|run| run.is_handed_off()) {
            return;
        }
    }
    panic!("the events were not sent one by one");
}

#[test]
fn a_stream_that_waits_for_room_proceeds_once_others_have_read() {
    let mut harness = Harness::new();
    let holders: Vec<_> = (0..60).map(|n| attach_holder(&mut harness, &format!("large-{n}"), 200 * KIB)).collect();
    let stream = attach_holder(&mut harness, "team", 500 * KIB);
    assert!(harness.events(stream).is_empty());
    for holder in holders {
        harness.acknowledge(holder);
        harness.answer_all(&models_of(200 * KIB));
    }
    assert!(!harness.events(stream).is_empty());
}

#[test]
fn a_stream_at_its_own_limit_is_counted_once() {
    let mut harness = Harness::new();
    let stream = attach_holder(&mut harness, "team", 500 * KIB);
    assert_eq!((harness.events(stream).len(), hits(&harness)), (9, 1));
    apply(&mut harness, "team", numbered("more", 3));
    harness.wait(Duration::from_secs(600));
    assert_eq!((hits(&harness), harness.closed.len()), (1, 0), "no other stream waits for its bytes");
}

// === subscribers that do not read ===

/// A harness in which streams of 60 namespaces have taken all room, and `stream` of `team` waits for some.
fn exhausted() -> (Harness, Vec<StreamId>, StreamId) {
    let mut harness = Harness::new();
    let holders = (0..60).map(|n| attach_holder(&mut harness, &format!("large-{n}"), 200 * KIB)).collect();
    let stream = attach_holder(&mut harness, "team", 500 * KIB);
    assert!(harness.events(stream).is_empty());
    (harness, holders, stream)
}

#[test]
fn a_subscriber_that_does_not_read_makes_room_after_a_minute() {
    let (mut harness, holders, stream) = exhausted();
    harness.wait(MAX_SILENCE - Duration::from_secs(1));
    assert!(harness.closed.is_empty());
    // One subscriber reads after all.
    harness.ledger.handle_ack(holders[0], 1, harness.now);
    harness.perform_actions();
    harness.answer_all(&models_of(200 * KIB));
    harness.wait(Duration::from_secs(1));
    assert!(!harness.closed.is_empty() && !harness.closed.contains(&holders[0]) && !harness.closed.contains(&stream));
    assert!(harness.close_reasons.iter().all(|reason| *reason == CloseReason::NotReading));
    let closed = harness.closed.len();
    assert_eq!(harness.reported(|report| matches!(report, Report::NotReading { .. })), closed);
    // Others have waited for longer.
    for _ in 0..5 {
        harness.answer_all(&models_of(200 * KIB));
        harness.wait(MAX_SILENCE);
    }
    assert!(!harness.events(stream).is_empty());
    // The driver reports the ends as well.
    let closed = harness.closed.len();
    for holder in holders {
        harness.end(holder);
    }
    assert_eq!(harness.closed.len(), closed);
}

#[test]
fn the_runs_of_a_closed_stream_are_pending_again() {
    let (mut harness, holders, _) = exhausted();
    harness.handoffs.clear();
    harness.wait(MAX_SILENCE);
    assert!(harness.closed.contains(&holders[0]));
    let next = harness.attach(subscription_in("large-0", "a"));
    harness.answer_all(&models_of(KIB));
    assert_eq!(harness.ledger.registry.streams[&next].runs.len(), 20);
    assert!(harness.handoffs.iter().any(|event| event.stream == next && event.redelivery));
}

#[test]
fn a_subscriber_may_read_slowly() {
    let (mut harness, holders, _) = exhausted();
    for sequence in 1..4 {
        harness.wait(MAX_SILENCE - Duration::from_secs(2));
        for holder in &holders {
            harness.ledger.handle_ack(*holder, sequence, harness.now);
        }
        harness.perform_actions();
        harness.answer_all(&models_of(200 * KIB));
    }
    assert!(harness.closed.is_empty());
}

#[test]
fn ended_streams_give_back_what_they_held() {
    let (mut harness, holders, stream) = exhausted();
    for stream in holders.into_iter().chain([stream]) {
        harness.end(stream);
    }
    assert_eq!((unacknowledged(&harness), harness.ledger.flow.ready.total()), (0, 0));
    assert!(!harness.has_timer(|timer| matches!(timer, super::super::Timer::CheckReaders)));
}

// === ready models ===

#[test]
fn a_stream_holds_one_mib_of_ready_models() {
    let mut harness = Harness::new();
    let stream = attach_holder(&mut harness, "team", 500 * KIB);
    harness.wait(Duration::from_secs(3600));
    let ready = harness.ledger.flow.ready.total();
    assert!((500 * KIB..=KIB * KIB).contains(&ready), "{ready}");
    let mut lookups = 0;
    let mut events = 0;
    while events < 20 {
        events += harness.events(stream).len();
        harness.acknowledge(stream);
        lookups += harness.lookups.len();
        harness.answer_all(&models_of(500 * KIB));
        assert!(harness.ledger.flow.ready.total() <= KIB * KIB);
    }
    assert!(lookups <= 30, "{lookups} lookups for the 11 other runs");
}

#[test]
fn a_single_run_may_have_larger_models() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("huge"));
    harness.answer("huge", models_of(2 * KIB * KIB));
    let skipped = harness.reported(|report| matches!(report, Report::Skipped { .. }));
    assert_eq!((skipped, harness.ledger.flow.ready.total()), (1, 0), "it is found to be too large at the hand-off");
}

/// Streams with types of their own look up models of their own, which cannot be handed off.
#[test]
fn ready_models_are_limited_in_all() {
    let mut harness = Harness::new();
    for n in 0..100 {
        let namespace = format!("large-{n}");
        attach_holder(&mut harness, &namespace, 500 * KIB);
    }
    assert!(harness.ledger.flow.ready.total() <= READY_LIMIT, "{}", harness.ledger.flow.ready.total());
    // A stream that holds nothing still sends small events.
    let stream = harness.attach(subscription("a"));
    harness.apply(run("small"));
    harness.answer("small", models_of(KIB));
    assert_eq!(harness.events(stream), ["small"]);
}

#[test]
fn streams_share_the_models_of_a_run() {
    let mut harness = Harness::new();
    apply(&mut harness, "team", numbered("run", 20));
    for n in 0..50 {
        harness.attach(subscription(&format!("s{n}")));
    }
    harness.answer_all(&models_of(500 * KIB));
    assert!(harness.ledger.flow.ready.total() <= 2 * KIB * KIB, "{}", harness.ledger.flow.ready.total());
}

#[test]
fn everything_is_delivered_once_the_subscribers_read() {
    let mut harness = Harness::new();
    let streams: Vec<_> = (0..14).map(|n| attach_holder(&mut harness, &format!("team-{n}"), 100 * KIB)).collect();
    assert!(hits(&harness) > 0);
    let begin = harness.now.instant;
    while harness.ledger.stats().pending_runs() > 0 {
        for stream in &streams {
            harness.acknowledge(*stream);
        }
        harness.answer_all(&models_of(100 * KIB));
        harness.handoffs.clear();
        harness.wait(Duration::from_secs(1));
        assert!(harness.now.instant - begin < Duration::from_secs(30), "it takes too long");
    }
    assert_eq!((unacknowledged(&harness), harness.ledger.flow.ready.total()), (0, 0));
}

/// Models of runs in quarantine wait for minutes.
#[test]
fn runs_in_quarantine_do_not_hold_up_the_lookups_of_others() {
    let mut harness = Harness::new();
    apply(&mut harness, "team", numbered("poison", 3));
    for _ in 0..3 {
        let stream = harness.attach(subscription("a"));
        harness.answer_all(&models_of(500 * KIB));
        assert_eq!(harness.events(stream).len(), 3);
        harness.end(stream);
    }
    let stream = harness.attach(subscription("a"));
    harness.answer_all(&models_of(500 * KIB));
    apply(&mut harness, "team", numbered("fine", 2));
    harness.answer_all(&models_of(500 * KIB));
    assert_eq!(harness.events(stream), ["fine-000", "fine-001"]);
}
