//! The order of patches: turns of namespaces, places, the rate, and the place of a mark on a Workflow.

use std::{num::NonZeroU32, time::Duration};

use super::harness::*;
use crate::{
    delivery::{MarkChange, MarkError, MarkPlace, Options, PatchLimits},
    model::{Marks, Phase, Workflow},
};

const SECOND: Duration = Duration::from_secs(1);

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

fn with_places(per_namespace: usize, total: usize) -> Harness {
    Harness::with(Options { patches: PatchLimits { per_namespace, total }, ..Options::default() })
}

fn with_rate(rate: u32) -> Harness {
    Harness::with(Options { mark_rate: NonZeroU32::new(rate), ..Options::default() })
}

/// Answers the first patch in flight of a namespace.
fn answer(harness: &mut Harness, namespace: &str, result: Result<(), MarkError>) {
    let at = harness.patches.iter().position(|patch| *patch.namespace == *namespace).expect("a patch is in flight");
    let patch = harness.patches.remove(at);
    harness.answer_patch(patch, result);
}

// === turns ===

#[test]
fn namespaces_take_turns_for_patches() {
    let mut harness = with_places(1, 1);
    harness.acknowledge_runs("many", names("many", 100));
    harness.acknowledge_runs("few", names("few", 2));
    harness.wait(SECOND);
    let mut order = Vec::new();
    for _ in 0..5 {
        let patch = harness.patch();
        order.push(patch.namespace.to_string());
        harness.answer_patch(patch, Ok(()));
    }
    assert_eq!(order, ["many", "few", "many", "few", "many"]);
}

#[test]
fn a_namespace_with_many_marks_leaves_places_to_others() {
    let mut harness = Harness::new();
    harness.confirm_runs("many", names("many", 1000));
    assert_eq!(harness.patches_in("many"), 16);
    harness.confirm_runs("team", names("one", 1));
    assert_eq!(harness.patches_in("team"), 1);
}

#[test]
fn patches_that_hang_hold_places_for_one_second() {
    let mut harness = with_places(2, 4);
    for namespace in ["hanging", "hanging as well"] {
        harness.confirm_runs(namespace, names(namespace, 100));
    }
    // More than a second ago, so it has all the slow patches that it may have.
    harness.wait(3 * SECOND);
    assert_eq!((harness.patches_in("hanging"), harness.patches_in("hanging as well")), (8, 8));
    harness.confirm_runs("team", names("team", 10));
    assert_eq!(harness.patches_in("team"), 2, "as if the others were not there");
}

/// Each hanging namespace takes places when it has some left, so another one waits for its turn at most.
#[test]
fn thirty_hanging_namespaces_delay_marks_by_a_second_at_most() {
    let mut harness = Harness::new();
    for n in 0..30 {
        harness.confirm_runs(&format!("hanging-{n}"), names(&format!("hanging-{n}"), 200));
    }
    for n in 0..20 {
        let namespace = format!("team-{n}");
        harness.confirm_runs(&namespace, names(&namespace, 1));
        let confirmed = harness.now.instant;
        while harness.patches_in(&namespace) == 0 {
            harness.wait(Duration::from_millis(100));
        }
        assert!(harness.now.instant - confirmed <= SECOND, "{namespace}");
        answer(&mut harness, &namespace, Ok(()));
    }
}

#[test]
fn a_namespace_has_a_limited_number_of_slow_patches() {
    let mut harness = with_places(2, 4);
    harness.confirm_runs("hanging", names("hanging", 100));
    harness.wait(Duration::from_secs(600));
    assert_eq!(harness.patches_in("hanging"), 8);
    answer(&mut harness, "hanging", Ok(()));
    assert_eq!(harness.patches_in("hanging"), 8, "the next one takes its place");
}

#[test]
fn removals_come_after_additions() {
    let mut harness = with_places(1, 1);
    harness.acknowledge_runs("team", names("addition", 4));
    harness.wait(SECOND - Duration::from_millis(1));
    for n in 0..10 {
        let marks = Marks::from([mark("a")]).at_version("7");
        harness.apply(Workflow { phase: Phase::Active, marks, ..run(&n.to_string()) });
    }
    harness.wait(Duration::from_millis(1));
    let mut removals = Vec::new();
    while let Some(patch) = harness.patches.pop() {
        removals.push(matches!(patch.change, MarkChange::Remove { .. }));
        harness.answer_patch(patch, Ok(()));
    }
    let mut expected = vec![true];
    expected.extend([false; 4]);
    expected.extend([true; 9]);
    assert_eq!(removals, expected, "the first one was there before");
}

#[test]
fn cancelled_patches_leave_the_queues_at_once() {
    let mut harness = with_places(1, 1);
    harness.confirm_runs("hanging", names("hanging", 1));
    let stream = harness.confirm_runs("team", names("kept", 1));
    for n in 0..1000 {
        let name = n.to_string();
        harness.apply(run(&name));
        harness.answer_all(&model());
        harness.acknowledge(stream);
        harness.wait(SECOND);
        harness.delete(&name);
        harness.apply(Workflow { marks: [mark("a")].into(), ..run(&name) });
        harness.change(&name, |workflow| {
            workflow.phase = Phase::Active;
            workflow.marks = workflow.marks.at_version("7");
        });
        harness.change(&name, |workflow| workflow.phase = Phase::Succeeded);
    }
    assert_eq!(harness.ledger.marks.len(), 5, "one of each namespace holds a place, and three are slow");
    assert_eq!(harness.ledger.marks.queued(), 0);
}

// === the rate ===

#[test]
fn patches_begin_at_the_rate_after_a_burst() {
    let mut harness = with_rate(10);
    harness.confirm_runs("team", names("run", 50));
    let mut begun = Vec::new();
    for _ in 0..40 {
        begun.push(harness.patches.len());
        harness.write_marks();
        harness.wait(Duration::from_millis(100));
    }
    assert_eq!(begun[0], 11);
    assert!(begun[1..].iter().all(|patches| *patches <= 1), "{begun:?}");
    assert_eq!(begun.iter().sum::<usize>(), 50);
}

/// The rate is applied in the order of the turns.
#[test]
fn ten_thousand_marks_of_one_namespace_delay_no_other() {
    let mut harness = with_rate(10);
    harness.confirm_runs("many", names("many", 10_000));
    for _ in 0..5 {
        harness.write_marks();
        harness.wait(SECOND);
    }
    harness.confirm_runs("team", names("team", 1));
    harness.patches.clear();
    harness.wait(Duration::from_millis(200));
    assert_eq!(harness.patches_in("team"), 1);
}

#[test]
fn a_drain_writes_every_mark_without_waiting_for_the_rate() {
    let mut harness = with_rate(1);
    let stream = harness.confirm_runs("team", names("run", 5_000));
    let begin = harness.now.instant;
    harness.ledger.drain();
    harness.perform_actions();
    assert_eq!(harness.patches.len(), 64, "there is no other namespace to leave places to");
    harness.write_marks();
    assert_eq!((harness.ledger.stats().pending_marks, harness.now.instant), (0, begin));
    assert_eq!(harness.closed, [stream]);
    harness.end(stream);
    assert!(harness.ledger.is_drained());
}

#[test]
fn a_drain_writes_the_marks_of_others_while_a_namespace_hangs() {
    let mut harness = with_rate(1);
    let hanging = harness.confirm_runs("hanging", names("hanging", 500));
    let fine = harness.confirm_runs("team", names("run", 500));
    harness.ledger.drain();
    harness.perform_actions();
    for _ in 0..2 {
        while harness.patches_in("team") > 0 {
            answer(&mut harness, "team", Ok(()));
        }
        harness.wait(SECOND);
    }
    assert_eq!(harness.closed, [fine]);
    assert!(harness.ledger.marks.is_busy_for(&subscription_in("hanging", "a")));
    harness.end(fine);
    harness.end(hanging);
    assert!(!harness.ledger.is_drained());
}

// === the place of a mark ===

fn place(harness: &mut Harness) -> (MarkPlace, crate::delivery::MarkPatch) {
    let patch = harness.patch();
    (patch.place, patch)
}

#[test]
fn a_mark_without_room_among_the_annotations_becomes_a_label() {
    let mut harness = Harness::new();
    harness.confirm_runs("team", names("full", 1));
    let (annotation, patch) = place(&mut harness);
    harness.answer_patch(patch, Err(MarkError::NoRoom));
    let (label, patch) = place(&mut harness);
    assert_eq!((annotation, label, marks_set(&patch)), (MarkPlace::Annotation, MarkPlace::Label, vec!["a"]));
    harness.answer_patch(patch, transient());
    harness.wait(SECOND);
    let (again, patch) = place(&mut harness);
    assert_eq!(again, MarkPlace::Label, "it is retried as a label");
    harness.patches.push(patch);
    harness.write_marks();
    assert!(harness.store["full-0"].is_marked_for(&name("a")));
    assert_eq!(harness.ledger.stats().pending_marks, 0);
}

#[test]
fn a_mark_without_room_in_either_place_is_parked() {
    for error in [MarkError::NoRoom, MarkError::Refused { status: 403, message: "no labels".into() }] {
        let mut harness = Harness::new();
        let stream = harness.confirm_runs("team", names("full", 1));
        for _ in 0..3 {
            let (annotation, patch) = place(&mut harness);
            harness.answer_patch(patch, Err(MarkError::NoRoom));
            let (label, patch) = place(&mut harness);
            assert_eq!((annotation, label), (MarkPlace::Annotation, MarkPlace::Label));
            harness.answer_patch(patch, Err(error.clone()));
            harness.wait(Duration::from_secs(4));
            assert!(harness.patches.is_empty(), "it is retried slowly");
            harness.wait(Duration::from_secs(600));
        }
        let (_, patch) = place(&mut harness);
        harness.ledger.drain();
        harness.answer_patch(patch, Err(error));
        harness.end(stream);
    }
}

#[test]
fn a_removal_without_room_is_parked() {
    let mut harness = Harness::new();
    let marks = Marks::from([mark("a")]).at_version("7");
    harness.apply(Workflow { marks, phase: Phase::Active, ..run("one") });
    let patch = harness.patch();
    harness.answer_patch(patch, Err(MarkError::NoRoom));
    assert!(harness.patches.is_empty());
}
