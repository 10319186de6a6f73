//! Which events a subscription gets, and how often.

use std::{sync::Arc, time::Duration};

use super::bench::*;
use crate::{
    delivery::{Options, ledger::Report},
    model::{
        ArtifactTypes, Mark, Phase, PipelineFilter, PipelineName, RunModels, Subscription, Workflow,
        event::{IncludeField, SkipReason},
    },
};

fn is_unannounced(report: &Report, reason: SkipReason) -> bool {
    matches!(report, Report::Unannounced { why, .. } if *why == reason)
}

#[test]
fn a_catch_up_brings_the_oldest_runs_first() {
    let mut bench = Bench::with(Options { lookups: (1, 1), ..Options::default() });
    for (name, age) in [("young", 10), ("oldest", 30), ("middle", 20)] {
        bench.apply(Workflow { created: BEGIN - age, ..run(name) });
    }
    let stream = bench.attach(subscription("a"));
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["oldest", "middle", "young"]);
}

#[test]
fn a_run_that_succeeds_while_the_stream_is_attached_is_handed_off_in_the_documented_form() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(Workflow { phase: Phase::Other, ..run("one") });
    assert!(bench.asked.is_empty());
    bench.apply(run("one"));
    bench.answer_all(&model());
    assert_eq!(
        bench.handed[0].payload,
        r#"{"pipelineName":"penguin","servingModelArtifacts":[{"name":"model","location":"gs://models/1"}]}"#
    );
    assert_eq!(bench.events(stream), ["one"]);
}

#[test]
fn what_was_handed_off_does_not_go_out_again_for_a_second_change_of_the_workflow() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.change("one", |workflow| workflow.events_published = true);
    bench.acknowledge(stream);
    bench.change("one", |workflow| workflow.events_published = false);
    bench.confirm(stream);
    bench.change("one", |workflow| workflow.events_published = true);
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["one"]);
}

#[test]
fn what_was_confirmed_does_not_go_out_again_on_a_new_stream_while_the_patches_fail() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(stream);
    bench.end(stream);
    for _ in 0..5 {
        let patch = bench.patch();
        bench.patched(patch, transient());
        let next = bench.attach(subscription("a"));
        bench.wait(Duration::from_secs(60));
        assert!(bench.asked.is_empty() && bench.events(next).is_empty());
        bench.end(next);
    }
}

#[test]
fn between_the_answer_of_the_api_server_and_the_sight_of_the_mark_nothing_goes_out_again() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(stream);
    let patch = bench.patch();
    bench.patched(patch, Ok(()));
    bench.end(stream);
    bench.attach(subscription("a"));
    bench.change("one", |workflow| workflow.events_published = true);
    assert!(bench.asked.is_empty());
}

#[test]
fn a_run_is_given_back_when_its_stream_ends_before_the_acknowledgement() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.end(stream);
    assert!(bench.patches.is_empty());
    let next = bench.attach(subscription("a"));
    bench.answer_all(&model());
    assert!(bench.handed.iter().any(|event| event.stream == next && event.again));
    assert_eq!(bench.events(next), ["one"]);
}

#[test]
fn a_run_is_given_back_when_its_stream_ends_soon_after_the_acknowledgement() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.acknowledge(stream);
    bench.wait(Duration::from_millis(999));
    bench.end(stream);
    bench.wait(Duration::from_secs(5));
    assert!(bench.patches.is_empty());
    let next = bench.attach(subscription("a"));
    bench.answer_all(&model());
    assert_eq!(bench.events(next), ["one"]);
}

#[test]
fn time_alone_confirms_nothing() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.wait(Duration::from_secs(86_400));
    assert!(bench.patches.is_empty());
}

#[test]
fn an_acknowledgement_counts_for_everything_up_to_it_and_nothing_after_it() {
    let mut bench = Bench::with(Options { lookups: (1, 1), ..Options::default() });
    let stream = bench.attach(subscription("a"));
    ["one", "two", "three"].into_iter().for_each(|name| bench.apply(run(name)));
    bench.answer_all(&model());
    let second = bench.handed[1].sequence;
    bench.ledger.acknowledged(stream, second, bench.now);
    bench.wait(Duration::from_secs(1));
    let mut marked: Vec<_> = bench.patches.iter().map(|patch| patch.name.to_string()).collect();
    let mut expected: Vec<_> = bench.events(stream).into_iter().take(2).collect();
    marked.sort();
    expected.sort();
    assert_eq!(marked, expected);
}

#[test]
fn a_run_that_carries_the_subscriptions_mark_is_delivered() {
    let mut bench = Bench::new();
    bench.apply(Workflow { marks: [mark("a")].into(), ..run("one") });
    bench.attach(subscription("a"));
    assert!(bench.asked.is_empty());
    bench.attach(subscription("b"));
    assert_eq!(bench.questions(), ["one"]);
}

#[test]
fn a_mark_that_a_resubmitted_copy_inherited_does_not_count() {
    let mut bench = Bench::new();
    let inherited = Mark { current: false, ..mark("a") };
    bench.apply(Workflow { marks: [inherited].into(), ..run("copy") });
    let stream = bench.attach(subscription("a"));
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["copy"]);
    bench.confirm(stream);
    assert_eq!(marks_set(&bench.patch()), ["a"]);
}

#[test]
fn what_another_replica_has_delivered_is_not_handed_off() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.change("one", |workflow| workflow.marks = [mark("a")].into());
    bench.answer_all(&model());
    assert!(bench.events(stream).is_empty());
}

#[test]
fn a_mark_that_was_seen_and_then_removed_means_deliver_again() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(stream);
    bench.write_marks();
    bench.change("one", |workflow| workflow.marks = [].into());
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["one", "one"]);
    bench.confirm(stream);
    assert_eq!(marks_set(&bench.patch()), ["a"]);
}

#[test]
fn a_redelivery_concerns_its_own_subscription_only() {
    let mut bench = Bench::new();
    let streams = [bench.attach(subscription("a")), bench.attach(subscription("b"))];
    bench.apply(run("one"));
    bench.answer_all(&model());
    streams.into_iter().for_each(|stream| bench.confirm(stream));
    bench.write_marks();
    bench.change("one", |workflow| workflow.marks = [mark("b")].into());
    bench.answer_all(&model());
    assert_eq!(streams.map(|stream| bench.events(stream).len()), [2, 1]);
}

#[test]
fn a_restarted_run_is_delivered_again_at_its_next_success() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(stream);
    bench.write_marks();
    bench.change("one", |workflow| {
        workflow.phase = Phase::Other;
        workflow.resource_version = Some("5".into());
    });
    bench.write_marks();
    bench.change("one", |workflow| workflow.phase = Phase::Succeeded);
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["one", "one"]);
}

#[test]
fn a_run_that_restarts_before_its_mark_was_written_is_delivered_again_too() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(stream);
    let patch = bench.patch();
    bench.change("one", |workflow| workflow.phase = Phase::Other);
    bench.patched(patch, transient());
    bench.change("one", |workflow| workflow.phase = Phase::Succeeded);
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["one", "one"]);
}

#[test]
fn what_was_under_way_when_the_run_restarted_confirms_nothing_about_its_next_success() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.change("one", |workflow| workflow.phase = Phase::Other);
    bench.confirm(stream);
    assert!(bench.patches.is_empty());
    bench.change("one", |workflow| workflow.phase = Phase::Succeeded);
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["one", "one"]);
}

#[test]
fn a_run_without_a_model_is_asked_for_once_until_its_phase_leaves_succeeded() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer("one", no_model());
    assert_eq!(bench.reported(|report| is_unannounced(report, SkipReason::NoModel)), 1);
    bench.change("one", |workflow| workflow.events_published = true);
    bench.end(stream);
    bench.attach(subscription("a"));
    bench.attach(subscription("b"));
    assert!(bench.asked.is_empty());
    bench.change("one", |workflow| workflow.phase = Phase::Other);
    assert_eq!(bench.forgotten, [uid("one")]);
    bench.change("one", |workflow| workflow.phase = Phase::Succeeded);
    assert_eq!(bench.questions(), ["one"]);
}

#[test]
fn a_run_may_have_no_model_of_one_type_and_one_of_another() {
    let mut bench = Bench::new();
    bench.apply(run("one"));
    bench.attach(subscription("a"));
    bench.answer("one", no_model());
    let other = Arc::new(ArtifactTypes::named(["acme.Model"]));
    let stream = bench.attach(Subscription { artifact_types: other.clone(), ..subscription("b") });
    assert_eq!(bench.asked[0].types, other);
    bench.answer("one", model());
    assert_eq!(bench.events(stream), ["one"]);
}

#[test]
fn runs_of_other_pipelines_are_not_announced_whether_the_workflow_or_ml_metadata_names_them() {
    let mut bench = Bench::new();
    let only_penguins = PipelineFilter::matching(["penguin*"]).unwrap();
    let stream = bench.attach(Subscription { pipelines: only_penguins, ..subscription("a") });
    bench.apply(Workflow { pipeline: PipelineName::Spec("iris".into()), ..run("iris") });
    assert!(bench.asked.is_empty());
    bench.apply(Workflow { pipeline: PipelineName::Unknown, ..run("unknown") });
    let models = RunModels { pipeline: Some("iris".into()), ..RunModels::clone(&model().unwrap()) };
    bench.answer("unknown", Ok(models.into()));
    bench.change("unknown", |workflow| workflow.events_published = true);
    assert!(bench.asked.is_empty());
    bench.apply(run("penguins"));
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["penguins"]);
}

#[test]
fn two_streams_of_one_subscription_each_follow_their_own_configuration() {
    let mut bench = Bench::new();
    let only_iris = PipelineFilter::matching(["iris"]).unwrap();
    let types = Arc::new(ArtifactTypes::named(["acme.Model"]));
    let plain = bench.attach(subscription("a"));
    let filtered = bench.attach(Subscription { pipelines: only_iris, ..subscription("a") });
    let typed = bench.attach(Subscription { artifact_types: types.clone(), ..subscription("a") });
    let include = [IncludeField::Namespace].into_iter().collect();
    let including = bench.attach(Subscription { include, ..subscription("a") });
    bench.apply(run("one"));
    assert_eq!(bench.questions(), ["one", "one"]);
    while let Some(question) = bench.asked.pop() {
        let answer = if question.types == types { no_model() } else { model() };
        bench.ledger.answered(question.id, answer, bench.now);
        bench.settle();
    }
    assert!(bench.handed.iter().any(|event| event.stream == including && event.payload.contains("\"team\"")));
    assert!(bench.handed.iter().any(|event| event.stream == plain && !event.payload.contains("\"team\"")));
    assert_eq!([filtered, typed].map(|stream| bench.events(stream).len()), [0, 0]);
}

#[test]
fn a_run_that_is_too_old_is_not_announced() {
    let mut bench = Bench::new();
    bench.apply(Workflow { created: BEGIN - 61, ..run("old") });
    bench.apply(Workflow { created: BEGIN - 60, ..run("young") });
    let max_age = Some(Duration::from_secs(60));
    let stream = bench.attach(Subscription { max_age, ..subscription("a") });
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["young"]);
}

#[test]
fn the_age_of_a_run_is_judged_by_the_wall_clock_at_the_hand_off_however_that_jumps() {
    let mut bench = Bench::new();
    let max_age = Some(Duration::from_secs(60));
    let stream = bench.attach(Subscription { max_age, ..subscription("a") });
    bench.apply(run("one"));
    bench.now.unix += 3600;
    bench.answer_all(&model());
    assert!(bench.events(stream).is_empty());
    for unix in [i64::MIN, BEGIN - 86_400, BEGIN + 60] {
        bench.now.unix = unix;
        bench.apply(run(&format!("at {unix}")));
        bench.answer_all(&model());
        assert_eq!(bench.events(stream).len(), 1, "at {unix}");
    }
    bench.now.unix = i64::MAX;
    bench.apply(run("at the end of time"));
    assert!(bench.asked.is_empty());
}

#[test]
fn labelled_runs_count_as_delivered_only_where_that_was_asked_for() {
    let mut plain = Bench::new();
    let mut skipping = Bench::with(Options { skip_labelled: true, ..Options::default() });
    for bench in [&mut plain, &mut skipping] {
        bench.apply(Workflow { events_published: true, ..run("labelled") });
        bench.attach(subscription("a"));
    }
    assert_eq!((plain.asked.len(), skipping.asked.len()), (1, 0));
}

#[test]
fn a_label_that_comes_before_the_hand_off_takes_the_run_away_where_that_was_asked_for() {
    let mut bench = Bench::with(Options { skip_labelled: true, ..Options::default() });
    let stream = bench.attach(subscription("a"));
    bench.apply(run("before"));
    bench.change("before", |workflow| workflow.events_published = true);
    bench.answer_all(&model());
    assert!(bench.events(stream).is_empty());
    bench.apply(run("after"));
    bench.answer_all(&model());
    bench.change("after", |workflow| workflow.events_published = true);
    assert_eq!(bench.events(stream), ["after"]);
    bench.end(stream);
    bench.attach(subscription("a"));
    bench.delete("after");
    bench.attach(subscription("a"));
    assert!(bench.asked.is_empty());
}

#[test]
fn what_was_confirmed_in_spite_of_a_label_does_not_go_out_again_when_the_label_goes() {
    let mut bench = Bench::with(Options { skip_labelled: true, ..Options::default() });
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.change("one", |workflow| workflow.events_published = true);
    bench.confirm(stream);
    bench.change("one", |workflow| workflow.events_published = false);
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["one"]);
    assert_eq!(marks_set(&bench.patch()), ["a"]);
}

#[test]
fn an_event_that_the_bus_cannot_carry_is_reported_once_and_not_sent() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer("one", model_at("x".repeat(600 * 1024).into()));
    bench.change("one", |workflow| workflow.events_published = true);
    bench.wait(Duration::from_secs(3600));
    assert_eq!(bench.reported(|report| is_unannounced(report, SkipReason::TooLarge)), 1);
    assert!(bench.asked.is_empty() && bench.events(stream).is_empty());
}

#[test]
fn a_run_whose_pipeline_nobody_names_is_reported_once_and_not_sent() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(Workflow { pipeline: PipelineName::Unknown, ..run("one") });
    bench.answer("one", model());
    bench.change("one", |workflow| workflow.events_published = true);
    assert_eq!(bench.reported(|report| is_unannounced(report, SkipReason::NoPipelineName)), 1);
    assert!(bench.asked.is_empty() && bench.events(stream).is_empty());
}
