//! A source that hangs, dies, and restarts with its data or without.

use test_support::{SOON, eventually, model_location, report};
use tokio::time::Instant;

use super::*;

impl StoreEnv {
    /// Opens a second subscription of team A, which receives the run whose models are known.
    async fn subscribe_late(&mut self, known: &str) -> Events {
        let config = format!("kfpNamespace: {}", self.teams[TEAM_A].namespace);
        let mut events = self.server.subscribe_as("late", &config).await;
        self.tally.expect("late", &location_of(known));
        self.tally.delivered("late", &model_location(&events.next_payload().await));
        events
    }
}

/// A store that hangs and then dies loses no run, and delays none whose models are known.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_store_that_hangs_and_dies_loses_no_run() {
    hang_and_die(Source::Mlmd).await;
}

/// The same of Kubeflow's API.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_api_that_hangs_and_dies_loses_no_run() {
    hang_and_die(Source::Kfp).await;
}

async fn hang_and_die(source: Source) {
    let mut env = StoreEnv::with_store("hangs, dies, and restarts", source).await;
    env.succeed(TEAM_A, "before").await;
    env.assert_next(TEAM_A, "before").await;

    for run in ["a-while-it-hangs", "b-while-it-hangs", "a-while-it-is-dead", "b-while-it-is-dead"] {
        env.store.push_models(&[run]).await;
    }
    env.store.pause();
    env.create_succeeded(TEAM_A, "a-while-it-hangs").await;
    env.create_succeeded(TEAM_B, "b-while-it-hangs").await;
    let pending = async || env.server.metric("modelupdate_runs_pending", &[]).await == 2.0;
    eventually(SOON, "two pending runs", pending).await;
    let late = env.subscribe_late("before").await;
    assert_eq!(env.lookups("failed").await, 0.0, "it only hangs");

    env.store.kill();
    env.create_succeeded(TEAM_A, "a-while-it-is-dead").await;
    env.create_succeeded(TEAM_B, "b-while-it-is-dead").await;
    eventually(SOON, "repeated lookups", async || env.retries("unavailable").await >= 12.0).await;
    drop(late);

    let started = Instant::now();
    env.store.restart().await;
    let restarted = started.elapsed();
    for _ in 0..2 {
        env.next(TEAM_A).await;
        env.next(TEAM_B).await;
    }
    report(format!("{source:?} restarted: all events delivered within {:?}", started.elapsed() - restarted));
    env.conclude().await;
}

/// A store that restarts empty is no proof that a run has no model.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_emptied_store_does_not_prove_that_a_run_has_no_model() {
    restart_empty(Source::Mlmd).await;
}

/// The same of Kubeflow's API.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_emptied_api_does_not_prove_that_a_run_has_no_model() {
    restart_empty(Source::Kfp).await;
}

async fn restart_empty(source: Source) {
    let mut env = StoreEnv::with_store("restarts empty", source).await;
    env.succeed(TEAM_A, "known").await;
    env.assert_next(TEAM_A, "known").await;
    for run in ["a-forgotten", "b-forgotten"] {
        env.store.push_models(&[run]).await;
    }
    env.store.restart_empty().await;

    env.create_succeeded(TEAM_A, "a-forgotten").await;
    env.create_succeeded(TEAM_B, "b-forgotten").await;
    eventually(SOON, "repeated lookups", async || env.retries("no_context").await >= 6.0).await;
    assert_eq!(env.lookups("failed").await, 0.0);

    // Known models stay known: no duplicate after a change of the Workflow, and a late subscriber receives the event.
    env.teams[TEAM_A].workflows.label("known", "pipeline/persistedFinalState", "true").await;
    let late = env.subscribe_late("known").await;
    env.succeed(TEAM_A, "a-new").await;
    env.succeed(TEAM_B, "b-new").await;
    env.assert_next(TEAM_A, "a-new").await;
    env.assert_next(TEAM_B, "b-new").await;
    drop(late);

    for run in ["a-forgotten", "b-forgotten"] {
        env.store.push_models(&[run]).await;
    }
    env.assert_next(TEAM_A, "a-forgotten").await;
    env.assert_next(TEAM_B, "b-forgotten").await;
    env.conclude().await;
}
