//! The events that a subscription receives, and how often.

use std::{sync::Arc, time::Duration};

use super::harness::*;
use crate::{
    delivery::{Options, ledger::Report},
    model::{
        ArtifactTypes, Phase, PipelineFilter, PipelineName, RunModels, Subscription, Workflow,
        event::{IncludeField, SkipReason},
    },
};

fn is_skipped(report: &Report, expected: SkipReason) -> bool {
    matches!(report, Report::Skipped { reason, .. } if *reason == expected)
}

#[test]
fn a_catch_up_delivers_the_oldest_runs_first() {
    let mut harness = Harness::with_lookups(1, 1);
    for (name, age) in [("young", 10), ("oldest", 30), ("middle", 20)] {
        harness.apply(Workflow { created: BEGIN - age, ..run(name) });
    }
    let stream = harness.attach(subscription("a"));
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["oldest", "middle", "young"]);
}

#[test]
fn a_succeeded_run_is_handed_off_with_the_documented_payload() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(Workflow { phase: Phase::Active, ..run("one") });
    assert!(harness.lookups.is_empty());
    harness.apply(run("one"));
    harness.answer_all(&model());
    assert_eq!(
        harness.handoffs[0].payload,
        r#"{"pipelineName":"penguin","servingModelArtifacts":[{"name":"model","location":"gs://models/1"}]}"#
    );
    assert_eq!(harness.events(stream), ["one"]);
}

/// A change of the Workflow before or after the acknowledgement, or after the confirmation.
#[test]
fn a_later_change_of_the_workflow_does_not_repeat_its_event() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.change("one", |workflow| workflow.events_published = true);
    harness.acknowledge(stream);
    harness.change("one", |workflow| workflow.events_published = false);
    harness.confirm(stream);
    harness.change("one", |workflow| workflow.events_published = true);
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn a_confirmed_event_is_not_repeated_while_patches_fail() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(stream);
    harness.end(stream);
    for _ in 0..5 {
        let patch = harness.patch();
        harness.answer_patch(patch, transient());
        let next = harness.attach(subscription("a"));
        harness.wait(Duration::from_secs(60));
        assert!(harness.lookups.is_empty() && harness.events(next).is_empty());
        harness.end(next);
    }
}

/// The API server has answered the patch, but the watch has not shown the mark yet.
#[test]
fn a_confirmed_event_is_not_repeated_before_its_mark_is_seen() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(stream);
    let patch = harness.patch();
    harness.answer_patch(patch, Ok(()));
    harness.end(stream);
    harness.attach(subscription("a"));
    harness.change("one", |workflow| workflow.events_published = true);
    assert!(harness.lookups.is_empty());
}

#[test]
fn an_unacknowledged_event_is_redelivered() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.end(stream);
    assert!(harness.patches.is_empty());
    let next = harness.attach(subscription("a"));
    harness.answer_all(&model());
    assert!(harness.handoffs.iter().any(|event| event.stream == next && event.redelivery));
    assert_eq!(harness.events(next), ["one"]);
}

/// The stream ends less than `confirm_after` after the acknowledgement.
#[test]
fn an_acknowledged_but_unconfirmed_event_is_redelivered() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.acknowledge(stream);
    harness.wait(Duration::from_millis(999));
    harness.end(stream);
    harness.wait(Duration::from_secs(5));
    assert!(harness.patches.is_empty());
    let next = harness.attach(subscription("a"));
    harness.answer_all(&model());
    assert_eq!(harness.events(next), ["one"]);
}

#[test]
fn time_alone_confirms_nothing() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.wait(Duration::from_secs(86_400));
    assert!(harness.patches.is_empty());
}

#[test]
fn an_acknowledgement_covers_all_events_up_to_it_and_no_other() {
    let mut harness = Harness::with_lookups(1, 1);
    let stream = harness.attach(subscription("a"));
    ["one", "two", "three"].into_iter().for_each(|name| harness.apply(run(name)));
    harness.answer_all(&model());
    let second = harness.handoffs[1].sequence;
    harness.ledger.handle_ack(stream, second, harness.now);
    harness.wait(Duration::from_secs(1));
    let mut marked: Vec<_> = harness.patches.iter().map(|patch| patch.name.to_string()).collect();
    let mut expected: Vec<_> = harness.events(stream).into_iter().take(2).collect();
    marked.sort();
    expected.sort();
    assert_eq!(marked, expected);
}

#[test]
fn a_run_with_the_subscriptions_mark_counts_as_delivered() {
    let mut harness = Harness::new();
    harness.apply(Workflow { marks: [mark("a")].into(), ..run("one") });
    harness.attach(subscription("a"));
    assert!(harness.lookups.is_empty());
    harness.attach(subscription("b"));
    assert_eq!(harness.looked_up(), ["one"]);
}

#[test]
fn a_run_delivered_by_another_replica_is_not_handed_off() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.change("one", |workflow| workflow.marks = [mark("a")].into());
    harness.answer_all(&model());
    assert!(harness.events(stream).is_empty());
}

/// A user removes a mark that was seen.
#[test]
fn a_removed_mark_requests_a_redelivery() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(stream);
    harness.write_marks();
    harness.change("one", |workflow| workflow.marks = [].into());
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one", "one"]);
    harness.confirm(stream);
    assert_eq!(marks_set(&harness.patch()), ["a"]);
}

#[test]
fn a_removed_mark_concerns_only_its_own_subscription() {
    let mut harness = Harness::new();
    let streams = [harness.attach(subscription("a")), harness.attach(subscription("b"))];
    harness.apply(run("one"));
    harness.answer_all(&model());
    streams.into_iter().for_each(|stream| harness.confirm(stream));
    harness.write_marks();
    harness.change("one", |workflow| workflow.marks = [mark("b")].into());
    harness.answer_all(&model());
    assert_eq!(streams.map(|stream| harness.events(stream).len()), [2, 1]);
}

#[test]
fn a_restarted_run_is_delivered_again_at_its_next_success() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(stream);
    harness.write_marks();
    harness.change("one", |workflow| {
        workflow.phase = Phase::Active;
        workflow.marks = workflow.marks.at_version("5");
    });
    harness.write_marks();
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one", "one"]);
}

#[test]
fn a_run_restarted_before_its_mark_is_delivered_again() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.confirm(stream);
    let patch = harness.patch();
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.answer_patch(patch, transient());
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one", "one"]);
}

/// The event is in flight when its run is restarted.
#[test]
fn an_event_sent_before_a_restart_confirms_nothing_after_it() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.confirm(stream);
    assert!(harness.patches.is_empty());
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one", "one"]);
}

#[test]
fn a_run_without_a_model_is_looked_up_once_per_success() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer("one", no_model());
    assert_eq!(harness.reported(|report| is_skipped(report, SkipReason::NoModel)), 1);
    harness.change("one", |workflow| workflow.events_published = true);
    harness.end(stream);
    harness.attach(subscription("a"));
    harness.attach(subscription("b"));
    assert!(harness.lookups.is_empty());
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    assert_eq!(harness.forgotten, [uid("one")]);
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    assert_eq!(harness.looked_up(), ["one"]);
}

#[test]
fn a_run_may_have_no_model_of_one_type_and_one_of_another() {
    let mut harness = Harness::new();
    harness.apply(run("one"));
    harness.attach(subscription("a"));
    harness.answer("one", no_model());
    let other = Arc::new(ArtifactTypes::named(["acme.Model"]));
    let stream = harness.attach(Subscription { artifact_types: other.clone(), ..subscription("b") });
    assert_eq!(harness.lookups[0].types, other);
    harness.answer("one", model());
    assert_eq!(harness.events(stream), ["one"]);
}

/// The name may come from the Workflow or from ML Metadata.
#[test]
fn runs_of_filtered_pipelines_are_not_sent() {
    let mut harness = Harness::new();
    let only_penguins = PipelineFilter::matching(["penguin*"]).unwrap();
    let stream = harness.attach(Subscription { pipelines: only_penguins, ..subscription("a") });
    harness.apply(Workflow { pipeline: PipelineName::Spec("iris".into()).into(), ..run("iris") });
    assert!(harness.lookups.is_empty());
    harness.apply(Workflow { pipeline: PipelineName::Unknown.into(), ..run("unknown") });
    let models = RunModels { pipeline: Some("iris".into()), ..RunModels::clone(&model().unwrap()) };
    harness.answer("unknown", Ok(models.into()));
    harness.change("unknown", |workflow| workflow.events_published = true);
    assert!(harness.lookups.is_empty());
    harness.apply(run("penguins"));
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["penguins"]);
}

#[test]
fn streams_of_one_subscription_follow_their_own_configurations() {
    let mut harness = Harness::new();
    let only_iris = PipelineFilter::matching(["iris"]).unwrap();
    let types = Arc::new(ArtifactTypes::named(["acme.Model"]));
    let plain = harness.attach(subscription("a"));
    let filtered = harness.attach(Subscription { pipelines: only_iris, ..subscription("a") });
    let typed = harness.attach(Subscription { artifact_types: types.clone(), ..subscription("a") });
    let include = [IncludeField::Namespace].into_iter().collect();
    let including = harness.attach(Subscription { include, ..subscription("a") });
    harness.apply(run("one"));
    assert_eq!(harness.looked_up(), ["one", "one"]);
    while let Some(lookup) = harness.lookups.pop() {
        let answer = if lookup.types == types { no_model() } else { model() };
        harness.ledger.handle_answer(lookup.id, answer, harness.now);
        harness.perform_actions();
    }
    assert!(harness.handoffs.iter().any(|event| event.stream == including && event.payload.contains("\"team\"")));
    assert!(harness.handoffs.iter().any(|event| event.stream == plain && !event.payload.contains("\"team\"")));
    assert_eq!([filtered, typed].map(|stream| harness.events(stream).len()), [0, 0]);
}

#[test]
fn a_run_older_than_max_age_is_not_sent() {
    let mut harness = Harness::new();
    harness.apply(Workflow { created: BEGIN - 61, ..run("old") });
    harness.apply(Workflow { created: BEGIN - 60, ..run("young") });
    let max_age = Some(Duration::from_secs(60));
    let stream = harness.attach(Subscription { max_age, ..subscription("a") });
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["young"]);
}

#[test]
fn the_age_of_a_run_follows_the_wall_clock_at_the_hand_off() {
    let mut harness = Harness::new();
    let max_age = Some(Duration::from_secs(60));
    let stream = harness.attach(Subscription { max_age, ..subscription("a") });
    harness.apply(run("one"));
    harness.now.unix += 3600;
    harness.answer_all(&model());
    assert!(harness.events(stream).is_empty());
    for unix in [i64::MIN, BEGIN - 86_400, BEGIN + 60] {
        harness.now.unix = unix;
        harness.apply(run(&format!("at {unix}")));
        harness.answer_all(&model());
        assert_eq!(harness.events(stream).len(), 1, "at {unix}");
    }
    harness.now.unix = i64::MAX;
    harness.apply(run("at the end of time"));
    assert!(harness.lookups.is_empty());
}

#[test]
fn labelled_runs_count_as_delivered_only_with_skip_labelled() {
    let mut plain = Harness::new();
    let mut skipping = Harness::with(Options { skip_labelled: true, ..Options::default() });
    for harness in [&mut plain, &mut skipping] {
        harness.apply(Workflow { events_published: true, ..run("labelled") });
        harness.attach(subscription("a"));
    }
    assert_eq!((plain.lookups.len(), skipping.lookups.len()), (1, 0));
}

/// With `skip_labelled`. A label set after the hand-off has no effect on it.
#[test]
fn a_label_set_before_the_hand_off_withdraws_the_run() {
    let mut harness = Harness::with(Options { skip_labelled: true, ..Options::default() });
    let stream = harness.attach(subscription("a"));
    harness.apply(run("before"));
    harness.change("before", |workflow| workflow.events_published = true);
    harness.answer_all(&model());
    assert!(harness.events(stream).is_empty());
    harness.apply(run("after"));
    harness.answer_all(&model());
    harness.change("after", |workflow| workflow.events_published = true);
    assert_eq!(harness.events(stream), ["after"]);
    harness.end(stream);
    harness.attach(subscription("a"));
    harness.delete("after");
    harness.attach(subscription("a"));
    assert!(harness.lookups.is_empty());
}

#[test]
fn a_run_confirmed_despite_its_label_is_not_repeated_without_it() {
    let mut harness = Harness::with(Options { skip_labelled: true, ..Options::default() });
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.change("one", |workflow| workflow.events_published = true);
    harness.confirm(stream);
    harness.change("one", |workflow| workflow.events_published = false);
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
    assert_eq!(marks_set(&harness.patch()), ["a"]);
}

#[test]
fn an_event_too_large_for_the_bus_is_skipped_and_reported_once() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer("one", model_at("x".repeat(600 * 1024).into()));
    harness.change("one", |workflow| workflow.events_published = true);
    harness.wait(Duration::from_secs(3600));
    assert_eq!(harness.reported(|report| is_skipped(report, SkipReason::TooLarge)), 1);
    assert!(harness.lookups.is_empty() && harness.events(stream).is_empty());
}

#[test]
fn a_run_without_a_pipeline_name_is_skipped_and_reported_once() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(Workflow { pipeline: PipelineName::Unknown.into(), ..run("one") });
    harness.answer("one", model());
    harness.change("one", |workflow| workflow.events_published = true);
    assert_eq!(harness.reported(|report| is_skipped(report, SkipReason::NoPipelineName)), 1);
    assert!(harness.lookups.is_empty() && harness.events(stream).is_empty());
}
