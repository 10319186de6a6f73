//! The maximum age of streams: when they end, and what keeps them open.

use std::time::Duration;

use super::harness::*;
use crate::{
    delivery::{CloseReason, LookupError, Options, StreamId},
    model::Subscription,
};

const HOUR: Duration = Duration::from_secs(3600);

fn harness() -> Harness {
    Harness::with(Options { max_connection_age: Some(HOUR), ..Options::default() })
}

/// Waits for longer than the maximum age with its jitter, and longer than the pause between two checks.
fn outlive(harness: &mut Harness) {
    harness.wait(HOUR * 11 / 10 + Duration::from_secs(20));
}

fn confirmed(harness: &mut Harness, stream: StreamId) {
    harness.answer_all(&model());
    harness.confirm(stream);
}

#[test]
fn an_idle_stream_ends_at_its_age() {
    let mut harness = harness();
    let stream = harness.attach(subscription("a"));
    harness.wait(HOUR * 9 / 10 - Duration::from_secs(1));
    assert!(harness.closed.is_empty());
    outlive(&mut harness);
    assert_eq!((&*harness.closed, &*harness.close_reasons), (&[stream][..], &[CloseReason::MaxConnectionAge][..]));
}

#[test]
fn a_stream_ends_once_its_last_mark_was_seen() {
    let mut harness = harness();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    outlive(&mut harness);
    assert!(harness.closed.is_empty(), "its lookup is in flight");
    harness.answer_all(&model());
    outlive(&mut harness);
    assert!(harness.closed.is_empty(), "its event is not acknowledged");
    harness.confirm(stream);
    outlive(&mut harness);
    assert!(harness.closed.is_empty(), "its mark is not written");
    let patch = harness.patch();
    harness.answer_patch(patch, Ok(()));
    outlive(&mut harness);
    assert!(harness.closed.is_empty(), "its mark was not seen");
    harness.change("one", |run| run.marks = [mark("a")].into());
    harness.wait(Duration::from_secs(20));
    assert_eq!(harness.closed, [stream]);
}

/// Only this process remembers such a run.
#[test]
fn a_deleted_run_without_context_keeps_its_stream() {
    let mut harness = harness();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    let until = harness.now.instant + Duration::from_secs(600);
    while harness.now.instant < until {
        while !harness.lookups.is_empty() {
            harness.answer("one", Err(LookupError::NoContext));
        }
        harness.wait(Duration::from_secs(30));
    }
    harness.delete("one");
    harness.wait(HOUR - Duration::from_secs(60));
    assert!(harness.closed.is_empty());
    harness.wait(Duration::from_secs(120));
    assert_eq!(harness.closed.len(), 1, "the run has expired");
}

#[test]
fn a_guest_and_streams_without_a_maximum_stay() {
    let mut harness = harness();
    harness.attach(Subscription { remember: false, ..subscription("a") });
    outlive(&mut harness);
    assert!(harness.closed.is_empty());
    let mut ageless = Harness::new();
    ageless.attach(subscription("a"));
    ageless.wait(HOUR * 1000);
    assert!(ageless.closed.is_empty());
}

/// After a roll-out, all streams have the same age.
#[test]
fn streams_take_turns_to_end() {
    let mut harness = harness();
    let streams = 1000;
    for number in 0..streams {
        harness.attach(subscription_in(&format!("team-{number}"), "a"));
    }
    harness.wait(HOUR * 9 / 10);
    let away_after = Duration::from_secs(5);
    let mut most = 0;
    while harness.closed.len() < streams {
        let before = harness.closed.len();
        harness.wait(away_after);
        most = most.max(harness.closed.len() - before);
    }
    assert!((5..=11).contains(&most), "{most} streams of {streams} were away");
}

#[test]
fn a_delivery_to_a_later_stream_is_no_duplicate() {
    let mut harness = harness();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    confirmed(&mut harness, stream);
    harness.write_marks();
    outlive(&mut harness);
    assert_eq!(harness.closed, [stream]);
    let next = harness.attach(subscription("a"));
    harness.apply(run("two"));
    confirmed(&mut harness, next);
    assert_eq!(harness.events(next), ["two"]);
}
