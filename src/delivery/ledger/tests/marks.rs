//! The writing and removal of marks.

use std::time::Duration;

use super::harness::*;
use crate::{
    delivery::{MarkChange, MarkError, Options, PatchLimits, StreamId, ledger::Report},
    model::{Mark, Marks, Phase, Workflow, workflow::MAX_MARKS},
};

/// A harness in which these subscriptions have confirmed the run `one`, each on a stream of its own.
fn confirmed_by(subscriptions: &[&str]) -> (Harness, Vec<StreamId>) {
    let mut harness = Harness::new();
    let streams: Vec<_> = subscriptions.iter().map(|name| harness.attach(subscription(name))).collect();
    harness.apply(run("one"));
    harness.answer_all(&model());
    streams.iter().for_each(|stream| harness.acknowledge(*stream));
    harness.wait(Duration::from_secs(1));
    (harness, streams)
}

/// Restarts `one`, which the watch shows at this `resourceVersion`.
fn restart(harness: &mut Harness, resource_version: &str) {
    harness.change("one", |workflow| {
        workflow.phase = Phase::Active;
        workflow.marks = workflow.marks.at_version(resource_version);
    });
}

fn attempts(harness: &Harness) -> Vec<(u32, Option<Duration>)> {
    let failures = harness.reports.iter().filter_map(|report| match report {
        Report::MarkFailed { attempt, retry_in, .. } => Some((*attempt, *retry_in)),
        _ => None,
    });
    failures.collect()
}

#[test]
fn a_mark_is_written_only_after_the_confirmation() {
    let mut harness = Harness::with(Options { confirm_after: Duration::from_secs(3), ..Options::default() });
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer_all(&model());
    harness.acknowledge(stream);
    harness.wait(Duration::from_millis(2999));
    assert!(harness.patches.is_empty());
    harness.wait(Duration::from_millis(1));
    assert_eq!(marks_set(&harness.patch()), ["a"]);
}

/// Zero confirms with the acknowledgement; the maximum does not overflow.
#[test]
fn confirm_after_may_be_zero_and_may_be_the_maximum() {
    for (confirm_after, patches) in [(Duration::ZERO, 1), (Duration::MAX, 0)] {
        let mut harness = Harness::with(Options { confirm_after, ..Options::default() });
        let stream = harness.attach(subscription("a"));
        harness.apply(run("one"));
        harness.answer_all(&model());
        harness.acknowledge(stream);
        harness.wait(Duration::ZERO);
        assert_eq!(harness.patches.len(), patches);
    }
}

#[test]
fn pending_marks_of_one_workflow_share_one_patch_in_flight() {
    let (mut harness, _) = confirmed_by(&["a", "b", "c"]);
    let first = harness.patch();
    assert_eq!(first.uid, uid("one"));
    assert_eq!(marks_set(&first), ["a", "b", "c"]);
    for late in ["d", "e"] {
        let stream = harness.attach(subscription(late));
        harness.answer_all(&model());
        harness.confirm(stream);
        assert!(harness.patches.is_empty());
    }
    harness.answer_patch(first, Ok(()));
    let second = harness.patch();
    assert_eq!(marks_set(&second), ["d", "e"]);
    harness.answer_patch(second, Ok(()));
    assert!(harness.patches.is_empty());
}

#[test]
fn patches_of_different_workflows_in_flight_are_limited() {
    let mut harness =
        Harness::with(Options { patches: PatchLimits { per_namespace: 2, total: 2 }, ..Options::default() });
    let stream = harness.attach(subscription("a"));
    ["one", "two", "three"].into_iter().for_each(|name| harness.apply(run(name)));
    harness.answer_all(&model());
    harness.confirm(stream);
    assert_eq!(harness.patches.len(), 2);
    let patch = harness.patches.remove(0);
    harness.answer_patch(patch, transient());
    assert_eq!(harness.patches.len(), 2, "a patch that waits for its retry holds no place");
}

#[test]
fn a_failed_patch_is_retried_with_growing_but_bounded_pauses() {
    for error in [MarkError::Conflict, MarkError::Transient { message: "503".into() }] {
        let (mut harness, _) = confirmed_by(&["a"]);
        for _ in 0..40 {
            let patch = harness.patch();
            harness.answer_patch(patch, Err(error.clone()));
            assert!(harness.patches.is_empty());
            harness.wait(Duration::from_secs(60));
        }
        let pauses: Vec<_> = attempts(&harness).into_iter().filter_map(|(_, pause)| pause).collect();
        assert_eq!(pauses.len(), 40);
        assert!(pauses[0] <= Duration::from_millis(500), "{pauses:?}");
        assert!(pauses[39] >= Duration::from_secs(30), "{pauses:?}");
        harness.write_marks();
        harness.wait(Duration::from_secs(3600));
        assert!(harness.patches.is_empty());
    }
}

#[test]
fn a_refused_mark_is_retried_in_seconds_and_then_slowly() {
    let (mut harness, _) = confirmed_by(&["a"]);
    for _ in 0..10 {
        let patch = harness.patch();
        harness.answer_patch(patch, refused());
        harness.wait(Duration::from_secs(4));
        assert!(harness.patches.is_empty());
        harness.wait(Duration::from_secs(600));
    }
    assert_eq!(harness.ledger.stats().pending_marks, 1);
    let pauses: Vec<_> = attempts(&harness).into_iter().filter_map(|(_, pause)| pause).collect();
    assert!(pauses[0] <= Duration::from_secs(10), "{pauses:?}");
    assert!(pauses[9] >= Duration::from_secs(300), "{pauses:?}");
}

#[test]
fn a_refused_mark_delays_no_other() {
    let mut harness =
        Harness::with(Options { patches: PatchLimits { per_namespace: 1, total: 1 }, ..Options::default() });
    let stream = harness.attach(subscription("a"));
    ["one", "two"].into_iter().for_each(|name| harness.apply(run(name)));
    harness.answer_all(&model());
    harness.confirm(stream);
    let refusing = harness.patch();
    harness.answer_patch(refusing.clone(), refused());
    let next = harness.patch();
    assert_ne!(next.name, refusing.name);
}

#[test]
fn a_workflow_that_no_longer_exists_needs_no_mark() {
    let (mut harness, _) = confirmed_by(&["a", "b"]);
    let patch = harness.patch();
    harness.answer_patch(patch, Err(MarkError::Gone));
    harness.wait(Duration::from_secs(3600));
    assert!(harness.patches.is_empty());
    assert_eq!(attempts(&harness), [(1, None)]);
}

#[test]
fn a_workflow_deleted_during_its_patch_needs_no_other() {
    let (mut harness, _) = confirmed_by(&["a"]);
    let patch = harness.patch();
    harness.delete("one");
    harness.answer_patch(patch, transient());
    harness.wait(Duration::from_secs(3600));
    assert!(harness.patches.is_empty());
    assert_eq!(attempts(&harness), [(1, None)]);
}

#[test]
fn a_mark_written_by_another_replica_is_not_written_again() {
    let (mut harness, _) = confirmed_by(&["a"]);
    let patch = harness.patch();
    harness.answer_patch(patch, transient());
    harness.change("one", |workflow| workflow.marks = [mark("a")].into());
    harness.wait(Duration::from_secs(3600));
    assert!(harness.patches.is_empty());
}

#[test]
fn the_thirty_third_mark_is_not_written_but_remembered() {
    let mut harness = Harness::new();
    let streams: Vec<_> = (0..=MAX_MARKS).map(|n| harness.attach(subscription(&format!("s{n}")))).collect();
    harness.apply(run("one"));
    harness.answer_all(&model());
    for stream in &streams {
        harness.confirm(*stream);
        harness.write_marks();
    }
    assert_eq!(harness.store["one"].marks.len(), MAX_MARKS);
    assert_eq!(harness.reported(|report| matches!(report, Report::MarksFull { .. })), 1);
    let last = streams[MAX_MARKS];
    harness.end(last);
    harness.attach(subscription(&format!("s{MAX_MARKS}")));
    assert!(harness.lookups.is_empty(), "remembered in memory");
}

#[test]
fn pending_marks_count_towards_the_limit() {
    let mut harness = Harness::new();
    let streams: Vec<_> = (0..=MAX_MARKS).map(|n| harness.attach(subscription(&format!("s{n}")))).collect();
    harness.apply(run("one"));
    harness.answer_all(&model());
    streams.iter().for_each(|stream| harness.acknowledge(*stream));
    harness.wait(Duration::from_secs(1));
    harness.write_marks();
    assert_eq!(harness.store["one"].marks.len(), MAX_MARKS);
}

#[test]
fn marks_of_a_restarted_run_are_removed_at_its_seen_version() {
    let (mut harness, _) = confirmed_by(&["a"]);
    harness.write_marks();
    restart(&mut harness, "7");
    let expected = MarkChange::Remove { subscriptions: vec![name("a")], resource_version: "7".into() };
    assert_eq!(harness.patch().change, expected);
}

#[test]
fn marks_of_a_restarted_run_are_removed_without_subscribers() {
    let mut harness = Harness::new();
    harness.apply(Workflow { marks: [mark("a")].into(), ..run("one") });
    assert!(harness.patches.is_empty());
    restart(&mut harness, "7");
    assert_eq!(harness.patches.len(), 1);
}

#[test]
fn a_conflict_drops_a_removal_until_a_newer_state_is_seen() {
    let (mut harness, _) = confirmed_by(&["a"]);
    harness.write_marks();
    restart(&mut harness, "7");
    let patch = harness.patch();
    harness.answer_patch(patch, Err(MarkError::Conflict));
    harness.wait(Duration::from_secs(3600));
    assert!(harness.patches.is_empty());
    restart(&mut harness, "8");
    let patch = harness.patch();
    assert!(matches!(&patch.change, MarkChange::Remove { resource_version, .. } if &**resource_version == "8"));
    // The newer state may also be seen before the conflict.
    restart(&mut harness, "9");
    harness.answer_patch(patch, Err(MarkError::Conflict));
    assert!(
        matches!(&harness.patch().change, MarkChange::Remove { resource_version, .. } if &**resource_version == "9")
    );
}

#[test]
fn a_failed_removal_is_retried_until_the_run_succeeds_again() {
    let (mut harness, _) = confirmed_by(&["a"]);
    harness.write_marks();
    restart(&mut harness, "7");
    let patch = harness.patch();
    harness.answer_patch(patch, transient());
    harness.wait(Duration::from_millis(500));
    let patch = harness.patch();
    harness.answer_patch(patch, transient());
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    harness.wait(Duration::from_secs(3600));
    assert!(harness.patches.is_empty(), "a removal would fail, the Workflow has changed");
}

#[test]
fn a_mark_written_during_a_restart_is_removed_after_it() {
    let (mut harness, _) = confirmed_by(&["a"]);
    let set = harness.patch();
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.change("one", |workflow| {
        workflow.marks = Marks::from([mark("a")]).at_version("9");
    });
    harness.answer_patch(set, Ok(()));
    assert!(matches!(harness.patch().change, MarkChange::Remove { .. }));
}

#[test]
fn a_pending_mark_is_not_written_on_a_restarted_run() {
    let (mut harness, _) = confirmed_by(&["a"]);
    let patch = harness.patch();
    harness.answer_patch(patch, transient());
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.wait(Duration::from_secs(3600));
    assert!(harness.patches.is_empty());
}

/// Names have had no scope before tokens were required.
#[test]
fn marks_without_a_scope_count_for_a_scoped_subscription() {
    let mut harness = Harness::new();
    harness.apply(Workflow { marks: [mark("a")].into(), ..run("before") });
    let other = Mark { subscription: name("a").scoped("team-b"), ..mark("a") };
    harness.apply(Workflow { marks: [other].into(), ..run("another's") });
    let stream = harness.attach(subscription("a").scoped("team-a"));
    harness.answer_all(&model());
    harness.confirm(stream);
    assert_eq!(harness.events(stream), ["another's"]);
    assert_eq!(marks_set(&harness.patch()), ["a.team-a"]);
}

/// A replica that does not require tokens yet delivers a run while it is pending here.
#[test]
fn a_mark_without_a_scope_withdraws_a_pending_run() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a").scoped("team-a"));
    for name in ["theirs", "ours"] {
        harness.apply(run(name));
    }
    harness.apply(Workflow { marks: [mark("a")].into(), ..run("theirs") });
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["ours"]);
}
