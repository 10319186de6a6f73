//! A source that answers with errors, with malformed messages, or late.

use std::{collections::BTreeMap, time::Duration};

use http::StatusCode;
use test_support::{eventually, report};
use tokio::time::Instant;
use tonic::Code;

use super::{
    proxy::{ARTIFACTS, CONTEXT, EVENTS, EXECUTIONS, Fault, GET_RUN, LIST_TASKS, StoreProxy},
    *,
};

/// The pause of late answers.
const DELAY: Duration = Duration::from_secs(10);
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

/// Starts a server with a proxy before its source.
async fn start_with_proxy(fault: &str, source: Source) -> (StoreEnv, StoreProxy) {
    let store = Store::start(source).await;
    let proxy = StoreProxy::start(&store.url()).await;
    (StoreEnv::start(fault, source, store, proxy.url()).await, proxy)
}

/// Injects a fault into the lookups of each of these runs, delivers other runs meanwhile, and clears the faults.
async fn inject_all(env: &mut StoreEnv, proxy: &StoreProxy, faults: &[(String, &'static str, Fault)]) {
    env.store.push_models(&faults.iter().map(|(run, ..)| &**run).collect::<Vec<_>>()).await;
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
    errors(Source::Mlmd).await;
}

/// The same of Kubeflow's API.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn errors_of_kubeflows_api_never_mean_no_model() {
    errors(Source::Kfp).await;
}

async fn errors(source: Source) {
    let (mut env, proxy) = start_with_proxy("answers with errors of all codes", source).await;
    let calls = source.calls();
    // With NOT_FOUND, both say that there is no such run. With UNIMPLEMENTED, Kubeflow's API says that it has no runs, which
    // is remembered.
    let not_asked = |code: &str| source == Source::Kfp && code == "unimplemented";
    let codes = (1..=16).filter(|&number| !not_asked(CODES[number as usize - 1]));
    // Consecutive codes affect different calls.
    let faults: Vec<_> = codes
        .map(|number| (format!("code-{number}"), calls[number as usize % calls.len()], Fault::Code(Code::from(number))))
        .chain([("absent".to_owned(), calls[0], Fault::Code(Code::NotFound))])
        .collect();
    inject_all(&mut env, &proxy, &faults).await;
    let is_unknown = |code: &str| not_asked(code) || (source == Source::Kfp && code == "not_found");
    for reason in CODES.into_iter().filter(|code| !is_unknown(code)).chain(["no_context"]) {
        assert!(env.retries(reason).await >= 2.0, "{reason}");
    }
    assert!(env.lookups("failed").await >= 2.0 * (faults.len() - 3) as f64);
    env.conclude().await;
}

/// A malformed answer never counts as "no model", and delays no other run.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn malformed_answers_never_mean_no_model_or_delay_others() {
    malformed(Source::Mlmd).await;
}

/// The same of Kubeflow's API.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn malformed_answers_of_kubeflows_api_never_mean_no_model() {
    malformed(Source::Kfp).await;
}

async fn malformed(source: Source) {
    let (mut env, proxy) = start_with_proxy("answers with malformed messages", source).await;
    // With the reasons of ML Metadata's calls, of `ListTasks`, and of `GetRun`, which is read piece by piece.
    let kinds = [
        ("http-503", Fault::Http(StatusCode::SERVICE_UNAVAILABLE), ["unavailable", "unavailable", "unavailable"]),
        ("http-404", Fault::Http(StatusCode::NOT_FOUND), ["unimplemented", "unavailable", "unknown"]),
        ("html-page", Fault::HtmlPage, ["malformed", "malformed", "malformed"]),
        ("invalid-message", Fault::InvalidMessage, ["malformed", "malformed", "malformed"]),
        ("not-compressed", Fault::NotCompressed, ["internal", "internal", "malformed"]),
        ("truncated", Fault::Truncated, ["internal", "internal", "malformed"]),
        ("no-status", Fault::NoStatus, ["unknown", "unknown", "malformed"]),
        ("no-message", Fault::NoMessage, ["internal", "internal", "malformed"]),
        ("error-after-message", Fault::ErrorAfterMessage, ["data_loss", "data_loss", "data_loss"]),
        ("reset", Fault::Reset, ["internal", "internal", "internal"]),
    ];
    let (mut faults, mut expected) = (Vec::new(), BTreeMap::new());
    for (name, fault, [of_mlmd, of_list, of_run]) in kinds {
        for &call in source.calls() {
            faults.push((format!("{name}-{}", call.to_lowercase()), call, fault));
            let reason = match call {
                LIST_TASKS => of_list,
                GET_RUN => of_run,
                _ => of_mlmd,
            };
            *expected.entry(reason).or_insert(0.0) += 2.0;
        }
    }
    inject_all(&mut env, &proxy, &faults).await;
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
    let (mut env, proxy) = start_with_proxy("answers after 10 s, or not at all", Source::Mlmd).await;
    for (run, calls) in [
        ("late-context", &[CONTEXT][..]),
        ("late-artifacts", &[ARTIFACTS]),
        ("late-executions", &[EXECUTIONS]),
        ("late-events", &[EVENTS]),
        ("late-all", Source::Mlmd.calls()),
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

    let slowest = deliver_others(&mut env, &[TEAM_A, TEAM_B]).await;
    assert!(slowest < DELAY, "other runs wait for late answers: {slowest:?}");
    conclude_late(env, &proxy, slowest).await;
}

/// Late answers of Kubeflow's API count, and delay no run of another namespace. Few calls about one are made at a time.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn late_answers_of_kubeflows_api_delay_no_other_namespace() {
    let (mut env, proxy) = start_with_proxy("answers after 10 s, or not at all", Source::Kfp).await;
    proxy.inject("unanswered", &[GET_RUN], Fault::Unanswered);
    env.succeed(TEAM_A, "unanswered").await;
    proxy.injected("unanswered", 1).await;
    for call in Source::Kfp.calls() {
        let run = format!("late-{}", call.to_lowercase());
        proxy.inject(&run, &[call], Fault::Delay(DELAY));
        env.succeed(TEAM_A, &run).await;
    }
    let slowest = deliver_others(&mut env, &[TEAM_B]).await;
    assert!(slowest < DELAY / 3, "other runs wait for late answers: {slowest:?}");
    conclude_late(env, &proxy, slowest).await;
}

/// Creates and delivers runs with a healthy source, and returns the longest time for one.
async fn deliver_others(env: &mut StoreEnv, teams: &[usize]) -> Duration {
    let mut slowest = Duration::ZERO;
    for number in 0..5 {
        for &team in teams {
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
    slowest
}

/// Waits for everything after late answers.
async fn conclude_late(env: StoreEnv, proxy: &StoreProxy, slowest: Duration) {
    report(format!("{:?} answers late: other runs are created and delivered within {slowest:?}", env.source));
    // The lookup without an answer is retried.
    eventually(3 * DELAY, "a retry after a timeout", async || env.retries("timeout").await >= 1.0).await;
    proxy.injected("unanswered", 2).await;
    proxy.inject("unanswered", &[], Fault::Unanswered);
    env.conclude().await;
}
