//! Filters: what they exclude is reported, once.

use std::{sync::Arc, time::Duration};

use super::harness::*;
use crate::{
    delivery::{
        NoticeSink, Options, StreamId,
        fixtures::KeptNotices,
        ledger::{Report, types::FilterCounts},
    },
    model::{FilterReason, Phase, PipelineFilter, PipelineName, RunModels, Subscription, Workflow},
};

fn only(pattern: &str) -> PipelineFilter {
    PipelineFilter::matching([pattern]).unwrap()
}

fn of_pipeline(name: &str, pipeline: &str) -> Workflow {
    Workflow { pipeline: PipelineName::Spec(pipeline.into()).into(), ..run(name) }
}

fn named(pipeline: &str) -> Answer {
    Ok(RunModels { pipeline: Some(pipeline.into()), ..RunModels::clone(&model().unwrap()) }.into())
}

/// The runs that were reported as filtered.
fn filtered(harness: &Harness) -> Vec<(String, FilterReason)> {
    let reports = harness.reports.iter().filter_map(|report| match report {
        Report::Filtered { workflow, reason, .. } => Some((workflow.name.to_string(), *reason)),
        _ => None,
    });
    reports.collect()
}

/// The counts in the report of a stream's attachment.
fn attached(harness: &Harness, id: StreamId) -> (usize, FilterCounts) {
    let mut reports = harness.reports.iter().filter_map(|report| match report {
        Report::Attached { stream, pending, filtered, .. } if *stream == id => Some((*pending, *filtered)),
        _ => None,
    });
    reports.next().expect("the attachment is reported")
}

#[test]
fn an_attachment_counts_pending_and_filtered_runs() {
    let mut harness = Harness::new();
    harness.apply(run("pending"));
    harness.apply(of_pipeline("iris", "iris"));
    harness.apply(of_pipeline("taxi", "taxi"));
    harness.apply(Workflow { finished: BEGIN - 61, ..run("old") });
    harness.apply(Workflow { phase: Phase::Failed, ..run("failed") });
    harness.apply(Workflow { phase: Phase::Active, ..run("running") });
    harness.apply(Workflow { marks: [mark("a")].into(), ..run("delivered") });
    let wanted =
        Subscription { pipelines: only("penguin"), max_age: Some(Duration::from_secs(60)), ..subscription("a") };
    let expected = (1, FilterCounts { pipelines: 2, max_age: 1, statuses: 1 });
    let first = harness.attach(wanted.clone());
    assert_eq!(attached(&harness, first), expected);
    harness.end(first);
    let second = harness.attach(wanted);
    assert_eq!(attached(&harness, second), expected, "each attachment counts");
    assert_eq!(filtered(&harness).len(), 4, "but each run is reported once");
    let other = harness.attach(subscription("b"));
    assert_eq!(attached(&harness, other), (5, FilterCounts { statuses: 1, ..FilterCounts::default() }));
    assert_eq!(filtered(&harness).len(), 5);
}

/// As long as it does not end again.
#[test]
fn a_filtered_run_is_reported_once_for_a_subscription() {
    let mut harness = Harness::new();
    let wanted = Subscription { pipelines: only("iris"), ..subscription("a") };
    harness.attach(wanted.clone());
    harness.attach(wanted);
    harness.apply(run("one"));
    harness.change("one", |workflow| workflow.events_published = true);
    assert_eq!(filtered(&harness), [("one".to_owned(), FilterReason::Pipelines)]);
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    assert_eq!(filtered(&harness).len(), 2);
    harness.delete("one");
    harness.apply(run("one"));
    assert_eq!(filtered(&harness).len(), 3, "another Workflow, as far as anything is known");
}

/// A later stream does not look it up again.
#[test]
fn a_name_from_a_lookup_is_filtered_and_remembered() {
    let mut harness = Harness::new();
    let wanted = Subscription { pipelines: only("penguin"), ..subscription("a") };
    let stream = harness.attach(wanted.clone());
    harness.apply(Workflow { pipeline: PipelineName::Generated("generated".into()).into(), ..run("one") });
    assert!(filtered(&harness).is_empty());
    harness.answer("one", named("iris"));
    assert_eq!(filtered(&harness), [("one".to_owned(), FilterReason::Pipelines)]);
    harness.end(stream);
    let next = harness.attach(wanted);
    assert_eq!(attached(&harness, next), (0, FilterCounts { pipelines: 1, ..FilterCounts::default() }));
    assert!(harness.lookups.is_empty() && harness.events(next).is_empty());
    assert_eq!(filtered(&harness).len(), 1);
}

#[test]
fn a_run_that_grows_too_old_before_its_hand_off_is_reported() {
    let mut harness = Harness::new();
    let stream = harness.attach(Subscription { max_age: Some(Duration::from_secs(60)), ..subscription("a") });
    harness.apply(Workflow { finished: BEGIN, ..run("one") });
    harness.wait(Duration::from_secs(61));
    harness.answer_all(&model());
    assert!(harness.events(stream).is_empty());
    assert_eq!(filtered(&harness), [("one".to_owned(), FilterReason::MaxAge)]);
}

#[test]
fn the_age_counts_from_the_end_of_the_run() {
    let mut harness = Harness::new();
    let stream = harness.attach(Subscription { max_age: Some(Duration::from_secs(5)), ..subscription("a") });
    harness.apply(Workflow { phase: Phase::Active, ..run("one") });
    harness.wait(Duration::from_secs(8));
    harness.change("one", |workflow| {
        workflow.phase = Phase::Succeeded;
        workflow.finished = BEGIN + 8;
    });
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn equal_filters_and_types_are_shared_and_freed() {
    let mut harness = Harness::new();
    let types = Arc::new(crate::model::ArtifactTypes::named(["acme.Model"]));
    let wanted = |name| Subscription { pipelines: only("iris"), artifact_types: types.clone(), ..subscription(name) };
    let streams = ["a", "b", "c"].map(|name| harness.attach(wanted(name)));
    let namespace = &harness.ledger.registry.namespaces["team"];
    assert_eq!(namespace.filters.len(), 1);
    let of = |id| &harness.ledger.registry.streams[&id].subscription;
    assert!(Arc::ptr_eq(&of(streams[0]).artifact_types, &of(streams[2]).artifact_types));
    assert!(std::ptr::eq(of(streams[0]).pipelines.entries(), of(streams[2]).pipelines.entries()));
    streams.into_iter().for_each(|stream| harness.end(stream));
    assert_eq!(harness.ledger.registry.namespaces["team"].filters.len(), 0);
}

/// Sixty-four patterns, and a name that makes each of them slow.
#[test]
fn an_expensive_filter_delays_no_other_stream() {
    let mut harness = Harness::new();
    let patterns: Vec<_> = (180..244).map(|length| format!("*a{}b", "?".repeat(length))).collect();
    let expensive = PipelineFilter::matching(patterns.iter().map(String::as_str)).unwrap();
    let slow = harness.attach(Subscription { pipelines: expensive, ..subscription_in("slow", "a") });
    let fast = harness.attach(Subscription { pipelines: only("penguin"), ..subscription("a") });
    let long = "a".repeat(512);
    let workflow = Arc::new(Workflow { namespace: "slow".into(), ..of_pipeline("slow", &long) });
    let change = crate::store::Change::Applied { workflow, before: None };
    harness.ledger.handle_change(&change, harness.now);
    harness
        .ledger
        .handle_change(&crate::store::Change::Applied { workflow: Arc::new(run("fast")), before: None }, harness.now);
    let mut turns = 0;
    while harness.ledger.has_more() || turns == 0 {
        harness.perform_turn();
        harness.answer_in_turn(&model());
        turns += 1;
        if turns == 2 {
            assert_eq!(harness.events(fast), ["fast"]);
            assert!(filtered(&harness).is_empty(), "the other comparison goes on");
        }
    }
    assert!(turns > 10, "{turns} turns");
    assert_eq!(filtered(&harness), [("slow".to_owned(), FilterReason::Pipelines)]);
    assert!(harness.events(slow).is_empty() && harness.looked_up().is_empty());
}

/// In each turn, the first namespace has more to compare than a turn allows.
#[test]
fn expensive_filters_of_a_namespace_delay_no_other() {
    let mut harness = Harness::new();
    let expensive = |number: usize| {
        let patterns: Vec<_> = (200..250).map(|length| format!("*a{}b{number}", "?".repeat(length))).collect();
        PipelineFilter::matching(patterns.iter().map(String::as_str)).unwrap()
    };
    for number in 0..10 {
        let name = number.to_string();
        harness.attach(Subscription { pipelines: expensive(number), ..subscription_in("slow", &name) });
    }
    let usual: Vec<_> = (0..20).map(|number| format!("team-penguin-training-{number}-*")).collect();
    let usual = PipelineFilter::matching(usual.iter().map(String::as_str)).unwrap();
    let other = harness.attach(Subscription { pipelines: usual, ..subscription("a") });
    let slow = Workflow { namespace: "slow".into(), ..of_pipeline("slow", &"a".repeat(512)) };
    for workflow in [slow, of_pipeline("usual", "team-penguin-training-19-daily")] {
        let change = crate::store::Change::Applied { workflow: workflow.into(), before: None };
        harness.ledger.handle_change(&change, harness.now);
    }
    let mut turns = 0;
    while harness.events(other).is_empty() {
        harness.perform_turn();
        harness.answer_in_turn(&model());
        turns += 1;
        assert!(turns < 10, "no event");
    }
}

/// The numbers of subscriptions in the reports that all of them exclude a run.
fn excluded_by_all(harness: &Harness) -> Vec<Option<usize>> {
    let reports = harness.reports.iter().filter_map(|report| match report {
        Report::Filtered { by_all, .. } => Some(*by_all),
        _ => None,
    });
    reports.collect()
}

/// Known only once the last of them has decided, and not while a stream is offered old runs: others may attach next.
#[test]
fn a_run_that_every_subscription_excludes_is_reported_as_such() {
    let notices: Arc<dyn NoticeSink> = Arc::new(KeptNotices::default());
    let mut harness = Harness::with(Options { notices: Some(notices), ..Options::default() });
    harness.apply(run("old"));
    let iris = |name| Subscription { pipelines: only("iris"), ..subscription(name) };
    for name in ["a", "b", "b"] {
        harness.attach(iris(name));
    }
    let gone = harness.attach(subscription("gone"));
    harness.end(gone);
    harness.attach(Subscription { remember: false, ..subscription("people") });
    assert_eq!(excluded_by_all(&harness), [None, None]);
    harness.reports.clear();
    harness.apply(run("new"));
    assert_eq!(excluded_by_all(&harness), [None, Some(2)]);

    harness.reports.clear();
    harness.attach(subscription("c"));
    harness.apply(run("newer"));
    assert_eq!(excluded_by_all(&harness), [None, None], "one of them does not exclude it");
}
