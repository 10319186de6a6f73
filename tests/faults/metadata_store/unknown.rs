//! Runs that record nothing in ML Metadata: those of the SDK of KFP v1 with tasks of their own, for example.

use std::time::{Duration, Instant};

use test_support::{CATCH_UP, eventually, report};

use super::*;

const RUNS: usize = 10;
/// Deadline for the end of the two minutes in which a context may still appear, and for the attempt after them.
const REPORTED: Duration = Duration::from_secs(180);

/// After two minutes they are out of the gauges behind the critical alert, also once their Workflows are deleted, and
/// never counted as lost.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn runs_that_ml_metadata_does_not_know_cause_no_alert() {
    unknown_runs(Source::Mlmd).await;
}

/// The same of Kubeflow's API.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn runs_that_kubeflows_api_does_not_know_cause_no_alert() {
    unknown_runs(Source::Kfp).await;
}

async fn unknown_runs(source: Source) {
    let mut env = StoreEnv::with_store("does not know runs", source).await;
    let begin = Instant::now();
    for run in 0..RUNS {
        source.create_succeeded(&env.teams[TEAM_A].workflows, &format!("unknown-{run}")).await;
    }
    let server = &env.server;
    let gauges = async || {
        let pending = server.metric("modelupdate_runs_pending", &[]).await;
        let oldest = server.metric("modelupdate_oldest_pending_run_timestamp_seconds", &[]).await;
        (pending, oldest > 0.0, server.metric("modelupdate_runs_without_context", &[]).await)
    };
    let runs = RUNS as f64;
    eventually(CATCH_UP, "they are pending", async || gauges().await == (runs, true, 0.0)).await;
    eventually(REPORTED, "they are no longer pending", async || {
        let now = gauges().await;
        if now == (0.0, false, runs) { Ok(()) } else { Err(now) }
    })
    .await;
    report(format_args!("runs that {source:?} does not know: pending for {:.0?}", begin.elapsed()));
    assert_eq!(server.metric("modelupdate_runs_skipped_total", &["reason=\"no_context\""]).await, runs);

    for run in 0..RUNS {
        env.teams[TEAM_A].workflows.delete(&format!("unknown-{run}")).await;
    }
    // One watch keeps the order: the deletions were seen before this run.
    env.succeed(TEAM_A, "known").await;
    env.assert_next(TEAM_A, "known").await;
    eventually(CATCH_UP, "nothing is pending", async || {
        let server = &env.server;
        let oldest = server.metric("modelupdate_oldest_pending_run_timestamp_seconds", &[]).await;
        (server.metric("modelupdate_runs_pending", &[]).await, oldest) == (0.0, 0.0)
    })
    .await;
    let expired = env.server.metric("modelupdate_runs_skipped_total", &["reason=\"expired\""]).await;
    assert_eq!(expired, 0.0);
}
