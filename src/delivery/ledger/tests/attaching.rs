//! Streams that attach to a large namespace: they are offered its records in pages.

use std::{sync::Arc, time::Duration};

use super::{super::decisions, harness::*};
use crate::{
    delivery::{StreamId, ledger::Report},
    model::{ArtifactTypes, Phase, PipelineFilter, Subscription, Workflow},
    store::Change,
};

const STREAM: StreamId = StreamId(99);

/// A ledger to which a stream attaches that was offered nothing yet.
fn attaching() -> Harness {
    let mut harness = Harness::new();
    harness.ledger.attach(STREAM, subscription("a"), None, harness.now);
    harness.perform_turn();
    // This module offers the records.
    harness.reading.clear();
    harness
}

fn offer(harness: &mut Harness, records: &[Workflow], is_last: bool) {
    let records: Vec<_> = records.iter().cloned().map(Arc::new).collect();
    let offered = harness.ledger.offer_records(STREAM, &records, is_last, harness.now);
    assert_eq!(offered, (!is_last).then_some(records.len()));
    harness.perform_turn();
}

fn is_attached(harness: &Harness) -> bool {
    harness.reported(|report| matches!(report, Report::Attached { .. })) == 1
}

fn aged(name: &str, age: i64) -> Workflow {
    Workflow { created: BEGIN - age, ..run(name) }
}

#[test]
fn nothing_is_sent_before_every_record_was_offered() {
    let mut harness = attaching();
    offer(&mut harness, &[aged("young", 1), aged("old", 3)], false);
    assert!(harness.lookups.is_empty() && !is_attached(&harness));
    offer(&mut harness, &[aged("oldest", 4), aged("middle", 2)], true);
    assert!(is_attached(&harness));
    harness.answer_all(&model());
    assert_eq!(harness.events(STREAM), ["oldest", "old", "middle", "young"]);
}

#[test]
fn changes_between_pages_count() {
    let mut harness = attaching();
    offer(&mut harness, &[run("offered"), run("restarted"), run("deleted")], false);
    harness.apply(run("new"));
    harness.apply(run("not offered yet"));
    for (name, phase) in [("restarted", Phase::Active), ("marked", Phase::Succeeded)] {
        harness.apply(Workflow { phase, ..run(name) });
    }
    harness.apply(Workflow { marks: [mark("a")].into(), ..run("marked") });
    for name in ["deleted", "deleted before it was offered"] {
        harness.ledger.handle_change(&Change::Deleted(Arc::new(run(name))), harness.now);
    }
    assert!(harness.lookups.is_empty());
    offer(&mut harness, &[run("not offered yet"), Workflow { marks: [mark("a")].into(), ..run("marked") }], true);
    harness.answer_all(&model());
    let mut events = harness.events(STREAM);
    events.sort();
    assert_eq!(events, ["deleted", "deleted before it was offered", "new", "not offered yet", "offered"]);
}

#[test]
fn a_stream_that_ends_while_it_attaches_is_offered_no_more() {
    let mut harness = attaching();
    offer(&mut harness, &[run("one")], false);
    harness.end(STREAM);
    assert_eq!(harness.ledger.offer_records(STREAM, &[Arc::new(run("two"))], true, harness.now), None);
    harness.perform_actions();
    harness.wait(Duration::from_secs(2 * 3600));
    harness.assert_empty();
}

#[test]
fn many_claims_to_deleted_runs_are_offered_in_parts() {
    let mut harness = Harness::new();
    let first = harness.attach(subscription("a"));
    for n in 0..250 {
        let name = n.to_string();
        harness.apply(run(&name));
        harness.delete(&name);
    }
    harness.end(first);
    harness.ledger.attach(STREAM, subscription("a"), None, harness.now);
    harness.perform_turn();
    harness.reading.clear();
    let mut parts = 0;
    while harness.ledger.offer_records(STREAM, &[], true, harness.now).is_some() {
        parts += 1;
    }
    assert_eq!(parts, 3);
    assert_eq!(harness.ledger.stats().pending_runs(), 250);
}

#[test]
fn the_decisions_of_a_turn_are_limited() {
    let mut harness = Harness::with_lookups(10_000, 10_000);
    let other = harness.attach(subscription_in("other", "a"));
    let busy: Vec<_> = (0..50).map(|n| harness.attach(subscription(&format!("busy-{n}")))).collect();
    for n in 0..100 {
        let workflow = Arc::new(run(&n.to_string()));
        harness.ledger.handle_change(&Change::Applied { workflow, before: None }, harness.now);
    }
    let workflow = Arc::new(Workflow { namespace: "other".into(), ..run("other") });
    harness.ledger.handle_change(&Change::Applied { workflow, before: None }, harness.now);
    let mut turns = 0;
    let mut of_other = None;
    while harness.ledger.has_more() || turns == 0 || !harness.lookups.is_empty() {
        let before = harness.handoffs.len();
        harness.perform_turn();
        let handed_off = harness.handoffs.len() - before;
        assert!(handed_off <= decisions::HAND_OFFS, "{handed_off} hand-offs in a turn");
        if harness.handoffs.iter().any(|event| event.stream == other) {
            of_other.get_or_insert(turns);
        }
        harness.answer_in_turn(&model());
        turns += 1;
    }
    assert_eq!(harness.handoffs.len(), 50 * 100 + 1);
    assert!(turns >= 5000 / decisions::HAND_OFFS, "{turns} turns");
    assert!(of_other.is_some_and(|turn| turn <= 6), "another namespace waits for its turn only: {of_other:?}");
    assert_eq!(busy.into_iter().map(|stream| harness.events(stream).len()).max(), Some(100));
}

#[test]
fn runs_of_an_ended_stream_are_dropped_over_several_turns() {
    let mut harness = Harness::new();
    for n in 0..5_000 {
        harness.apply(run(&n.to_string()));
    }
    let stream = harness.attach(subscription("a"));
    harness.ledger.end(stream, harness.now);
    let mut turns = 0;
    while harness.ledger.has_more() {
        harness.perform_turn();
        turns += 1;
    }
    assert!((5..10).contains(&turns), "{turns} turns");
    assert!(harness.ledger.ended.is_empty());
}

/// The namespace of a hundred thousand runs is not walked.
#[test]
fn gauges_follow_every_change() {
    let mut harness = Harness::new();
    let begin = harness.now.instant;
    let streams = ["a", "a", "b"].map(|name| harness.attach(subscription(name)));
    let gauges = |harness: &Harness| {
        let stats = harness.ledger.stats();
        (stats.pending_runs(), stats.runs_without_context, stats.shared_subscriptions, stats.oldest_pending())
    };
    harness.apply(run("one"));
    harness.wait(Duration::from_secs(1));
    harness.apply(run("two"));
    assert_eq!(gauges(&harness), (6, 0, 1, Some(begin)));
    harness.answer("one", no_model());
    assert_eq!(gauges(&harness), (3, 0, 1, Some(begin + Duration::from_secs(1))));
    harness.answer("two", Err(crate::delivery::LookupError::ForeignContext { namespace: "other".into() }));
    assert_eq!(gauges(&harness), (0, 3, 1, None), "it is not pending, but counted on its own");
    harness.end(streams[0]);
    assert_eq!(gauges(&harness), (0, 2, 0, None));
    let filter = PipelineFilter::matching(["iris"]).unwrap();
    let types = Arc::new(ArtifactTypes::named(["acme.Model"]));
    harness.attach(Subscription { pipelines: filter, ..subscription("filtered") });
    harness.attach(Subscription { artifact_types: types, ..subscription("types") });
    assert_eq!(gauges(&harness).0, 2, "other types are looked up on their own");
    harness.change("two", |workflow| workflow.phase = Phase::Active);
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    assert_eq!(gauges(&harness), (0, 0, 0, None));
}
