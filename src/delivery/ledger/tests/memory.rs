//! What is remembered for how long, and that nothing is left when it is over.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::bench::*;
use crate::{
    delivery::{
        LookupError,
        ledger::{Report, departed},
    },
    model::{ArtifactTypes, Phase, PipelineFilter, Subscription, Workflow},
};

const HOUR: Duration = Duration::from_secs(3600);

fn expired(bench: &Bench) -> usize {
    bench.reported(|report| matches!(report, Report::Expired { .. }))
}

#[test]
fn a_run_that_was_pending_for_an_attached_stream_outlives_its_workflow() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    ["unasked", "asked", "open"].into_iter().for_each(|name| bench.apply(run(name)));
    bench.answer("open", model());
    bench.answer("unasked", Err(LookupError::NoContext));
    ["unasked", "asked", "open"].into_iter().for_each(|name| bench.delete(name));
    bench.end(stream);
    bench.wait(Duration::from_secs(3500));
    let next = bench.attach(subscription("a"));
    bench.answer_all(&model());
    let mut events = bench.events(next);
    events.sort();
    assert_eq!(events, ["asked", "open", "unasked"]);
    bench.confirm(next);
    assert!(bench.patches.is_empty(), "there is nothing left to mark");
    bench.end(next);
    bench.attach(subscription("a"));
    assert!(bench.asked.is_empty(), "it was delivered");
    bench.wait(2 * HOUR);
    assert_eq!(expired(&bench), 0);
}

#[test]
fn a_run_that_was_open_when_its_stream_broke_outlives_its_workflow_too() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.end(stream);
    bench.delete("one");
    bench.wait(Duration::from_secs(5));
    let next = bench.attach(subscription("a"));
    bench.answer_all(&model());
    assert!(bench.events(next).contains(&"one".to_owned()));
}

#[test]
fn a_deleted_workflow_is_kept_for_those_who_wait_for_it_and_nobody_else() {
    let mut bench = Bench::new();
    let (done, waiting) = (bench.attach(subscription("done")), bench.attach(subscription("waiting")));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(done);
    bench.delete("one");
    for stream in [done, waiting] {
        bench.end(stream);
    }
    bench.handed.clear();
    let streams = ["done", "new", "waiting"].map(|name| bench.attach(subscription(name)));
    bench.answer_all(&model());
    assert_eq!(streams.map(|stream| bench.events(stream).len()), [0, 0, 1]);
}

#[test]
fn a_deleted_workflow_is_given_up_after_an_hour_and_that_is_reported() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.delete("one");
    bench.wait(HOUR);
    assert_eq!(expired(&bench), 1);
    assert_eq!(bench.ledger.census().pending, 0);
    bench.confirm(stream);
    assert!(bench.patches.is_empty());
}

#[test]
fn ten_thousand_deleted_workflows_are_kept_and_the_oldest_make_room() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    for n in 0..10_001 {
        let name = n.to_string();
        bench.apply(run(&name));
        bench.wait(Duration::from_millis(1));
        bench.delete(&name);
    }
    assert_eq!(bench.ledger.departed.len(), departed::KEPT_AT_MOST);
    let gone = bench.reports.iter().filter_map(|report| match report {
        Report::Expired { workflow } => Some(&*workflow.name),
        _ => None,
    });
    let gone: Vec<_> = gone.collect();
    assert_eq!(gone, ["0"]);
}

#[test]
fn a_deleted_run_that_turns_out_to_be_nothing_for_a_subscription_is_not_reported_as_given_up() {
    let mut bench = Bench::new();
    let only_iris = PipelineFilter::matching(["iris"]).unwrap();
    bench.attach(Subscription { pipelines: only_iris, ..subscription("filtered") });
    bench.attach(subscription("plain"));
    let generated = crate::model::PipelineName::Generated("penguin".into());
    bench.apply(Workflow { pipeline: generated, ..run("other pipeline") });
    bench.apply(run("no model"));
    bench.apply(run("too large"));
    ["other pipeline", "no model", "too large"].into_iter().for_each(|name| bench.delete(name));
    bench.answer("no model", no_model());
    bench.answer("too large", model_at("x".repeat(600 * 1024).into()));
    bench.answer("other pipeline", no_model());
    bench.wait(2 * HOUR);
    assert_eq!(expired(&bench), 0);
    assert_eq!(bench.ledger.census().pending, 0);
}

#[test]
fn a_namespace_is_followed_for_an_hour_after_its_last_stream_has_ended() {
    let mut bench = Bench::new();
    for _ in 0..1000 {
        let stream = bench.attach(subscription("a"));
        bench.wait(Duration::from_secs(5));
        bench.end(stream);
        bench.wait(Duration::from_secs(5));
    }
    assert!(bench.unfollowed.is_empty(), "a stream that comes back every few seconds keeps it");
    bench.wait(HOUR - Duration::from_secs(6));
    assert!(bench.unfollowed.is_empty());
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.unfollowed, ["team"]);
    assert_empty(&bench);
}

#[test]
fn a_namespace_is_followed_until_every_mark_was_seen() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.confirm(stream);
    bench.end(stream);
    let patch = bench.patch();
    bench.patched(patch, refused());
    bench.wait(3 * HOUR);
    assert!(bench.unfollowed.is_empty());
    bench.write_marks();
    bench.wait(2 * HOUR);
    assert_eq!(bench.unfollowed, ["team"]);
}

#[test]
fn nothing_is_left_of_streams_that_came_and_went() {
    let mut bench = Bench::new();
    for n in 0..200 {
        let types = Arc::new(ArtifactTypes::named([format!("type-{n}")]));
        let stream = bench.attach(Subscription { artifact_types: types, ..subscription(&format!("s{n}")) });
        for name in ["one", "two", "three"] {
            bench.apply(run(name));
        }
        bench.answer("one", no_model());
        bench.answer("two", Err(LookupError::NoContext));
        bench.answer("three", model());
        bench.acknowledge(stream);
        bench.end(stream);
    }
    for name in ["one", "two", "three"] {
        bench.change(name, |workflow| workflow.phase = Phase::Other);
        bench.delete(name);
    }
    bench.wait(2 * HOUR);
    assert_empty(&bench);
}

#[test]
fn one_timer_runs_for_each_reason_however_often_streams_come_and_go() {
    let mut bench = Bench::new();
    let foreign = || Err(LookupError::ForeignContext { namespace: "other".into() });
    bench.apply(run("foreign"));
    bench.apply(run("open"));
    let mut answered = false;
    for _ in 0..500 {
        let streams = ["a", "a", "b"].map(|name| bench.attach(subscription(name)));
        if !std::mem::replace(&mut answered, true) {
            bench.answer("foreign", foreign());
        }
        bench.answer_all(&model());
        streams.into_iter().for_each(|stream| bench.acknowledge(stream));
        streams.into_iter().for_each(|stream| bench.end(stream));
    }
    let timers: Vec<_> = bench.ledger.timers.running().collect();
    assert_eq!(timers.len(), 2, "the idle namespace and the failed lookup: {timers:?}");
}

#[test]
fn a_failed_lookup_that_nobody_waits_for_goes_with_its_workflow() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer("one", Err(LookupError::NoContext));
    bench.end(stream);
    assert!(!bench.ledger.lookups.is_empty());
    bench.delete("one");
    assert!(bench.ledger.lookups.is_empty());
}

#[test]
fn what_is_answered_about_a_run_after_its_time_is_not_remembered() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("asked before"));
    bench.delete("asked before");
    bench.apply(run("asked after"));
    bench.answer("asked after", Err(LookupError::NoContext));
    bench.delete("asked after");
    bench.wait(HOUR);
    assert_eq!(expired(&bench), 2);
    bench.answer_all(&no_model());
    let remembered: usize = bench.ledger.namespaces["team"].without_model.values().map(HashSet::len).sum();
    assert_eq!(remembered, 0);
    bench.end(stream);
    bench.wait(2 * HOUR);
    assert_empty(&bench);
}

#[test]
fn a_long_catch_up_gives_its_memory_back() {
    let mut bench = Bench::new();
    for n in 0..5_000 {
        bench.apply(run(&n.to_string()));
    }
    let stream = bench.attach(subscription("a"));
    while bench.ledger.census().pending > 0 {
        bench.answer_all(&model());
        bench.confirm(stream);
    }
    let capacity = bench.ledger.streams[&stream].runs.capacity();
    assert!(capacity <= 1024, "{capacity}");
}
