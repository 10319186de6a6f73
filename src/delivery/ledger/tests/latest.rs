//! `latestOnly`: of the runs of one pipeline only the newest with a model is sent.

use std::time::Duration;

use super::harness::*;
use crate::{
    delivery::{LookupError, StreamId, ledger::Report},
    model::{Phase, PipelineFilter, PipelineName, RunModels, SkipReason, Statuses, Subscription, Workflow},
};

fn latest(name: &str) -> Subscription {
    Subscription { latest_only: true, ..subscription(name) }
}

/// A run of the pipeline `penguin` that ended after this number of seconds.
fn ended(name: &str, seconds: i64) -> Workflow {
    Workflow { finished: BEGIN + seconds, ..run(name) }
}

/// The same, but only ML Metadata has the name of its pipeline.
fn unnamed(name: &str, seconds: i64) -> Workflow {
    Workflow { pipeline: PipelineName::Generated("generated".into()).into(), ..ended(name, seconds) }
}

fn named(pipeline: &str) -> Answer {
    Ok(RunModels { pipeline: Some(pipeline.into()), ..RunModels::clone(&model().unwrap()) }.into())
}

fn attach(harness: &mut Harness) -> StreamId {
    harness.attach(latest("a"))
}

/// The runs that were reported as superseded.
fn superseded(harness: &Harness) -> Vec<String> {
    let reports = harness.reports.iter().filter_map(|report| match report {
        Report::Skipped { workflow, reason: SkipReason::Superseded, .. } => Some(workflow.name.to_string()),
        _ => None,
    });
    let mut names: Vec<_> = reports.collect();
    names.sort();
    names
}

/// The runs that are marked for the subscription `a`.
fn marked(harness: &Harness) -> Vec<&str> {
    let marked = harness.store.values().filter(|record| record.is_marked_for(&name("a")));
    marked.map(|record| &*record.name).collect()
}

#[test]
fn after_a_pause_only_the_newest_run_of_each_pipeline_is_sent() {
    let mut harness = Harness::new();
    for n in 0..20 {
        harness.apply(ended(&format!("penguin-{n:02}"), n));
        let pipeline = PipelineName::Spec("iris".into()).into();
        harness.apply(Workflow { pipeline, ..ended(&format!("iris-{n:02}"), n) });
    }
    let stream = attach(&mut harness);
    harness.answer_all(&model());
    let mut events = harness.events(stream);
    events.sort();
    assert_eq!(events, ["iris-19", "penguin-19"]);
    assert!(superseded(&harness).is_empty() && harness.patches.is_empty(), "nothing was delivered yet");
    harness.confirm(stream);
    harness.write_marks();
    assert_eq!((superseded(&harness).len(), marked(&harness).len()), (38, 40));
    harness.end(stream);
    attach(&mut harness);
    assert!(harness.lookups.is_empty());
    assert_eq!(harness.ledger.stats().pending_runs(), 0);
}

#[test]
fn the_newest_run_is_the_one_that_ended_last() {
    let mut harness = Harness::new();
    harness.apply(Workflow { created: BEGIN - 10, ..ended("long", 5) });
    harness.apply(Workflow { created: BEGIN, ..ended("short", 4) });
    harness.apply(Workflow { created: BEGIN - 11, ..ended("longer", 5) });
    let stream = attach(&mut harness);
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["long"]);
}

/// Times have a resolution of a second.
#[test]
fn runs_that_end_in_the_same_second_are_all_sent() {
    let mut harness = Harness::new();
    let stream = attach(&mut harness);
    for name in ["d", "c", "b", "a"] {
        harness.apply(ended(name, 5));
        harness.answer_all(&model());
    }
    harness.confirm(stream);
    let mut events = harness.events(stream);
    events.sort();
    assert_eq!(events, ["a", "b", "c", "d"]);
    harness.apply(ended("older", 4));
    harness.answer_all(&model());
    assert_eq!(superseded(&harness), ["older"]);
}

#[test]
fn each_newer_run_is_sent() {
    let mut harness = Harness::new();
    let stream = attach(&mut harness);
    for n in 0..5 {
        harness.apply(ended(&n.to_string(), n));
        harness.answer_all(&model());
    }
    assert_eq!(harness.events(stream).len(), 5);
    harness.confirm(stream);
    assert!(superseded(&harness).is_empty(), "all were delivered");
    assert_eq!(harness.patches.len(), 5);
}

#[test]
fn an_older_run_never_follows_a_newer_one() {
    let mut harness = Harness::new();
    let stream = attach(&mut harness);
    harness.apply(ended("new", 2));
    harness.answer_all(&model());
    harness.apply(ended("old", 1));
    assert!(harness.lookups.is_empty(), "there is nothing to find");
    assert_eq!(harness.events(stream), ["new"]);
    harness.confirm(stream);
    assert_eq!(superseded(&harness), ["old"]);
    harness.write_marks();
    assert_eq!(marked(&harness), ["new", "old"]);
    harness.change("old", |workflow| workflow.marks = [].into());
    harness.answer_all(&model());
    harness.write_marks();
    assert!(harness.events(stream).is_empty(), "not even at the request of a user");
    assert_eq!(marked(&harness), ["new", "old"]);
}

#[test]
fn a_newer_run_without_a_model_supersedes_nothing() {
    let mut harness = Harness::new();
    harness.apply(ended("old", 1));
    harness.apply(ended("without", 2));
    let stream = attach(&mut harness);
    harness.answer("without", no_model());
    harness.answer("old", model());
    assert_eq!(harness.events(stream), ["old"]);
    harness.confirm(stream);
    harness.write_marks();
    assert_eq!(marked(&harness), ["old"]);
}

/// Also while it is retried, whatever pipeline it may be of.
#[test]
fn a_run_waits_for_the_open_lookup_of_a_newer_one() {
    for newer in [ended("new", 2), unnamed("new", 2)] {
        let mut harness = Harness::new();
        harness.apply(ended("old", 1));
        harness.apply(newer);
        let stream = attach(&mut harness);
        harness.answer("old", model());
        assert!(harness.events(stream).is_empty());
        harness.answer("new", unavailable());
        harness.wait(Duration::from_secs(1));
        harness.answer("new", named("penguin"));
        assert_eq!(harness.events(stream), ["new"]);
    }
}

#[test]
fn a_run_of_another_pipeline_is_not_waited_for() {
    let mut harness = Harness::new();
    harness.apply(ended("old", 1));
    harness.apply(Workflow { pipeline: PipelineName::Spec("iris".into()).into(), ..ended("iris", 2) });
    let stream = attach(&mut harness);
    harness.answer("old", model());
    assert_eq!(harness.events(stream), ["old"]);
}

/// Two minutes, in which the context of a newer run would have appeared.
#[test]
fn a_run_does_not_wait_for_ever() {
    for error in [Err(LookupError::NoContext), unavailable()] {
        let mut harness = Harness::new();
        harness.apply(ended("old", 1));
        harness.apply(ended("new", 2));
        let stream = attach(&mut harness);
        harness.answer("old", model());
        let mut waited = 0;
        while harness.events(stream).is_empty() {
            harness.answer_all(&error);
            harness.wait(Duration::from_secs(1));
            waited += 1;
        }
        assert!((119..=121).contains(&waited), "{waited} s");
        harness.confirm(stream);
        harness.wait(Duration::from_secs(3600));
        harness.answer_all(&model());
        assert_eq!(harness.events(stream), ["new"], "it is sent once it is found");
    }
}

#[test]
fn a_run_whose_lookups_are_rare_is_not_waited_for() {
    let mut harness = Harness::new();
    harness.apply(ended("old", 1));
    harness.apply(ended("foreign", 2));
    let stream = attach(&mut harness);
    harness.answer("foreign", Err(LookupError::ForeignContext { namespace: "other".into() }));
    harness.answer("old", model());
    assert_eq!(harness.events(stream), ["old"]);
}

/// The newer one was confirmed and marked, this one was not.
#[test]
fn marks_of_newer_runs_count_after_a_restart() {
    for newer in [ended("new", 2), unnamed("new", 2)] {
        let mut harness = Harness::new();
        harness.apply(Workflow { marks: [mark("a")].into(), ..newer });
        harness.apply(unnamed("old", 1));
        harness.apply(Workflow { marks: [mark("a")].into(), ..unnamed("other", 3) });
        let stream = attach(&mut harness);
        harness.answer("old", named("penguin"));
        assert!(harness.events(stream).is_empty());
        while let Some(lookup) = harness.lookups.first() {
            let (run, pipeline) = (lookup.run.clone(), if lookup.run == "other" { "iris" } else { "penguin" });
            harness.answer(&run, named(pipeline));
        }
        assert!(harness.events(stream).is_empty(), "only names were looked up");
        assert_eq!(superseded(&harness), ["old"]);
        harness.write_marks();
        assert_eq!(marked(&harness), ["new", "old", "other"]);
    }
}

#[test]
fn runs_of_other_pipelines_with_marks_supersede_nothing() {
    let mut harness = Harness::new();
    for n in 2..6 {
        harness.apply(Workflow { marks: [mark("a")].into(), ..unnamed(&format!("other-{n}"), n) });
    }
    harness.apply(ended("old", 1));
    let stream = attach(&mut harness);
    assert_eq!(harness.looked_up(), ["old"], "names are looked up only if a run waits for them");
    harness.answer("old", model());
    assert_eq!(harness.lookups.len(), 4);
    harness.answer_all(&named("iris"));
    assert_eq!(harness.events(stream), ["old"]);
    harness.confirm(stream);
    harness.apply(ended("older", 0));
    harness.answer_all(&model());
    assert!(harness.events(stream).is_empty() && harness.looked_up().is_empty());
}

/// The lookup of its name may fail for good.
#[test]
fn a_delivered_run_without_a_name_is_waited_for_two_minutes() {
    let mut harness = Harness::new();
    harness.apply(Workflow { marks: [mark("a")].into(), ..unnamed("new", 2) });
    harness.apply(ended("old", 1));
    let stream = attach(&mut harness);
    harness.answer("old", model());
    let mut waited = 0;
    while harness.events(stream).is_empty() {
        harness.answer_all(&unavailable());
        harness.wait(Duration::from_secs(1));
        waited += 1;
    }
    assert!((119..=121).contains(&waited), "{waited} s");
    assert_eq!(harness.ledger.stats().pending_runs(), 1, "it is not pending itself");
}

#[test]
fn a_delivery_by_another_replica_supersedes_older_runs() {
    for newer in [ended("new", 2), unnamed("new", 2)] {
        let mut harness = Harness::new();
        harness.apply(ended("old", 1));
        harness.apply(newer);
        let stream = attach(&mut harness);
        harness.change("new", |workflow| workflow.marks = [mark("a")].into());
        harness.answer_all(&named("penguin"));
        assert!(harness.events(stream).is_empty());
        assert_eq!(superseded(&harness), ["old"]);
    }
}

#[test]
fn streams_of_a_subscription_share_what_was_sent() {
    let mut harness = Harness::new();
    let first = attach(&mut harness);
    harness.apply(ended("new", 2));
    harness.answer_all(&model());
    let second = attach(&mut harness);
    harness.apply(ended("old", 1));
    harness.answer_all(&model());
    assert_eq!((harness.events(first), harness.events(second)), (vec!["new".into()], vec!["new".into()]));
    harness.confirm(second);
    assert_eq!(superseded(&harness), ["old"]);
    harness.confirm(first);
    assert_eq!(harness.ledger.stats().pending_runs(), 0);
}

/// The newer one was handed off, but not confirmed.
#[test]
fn a_broken_stream_repeats_the_newest_run_and_no_older_one() {
    let mut harness = Harness::new();
    harness.apply(ended("old", 1));
    harness.apply(ended("new", 2));
    let mut stream = attach(&mut harness);
    harness.answer_all(&model());
    for _ in 0..3 {
        assert_eq!(harness.events(stream), ["new"]);
        harness.end(stream);
        assert!(superseded(&harness).is_empty());
        stream = attach(&mut harness);
        harness.answer_all(&model());
    }
    harness.wait(Duration::from_secs(60));
    assert_eq!(harness.events(stream), ["new"], "in quarantine, alone");
    harness.confirm(stream);
    assert_eq!(superseded(&harness), ["old"]);
}

#[test]
fn a_restart_of_the_newest_run_brings_back_no_older_one() {
    let mut harness = Harness::new();
    harness.apply(ended("old", 1));
    harness.apply(ended("new", 2));
    let stream = attach(&mut harness);
    harness.answer("old", model());
    harness.answer("new", model());
    assert_eq!(harness.events(stream), ["new"]);
    harness.change("new", |workflow| workflow.phase = Phase::Active);
    assert!(harness.events(stream).is_empty());
    assert_eq!(superseded(&harness), ["old"]);
    harness.apply(ended("new", 3));
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["new"]);
}

#[test]
fn a_restart_before_the_hand_off_gives_way_to_the_older_run() {
    let mut harness = Harness::new();
    harness.apply(ended("old", 1));
    harness.apply(ended("new", 2));
    let stream = attach(&mut harness);
    harness.answer("old", model());
    harness.change("new", |workflow| workflow.phase = Phase::Active);
    assert_eq!(harness.events(stream), ["old"]);
}

#[test]
fn a_filter_excludes_a_run_before_it_supersedes_others() {
    let mut harness = Harness::new();
    harness.apply(ended("old", 1));
    harness.apply(unnamed("iris", 2));
    let pipelines = PipelineFilter::matching(["penguin"]).unwrap();
    let stream = harness.attach(Subscription { pipelines, ..latest("a") });
    harness.answer("old", model());
    harness.answer("iris", named("iris"));
    assert_eq!(harness.events(stream), ["old"]);
}

#[test]
fn a_deleted_run_is_superseded_without_a_mark() {
    let mut harness = Harness::new();
    harness.apply(ended("old", 1));
    harness.apply(ended("new", 2));
    let stream = attach(&mut harness);
    harness.delete("old");
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["new"]);
    harness.confirm(stream);
    assert_eq!(superseded(&harness), ["old"]);
    assert_eq!(harness.patches.len(), 1);
    harness.wait(Duration::from_secs(2 * 3600));
    assert_eq!(harness.reported(|report| matches!(report, Report::Expired { .. })), 0);
}

/// A failed one supersedes only failed ones.
#[test]
fn failed_runs_have_no_model_that_supersedes_others() {
    let mut harness = Harness::new();
    for (name, phase, seconds) in
        [("failed-1", Phase::Failed, 1), ("failed-2", Phase::Failed, 2), ("model-3", Phase::Succeeded, 3)]
    {
        harness.apply(Workflow { phase, ..ended(name, seconds) });
    }
    for (name, seconds) in [("failed-4", 4), ("failed-5", 5)] {
        harness.apply(Workflow { phase: Phase::Failed, ..ended(name, seconds) });
    }
    let statuses = Statuses { succeeded: true, failed: true };
    let stream = harness.attach(Subscription { statuses, ..latest("a") });
    harness.answer_all(&model());
    let mut events = harness.events(stream);
    events.sort();
    assert_eq!(events, ["failed-5", "model-3"]);
    harness.confirm(stream);
    assert_eq!(superseded(&harness), ["failed-1", "failed-2", "failed-4"]);
    assert_eq!(harness.ledger.stats().pending_runs(), 0);
}

#[test]
fn thousands_of_superseded_runs_are_marked_over_several_turns() {
    let mut harness = Harness::new();
    for n in 0..3_000 {
        harness.apply(ended(&format!("{n:04}"), n));
    }
    let stream = attach(&mut harness);
    let lookups = harness.lookups.len();
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["2999"]);
    harness.confirm(stream);
    while !harness.patches.is_empty() {
        harness.write_marks();
    }
    assert!(lookups < 10, "the older ones are not looked up");
    assert_eq!((marked(&harness).len(), superseded(&harness).len()), (3_000, 2_999));
    harness.end(stream);
    harness.wait(Duration::from_secs(2 * 3600));
    harness.assert_empty();
}

#[test]
fn a_stream_that_remembers_nothing_has_its_own_order() {
    let mut harness = Harness::new();
    let guest = harness.attach(Subscription { remember: false, ..latest("a") });
    let stream = attach(&mut harness);
    harness.apply(ended("new", 2));
    harness.apply(ended("old", 1));
    harness.answer_all(&model());
    assert_eq!((harness.events(guest), harness.events(stream)), (vec!["new".into()], vec!["new".into()]));
    harness.confirm(guest);
    assert!(harness.patches.is_empty());
    harness.confirm(stream);
    harness.write_marks();
    assert_eq!(marked(&harness), ["new", "old"]);
    assert_eq!(harness.ledger.stats().pending_runs(), 0);
}
