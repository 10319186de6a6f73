//! Records that change: Workflows that leave the selector and return, and fields by which a run is looked up that are
//! set late.

use std::time::Duration;

use super::harness::*;
use crate::{
    delivery::{LookupError, ledger::Report},
    model::{Phase, PipelineFilter, PipelineName, RunId, Subscription, Workflow},
};

/// Sets the run id of `one`.
fn identify(harness: &mut Harness, id: &str) {
    harness.change("one", |workflow| workflow.run_id = Some(RunId::new(id)));
}

// === Workflows that leave the selector and return ===

#[test]
fn a_delivered_run_that_returns_is_marked_and_not_repeated() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    let returned = run("one");
    harness.delete("one");
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
    harness.confirm(stream);
    assert!(harness.patches.is_empty(), "there is no Workflow to mark");
    harness.apply(returned);
    harness.write_marks();
    assert!(harness.store["one"].is_marked_for(&name("a")));
    harness.end(stream);
    harness.attach(subscription("a"));
    assert!(harness.lookups.is_empty());
}

#[test]
fn a_run_that_returns_while_it_is_pending_is_delivered_once() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.delete("one");
    harness.apply(run("one"));
    harness.confirm(stream);
    harness.write_marks();
    assert_eq!(harness.events(stream), ["one"]);
    assert!(harness.store["one"].is_marked_for(&name("a")));
}

/// Its patch was in flight when it left.
#[test]
fn a_run_that_leaves_before_its_mark_was_seen_is_not_repeated() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(stream);
    let patch = harness.patch();
    harness.delete("one");
    harness.answer_patch(patch, transient());
    harness.apply(run("one"));
    harness.write_marks();
    harness.end(stream);
    harness.attach(subscription("a"));
    harness.answer_all(&model());
    assert_eq!(harness.handoffs.len(), 1);
    assert!(harness.store["one"].is_marked_for(&name("a")));
}

#[test]
fn a_run_that_returns_restarted_is_a_new_one() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.delete("one");
    harness.answer_all(&model());
    harness.confirm(stream);
    harness.apply(Workflow { phase: Phase::Active, ..run("one") });
    harness.apply(run("one"));
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one", "one"]);
}

/// The answer of a lookup that was in flight is ignored.
#[test]
fn a_run_that_returns_with_another_run_id_is_looked_up_again() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.delete("one");
    harness.apply(Workflow { run_id: Some(RunId::new("corrected")), ..run("one") });
    assert_eq!((harness.looked_up(), harness.forgotten.len()), (vec!["one", "one"], 1));
    harness.answer("one", no_model());
    harness.answer("one", model());
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn an_answer_about_a_run_that_returned_is_remembered() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.delete("one");
    harness.apply(run("one"));
    harness.answer("one", no_model());
    harness.attach(subscription("b"));
    assert!(harness.lookups.is_empty());
}

// === fields by which a run is looked up ===

#[test]
fn a_run_id_that_is_set_late_is_looked_up() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer("one", Err(LookupError::NoContext));
    identify(&mut harness, "late");
    assert_eq!((harness.looked_up(), harness.forgotten.len()), (vec!["one"], 1));
    harness.answer("one", model());
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn no_model_of_a_wrong_run_id_is_not_remembered() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer("one", no_model());
    harness.change("one", |workflow| workflow.events_published = true);
    assert!(harness.lookups.is_empty());
    identify(&mut harness, "corrected");
    harness.answer("one", model());
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn an_answer_for_a_wrong_run_id_is_ignored() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    identify(&mut harness, "corrected");
    assert_eq!(harness.looked_up(), ["one", "one"]);
    harness.answer("one", no_model());
    harness.answer("one", model());
    assert_eq!(harness.events(stream), ["one"]);
}

/// It is ready, but the subscriber has no room.
#[test]
fn models_of_a_wrong_run_id_are_not_sent() {
    let mut harness = Harness::new();
    for n in 0..256 {
        harness.apply(Workflow { created: BEGIN - 300 + n, ..run(&format!("{n:03}")) });
    }
    harness.apply(run("one"));
    let stream = harness.attach(subscription("a"));
    harness.answer_all(&model());
    assert_eq!(harness.events(stream).len(), 256);
    identify(&mut harness, "corrected");
    harness.answer("one", model_at("gs://corrected".into()));
    harness.acknowledge(stream);
    assert!(harness.handoffs.last().unwrap().payload.contains("gs://corrected"));
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn a_delivered_run_is_not_sent_again_for_its_corrected_run_id() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    identify(&mut harness, "before the acknowledgement");
    harness.confirm(stream);
    identify(&mut harness, "before the mark");
    harness.write_marks();
    identify(&mut harness, "after it");
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
    assert_eq!(harness.forgotten.len(), 3, "remembered answers are dropped, too");
}

#[test]
fn a_corrected_run_is_looked_up_and_filtered_again() {
    let mut harness = Harness::new();
    let pipelines = PipelineFilter::matching(["iris"]).unwrap();
    let filtered = harness.attach(Subscription { pipelines, ..subscription("filtered") });
    let plain = harness.attach(subscription("plain"));
    harness.apply(run("one"));
    harness.answer("one", no_model());
    harness.change("one", |workflow| workflow.resubmitted = true);
    harness.answer("one", no_model());
    harness.change("one", |workflow| workflow.pipeline = PipelineName::Spec("iris".into()).into());
    harness.answer("one", model());
    assert_eq!([filtered, plain].map(|stream| harness.events(stream)), [["one"], ["one"]]);
}

// === runs that no lookup finds ===

#[test]
fn a_run_without_a_context_is_not_pending_after_two_minutes() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    let gauges = |harness: &Harness| {
        let stats = harness.ledger.stats();
        (stats.pending_runs(), stats.runs_without_context, stats.oldest_pending().is_some())
    };
    for _ in 0..119 {
        harness.answer_all(&Err(LookupError::NoContext));
        harness.wait(Duration::from_secs(1));
    }
    assert_eq!(gauges(&harness), (1, 0, true));
    for _ in 0..31 {
        harness.answer_all(&Err(LookupError::NoContext));
        harness.wait(Duration::from_secs(1));
    }
    assert_eq!(gauges(&harness), (0, 1, false));
    let late = harness.attach(subscription("late"));
    assert_eq!(gauges(&harness), (0, 2, false), "also for a stream that attaches later");
    harness.wait(Duration::from_secs(3600));
    harness.answer("one", model());
    assert_eq!(gauges(&harness), (2, 0, true));
    assert_eq!(harness.events(late), ["one"]);
}

/// It was reported when its lookups became rare.
#[test]
fn a_deleted_run_without_a_context_is_not_reported_as_lost() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer("one", Err(LookupError::ForeignContext { namespace: "other".into() }));
    harness.delete("one");
    harness.end(stream);
    harness.attach(subscription("a"));
    harness.wait(Duration::from_secs(3600));
    let expired = harness.reports.iter().filter_map(|report| match report {
        Report::Expired { without_context, .. } => Some(*without_context),
        _ => None,
    });
    assert_eq!(expired.collect::<Vec<_>>(), [true]);
    assert_eq!(harness.ledger.stats().runs_without_context, 0);
}
