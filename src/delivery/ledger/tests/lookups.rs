//! Lookups: their retries, their order and their limits.

use std::time::Duration;

use super::{super::Timer, harness::*};
use crate::{
    delivery::{
        LookupError,
        ledger::{Report, lookups::SLOW},
    },
    model::{Phase, RunModels, Workflow},
};

const HOUR: Duration = Duration::from_secs(3600);

fn no_context() -> Answer {
    Err(LookupError::NoContext)
}

fn foreign() -> Answer {
    Err(LookupError::ForeignContext { namespace: "other".into() })
}

/// The number of reports that retries have become rare.
fn given_up(harness: &Harness) -> usize {
    harness.reported(|report| matches!(report, Report::LookupFailed { given_up: true, .. }))
}

/// Lets time pass and gives this answer to every lookup. Returns their number.
fn keep_answering(harness: &mut Harness, answer: &Answer, duration: Duration) -> usize {
    let end = harness.now.instant + duration;
    let mut attempts = 0;
    while harness.now.instant < end {
        attempts += harness.lookups.len();
        harness.answer_all(answer);
        let next = harness.ledger.poll_timeout().unwrap_or(end).clamp(harness.now.instant, end);
        harness.wait((next - harness.now.instant).max(Duration::from_millis(1)));
    }
    attempts
}

#[test]
fn one_lookup_serves_every_stream_that_awaits_it() {
    let mut harness = Harness::new();
    let streams = ["a", "b", "b"].map(|name| harness.attach(subscription(name)));
    harness.apply(run("one"));
    assert_eq!(harness.looked_up(), ["one"]);
    let late = harness.attach(subscription("c"));
    assert_eq!(harness.looked_up(), ["one"]);
    harness.answer("one", model());
    assert!(streams.into_iter().chain([late]).all(|stream| harness.events(stream) == ["one"]));
}

#[test]
fn a_namespace_without_subscribers_causes_no_lookups() {
    let mut harness = Harness::new();
    harness.attach(subscription_in("another", "a"));
    harness.apply(run("one"));
    assert!(harness.lookups.is_empty());
}

#[test]
fn an_error_is_never_no_model() {
    for error in [unavailable(), no_context(), foreign()] {
        let mut harness = Harness::new();
        let stream = harness.attach(subscription("a"));
        harness.apply(run("one"));
        harness.answer("one", error);
        assert_eq!(harness.reported(|report| matches!(report, Report::Skipped { .. })), 0);
        harness.wait(HOUR);
        harness.answer("one", model());
        assert_eq!(harness.events(stream), ["one"]);
    }
}

#[test]
fn a_failed_lookup_is_retried_with_growing_but_bounded_pauses() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    let attempts = keep_answering(&mut harness, &unavailable(), HOUR);
    assert!((120..300).contains(&attempts), "{attempts} in an hour");
    assert_eq!(given_up(&harness), 0);
    let pauses = harness.reports.iter().filter_map(|report| match report {
        Report::LookupFailed { retry_in, .. } => Some(*retry_in),
        _ => None,
    });
    let pauses: Vec<_> = pauses.collect();
    assert!(pauses[0] <= Duration::from_millis(250) && pauses.iter().all(|pause| *pause <= Duration::from_secs(30)));
}

/// After two minutes it is reported, once.
#[test]
fn an_absent_context_is_retried_for_two_minutes_then_hourly() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    let attempts = keep_answering(&mut harness, &no_context(), Duration::from_secs(119));
    assert!((8..40).contains(&attempts), "{attempts} in two minutes");
    assert_eq!(given_up(&harness), 0);
    keep_answering(&mut harness, &no_context(), Duration::from_secs(31));
    assert_eq!(given_up(&harness), 1);
    let attempts = keep_answering(&mut harness, &no_context(), 24 * HOUR);
    assert!((24..=48).contains(&attempts), "{attempts} in a day");
    assert_eq!(given_up(&harness), 1);
}

#[test]
fn the_two_minutes_begin_with_the_first_absent_context() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    keep_answering(&mut harness, &unavailable(), HOUR);
    keep_answering(&mut harness, &no_context(), Duration::from_secs(90));
    assert_eq!(given_up(&harness), 0);
}

#[test]
fn a_late_context_is_found() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    keep_answering(&mut harness, &no_context(), 3 * HOUR);
    harness.wait(HOUR);
    harness.answer("one", model());
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn a_foreign_context_is_reported_once_and_retried_hourly() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    let attempts = keep_answering(&mut harness, &foreign(), 24 * HOUR);
    assert!((24..=48).contains(&attempts), "{attempts} in a day");
    assert_eq!(given_up(&harness), 1);
}

#[test]
fn foreign_executions_are_reported() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer("one", Ok(RunModels { foreign_executions: 3, ..RunModels::default() }.into()));
    assert_eq!(harness.reported(|report| matches!(report, Report::ForeignExecutions { count: 3, .. })), 1);
}

/// It neither shortens the pauses nor restarts the two minutes.
#[test]
fn a_stream_that_keeps_breaking_does_not_reset_the_pauses() {
    let mut harness = Harness::new();
    harness.apply(run("one"));
    let mut attempts = 0;
    for _ in 0..60 {
        let stream = harness.attach(subscription("a"));
        attempts += keep_answering(&mut harness, &no_context(), Duration::from_secs(5));
        harness.end(stream);
    }
    assert!((8..40).contains(&attempts), "{attempts} in five minutes");
    assert_eq!(given_up(&harness), 1);
}

#[test]
fn a_failed_lookup_that_no_stream_awaits_is_not_retried() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer("one", unavailable());
    harness.end(stream);
    harness.wait(Duration::from_secs(60));
    assert!(harness.lookups.is_empty());
    harness.attach(subscription("a"));
    assert_eq!(harness.looked_up(), ["one"]);
}

#[test]
fn an_answer_after_the_end_of_its_stream_serves_the_next() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.end(stream);
    let next = harness.attach(subscription("a"));
    assert_eq!(harness.looked_up(), ["one"]);
    harness.answer("one", model());
    assert_eq!(harness.events(next), ["one"]);
}

#[test]
fn an_answer_from_before_a_restart_is_ignored() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    assert_eq!(harness.forgotten, [uid("one")]);
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    assert_eq!(harness.looked_up(), ["one", "one"]);
    harness.answer("one", no_model());
    harness.answer("one", model());
    assert_eq!(harness.events(stream), ["one"]);
}

#[test]
fn an_answer_during_a_restart_is_not_remembered() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.answer("one", no_model());
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    assert_eq!(harness.looked_up(), ["one"]);
}

#[test]
fn a_restart_resets_the_pauses() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer("one", foreign());
    harness.end(stream);
    harness.change("one", |workflow| workflow.phase = Phase::Active);
    harness.change("one", |workflow| workflow.phase = Phase::Succeeded);
    harness.attach(subscription("a"));
    assert_eq!(harness.looked_up(), ["one"]);
}

#[test]
fn a_run_delivered_by_another_replica_is_not_looked_up_again() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.answer("one", foreign());
    harness.change("one", |workflow| workflow.marks = [mark("a")].into());
    harness.wait(24 * HOUR);
    assert!(harness.lookups.is_empty());
}

#[test]
fn a_deleted_run_is_looked_up_only_while_it_is_kept() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(run("one"));
    harness.delete("one");
    keep_answering(&mut harness, &no_context(), HOUR);
    assert_eq!(keep_answering(&mut harness, &no_context(), 24 * HOUR), 0);
}

#[test]
fn a_failing_lookup_delays_no_other() {
    let mut harness = Harness::with_lookups(1, 1);
    let stream = harness.attach(subscription("a"));
    harness.apply(run("failing"));
    harness.apply(run("fine"));
    harness.answer("failing", unavailable());
    assert_eq!(harness.looked_up(), ["fine"], "a lookup that waits for its retry holds no place");
    harness.answer("fine", model());
    assert_eq!(harness.events(stream), ["fine"]);
}

#[test]
fn hanging_lookups_delay_no_other_namespace() {
    let mut harness = Harness::with_lookups(2, 3);
    harness.attach(subscription_in("hanging", "a"));
    let fine = harness.attach(subscription("a"));
    for n in 0..20 {
        harness.apply(Workflow { namespace: "hanging".into(), ..run(&format!("hanging-{n}")) });
    }
    assert_eq!(harness.lookups.len(), 2);
    for n in 0..20 {
        let name = format!("fine-{n}");
        harness.apply(run(&name));
        harness.answer(&name, model());
    }
    assert_eq!(harness.events(fine).len(), 20);
}

#[test]
fn namespaces_take_turns() {
    let mut harness = Harness::with_lookups(8, 1);
    for namespace in ["x", "y"] {
        harness.attach(subscription_in(namespace, "a"));
        for n in 0..3 {
            harness.apply(Workflow { namespace: namespace.into(), ..run(&format!("{namespace}{n}")) });
        }
    }
    let mut order = Vec::new();
    while let [run] = harness.looked_up()[..] {
        let run = run.to_owned();
        harness.answer(&run, model());
        order.push(run);
    }
    assert_eq!(order.len(), 6);
    assert!(order[1..].chunks(2).all(|pair| pair.len() < 2 || pair[0][..1] != pair[1][..1]), "{order:?}");
}

/// Within one namespace.
#[test]
fn first_attempts_and_retries_take_turns() {
    let mut harness = Harness::with_lookups(1, 1);
    harness.attach(subscription("a"));
    for n in 0..40 {
        harness.apply(run(&format!("run-{n:02}")));
    }
    for _ in 0..10 {
        let failing = harness.looked_up()[0].to_owned();
        harness.answer(&failing, unavailable());
    }
    harness.wait(Duration::from_secs(30));
    let mut first = 0;
    for _ in 0..20 {
        let lookup = &harness.lookups[0];
        first += usize::from(lookup.attempt == 1);
        let run = lookup.run.clone();
        harness.answer(&run, model());
    }
    assert!((9..=11).contains(&first), "{first} of 20");
}

#[test]
fn a_stream_that_reads_nothing_causes_bounded_lookups() {
    let mut harness = Harness::new();
    harness.attach(subscription("dead"));
    for n in 0..2_000 {
        harness.apply(run(&n.to_string()));
        harness.answer_all(&model());
    }
    assert_eq!(harness.handoffs.len(), 256);
    assert!(harness.ledger.stats().pending_runs() == 2_000);
    let alive = harness.attach(subscription("alive"));
    while harness.ledger.stats().pending_runs() > 2_000 {
        harness.answer_all(&model());
        harness.confirm(alive);
    }
}

#[test]
fn slow_lookups_delay_no_others_of_their_namespace() {
    let mut harness = Harness::with_lookups(2, 100);
    let stream = harness.attach(subscription("a"));
    ["slow-1", "slow-2", "one", "two"].into_iter().for_each(|name| harness.apply(run(name)));
    assert_eq!(harness.looked_up(), ["slow-1", "slow-2"]);
    harness.wait(SLOW);
    assert_eq!(harness.looked_up(), ["slow-1", "slow-2", "one", "two"]);
    for name in ["one", "two", "slow-2", "slow-1"] {
        harness.answer(name, model());
    }
    assert_eq!(harness.events(stream).len(), 4);
}

#[test]
fn slow_lookups_of_a_namespace_are_limited() {
    let mut harness = Harness::with_lookups(2, 100);
    harness.attach(subscription("a"));
    (0..20).for_each(|number| harness.apply(run(&number.to_string())));
    harness.wait(10 * SLOW);
    assert_eq!(harness.lookups.len(), 2 + 6, "two places, and three times as many slow lookups");
    let first = harness.lookups[0].run.clone();
    harness.answer(&first, model());
    harness.wait(SLOW);
    assert_eq!(harness.lookups.len(), 8, "one place became free");
    harness.answer_all(&model());
    harness.apply(run("another"));
    assert_eq!(harness.looked_up(), ["another"]);
    harness.answer_all(&no_model());
    assert!(!harness.has_timer(|timer| matches!(timer, Timer::SlowLookup(_))));
}
