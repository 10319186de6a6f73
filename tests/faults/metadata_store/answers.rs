//! What ML Metadata answers is an error, garbage, or late.

use std::collections::BTreeMap;

use http::StatusCode;
use test_support::report;
use tokio::time::Instant;
use tonic::Code;

use super::{
    proxy::{ARTIFACTS, CALLS, CONTEXT, EVENTS, EXECUTIONS, Fault, StoreProxy},
    *,
};

/// The names of the codes 1 to 16.
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

async fn before_a_proxy() -> (World, StoreProxy, MetadataStore) {
    let peers = Peers::find().await;
    let store = peers.metadata_store().await;
    let proxy = StoreProxy::start(&store.url()).await;
    (World::start(peers, &store, proxy.url()).await, proxy, store)
}

/// Lets each of these runs meet its fault again and again while healthy ones flow, and then lets them be.
async fn play(world: &mut World, proxy: &StoreProxy, tally: &mut Tally, faults: &[(String, &'static str, Fault)]) {
    let runs: Vec<_> = faults.iter().map(|(run, ..)| (run.clone(), at(run))).collect();
    world.writer.tfx_runs(PIPELINE, &runs).await;
    for (run, call, fault) in faults {
        proxy.misbehave(run, &[call], *fault);
        world.ours.succeed(run, tally).await;
    }
    for (run, ..) in faults {
        proxy.played(run, 2).await;
    }
    world.ours("healthy", tally).await;
    world.theirs("elsewhere", tally).await;
    assert_eq!(world.ours.next(tally).await, at("healthy"), "and nothing before it");
    assert_eq!(world.theirs.next(tally).await, at("elsewhere"));
    for (run, ..) in faults {
        proxy.played(run, 3).await;
    }
    world.has_guessed_nothing().await;
    proxy.behave();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_error_of_any_code_is_never_no_model_and_holds_up_no_other_run() {
    let (mut world, proxy, _store) = before_a_proxy().await;
    let mut tally = Tally::new("ML Metadata answers errors of all 16 codes");
    // Each code in another call than the one before it. NOT_FOUND for the context is how old servers say that there is
    // none.
    let faults: Vec<_> = (1..=16)
        .map(|number| (format!("code-{number}"), CALLS[number as usize % 4], Fault::Code(Code::from(number))))
        .chain([("absent".to_owned(), CONTEXT, Fault::Code(Code::NotFound))])
        .collect();
    play(&mut world, &proxy, &mut tally, &faults).await;
    for reason in CODES.into_iter().chain(["no_context"]) {
        assert!(world.retries(reason).await >= 2.0, "{reason}");
    }
    assert!(world.lookups("failed").await >= 32.0);
    world.conclude(tally).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn garbage_is_never_no_model_and_holds_up_no_other_run() {
    let (mut world, proxy, _store) = before_a_proxy().await;
    let mut tally = Tally::new("ML Metadata answers garbage");
    let kinds = [
        ("http-503", Fault::Http(StatusCode::SERVICE_UNAVAILABLE), "unavailable"),
        ("http-404", Fault::Http(StatusCode::NOT_FOUND), "unimplemented"),
        ("page", Fault::Page, "malformed"),
        ("octets", Fault::Octets, "malformed"),
        ("compressed", Fault::Compressed, "internal"),
        ("half", Fault::Half, "internal"),
        ("no-status", Fault::NoStatus, "unknown"),
        ("no-message", Fault::NoMessage, "internal"),
        ("revoked", Fault::Revoked, "data_loss"),
        ("reset", Fault::Reset, "internal"),
    ];
    let mut faults = Vec::new();
    for (name, fault, _) in kinds {
        let each = |call: &&'static str| (format!("{name}-{}", call.to_lowercase()), *call, fault);
        faults.extend(CALLS.iter().map(each));
    }
    play(&mut world, &proxy, &mut tally, &faults).await;
    let mut expected = BTreeMap::new();
    for (_, _, reason) in kinds {
        *expected.entry(reason).or_insert(0.0) += 2.0 * CALLS.len() as f64;
    }
    for (reason, times) in expected {
        assert!(world.retries(reason).await >= times, "{reason}");
    }
    assert_eq!(world.lookups("no_context").await, 0.0);
    world.conclude(tally).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn late_answers_hold_up_no_other_run_and_are_answers() {
    const LATE: Duration = Duration::from_secs(10);
    let (mut world, proxy, _store) = before_a_proxy().await;
    let mut tally = Tally::new("ML Metadata takes 10 s an answer, or for ever");
    for (run, calls) in [
        ("late-context", &[CONTEXT][..]),
        ("late-artifacts", &[ARTIFACTS]),
        ("late-executions", &[EXECUTIONS]),
        ("late-events", &[EVENTS]),
        ("late-all", &CALLS),
    ] {
        proxy.misbehave(run, calls, Fault::After(LATE));
        world.ours(run, &mut tally).await;
    }
    // More than may be asked for at once in a namespace.
    for number in 0..12 {
        let run = format!("late-{number}");
        proxy.misbehave(&run, &[EVENTS], Fault::After(LATE));
        world.ours(&run, &mut tally).await;
    }
    proxy.misbehave("never", &[EVENTS], Fault::Never);
    world.ours("never", &mut tally).await;
    proxy.played("never", 1).await;

    let mut slowest = Duration::ZERO;
    for number in 0..5 {
        for ours in [true, false] {
            let (run, begun) = (format!("healthy-{number}-{ours}"), Instant::now());
            if ours {
                world.ours(&run, &mut tally).await;
                while world.ours.next(&mut tally).await != at(&run) {}
            } else {
                world.theirs(&run, &mut tally).await;
                assert_eq!(world.theirs.next(&mut tally).await, at(&run));
            }
            slowest = slowest.max(begun.elapsed());
        }
    }
    assert!(slowest < LATE, "other runs wait for late answers: {slowest:?}");
    report(format!("beside late answers, other runs are announced after {slowest:?} at most, their writing included"));

    // The one that gets no answer is asked for again.
    let timeout =
        test_support::eventually(3 * LATE, "a lookup to be repeated", async || world.retries("timeout").await >= 1.0);
    timeout.await;
    proxy.played("never", 2).await;
    proxy.misbehave("never", &[], Fault::Never);
    world.conclude(tally).await;
}
