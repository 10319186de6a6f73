//! A store that answers with errors, with malformed messages, or late.

use std::{collections::BTreeMap, time::Duration};

use http::StatusCode;
use test_support::{eventually, report};
use tokio::time::Instant;
use tonic::Code;

use super::{
    proxy::{ARTIFACTS, CALLS, CONTEXT, EVENTS, EXECUTIONS, Fault, StoreProxy},
    *,
};

/// The metric's names of the gRPC codes 1 to 16.
const CODES: [&str; 16] = [
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// Starts a server with a proxy before its store.
async fn start_with_proxy(fault: &'static str) -> (StoreEnv, StoreProxy) {
    let store = Peers::find().await.metadata_store().await;
    let proxy = StoreProxy::start(&store.url()).await;
    (StoreEnv::start(fault, store, proxy.url()).await, proxy)
}

/// Injects a fault into the lookups of each of these runs, delivers other runs meanwhile, and clears the faults.
async fn inject_all(env: &mut StoreEnv, proxy: &StoreProxy, faults: &[(String, &'static str, Fault)]) {
    let runs: Vec<_> = faults.iter().map(|(run, ..)| (run.clone(), location_of(run))).collect();
    env.base.writer.tfx_runs(PIPELINE, &runs).await;
    for (run, call, fault) in faults {
        proxy.inject(run, &[call], *fault);
        env.create_succeeded(TEAM_A, run).await;
    }
    for (run, ..) in faults {
        proxy.injected(run, 2).await;
    }
    env.succeed(TEAM_A, "healthy-a").await;
    env.succeed(TEAM_B, "healthy-b").await;
    env.assert_next(TEAM_A, "healthy-a").await;
    env.assert_next(TEAM_B, "healthy-b").await;
    for (run, ..) in faults {
        proxy.injected(run, 3).await;
    }
    env.assert_no_run_without_model().await;
    proxy.clear_faults();
}

/// An error of any gRPC code never counts as "no model", and delays no other run.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn errors_never_mean_no_model_and_delay_no_other_run() {
    let (mut env, proxy) = start_with_proxy("ML Metadata answers with errors of all 16 codes").await;
    // Consecutive codes affect different calls. With NOT_FOUND, old servers answer that there is no such context.
    let faults: Vec<_> = (1..=16)
        .map(|number| (format!("code-{number}"), CALLS[number as usize % 4], Fault::Code(Code::from(number))))
        .chain([("absent".to_owned(), CONTEXT, Fault::Code(Code::NotFound))])
        .collect();
    inject_all(&mut env, &proxy, &faults).await;
    for reason in CODES.into_iter().chain(["no_context"]) {
        assert!(env.retries(reason).await >= 2.0, "{reason}");
    }
    assert!(env.lookups("failed").await >= 32.0);
    env.conclude().await;
}

/// A malformed answer never counts as "no model", and delays no other run.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn malformed_answers_never_mean_no_model_or_delay_others() {
    let (mut env, proxy) = start_with_proxy("ML Metadata answers with malformed messages").await;
    let kinds = [
        ("http-503", Fault::Http(StatusCode::SERVICE_UNAVAILABLE), "unavailable"),
        ("http-404", Fault::Http(StatusCode::NOT_FOUND), "unimplemented"),
        ("html-page", Fault::HtmlPage, "malformed"),
        ("invalid-message", Fault::InvalidMessage, "malformed"),
        ("not-compressed", Fault::NotCompressed, "internal"),
        ("truncated", Fault::Truncated, "internal"),
        ("no-status", Fault::NoStatus, "unknown"),
        ("no-message", Fault::NoMessage, "internal"),
        ("error-after-message", Fault::ErrorAfterMessage, "data_loss"),
        ("reset", Fault::Reset, "internal"),
    ];
    let mut faults = Vec::new();
    for (name, fault, _) in kinds {
        let each = |call: &&'static str| (format!("{name}-{}", call.to_lowercase()), *call, fault);
        faults.extend(CALLS.iter().map(each));
    }
    inject_all(&mut env, &proxy, &faults).await;
    let mut expected = BTreeMap::new();
    for (_, _, reason) in kinds {
        *expected.entry(reason).or_insert(0.0) += 2.0 * CALLS.len() as f64;
    }
    for (reason, times) in expected {
        assert!(env.retries(reason).await >= times, "{reason}");
    }
    assert_eq!(env.lookups("no_context").await, 0.0);
    env.conclude().await;
}

/// Late answers count, and delay no other run.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn late_answers_count_and_delay_no_other_run() {
    const DELAY: Duration = Duration::from_secs(10);
    let (mut env, proxy) = start_with_proxy("ML Metadata answers after 10 s, or not at all").await;
    for (run, calls) in [
        ("late-context", &[CONTEXT][..]),
        ("late-artifacts", &[ARTIFACTS]),
        ("late-executions", &[EXECUTIONS]),
        ("late-events", &[EVENTS]),
        ("late-all", &CALLS),
    ] {
        proxy.inject(run, calls, Fault::Delay(DELAY));
        env.succeed(TEAM_A, run).await;
    }
    // More than the limit of concurrent lookups in a namespace.
    for number in 0..12 {
        let run = format!("late-{number}");
        proxy.inject(&run, &[EVENTS], Fault::Delay(DELAY));
        env.succeed(TEAM_A, &run).await;
    }
    proxy.inject("unanswered", &[EVENTS], Fault::Unanswered);
    env.succeed(TEAM_A, "unanswered").await;
    proxy.injected("unanswered", 1).await;

    let mut slowest = Duration::ZERO;
    for number in 0..5 {
        for team in [TEAM_A, TEAM_B] {
            let (run, started) = (format!("healthy-{number}-{team}"), Instant::now());
            env.succeed(team, &run).await;
            if team == TEAM_A {
                while env.next(team).await != location_of(&run) {}
            } else {
                env.assert_next(team, &run).await;
            }
            slowest = slowest.max(started.elapsed());
        }
    }
    assert!(slowest < DELAY, "other runs wait for late answers: {slowest:?}");
    report(format!("ML Metadata answers late: other runs are created and delivered within {slowest:?}"));

    // The lookup without an answer is retried.
    eventually(3 * DELAY, "a retry after a timeout", async || env.retries("timeout").await >= 1.0).await;
    proxy.injected("unanswered", 2).await;
    proxy.inject("unanswered", &[], Fault::Unanswered);
    env.conclude().await;
}
