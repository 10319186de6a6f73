//! Jumps of the wall clock: pauses do not follow them, and runs that a wrong clock excluded are not lost.

use std::time::Duration;

use super::{
    super::{Timer, wall_clock::CHECK},
    harness::*,
};
use crate::{
    delivery::{LookupError, StreamId},
    model::Subscription,
};

const HOUR: i64 = 3600;

/// A stream with a `maxAge` of half an hour.
fn attach(harness: &mut Harness) -> StreamId {
    harness.attach(Subscription { max_age: Some(Duration::from_secs(1800)), ..subscription("a") })
}

#[test]
fn runs_excluded_by_a_fast_clock_are_sent_once_it_is_set_back() {
    let mut harness = Harness::new();
    let stream = attach(&mut harness);
    harness.apply(run("before"));
    harness.move_clock(HOUR);
    harness.answer_all(&model());
    harness.apply(run("during"));
    assert!(harness.lookups.is_empty() && harness.events(stream).is_empty(), "both are an hour old");
    harness.wait(3 * CHECK);
    harness.move_clock(-HOUR);
    harness.answer_all(&model());
    let mut events = harness.events(stream);
    events.sort();
    assert_eq!(events, ["before", "during"]);
    harness.confirm(stream);
    harness.write_marks();
    for by in [HOUR, -HOUR, -HOUR, HOUR] {
        harness.move_clock(by);
        harness.wait(2 * CHECK);
        assert!(harness.lookups.is_empty() && harness.events(stream).is_empty(), "nothing is repeated");
    }
}

#[test]
fn a_clock_set_back_is_noticed_within_a_minute_without_inputs() {
    let mut harness = Harness::new();
    let stream = attach(&mut harness);
    harness.now.unix += HOUR;
    harness.apply(run("one"));
    harness.now.unix -= HOUR;
    harness.wait(CHECK);
    harness.answer_all(&model());
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn without_max_age_the_wall_clock_has_no_effect() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.move_clock(HOUR);
    harness.apply(run("ahead"));
    harness.move_clock(-2 * HOUR);
    harness.apply(run("behind"));
    harness.answer_all(&model());
    harness.confirm(stream);
    assert_eq!(harness.events(stream).len(), 2);
    assert_eq!(harness.patches.len(), 2);
    assert!(!harness.has_timer(|timer| *timer == Timer::CheckClock));
}

#[test]
fn retries_do_not_follow_the_wall_clock() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("foreign"));
    harness.answer("foreign", Err(LookupError::ForeignContext { namespace: "other".into() }));
    let due = harness.ledger.poll_timeout();
    for by in [HOUR, -HOUR, -HOUR, HOUR] {
        harness.move_clock(by);
        assert!(harness.lookups.is_empty());
        assert_eq!(harness.ledger.poll_timeout(), due);
    }
    harness.wait(Duration::from_secs(3600));
    assert_eq!(harness.looked_up(), ["foreign"], "retried once within the hour");
}

#[test]
fn the_clock_is_checked_while_a_stream_limits_the_age() {
    let mut harness = Harness::new();
    harness.apply(run("old"));
    harness.now.unix += HOUR;
    let stream = attach(&mut harness);
    let is_checked = |harness: &Harness| harness.has_timer(|timer| *timer == Timer::CheckClock);
    harness.wait(10 * CHECK);
    assert!(is_checked(&harness));
    harness.end(stream);
    harness.wait(CHECK);
    assert!(!is_checked(&harness));
}
