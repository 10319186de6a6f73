//! Isolation of subscriptions, streams and runs from each other.

use std::time::Duration;

use super::harness::*;
use crate::{
    delivery::{MAX_UNACKNOWLEDGED, StreamId},
    model::{PipelineName, Subscription, Workflow},
};

const MINUTE: Duration = Duration::from_secs(60);

/// A harness in which three streams of the subscription `a` have ended before they confirmed these runs.
fn quarantined(runs: &[&str]) -> Harness {
    let mut harness = Harness::new();
    runs.iter().for_each(|name| harness.apply(run(name)));
    for _ in 0..3 {
        let stream = harness.attach(subscription("a"));
        harness.answer_all(&model());
        assert_eq!(harness.events(stream).len(), runs.len());
        harness.end(stream);
    }
    harness
}

fn attach(harness: &mut Harness) -> StreamId {
    let stream = harness.attach(subscription("a"));
    harness.answer_all(&model());
    stream
}

#[test]
fn at_most_256_events_of_a_stream_are_unacknowledged() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    for n in 0..600 {
        harness.apply(run(&format!("{n:03}")));
    }
    harness.answer_all(&model());
    assert_eq!(harness.events(stream).len(), MAX_UNACKNOWLEDGED);
    harness.acknowledge(stream);
    harness.answer_all(&model());
    assert_eq!(
        harness.events(stream).len(),
        MAX_UNACKNOWLEDGED,
        "an acknowledgement makes room without a confirmation"
    );
    harness.acknowledge(stream);
    harness.answer_all(&model());
    assert_eq!(harness.events(stream).len(), 600 - 2 * MAX_UNACKNOWLEDGED);
}

#[test]
fn at_most_four_mib_and_one_event_are_unacknowledged() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    for n in 0..20 {
        harness.apply(run(&format!("{n:02}")));
    }
    let large = model_at("x".repeat(500 * 1024).into());
    harness.answer_all(&large);
    assert_eq!(harness.events(stream).len(), 9);
    harness.acknowledge(stream);
    harness.answer_all(&large);
    assert_eq!(harness.events(stream).len(), 9);
}

#[test]
fn a_subscriber_that_reads_nothing_delays_no_other() {
    let mut harness = Harness::new();
    harness.attach(subscription("dead"));
    let alive = harness.attach(subscription("alive"));
    for n in 0..1000 {
        harness.apply(run(&n.to_string()));
        harness.answer_all(&model());
        harness.acknowledge(alive);
    }
    assert_eq!(harness.events(alive).len(), 1000);
}

#[test]
fn a_run_during_which_three_streams_ended_is_sent_last() {
    let mut harness = quarantined(&["poison"]);
    harness.apply(run("a new one"));
    harness.apply(run("another"));
    let stream = attach(&mut harness);
    let mut events = harness.events(stream);
    events.sort();
    assert_eq!(events, ["a new one", "another"]);
    harness.confirm(stream);
    harness.wait(Duration::from_secs(10));
    assert_eq!(harness.events(stream), ["poison"]);
}

/// The run that ends its stream shows by being alone.
#[test]
fn quarantined_runs_are_probed_one_at_a_time() {
    let mut harness = quarantined(&["one", "two", "poison"]);
    let mut stream = attach(&mut harness);
    let mut delivered = Vec::new();
    for _ in 0..20 {
        harness.wait(MINUTE);
        match &harness.events(stream)[..] {
            [run] if run == "poison" => {
                harness.end(stream);
                stream = attach(&mut harness);
            }
            [run] => {
                delivered.push(run.clone());
                harness.confirm(stream);
            }
            [] => {}
            several => panic!("{several:?} at once"),
        }
    }
    delivered.sort();
    assert_eq!(delivered, ["one", "two"]);
}

#[test]
fn probes_become_rare_but_never_rarer_than_every_six_minutes() {
    let mut harness = quarantined(&["poison"]);
    let mut ends = Vec::new();
    for _ in 0..12 {
        let stream = attach(&mut harness);
        let begin = harness.now.instant;
        while harness.events(stream).is_empty() {
            harness.wait(Duration::from_secs(1));
        }
        ends.push((harness.now.instant - begin).as_secs());
        harness.end(stream);
    }
    assert_eq!(ends[..6], [10, 20, 40, 80, 160, 320]);
    assert_eq!(ends[11], 320);
}

#[test]
fn a_quarantined_run_does_not_starve() {
    let mut harness = quarantined(&["quarantined"]);
    let stream = attach(&mut harness);
    let mut waited = 0;
    for n in 0.. {
        harness.apply(run(&format!("other-{n}")));
        harness.answer_all(&model());
        harness.acknowledge(stream);
        harness.wait(Duration::from_millis(500));
        let events = harness.events(stream);
        if events.iter().any(|event| event == "quarantined") {
            break;
        }
        waited = if events.is_empty() { waited + 1 } else { 0 };
        assert!(waited < 4, "the others wait no longer than for one confirmation");
        assert!(n < 200, "the quarantined run starves");
    }
}

/// It gives way to a run that waits for two minutes itself, and nothing else happens in between.
#[test]
fn a_starving_run_is_probed_without_another_input() {
    let mut harness = quarantined(&["quarantined"]);
    let stream = harness.attach(Subscription { latest_only: true, ..subscription("a") });
    harness.answer_all(&model());
    for (name, finished) in [("waiting", 1), ("in flight", 2)] {
        let pipeline = PipelineName::Spec("iris".into()).into();
        harness.apply(Workflow { finished, pipeline, ..run(name) });
    }
    harness.answer("waiting", model());
    harness.wait(Duration::from_secs(69));
    assert!(harness.events(stream).is_empty());
    harness.wait(Duration::from_secs(1));
    assert_eq!(harness.events(stream), ["quarantined"]);
}

#[test]
fn a_confirmation_ends_the_quarantine() {
    let mut harness = quarantined(&["one"]);
    let stream = attach(&mut harness);
    harness.wait(Duration::from_secs(10));
    harness.confirm(stream);
    harness.write_marks();
    harness.change("one", |workflow| workflow.marks = [].into());
    harness.answer_all(&model());
    let again: Vec<_> = harness.handoffs.iter().map(|event| event.redelivery).collect();
    assert_eq!(again, [true, false]);
    assert_eq!(harness.events(stream), ["one", "one"], "sent at once");
}

#[test]
fn a_quarantine_concerns_only_its_own_subscription() {
    let mut harness = quarantined(&["one"]);
    let other = harness.attach(subscription("b"));
    harness.answer_all(&model());
    assert_eq!(harness.events(other), ["one"]);
}

#[test]
fn a_broken_stream_does_not_withdraw_the_run_from_its_sibling() {
    let mut harness = Harness::new();
    let (dying, sibling) = (harness.attach(subscription("a")), harness.attach(subscription("a")));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.end(dying);
    harness.confirm(sibling);
    harness.write_marks();
    assert_eq!(harness.store["one"].marks.len(), 1);
}
