//! Nobody waits for another.

use std::time::Duration;

use super::bench::*;
use crate::delivery::{MAX_UNACKNOWLEDGED, StreamId};

const MINUTE: Duration = Duration::from_secs(60);

/// A bench on which three streams of the subscription `a` have ended while these runs were open.
fn struck(runs: &[&str]) -> Bench {
    let mut bench = Bench::new();
    runs.iter().for_each(|name| bench.apply(run(name)));
    for _ in 0..3 {
        let stream = bench.attach(subscription("a"));
        bench.answer_all(&model());
        assert_eq!(bench.events(stream).len(), runs.len());
        bench.end(stream);
    }
    bench
}

fn attach(bench: &mut Bench) -> StreamId {
    let stream = bench.attach(subscription("a"));
    bench.answer_all(&model());
    stream
}

#[test]
fn at_most_256_hand_offs_of_a_stream_wait_for_their_acknowledgement() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    for n in 0..600 {
        bench.apply(run(&format!("{n:03}")));
    }
    bench.answer_all(&model());
    assert_eq!(bench.events(stream).len(), MAX_UNACKNOWLEDGED);
    bench.acknowledge(stream);
    bench.answer_all(&model());
    assert_eq!(bench.events(stream).len(), MAX_UNACKNOWLEDGED, "an acknowledgement makes room, no need to confirm");
    bench.acknowledge(stream);
    bench.answer_all(&model());
    assert_eq!(bench.events(stream).len(), 600 - 2 * MAX_UNACKNOWLEDGED);
}

#[test]
fn four_megabytes_may_wait_for_their_acknowledgement_and_one_event_always_may() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    for n in 0..20 {
        bench.apply(run(&format!("{n:02}")));
    }
    let large = model_at("x".repeat(500 * 1024).into());
    bench.answer_all(&large);
    assert_eq!(bench.events(stream).len(), 9);
    bench.acknowledge(stream);
    assert_eq!(bench.events(stream).len(), 9);
}

#[test]
fn a_subscriber_that_takes_nothing_does_not_hold_up_another() {
    let mut bench = Bench::new();
    bench.attach(subscription("dead"));
    let alive = bench.attach(subscription("alive"));
    for n in 0..1000 {
        bench.apply(run(&n.to_string()));
        bench.answer_all(&model());
        bench.acknowledge(alive);
    }
    assert_eq!(bench.events(alive).len(), 1000);
}

#[test]
fn a_run_on_which_three_streams_have_ended_goes_behind_the_others() {
    let mut bench = struck(&["killer"]);
    bench.apply(run("a new one"));
    bench.apply(run("another"));
    let stream = attach(&mut bench);
    let mut events = bench.events(stream);
    events.sort();
    assert_eq!(events, ["a new one", "another"]);
    bench.confirm(stream);
    bench.wait(Duration::from_secs(10));
    assert_eq!(bench.events(stream), ["killer"]);
}

#[test]
fn such_runs_are_tried_one_at_a_time_so_that_it_shows_which_one_ends_the_stream() {
    let mut bench = struck(&["one", "two", "killer"]);
    let mut stream = attach(&mut bench);
    let mut delivered = Vec::new();
    for _ in 0..20 {
        bench.wait(MINUTE);
        match &bench.events(stream)[..] {
            [run] if run == "killer" => {
                bench.end(stream);
                stream = attach(&mut bench);
            }
            [run] => {
                delivered.push(run.clone());
                bench.confirm(stream);
            }
            [] => {}
            several => panic!("{several:?} at once"),
        }
    }
    delivered.sort();
    assert_eq!(delivered, ["one", "two"]);
}

#[test]
fn an_event_that_kills_its_client_is_tried_ever_more_seldom_but_every_six_minutes() {
    let mut bench = struck(&["killer"]);
    let mut ends = Vec::new();
    for _ in 0..12 {
        let stream = attach(&mut bench);
        let begin = bench.now.instant;
        while bench.events(stream).is_empty() {
            bench.wait(Duration::from_secs(1));
        }
        ends.push((bench.now.instant - begin).as_secs());
        bench.end(stream);
    }
    assert_eq!(ends[..6], [10, 20, 40, 80, 160, 320]);
    assert_eq!(ends[11], 320);
}

#[test]
fn a_run_behind_the_others_gets_its_turn_even_if_the_others_never_end() {
    let mut bench = struck(&["patient"]);
    let stream = attach(&mut bench);
    let mut waited = 0;
    for n in 0.. {
        bench.apply(run(&format!("newcomer-{n}")));
        bench.answer_all(&model());
        bench.acknowledge(stream);
        bench.wait(Duration::from_millis(500));
        let events = bench.events(stream);
        if events.iter().any(|event| event == "patient") {
            break;
        }
        waited = if events.is_empty() { waited + 1 } else { 0 };
        assert!(waited < 4, "the others wait for no longer than a confirmation takes");
        assert!(n < 200, "it waits for ever");
    }
}

#[test]
fn a_confirmed_run_has_a_clean_slate() {
    let mut bench = struck(&["one"]);
    let stream = attach(&mut bench);
    bench.wait(Duration::from_secs(10));
    bench.confirm(stream);
    bench.write_marks();
    bench.change("one", |workflow| workflow.marks = [].into());
    bench.answer_all(&model());
    let again: Vec<_> = bench.handed.iter().map(|event| event.again).collect();
    assert_eq!(again, [true, false]);
    assert_eq!(bench.events(stream), ["one", "one"], "at once, and not behind the others");
}

#[test]
fn the_strikes_of_one_subscription_are_not_those_of_another() {
    let mut bench = struck(&["one"]);
    let other = bench.attach(subscription("b"));
    bench.answer_all(&model());
    assert_eq!(bench.events(other), ["one"]);
}

#[test]
fn a_stream_that_dies_on_one_event_does_not_take_the_run_from_its_sibling() {
    let mut bench = Bench::new();
    let (dying, sibling) = (bench.attach(subscription("a")), bench.attach(subscription("a")));
    bench.apply(run("one"));
    bench.answer_all(&model());
    bench.end(dying);
    bench.confirm(sibling);
    bench.write_marks();
    assert_eq!(bench.store["one"].marks.len(), 1);
}
