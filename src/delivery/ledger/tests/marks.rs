//! When which marks are written and removed.

use std::time::Duration;

use super::bench::*;
use crate::{
    delivery::{MarkChange, MarkError, Options, StreamId, ledger::Report},
    model::{Phase, Workflow, workflow::MAX_MARKS},
};

/// A bench on which the run `one` was confirmed by these subscriptions, each on a stream of its own.
fn confirmed_by(subscriptions: &[&str]) -> (Bench, Vec<StreamId>) {
    let mut bench = Bench::new();
    let streams: Vec<_> = subscriptions.iter().map(|name| bench.attach(subscription(name))).collect();
    bench.apply(run("one"));
    bench.answer_all(&model());
    streams.iter().for_each(|stream| bench.acknowledge(*stream));
    bench.wait(Duration::from_secs(1));
    (bench, streams)
}

/// `one` is restarted, and the watch shows it at this `resourceVersion`.
fn restart(bench: &mut Bench, resource_version: &str) {
    bench.change("one", |workflow| {
        workflow.phase = Phase::Other;
        workflow.resource_version = Some(resource_version.into());
    });
}

fn attempts(bench: &Bench) -> Vec<(u32, Option<Duration>)> {
    let failures = bench.reports.iter().filter_map(|report| match report {
        Report::MarkFailed { attempt, retry_in, .. } => Some((*attempt, *retry_in)),
        _ => None,
    });
    failures.collect()
}

#[test]
fn a_mark_is_asked_for_only_when_the_stream_stayed_open_after_the_acknowledgement() {
    let mut bench = Bench::with(Options { confirm_after: Duration::from_secs(3), ..Options::default() });
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.acknowledge(stream);
    bench.wait(Duration::from_millis(2999));
    assert!(bench.patches.is_empty());
    bench.wait(Duration::from_millis(1));
    assert_eq!(marks_set(&bench.patch()), ["a"]);
}

#[test]
fn a_confirmation_may_follow_the_acknowledgement_at_once_and_may_be_put_off_for_ever() {
    for (confirm_after, patches) in [(Duration::ZERO, 1), (Duration::MAX, 0)] {
        let mut bench = Bench::with(Options { confirm_after, ..Options::default() });
        let stream = bench.attach(subscription("a"));
        bench.apply(run("one"));
        bench.answer_all(&model());
        bench.acknowledge(stream);
        bench.wait(Duration::ZERO);
        assert_eq!(bench.patches.len(), patches);
    }
}

#[test]
fn pending_marks_of_one_workflow_go_out_in_one_patch_and_one_patch_is_under_way() {
    let (mut bench, _) = confirmed_by(&["a", "b", "c"]);
    let first = bench.patch();
    assert_eq!(first.uid, uid("one"));
    assert_eq!(marks_set(&first), ["a", "b", "c"]);
    for late in ["d", "e"] {
        let stream = bench.attach(subscription(late));
        bench.answer_all(&model());
        bench.confirm(stream);
        assert!(bench.patches.is_empty());
    }
    bench.patched(first, Ok(()));
    let second = bench.patch();
    assert_eq!(marks_set(&second), ["d", "e"]);
    bench.patched(second, Ok(()));
    assert!(bench.patches.is_empty());
}

#[test]
fn patches_of_different_workflows_are_under_way_together_up_to_a_limit() {
    let mut bench = Bench::with(Options { patches: 2, ..Options::default() });
    let stream = bench.attach(subscription("a"));
    ["one", "two", "three"].into_iter().for_each(|name| bench.apply(run(name)));
    bench.answer_all(&model());
    bench.confirm(stream);
    assert_eq!(bench.patches.len(), 2);
    let patch = bench.patches.remove(0);
    bench.patched(patch, transient());
    assert_eq!(bench.patches.len(), 2, "one that waits to be tried again holds no place");
}

#[test]
fn a_failed_patch_is_tried_again_with_growing_pauses_that_have_an_end() {
    for error in [MarkError::Conflict, MarkError::Transient { message: "503".into() }] {
        let (mut bench, _) = confirmed_by(&["a"]);
        for _ in 0..40 {
            let patch = bench.patch();
            bench.patched(patch, Err(error.clone()));
            assert!(bench.patches.is_empty());
            bench.wait(Duration::from_secs(60));
        }
        let pauses: Vec<_> = attempts(&bench).into_iter().filter_map(|(_, pause)| pause).collect();
        assert_eq!(pauses.len(), 40);
        assert!(pauses[0] <= Duration::from_millis(500), "{pauses:?}");
        assert!(pauses[39] >= Duration::from_secs(30), "{pauses:?}");
        bench.write_marks();
        bench.wait(Duration::from_secs(3600));
        assert!(bench.patches.is_empty());
    }
}

#[test]
fn a_refused_mark_is_tried_again_in_seconds_and_then_ever_more_slowly() {
    let (mut bench, _) = confirmed_by(&["a"]);
    for _ in 0..10 {
        let patch = bench.patch();
        bench.patched(patch, refused());
        bench.wait(Duration::from_secs(4));
        assert!(bench.patches.is_empty());
        bench.wait(Duration::from_secs(600));
    }
    assert_eq!(bench.ledger.census().marks, 1);
    let pauses: Vec<_> = attempts(&bench).into_iter().filter_map(|(_, pause)| pause).collect();
    assert!(pauses[0] <= Duration::from_secs(10), "{pauses:?}");
    assert!(pauses[9] >= Duration::from_secs(300), "{pauses:?}");
}

#[test]
fn a_refused_mark_holds_up_no_other() {
    let mut bench = Bench::with(Options { patches: 1, ..Options::default() });
    let stream = bench.attach(subscription("a"));
    ["one", "two"].into_iter().for_each(|name| bench.apply(run(name)));
    bench.answer_all(&model());
    bench.confirm(stream);
    let refusing = bench.patch();
    bench.patched(refusing.clone(), refused());
    let next = bench.patch();
    assert_ne!(next.name, refusing.name);
}

#[test]
fn a_workflow_that_is_gone_needs_no_mark() {
    let (mut bench, _) = confirmed_by(&["a", "b"]);
    let patch = bench.patch();
    bench.patched(patch, Err(MarkError::Gone));
    bench.wait(Duration::from_secs(3600));
    assert!(bench.patches.is_empty());
    assert_eq!(attempts(&bench), [(1, None)]);
}

#[test]
fn a_workflow_that_is_deleted_while_its_patch_is_under_way_needs_none_any_more() {
    let (mut bench, _) = confirmed_by(&["a"]);
    let patch = bench.patch();
    bench.delete("one");
    bench.patched(patch, transient());
    bench.wait(Duration::from_secs(3600));
    assert!(bench.patches.is_empty());
    assert_eq!(attempts(&bench), [(1, None)]);
}

#[test]
fn a_mark_that_another_replica_has_written_is_not_written_again() {
    let (mut bench, _) = confirmed_by(&["a"]);
    let patch = bench.patch();
    bench.patched(patch, transient());
    bench.change("one", |workflow| workflow.marks = [mark("a")].into());
    bench.wait(Duration::from_secs(3600));
    assert!(bench.patches.is_empty());
}

#[test]
fn the_thirty_third_mark_is_not_written_but_remembered() {
    let mut bench = Bench::new();
    let streams: Vec<_> = (0..=MAX_MARKS).map(|n| bench.attach(subscription(&format!("s{n}")))).collect();
    bench.apply(run("one"));
    bench.answer_all(&model());
    for stream in &streams {
        bench.confirm(*stream);
        bench.write_marks();
    }
    assert_eq!(bench.store["one"].marks.len(), MAX_MARKS);
    assert_eq!(bench.reported(|report| matches!(report, Report::MarksFull { .. })), 1);
    let last = streams[MAX_MARKS];
    bench.end(last);
    bench.attach(subscription(&format!("s{MAX_MARKS}")));
    assert!(bench.asked.is_empty(), "it is not delivered twice as long as this process lives");
}

#[test]
fn marks_that_are_pending_count_towards_the_limit() {
    let mut bench = Bench::new();
    let streams: Vec<_> = (0..=MAX_MARKS).map(|n| bench.attach(subscription(&format!("s{n}")))).collect();
    bench.apply(run("one"));
    bench.answer_all(&model());
    streams.iter().for_each(|stream| bench.acknowledge(*stream));
    bench.wait(Duration::from_secs(1));
    bench.write_marks();
    assert_eq!(bench.store["one"].marks.len(), MAX_MARKS);
}

#[test]
fn the_marks_of_a_restarted_run_are_removed_at_the_state_in_which_it_was_seen() {
    let (mut bench, _) = confirmed_by(&["a"]);
    bench.write_marks();
    restart(&mut bench, "7");
    let expected = MarkChange::Remove { subscriptions: vec![name("a")], resource_version: "7".into() };
    assert_eq!(bench.patch().change, expected);
}

#[test]
fn the_marks_of_a_restarted_run_are_removed_also_where_nobody_listens() {
    let mut bench = Bench::new();
    bench.apply(Workflow { marks: [mark("a")].into(), ..run("one") });
    assert!(bench.patches.is_empty());
    restart(&mut bench, "7");
    assert_eq!(bench.patches.len(), 1);
}

#[test]
fn a_mark_that_a_running_copy_inherited_is_left_alone() {
    let mut bench = Bench::new();
    let inherited = crate::model::Mark { current: false, ..mark("a") };
    bench.apply(Workflow { marks: [inherited].into(), phase: Phase::Other, ..run("copy") });
    assert!(bench.patches.is_empty());
}

#[test]
fn a_conflict_drops_a_removal_and_a_newer_state_decides_anew() {
    let (mut bench, _) = confirmed_by(&["a"]);
    bench.write_marks();
    restart(&mut bench, "7");
    let patch = bench.patch();
    bench.patched(patch, Err(MarkError::Conflict));
    bench.wait(Duration::from_secs(3600));
    assert!(bench.patches.is_empty());
    restart(&mut bench, "8");
    let patch = bench.patch();
    assert!(matches!(&patch.change, MarkChange::Remove { resource_version, .. } if &**resource_version == "8"));
    // The newer state may also be seen before the conflict is known.
    restart(&mut bench, "9");
    bench.patched(patch, Err(MarkError::Conflict));
    assert!(matches!(&bench.patch().change, MarkChange::Remove { resource_version, .. } if &**resource_version == "9"));
}

#[test]
fn a_failed_removal_is_tried_again_until_the_run_has_succeeded_again() {
    let (mut bench, _) = confirmed_by(&["a"]);
    bench.write_marks();
    restart(&mut bench, "7");
    let patch = bench.patch();
    bench.patched(patch, transient());
    bench.wait(Duration::from_millis(500));
    let patch = bench.patch();
    bench.patched(patch, transient());
    bench.change("one", |workflow| workflow.phase = Phase::Succeeded);
    bench.wait(Duration::from_secs(3600));
    assert!(bench.patches.is_empty(), "it could only fail: the Workflow has changed");
}

#[test]
fn a_mark_that_was_written_into_a_restart_is_removed_after_it() {
    let (mut bench, _) = confirmed_by(&["a"]);
    let set = bench.patch();
    bench.change("one", |workflow| workflow.phase = Phase::Other);
    bench.change("one", |workflow| {
        workflow.marks = [mark("a")].into();
        workflow.resource_version = Some("9".into());
    });
    bench.patched(set, Ok(()));
    assert!(matches!(bench.patch().change, MarkChange::Remove { .. }));
}

#[test]
fn a_pending_mark_is_not_written_on_a_run_that_was_restarted() {
    let (mut bench, _) = confirmed_by(&["a"]);
    let patch = bench.patch();
    bench.patched(patch, transient());
    bench.change("one", |workflow| workflow.phase = Phase::Other);
    bench.wait(Duration::from_secs(3600));
    assert!(bench.patches.is_empty());
}
