//! Calls before the run ends save round trips after it, and change no answer.

use futures::join;
use tokio::{sync::Barrier, time::timeout};
use tonic::Code;

use super::*;
use crate::{
    lookup::allowance::MAX_KEPT,
    mlmd::{
        fake::{Fault, Store, text},
        rules::EXECUTION_BYTES,
    },
    model::Phase,
};

/// The run before its end.
fn running(run: Workflow) -> Workflow {
    Workflow { phase: Phase::Active, finished: 0, ..run }
}

impl TestEnv {
    /// Asks ahead. Returns the calls, and forgets them.
    async fn ask_ahead(&self, run: &Workflow) -> (Vec<Method>, Result<KnownAhead, LookupError>) {
        self.server.calls();
        let answer = self.mlmd.look_ahead(&running(run.clone())).await;
        (self.server.calls(), answer)
    }

    /// Has the answers to these calls, this number in all, wait for each other.
    fn expect_together(&self, methods: &[Method], calls: usize) {
        let barrier = Arc::new(Barrier::new(calls));
        methods.iter().for_each(|method| self.server.inject(*method, Fault::Barrier(barrier.clone())));
    }
}

/// There are as many calls after the success as without asking ahead: the context is verified, and everything else
/// could have changed until then. The model is recorded in between.
#[tokio::test(start_paused = true)]
async fn a_run_asked_for_ahead_costs_one_round_trip_after_success() {
    for (env, run, ahead, contexts) in [
        (TestEnv::tfx(), compiled(), vec![CONTEXT, EXECUTIONS], 1),
        // The flavor that is more likely is absent. Its pipeline's name takes a second round trip.
        (TestEnv::tfx(), recurring(), vec![CONTEXT, CONTEXT, EXECUTIONS], 2),
        (TestEnv::kfp_v2(), recurring(), vec![CONTEXT, EXECUTIONS], 1),
    ] {
        assert_eq!(env.ask_ahead(&run).await, (ahead, Ok(KnownAhead::SoFar)));
        assert_eq!(env.ask_ahead(&run).await, (vec![EXECUTIONS], Ok(KnownAhead::SoFar)), "its context is known");
        env.server.store().add_model(5, 10, &[1]);
        env.expect_together(&[CONTEXT, ARTIFACTS, EXECUTIONS, EVENTS_OF_EXECUTIONS], contexts + 3);
        let found = env.find(&run).await.unwrap();
        let mut calls = env.server.calls();
        for call in &mut calls {
            assert_ne!(*call, EVENTS);
            *call = if *call == EVENTS_OF_EXECUTIONS { EVENTS } else { *call };
        }
        env.server.clear_faults();
        assert_eq!(env.find_uncached(&run).await, Ok(found));
        let mut without = env.server.calls();
        calls.sort_unstable();
        without.sort_unstable();
        assert_eq!(calls, without);
        assert_eq!(calls.iter().filter(|call| **call == CONTEXT).count(), contexts);
        env.assert_counted("mlmd_contexts_expected_total{result=\"confirmed\"} 1");
        env.assert_counted("mlmd_contexts_expected_total{result=\"outdated\"} 0");
        env.assert_counted("mlmd_lookups_ahead_total{outcome=\"found\"} 2");
        env.assert_counted("mlmd_events_expected_total{result=\"used\"} 1");
    }
}

/// A guess that is not complete costs one call, and neither a round trip nor a model.
#[tokio::test(start_paused = true)]
async fn events_of_expected_executions_count_only_if_complete() {
    type Change = fn(&TestEnv);
    let changes: [(&str, Change); 4] = [
        ("another task has begun", |env| {
            let mut store = env.server.store();
            store.add_execution(20, DURING_MS, &[1]);
            store.add_model(21, 20, &[1]);
        }),
        ("a model that another run made is read", |env| {
            let mut store = env.server.store();
            let other = store.add_context("pipeline_run", "other-run");
            store.add_execution(30, DURING_MS, &[other]);
            store.add_model(31, 30, &[1]);
        }),
        ("the call fails", |env| {
            env.server.inject(EVENTS_OF_EXECUTIONS, Fault::Status(Code::Unimplemented));
        }),
        ("there are too many outputs", |env| {
            let mut store = env.server.store();
            (1000..1300).for_each(|id| store.add_model(id, 10, &[]));
        }),
    ];
    for (name, change) in changes {
        let env = TestEnv::tfx();
        assert_eq!(env.ask_ahead(&compiled()).await.1, Ok(KnownAhead::SoFar));
        env.server.store().add_model(5, 10, &[1]);
        change(&env);
        let found = env.find(&compiled()).await.unwrap();
        let calls = env.server.calls();
        assert_eq!(calls.iter().filter(|call| [EVENTS, EVENTS_OF_EXECUTIONS].contains(call)).count(), 2, "{name}");
        assert!(!found.models.is_empty(), "{name}");
        assert_eq!(env.find_uncached(&compiled()).await, Ok(found), "{name}");
        assert_eq!(env.count_calls(EVENTS_OF_EXECUTIONS), 0);
    }
}

/// An early answer that is not needed delays no lookup: where it cannot be complete, and where there is no candidate.
#[tokio::test(start_paused = true)]
async fn an_early_answer_that_is_not_needed_may_hang() {
    type Change = fn(&mut Store);
    let changes: [(&str, Change, usize); 3] = [
        (
            "another task has started",
            |store| {
                store.add_execution(20, DURING_MS, &[1]);
                store.add_model(21, 20, &[1]);
            },
            1,
        ),
        ("no model", |_| {}, 0),
        (
            "a record of another run",
            |store| {
                store.contexts[0].name = Some("other-run".to_owned());
                let context = store.add_context("pipeline_run", "penguin-x7k2p");
                store.add_execution(20, DURING_MS, &[context]);
                store.add_model(21, 20, &[context]);
            },
            1,
        ),
    ];
    for (name, change, models) in changes {
        let env = TestEnv::tfx();
        assert_eq!(env.ask_ahead(&compiled()).await.1, Ok(KnownAhead::SoFar));
        change(&mut env.server.store());
        env.server.inject(EVENTS_OF_EXECUTIONS, Fault::Hang);
        let started = Instant::now();
        assert_eq!(env.find(&compiled()).await.unwrap().models.len(), models, "{name}");
        assert!(started.elapsed() < Duration::from_millis(100), "{name}: {:?}", started.elapsed());
        assert_eq!(env.count_calls(EVENTS_OF_EXECUTIONS), 1, "{name}");
    }
}

/// Calls for the ids of types precede its use, and nothing reads it during them. It would hold bytes that others need.
#[tokio::test(start_paused = true)]
async fn an_early_answer_is_given_up_before_calls_for_types() {
    let (env, run) = (TestEnv::tfx(), compiled());
    assert_eq!(env.ask_ahead(&run).await.1, Ok(KnownAhead::SoFar));
    {
        let mut store = env.server.store();
        store.artifact_types.insert("PushedModel".into(), 20);
        store.add_model_with(5, 10, &[1], |artifact| (artifact.r#type, artifact.type_id) = (None, Some(20)));
    }
    let barrier = Arc::new(Barrier::new(2));
    env.server.inject(EVENTS_OF_EXECUTIONS, Fault::Hang);
    env.server.inject(TYPE, Fault::Barrier(barrier.clone()));
    let during_the_call = async {
        env.server.until_called(TYPE).await;
        let given_up = timeout(Duration::from_secs(1), env.server.until_given_up(EVENTS_OF_EXECUTIONS)).await;
        given_up.expect("the early call has ended");
        env.server.clear_faults();
        barrier.wait().await;
    };
    let (found, ()) = join!(env.find(&run), during_the_call);
    assert_eq!(found.unwrap().models.len(), 1);
    assert_eq!(env.count_calls(EVENTS_OF_EXECUTIONS), 1);
    env.assert_counted("mlmd_events_expected_total{result=\"unused\"} 1");
}

/// A run that keeps nearly as much as it may. What is kept of an early answer that is not used does not count.
#[tokio::test(start_paused = true)]
async fn an_early_answer_makes_no_run_too_large() {
    let env = TestEnv::tfx();
    assert_eq!(env.ask_ahead(&compiled()).await.1, Ok(KnownAhead::SoFar));
    {
        let mut store = env.server.store();
        store.add_model(5, 10, &[1]);
        (100..350).for_each(|id| store.add_model(id, 10, &[]));
        let executions = (MAX_KEPT - 10_000) / EXECUTION_BYTES;
        (1000..1000 + executions as i64).for_each(|id| store.add_execution(id, DURING_MS, &[1]));
    }
    // The early answer comes first.
    env.server.inject(EXECUTIONS, Fault::Delay(Duration::from_millis(10)));
    let found = env.find(&compiled()).await;
    assert_eq!(found.as_ref().unwrap().models.len(), 1);
    env.assert_counted("mlmd_events_expected_total{result=\"unused\"} 1");
    assert_eq!(env.find_uncached(&compiled()).await, found);
}

/// More executions than a page has are no guess, and not asked for again; nor are those of KFP v1's metadata-writer.
#[tokio::test(start_paused = true)]
async fn many_or_late_executions_are_not_expected() {
    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    (100..200).for_each(|id| env.server.store().add_execution(id, DURING_MS, &[1]));
    assert_eq!(env.ask_ahead(&compiled()).await, (vec![CONTEXT, EXECUTIONS], Ok(KnownAhead::All)));
    assert_eq!(env.find(&compiled()).await.unwrap().models.len(), 1);
    assert_eq!(env.count_calls(EVENTS_OF_EXECUTIONS), 0);
    let env = TestEnv::new();
    env.server.store().add_context("KfpRun", "penguin-x7k2p");
    assert_eq!(env.ask_ahead(&compiled()).await, (vec![CONTEXT; 3], Ok(KnownAhead::All)));
}

/// Whatever happens to the store between the lookup ahead and the end of the run: the answer is that of a lookup that
/// did not ask ahead.
#[tokio::test(start_paused = true)]
async fn a_store_that_changes_before_success_is_asked_anew() {
    type Change = fn(&mut Store);
    let changes: [(&str, Change); 6] = [
        ("the same", |_| {}),
        ("the model is recorded later", |store| store.add_model(7, 10, &[1])),
        ("the record is removed", |store| drop(store.contexts.remove(0))),
        ("the store is empty", |store| *store = Store::default()),
        ("the id belongs to another run in a restored store", |store| {
            store.contexts[0].name = Some("other-run".to_owned());
            let context = store.add_context("pipeline_run", "penguin-x7k2p");
            store.add_execution(20, DURING_MS, &[context]);
            store.add_model(21, 20, &[context]);
        }),
        ("the context names another namespace", |store| {
            store.contexts[0].custom_properties.insert("namespace".into(), text("team-b"));
        }),
    ];
    for (name, change) in changes {
        let env = TestEnv::tfx();
        env.server.store().add_model(5, 10, &[1]);
        assert_eq!(env.ask_ahead(&compiled()).await.1, Ok(KnownAhead::SoFar));
        change(&mut env.server.store());
        let found = env.find(&compiled()).await;
        assert_eq!(found, env.find_uncached(&compiled()).await, "{name}");
        match (name, found) {
            ("the record is removed" | "the store is empty", found) => assert_eq!(found, Err(LookupError::NoContext)),
            ("the context names another namespace", found) => {
                assert!(matches!(found, Err(LookupError::ForeignContext { .. })), "{found:?}");
            }
            (_, found) => {
                let ids: Vec<_> = found.unwrap().models.iter().map(number).collect();
                let expected = if name.contains("another run") { vec![21] } else { env.ids(&compiled()).await };
                assert_eq!(ids, expected, "{name}");
            }
        }
    }
}

/// The metadata-writer of KFP v1 recorded a Pod of the run before the run's own context existed.
#[tokio::test(start_paused = true)]
async fn a_context_of_a_preferred_flavor_replaces_the_expected_one() {
    let env = TestEnv::new();
    {
        let mut store = env.server.store();
        let writer = store.add_context("KfpRun", "penguin-x7k2p");
        store.add_execution(9, DURING_MS, &[writer]);
    }
    assert_eq!(env.ask_ahead(&compiled()).await.1, Ok(KnownAhead::All));
    {
        let mut store = env.server.store();
        let context = store.add_context("pipeline_run", "penguin-x7k2p");
        store.add_execution(10, DURING_MS, &[context]);
        store.add_model(5, 10, &[context]);
    }
    assert_eq!(env.find(&compiled()).await.unwrap().models.len(), 1);
    env.assert_counted("mlmd_contexts_expected_total{result=\"outdated\"} 1");
}

/// An error is never "no model", also if only what the expected context contains could not be listed.
#[tokio::test(start_paused = true)]
async fn a_failure_beside_the_expected_context_is_retried() {
    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    for method in [CONTEXT, ARTIFACTS, EXECUTIONS] {
        env.ask_ahead(&compiled()).await.1.unwrap();
        env.server.inject(method, Fault::Status(Code::Unavailable));
        assert_eq!(failure(env.find(&compiled()).await).0, "unavailable", "{method}");
        env.server.clear_faults();
        assert_eq!(env.find(&compiled()).await.unwrap().models.len(), 1, "the expected context serves the retry");
        env.mlmd.forget(compiled().uid);
    }
    // The content of another run's context is not read, so its failure does not matter.
    env.ask_ahead(&compiled()).await.1.unwrap();
    env.server.store().contexts.remove(0);
    env.server.inject(ARTIFACTS, Fault::Status(Code::Internal));
    assert_eq!(env.find(&compiled()).await, Err(LookupError::NoContext));
}

#[tokio::test(start_paused = true)]
async fn what_is_unknown_or_foreign_ahead_is_not_expected() {
    let env = TestEnv::tfx();
    env.server.store().contexts[0].custom_properties.insert("namespace".into(), text("team-b"));
    let foreign = Err(LookupError::ForeignContext { namespace: "team-b".to_owned() });
    assert_eq!(env.ask_ahead(&compiled()).await.1, foreign);
    env.server.store().contexts.clear();
    assert_eq!(env.ask_ahead(&compiled()).await.1, Err(LookupError::NoContext));
    env.server.inject(CONTEXT, Fault::Status(Code::Unavailable));
    assert!(env.ask_ahead(&compiled()).await.1.is_err());
    for outcome in ["foreign_context", "no_context", "failed"] {
        env.assert_counted(&format!("mlmd_lookups_ahead_total{{outcome=\"{outcome}\"}} 1"));
    }
    env.server.clear_faults();
    assert_eq!(env.find(&compiled()).await, Err(LookupError::NoContext));
    assert_eq!(env.server.calls(), vec![CONTEXT; 3], "one for each flavor, one after another");
}
