//! When ML Metadata is asked, again and again, and for whom.

use std::time::Duration;

use super::{super::Timer, bench::*};
use crate::{
    delivery::{
        LookupError, Options,
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

/// The failures that were reported as final.
fn given_up(bench: &Bench) -> usize {
    bench.reported(|report| matches!(report, Report::LookupFailed { given_up: true, .. }))
}

/// Lets time pass and gives this answer to every question; returns how many there were.
fn keep_answering(bench: &mut Bench, answer: &Answer, duration: Duration) -> usize {
    let end = bench.now.instant + duration;
    let mut asked = 0;
    while bench.now.instant < end {
        asked += bench.asked.len();
        bench.answer_all(answer);
        let next = bench.ledger.next_deadline().unwrap_or(end).clamp(bench.now.instant, end);
        bench.wait((next - bench.now.instant).max(Duration::from_millis(1)));
    }
    asked
}

#[test]
fn one_question_serves_every_stream_that_wants_the_same() {
    let mut bench = Bench::new();
    let streams = ["a", "b", "b"].map(|name| bench.attach(subscription(name)));
    bench.apply(run("one"));
    assert_eq!(bench.questions(), ["one"]);
    let late = bench.attach(subscription("c"));
    assert_eq!(bench.questions(), ["one"]);
    bench.answer("one", model());
    assert!(streams.into_iter().chain([late]).all(|stream| bench.events(stream) == ["one"]));
}

#[test]
fn nothing_is_asked_for_a_namespace_to_which_nobody_listens() {
    let mut bench = Bench::new();
    bench.attach(elsewhere("another", "a"));
    bench.apply(run("one"));
    assert!(bench.asked.is_empty());
}

#[test]
fn an_error_is_never_no_model() {
    for error in [unavailable(), no_context(), foreign()] {
        let mut bench = Bench::new();
        let stream = bench.attach(subscription("a"));
        bench.apply(run("one"));
        bench.answer("one", error);
        assert_eq!(bench.reported(|report| matches!(report, Report::Unannounced { .. })), 0);
        bench.wait(HOUR);
        bench.answer("one", model());
        assert_eq!(bench.events(stream), ["one"]);
    }
}

#[test]
fn a_failed_question_is_repeated_with_growing_pauses_that_have_an_end() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.apply(run("one"));
    let asked = keep_answering(&mut bench, &unavailable(), HOUR);
    assert!((120..300).contains(&asked), "{asked} in an hour");
    assert_eq!(given_up(&bench), 0);
    let pauses = bench.reports.iter().filter_map(|report| match report {
        Report::LookupFailed { retry_in, .. } => Some(*retry_in),
        _ => None,
    });
    let pauses: Vec<_> = pauses.collect();
    assert!(pauses[0] <= Duration::from_millis(250) && pauses.iter().all(|pause| *pause <= Duration::from_secs(30)));
}

#[test]
fn an_absent_context_is_asked_for_during_two_minutes_and_then_reported_once_and_asked_for_hourly() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.apply(run("one"));
    let asked = keep_answering(&mut bench, &no_context(), Duration::from_secs(119));
    assert!((8..40).contains(&asked), "{asked} in two minutes");
    assert_eq!(given_up(&bench), 0);
    keep_answering(&mut bench, &no_context(), Duration::from_secs(31));
    assert_eq!(given_up(&bench), 1);
    let asked = keep_answering(&mut bench, &no_context(), 24 * HOUR);
    assert!((24..=48).contains(&asked), "{asked} in a day");
    assert_eq!(given_up(&bench), 1);
}

#[test]
fn the_two_minutes_begin_with_the_first_answer_that_misses_the_context() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.apply(run("one"));
    keep_answering(&mut bench, &unavailable(), HOUR);
    keep_answering(&mut bench, &no_context(), Duration::from_secs(90));
    assert_eq!(given_up(&bench), 0);
}

#[test]
fn a_context_that_comes_late_is_found() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    keep_answering(&mut bench, &no_context(), 3 * HOUR);
    bench.wait(HOUR);
    bench.answer("one", model());
    assert_eq!(bench.events(stream), ["one"]);
}

#[test]
fn a_foreign_context_is_reported_once_and_asked_for_hourly() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.apply(run("one"));
    let asked = keep_answering(&mut bench, &foreign(), 24 * HOUR);
    assert!((24..=48).contains(&asked), "{asked} in a day");
    assert_eq!(given_up(&bench), 1);
}

#[test]
fn foreign_executions_are_reported() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer("one", Ok(RunModels { foreign_executions: 3, ..RunModels::default() }.into()));
    assert_eq!(bench.reported(|report| matches!(report, Report::ForeignExecutions { count: 3, .. })), 1);
}

#[test]
fn a_stream_that_keeps_breaking_neither_shortens_the_pauses_nor_begins_the_two_minutes_anew() {
    let mut bench = Bench::new();
    bench.apply(run("one"));
    let mut asked = 0;
    for _ in 0..60 {
        let stream = bench.attach(subscription("a"));
        asked += keep_answering(&mut bench, &no_context(), Duration::from_secs(5));
        bench.end(stream);
    }
    assert!((8..40).contains(&asked), "{asked} in five minutes");
    assert_eq!(given_up(&bench), 1);
}

#[test]
fn a_question_for_which_nobody_waits_any_more_is_not_repeated() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer("one", unavailable());
    bench.end(stream);
    bench.wait(Duration::from_secs(60));
    assert!(bench.asked.is_empty());
    bench.attach(subscription("a"));
    assert_eq!(bench.questions(), ["one"]);
}

#[test]
fn an_answer_that_comes_after_its_stream_has_ended_is_of_use_to_the_next() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.end(stream);
    let next = bench.attach(subscription("a"));
    assert_eq!(bench.questions(), ["one"]);
    bench.answer("one", model());
    assert_eq!(bench.events(next), ["one"]);
}

#[test]
fn an_answer_about_a_run_that_was_restarted_meanwhile_is_not_used() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.change("one", |workflow| workflow.phase = Phase::Other);
    assert_eq!(bench.forgotten, [uid("one")]);
    bench.change("one", |workflow| workflow.phase = Phase::Succeeded);
    assert_eq!(bench.questions(), ["one", "one"]);
    bench.answer("one", no_model());
    bench.answer("one", model());
    assert_eq!(bench.events(stream), ["one"]);
}

#[test]
fn an_answer_that_comes_while_the_restarted_run_runs_is_not_remembered_for_its_next_success() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.change("one", |workflow| workflow.phase = Phase::Other);
    bench.answer("one", no_model());
    bench.change("one", |workflow| workflow.phase = Phase::Succeeded);
    assert_eq!(bench.questions(), ["one"]);
}

#[test]
fn a_run_that_was_restarted_is_not_held_to_the_pauses_of_its_former_life() {
    let mut bench = Bench::new();
    let stream = bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer("one", foreign());
    bench.end(stream);
    bench.change("one", |workflow| workflow.phase = Phase::Other);
    bench.change("one", |workflow| workflow.phase = Phase::Succeeded);
    bench.attach(subscription("a"));
    assert_eq!(bench.questions(), ["one"]);
}

#[test]
fn a_run_that_was_delivered_elsewhere_is_not_asked_for_any_more() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.answer("one", foreign());
    bench.change("one", |workflow| workflow.marks = [mark("a")].into());
    bench.wait(24 * HOUR);
    assert!(bench.asked.is_empty());
}

#[test]
fn a_run_that_was_deleted_is_asked_for_only_as_long_as_it_is_kept() {
    let mut bench = Bench::new();
    bench.attach(subscription("a"));
    bench.apply(run("one"));
    bench.delete("one");
    keep_answering(&mut bench, &no_context(), HOUR);
    assert_eq!(keep_answering(&mut bench, &no_context(), 24 * HOUR), 0);
}

#[test]
fn one_failing_run_does_not_hold_up_the_next() {
    let mut bench = Bench::with(Options { lookups: (1, 1), ..Options::default() });
    let stream = bench.attach(subscription("a"));
    bench.apply(run("failing"));
    bench.apply(run("fine"));
    bench.answer("failing", unavailable());
    assert_eq!(bench.questions(), ["fine"], "a question that waits to be repeated holds no place");
    bench.answer("fine", model());
    assert_eq!(bench.events(stream), ["fine"]);
}

#[test]
fn a_namespace_whose_lookups_hang_does_not_hold_up_another() {
    let mut bench = Bench::with(Options { lookups: (2, 3), ..Options::default() });
    bench.attach(elsewhere("hanging", "a"));
    let fine = bench.attach(subscription("a"));
    for n in 0..20 {
        bench.apply(Workflow { namespace: "hanging".into(), ..run(&format!("hanging-{n}")) });
    }
    assert_eq!(bench.asked.len(), 2);
    for n in 0..20 {
        let name = format!("fine-{n}");
        bench.apply(run(&name));
        bench.answer(&name, model());
    }
    assert_eq!(bench.events(fine).len(), 20);
}

#[test]
fn namespaces_take_turns() {
    let mut bench = Bench::with(Options { lookups: (8, 1), ..Options::default() });
    for namespace in ["x", "y"] {
        bench.attach(elsewhere(namespace, "a"));
        for n in 0..3 {
            bench.apply(Workflow { namespace: namespace.into(), ..run(&format!("{namespace}{n}")) });
        }
    }
    let mut order = Vec::new();
    while let [run] = bench.questions()[..] {
        let run = run.to_owned();
        bench.answer(&run, model());
        order.push(run);
    }
    assert_eq!(order.len(), 6);
    assert!(order[1..].chunks(2).all(|pair| pair.len() < 2 || pair[0][..1] != pair[1][..1]), "{order:?}");
}

#[test]
fn the_streams_of_a_namespace_take_turns_and_so_do_first_and_repeated_questions() {
    let mut bench = Bench::with(Options { lookups: (1, 1), ..Options::default() });
    bench.attach(subscription("a"));
    for n in 0..40 {
        bench.apply(run(&format!("run-{n:02}")));
    }
    for _ in 0..10 {
        let failing = bench.questions()[0].to_owned();
        bench.answer(&failing, unavailable());
    }
    bench.wait(Duration::from_secs(30));
    let mut first = 0;
    for _ in 0..20 {
        let question = &bench.asked[0];
        first += usize::from(question.attempt == 1);
        let run = question.run.clone();
        bench.answer(&run, model());
    }
    assert!((9..=11).contains(&first), "{first} of 20");
}

#[test]
fn a_stream_that_takes_nothing_has_no_more_than_it_could_be_sent_looked_up() {
    let mut bench = Bench::new();
    bench.attach(subscription("dead"));
    for n in 0..2_000 {
        bench.apply(run(&n.to_string()));
        bench.answer_all(&model());
    }
    assert_eq!(bench.handed.len(), 256);
    assert!(bench.ledger.census().pending == 2_000);
    let alive = bench.attach(subscription("alive"));
    while bench.ledger.census().pending > 2_000 {
        bench.answer_all(&model());
        bench.confirm(alive);
    }
}

#[test]
fn runs_whose_answers_take_long_do_not_hold_up_others_of_their_namespace() {
    let mut bench = Bench::with(Options { lookups: (2, 100), ..Options::default() });
    let stream = bench.attach(subscription("a"));
    ["slow-1", "slow-2", "one", "two"].into_iter().for_each(|name| bench.apply(run(name)));
    assert_eq!(bench.questions(), ["slow-1", "slow-2"]);
    bench.wait(SLOW);
    assert_eq!(bench.questions(), ["slow-1", "slow-2", "one", "two"]);
    for name in ["one", "two", "slow-2", "slow-1"] {
        bench.answer(name, model());
    }
    assert_eq!(bench.events(stream).len(), 4);
}

#[test]
fn of_runs_whose_answers_take_long_so_many_are_asked_for_at_once_and_no_more() {
    let mut bench = Bench::with(Options { lookups: (2, 100), ..Options::default() });
    bench.attach(subscription("a"));
    (0..20).for_each(|number| bench.apply(run(&number.to_string())));
    bench.wait(10 * SLOW);
    assert_eq!(bench.asked.len(), 2 + 6, "two places, and three times as many that gave theirs back");
    let first = bench.asked[0].run.clone();
    bench.answer(&first, model());
    bench.wait(SLOW);
    assert_eq!(bench.asked.len(), 8, "one took its place");
    bench.answer_all(&model());
    bench.apply(run("another"));
    assert_eq!(bench.questions(), ["another"]);
    bench.answer_all(&no_model());
    assert!(!bench.ledger.timers.running().any(|timer| matches!(timer, Timer::Slow(_))));
}
