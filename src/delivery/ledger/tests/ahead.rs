//! Lookups of runs that have not ended.

use super::{
    super::{
        Timer,
        ahead::{AFTER_CHANGE, AGES, IN_FLIGHT, INTERVAL, MAX_ANSWERS, MAX_RUNS_OF_NAMESPACE},
    },
    harness::*,
};
use crate::{
    delivery::{KnownAhead, LookupError},
    model::{Phase, RunId, Workflow},
};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A run that was just created.
fn running(namespace: &str, name: &str) -> Workflow {
    Workflow { namespace: namespace.into(), phase: Phase::Active, finished: 0, created: BEGIN, ..run(name) }
}

impl Harness {
    /// The runs that are looked up ahead.
    fn looked_ahead(&self) -> Vec<&str> {
        self.ahead.iter().map(|workflow| &*workflow.name).collect()
    }

    fn answer_ahead(&mut self, run: &str, answer: Result<KnownAhead, LookupError>) {
        let at = self.ahead.iter().position(|workflow| *workflow.name == *run).unwrap();
        let workflow = self.ahead.remove(at);
        self.ledger.handle_answer_ahead(&workflow, &answer, self.now);
        self.perform_actions();
    }
}

#[test]
fn a_run_is_looked_up_ahead_once_it_is_known() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(running("team", "slow"));
    harness.wait(14 * SECOND);
    assert!(harness.ahead.is_empty(), "its first task may not have begun");
    harness.wait(SECOND);
    assert_eq!(harness.looked_ahead(), ["slow"]);
    harness.answer_ahead("slow", Ok(KnownAhead::All));
    // Neither time nor changes nor other streams have it looked up again.
    harness.change("slow", |workflow| workflow.events_published = true);
    harness.attach(subscription("b"));
    harness.wait(3600 * SECOND);
    assert!(harness.ahead.is_empty());
    harness.change("slow", |workflow| workflow.phase = Phase::Succeeded);
    assert_eq!((harness.looked_up(), harness.ledger.ahead.len()), (vec!["slow"], 0));
}

/// Argo changes the Workflow when a task begins: that of the last one is followed by a lookup, whatever came before it.
#[test]
fn a_changed_run_is_looked_up_again_a_limited_number_of_times() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(running("team", "slow"));
    harness.wait(15 * SECOND);
    for lookups in 1..=MAX_ANSWERS {
        assert_eq!(harness.looked_ahead(), ["slow"], "{lookups}");
        if lookups % 2 == 0 {
            harness.apply(running("team", "slow"));
        }
        // A failure costs as much as an answer.
        let answer = if lookups % 3 == 0 { unavailable_ahead() } else { Ok(KnownAhead::SoFar) };
        harness.answer_ahead("slow", answer);
        harness.attach(subscription(&format!("b{lookups}")));
        harness.wait(SECOND);
        if lookups % 2 == 1 {
            harness.wait(3600 * SECOND);
            assert!(harness.ahead.is_empty(), "no change");
        }
        // Further changes, until the lookup.
        for _ in 0..8 {
            harness.apply(running("team", "slow"));
            harness.wait(SECOND);
            assert!(harness.ahead.is_empty());
        }
        harness.wait(AFTER_CHANGE - 8 * SECOND);
    }
    assert!(harness.ahead.is_empty() && !harness.has_timer(|timer| matches!(timer, Timer::LookAhead(..))));
}

/// Its record may name the pipeline by then, and its run.
#[test]
fn a_retry_uses_the_record_of_its_time() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(running("team", "slow"));
    harness.wait(15 * SECOND);
    harness.change("slow", |workflow| workflow.run_id = Some(RunId::new("r")));
    harness.answer_ahead("slow", Err(LookupError::NoContext));
    harness.wait(Duration::from_secs((AGES[1] - AGES[0]) as u64));
    assert_eq!(harness.ahead[0].run_id, Some(RunId::new("r")));
}

#[test]
fn a_run_that_is_not_known_is_looked_up_thrice() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(running("team", "slow"));
    for (age, answer) in
        AGES.into_iter().zip([Err(LookupError::NoContext), Err(LookupError::NoContext), unavailable_ahead()])
    {
        harness.wait(Duration::from_secs((BEGIN + age - harness.now.unix) as u64));
        assert_eq!(harness.looked_ahead(), ["slow"], "{age}");
        harness.answer_ahead("slow", answer);
    }
    harness.wait(24 * 3600 * SECOND);
    assert!(harness.ahead.is_empty());
}

fn unavailable_ahead() -> Result<KnownAhead, LookupError> {
    unavailable().map(|_| KnownAhead::All)
}

/// An old one is looked up once more, at once: the process may have been restarted.
#[test]
fn running_runs_of_a_stream_that_attaches_are_looked_up() {
    let mut harness = Harness::new();
    harness.apply(running("team", "young"));
    harness.apply(Workflow { created: BEGIN - 3600, ..running("team", "old") });
    harness.wait(SECOND);
    assert!(harness.ahead.is_empty() && harness.ledger.ahead.is_empty(), "no stream");
    let stream = harness.attach(subscription("a"));
    harness.wait(SECOND);
    assert_eq!(harness.looked_ahead(), ["old"]);
    harness.answer_ahead("old", Err(LookupError::NoContext));
    // Without a stream nothing begins. What was asked is remembered.
    harness.end(stream);
    harness.wait(60 * SECOND);
    assert!(harness.ahead.is_empty());
    harness.attach(subscription("a"));
    harness.wait(SECOND);
    assert_eq!(harness.looked_ahead(), ["young"]);
}

#[test]
fn a_run_that_ends_before_its_turn_is_not_looked_up_ahead() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    ["short", "failed", "deleted"].into_iter().for_each(|name| harness.apply(running("team", name)));
    harness.change("short", |workflow| workflow.phase = Phase::Succeeded);
    harness.change("failed", |workflow| workflow.phase = Phase::Failed);
    harness.delete("deleted");
    assert_eq!(harness.ledger.ahead.len(), 0);
    assert!(!harness.has_timer(|timer| matches!(timer, Timer::LookAhead(..))));
}

#[test]
fn an_answer_after_the_end_of_the_run_or_namespace_is_ignored() {
    let mut harness = Harness::new();
    let stream = harness.attach(subscription("a"));
    ["ended", "left"].into_iter().for_each(|name| harness.apply(running("team", name)));
    harness.wait(16 * SECOND);
    let first = harness.looked_ahead()[0].to_owned();
    harness.change(&first, |workflow| workflow.phase = Phase::Succeeded);
    harness.answer_ahead(&first, Ok(KnownAhead::All));
    harness.wait(SECOND);
    let second = harness.looked_ahead()[0].to_owned();
    assert_ne!(first, second);
    harness.answer_all(&no_model());
    harness.end(stream);
    harness.wait(2 * 3600 * SECOND);
    assert_eq!(harness.unfollowed, ["team"]);
    harness.answer_ahead(&second, Err(LookupError::NoContext));
    harness.assert_empty();
}

/// A restart is another attempt, with other executions.
#[test]
fn a_restarted_run_is_looked_up_ahead_again() {
    let mut harness = Harness::new();
    harness.attach(subscription("a"));
    harness.apply(running("team", "slow"));
    for _ in 0..2 {
        harness.wait(15 * SECOND);
        harness.answer_ahead("slow", Ok(KnownAhead::All));
        harness.change("slow", |workflow| workflow.phase = Phase::Failed);
        harness.change("slow", |workflow| workflow.phase = Phase::Active);
    }
}

/// Neither its lookups ahead nor others: the tenant's thousands of runs and hanging answers occupy one of the places ahead,
/// and none of the others.
#[test]
fn a_tenant_with_many_running_runs_delays_no_other() {
    let mut harness = Harness::with_lookups(1, 1);
    harness.attach(subscription_in("large", "a"));
    let stream = harness.attach(subscription("a"));
    (0..10_000).for_each(|number| harness.apply(running("large", &format!("large-{number}"))));
    assert_eq!(harness.ledger.ahead.len(), MAX_RUNS_OF_NAMESPACE);
    harness.apply(running("team", "slow"));
    harness.wait(15 * SECOND + 2 * INTERVAL);
    assert_eq!(harness.ahead.len(), 2);
    harness.answer_ahead("slow", Ok(KnownAhead::All));
    harness.wait(60 * SECOND);
    assert_eq!(harness.ahead.len(), 1, "a namespace has one in flight");
    harness.change("slow", |workflow| workflow.phase = Phase::Succeeded);
    harness.answer("slow", model());
    assert_eq!(harness.events(stream), ["slow"]);
}

#[test]
fn lookups_ahead_are_few_at_a_time_and_have_a_rate() {
    let mut harness = Harness::new();
    for number in 0..2 * IN_FLIGHT {
        let namespace = format!("team-{number}");
        harness.attach(subscription_in(&namespace, "a"));
        harness.apply(running(&namespace, &format!("{namespace}-run")));
    }
    harness.wait(15 * SECOND);
    assert_eq!(harness.ahead.len(), 1);
    harness.wait(INTERVAL);
    assert_eq!(harness.ahead.len(), 2);
    harness.wait(SECOND);
    assert_eq!(harness.ahead.len(), IN_FLIGHT);
    while let Some(workflow) = harness.ahead.first() {
        let name = workflow.name.to_string();
        harness.answer_ahead(&name, Ok(KnownAhead::All));
        harness.wait(INTERVAL);
    }
    assert_eq!(harness.ledger.ahead.len(), 2 * IN_FLIGHT, "each was looked up, and is remembered until it ends");
}

/// In all, too: the namespace with the most runs gives way.
#[test]
fn the_runs_that_are_remembered_ahead_are_limited() {
    use super::super::ahead::MAX_RUNS;
    let mut harness = Harness::new();
    let namespaces = MAX_RUNS / MAX_RUNS_OF_NAMESPACE;
    for number in 0..namespaces {
        let namespace = format!("large-{number}");
        harness.attach(subscription_in(&namespace, "a"));
        (0..MAX_RUNS_OF_NAMESPACE).for_each(|run| harness.apply(running(&namespace, &format!("{namespace}-{run}"))));
    }
    assert_eq!(harness.ledger.ahead.len(), MAX_RUNS);
    harness.attach(subscription("a"));
    harness.apply(running("team", "slow"));
    assert_eq!(harness.ledger.ahead.len(), MAX_RUNS);
    assert!(harness.has_timer(|timer| *timer == Timer::LookAhead("team".into(), harness.store["slow"].uid)));
}
