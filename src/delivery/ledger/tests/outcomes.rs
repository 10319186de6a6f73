//! The outcomes of runs: failures, restarts, and labels that vanish.

use super::harness::*;
use crate::{
    delivery::{MarkChange, StreamId, ledger::Report},
    model::{
        FilterReason, Mark, Phase, PipelineName, RunModels, RunOutcome, SkipReason, Statuses, Subscription, Workflow,
    },
};

/// A subscription that also receives failed runs.
fn with_failures(name: &str) -> Subscription {
    Subscription { statuses: Statuses { succeeded: true, failed: true }, ..subscription(name) }
}

fn failed(name: &str) -> Workflow {
    Workflow { phase: Phase::Failed, ..run(name) }
}

/// Ends a run in this way, and marks it for every stream that confirms it.
fn end_run(harness: &mut Harness, phase: Phase, streams: &[StreamId]) {
    harness.change("one", |workflow| {
        workflow.phase = phase;
        workflow.finished += 1;
    });
    harness.answer_all(&model());
    streams.iter().for_each(|stream| harness.confirm(*stream));
    harness.write_marks();
}

fn restart(harness: &mut Harness) {
    harness.change("one", |workflow| {
        workflow.phase = Phase::Active;
        workflow.marks = workflow.marks.at_version("7");
    });
    harness.write_marks();
}

#[test]
fn a_failed_run_is_sent_without_a_lookup_to_those_who_want_it() {
    let mut harness = Harness::new();
    let (plain, wanting) = (harness.attach(subscription("plain")), harness.attach(with_failures("failures")));
    harness.apply(failed("spec"));
    harness.apply(Workflow { pipeline: PipelineName::Generated("taxi".into()).into(), ..failed("generated") });
    assert!(harness.lookups.is_empty());
    let payloads: Vec<_> = harness.handoffs.iter().map(|event| event.payload.clone()).collect();
    let expected = |name| format!(r#"{{"pipelineName":"{name}","servingModelArtifacts":[],"status":"failed"}}"#);
    assert_eq!(payloads, [expected("penguin"), expected("taxi")]);
    assert_eq!([plain, wanting].map(|stream| harness.events(stream).len()), [0, 2]);
    harness.confirm(wanting);
    let marks: Vec<_> = harness.patches.iter().map(|patch| patch.change.clone()).collect();
    let mark = Mark { subscription: name("failures"), outcome: RunOutcome::Failed };
    assert_eq!(marks, vec![MarkChange::Set(vec![mark]); 2]);
}

#[test]
fn only_the_name_of_a_failed_runs_pipeline_is_looked_up() {
    let mut harness = Harness::new();
    let stream = harness.attach(with_failures("a"));
    harness.apply(Workflow { pipeline: PipelineName::Unknown.into(), ..failed("recurring") });
    harness.answer("recurring", Ok(RunModels { pipeline: Some("taxi".into()), ..RunModels::default() }.into()));
    assert!(harness.handoffs[0].payload.contains("\"pipelineName\":\"taxi\""), "{:?}", harness.handoffs);
    assert_eq!(harness.events(stream), ["recurring"]);
    harness.apply(Workflow { pipeline: PipelineName::Unknown.into(), ..failed("nameless") });
    harness.answer("nameless", no_model());
    let reasons =
        harness.reported(|report| matches!(report, Report::Skipped { reason: SkipReason::NoPipelineName, .. }));
    assert_eq!((harness.events(stream).len(), reasons), (0, 1));
}

/// Its name is not looked up, so it is that of the Workflow.
#[test]
fn a_failed_run_follows_the_filter_for_pipelines() {
    let mut harness = Harness::new();
    let pipelines = crate::model::PipelineFilter::matching(["taxi"]).unwrap();
    let stream = harness.attach(Subscription { pipelines, ..with_failures("a") });
    harness.apply(failed("penguin"));
    harness.apply(Workflow { pipeline: PipelineName::Generated("taxi".into()).into(), ..failed("taxi") });
    assert_eq!(harness.events(stream), ["taxi"]);
}

#[test]
fn a_failure_and_the_success_of_its_retry_are_sent_in_order() {
    let mut harness = Harness::new();
    harness.apply(Workflow { phase: Phase::Active, ..run("one") });
    let stream = harness.attach(with_failures("a"));
    end_run(&mut harness, Phase::Failed, &[stream]);
    assert_eq!(harness.store["one"].marks[0].outcome, RunOutcome::Failed);
    restart(&mut harness);
    assert!(harness.store["one"].marks.is_empty());
    end_run(&mut harness, Phase::Succeeded, &[stream]);
    let payloads: Vec<_> = harness.handoffs.iter().map(|event| event.payload.contains("failed")).collect();
    assert_eq!(payloads, [true, false]);
    assert_eq!(harness.store["one"].marks[0].outcome, RunOutcome::Succeeded);
    assert_eq!(harness.store["one"].marks.len(), 1);
}

/// The watch was interrupted in between.
#[test]
fn an_outcome_that_follows_another_directly_is_a_new_one() {
    let mut harness = Harness::new();
    harness.apply(Workflow { phase: Phase::Active, ..run("one") });
    let (plain, both) = (harness.attach(subscription("plain")), harness.attach(with_failures("both")));
    for (phase, expected) in [(Phase::Succeeded, [1, 1]), (Phase::Failed, [0, 1]), (Phase::Succeeded, [1, 1])] {
        harness.change("one", |workflow| workflow.phase = phase);
        harness.answer_all(&model());
        assert_eq!([plain, both].map(|stream| harness.events(stream).len()), expected, "{phase:?}");
        // Confirmed, but not marked before the next outcome.
        [plain, both].into_iter().for_each(|stream| harness.confirm(stream));
    }
}

#[test]
fn a_run_that_succeeded_is_not_sent_once_it_has_failed() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.change("one", |workflow| workflow.phase = Phase::Failed);
    harness.answer_all(&model());
    assert!(harness.events(stream).is_empty());
    assert_eq!(harness.ledger.stats().pending_runs(), 0);
}

/// Each outcome once.
#[test]
fn an_outcome_that_is_not_wanted_is_reported_as_filtered() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.attach(Subscription { statuses: Statuses { succeeded: false, failed: true }, ..subscription("failures") });
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.change("one", |workflow| workflow.phase = Phase::Failed);
    harness.change("one", |workflow| workflow.events_published = true);
    let filtered = harness.reports.iter().filter_map(|report| match report {
        Report::Filtered { subscription, reason, .. } => Some((subscription.name.to_string(), *reason)),
        _ => None,
    });
    let expected = ["failures", "a"].map(|name| (name.to_owned(), FilterReason::Statuses));
    assert_eq!(filtered.collect::<Vec<_>>(), expected);
}

/// Before the answer, before the acknowledgement, after the confirmation, and after the mark was seen.
#[test]
fn a_phase_that_vanishes_and_returns_is_nothing() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    let flicker = |harness: &mut Harness| {
        for phase in [Phase::Unknown, Phase::Succeeded] {
            harness.change("one", |workflow| workflow.phase = phase);
        }
    };
    harness.apply(run("one"));
    flicker(&mut harness);
    harness.answer_all(&model());
    flicker(&mut harness);
    harness.acknowledge(stream);
    flicker(&mut harness);
    harness.confirm(stream);
    flicker(&mut harness);
    harness.write_marks();
    flicker(&mut harness);
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
    assert!(harness.patches.is_empty() && harness.forgotten.is_empty());
    assert_eq!(harness.store["one"].marks.len(), 1);
}

#[test]
fn what_was_pending_stays_pending_while_the_phase_is_unknown() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.change("one", |workflow| workflow.phase = Phase::Unknown);
    assert_eq!(harness.ledger.stats().pending_runs(), 1);
    harness.delete("one");
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"], "also if the Workflow is deleted in this state");
}

/// Argo 4 recreates an archived Workflow with its old phase, but not as completed, when it retries it.
#[test]
fn a_run_without_a_known_phase_is_not_sent_before_its_end() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    for phase in [Phase::Unknown, Phase::Active, Phase::Unknown] {
        harness.apply(Workflow { phase, ..run("one") });
        assert!(harness.lookups.is_empty());
    }
    harness.apply(run("one"));
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
}

/// A removal that was decided before is still made.
#[test]
fn an_unknown_phase_removes_no_mark_and_keeps_none() {
    let mut harness = Harness::new();
    harness.apply(Workflow { marks: [mark("a")].into(), ..run("one") });
    harness.change("one", |workflow| workflow.phase = Phase::Unknown);
    assert!(harness.patches.is_empty());
    harness.change("one", |workflow| {
        workflow.phase = Phase::Active;
        workflow.marks = workflow.marks.at_version("7");
    });
    let patch = harness.patch();
    harness.answer_patch(patch, transient());
    harness.change("one", |workflow| workflow.phase = Phase::Unknown);
    harness.wait(std::time::Duration::from_secs(1));
    assert!(matches!(harness.patch().change, MarkChange::Remove { .. }));
}

#[test]
fn a_restart_of_a_delivered_run_forgets_its_remembered_answers() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(stream);
    harness.write_marks();
    assert!(harness.forgotten.is_empty());
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    assert_eq!(harness.forgotten, [uid("one")]);
}
