//! The wall clock jumps: waits do not, and what was declined by a wrong clock is not lost.

use std::time::Duration;

use super::{
    super::{Timer, clock::LOOK},
    bench::*,
};
use crate::{
    delivery::{LookupError, StreamId},
    model::Subscription,
};

const HOUR: i64 = 3600;

/// A stream that wants no run of more than half an hour.
fn attach(bench: &mut Bench) -> StreamId {
    bench.attach(Subscription { max_age: Some(Duration::from_secs(1800)), ..subscription("a") })
}

#[test]
fn what_was_declined_by_a_clock_that_was_ahead_is_announced_once_the_clock_is_set() {
    let mut bench = Bench::new();
    let stream = attach(&mut bench);
    bench.apply(run("before"));
    bench.set_clock(HOUR);
    bench.answer_all(&model());
    bench.apply(run("during"));
    assert!(bench.asked.is_empty() && bench.events(stream).is_empty(), "both are an hour old");
    bench.wait(3 * LOOK);
    bench.set_clock(-HOUR);
    bench.answer_all(&model());
    let mut events = bench.events(stream);
    events.sort();
    assert_eq!(events, ["before", "during"]);
    bench.confirm(stream);
    bench.write_marks();
    for by in [HOUR, -HOUR, -HOUR, HOUR] {
        bench.set_clock(by);
        bench.wait(2 * LOOK);
        assert!(bench.asked.is_empty() && bench.events(stream).is_empty(), "nothing comes twice");
    }
}

#[test]
fn that_the_clock_was_set_is_noticed_within_a_minute_though_nothing_happens() {
    let mut bench = Bench::new();
    let stream = attach(&mut bench);
    bench.now.unix += HOUR;
    bench.apply(run("one"));
    bench.now.unix -= HOUR;
    bench.wait(LOOK);
    bench.answer_all(&model());
    assert_eq!(bench.events(stream), ["one"]);
}

#[test]
fn a_run_without_a_limit_of_age_does_not_care_for_the_clock_and_waits_for_nothing() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.set_clock(HOUR);
    bench.apply(run("ahead"));
    bench.set_clock(-2 * HOUR);
    bench.apply(run("behind"));
    bench.answer_all(&model());
    bench.confirm(stream);
    assert_eq!(bench.events(stream).len(), 2);
    assert_eq!(bench.patches.len(), 2);
    assert!(!bench.ledger.timers.running().any(|timer| *timer == Timer::Clock));
}

#[test]
fn the_pauses_of_retries_do_not_jump_with_the_clock() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.apply(run("foreign"));
    bench.answer("foreign", Err(LookupError::ForeignContext { namespace: "other".into() }));
    let due = bench.ledger.next_deadline();
    for by in [HOUR, -HOUR, -HOUR, HOUR] {
        bench.set_clock(by);
        assert!(bench.asked.is_empty());
        assert_eq!(bench.ledger.next_deadline(), due);
    }
    bench.wait(Duration::from_secs(3600));
    assert_eq!(bench.questions(), ["foreign"], "asked again within the hour, and once");
}

#[test]
fn the_clock_is_looked_at_for_as_long_as_somebody_may_want_what_was_declined() {
    let mut bench = Bench::new();
    bench.apply(run("old"));
    bench.now.unix += HOUR;
    let stream = attach(&mut bench);
    let is_looked_at = |bench: &Bench| bench.ledger.timers.running().any(|timer| *timer == Timer::Clock);
    bench.wait(10 * LOOK);
    assert!(is_looked_at(&bench));
    bench.end(stream);
    bench.wait(LOOK);
    assert!(!is_looked_at(&bench));
}
