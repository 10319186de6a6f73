//! A server that is killed at each step of a delivery. Its successor loses nothing. It repeats only what the subscriber
//! had read and no mark recorded when the server died.

use std::{collections::BTreeSet, os::unix::process::ExitStatusExt as _, time::Duration};

use test_support::{ApiFault, ApiProxy, CATCH_UP, Requests, RunningServer, SHUTDOWN, ServerProcess, Tally, eventually};

use crate::test_env::{SUBSCRIPTION, Subscriber, TestEnv, run_of};

/// Steps within the server, with the names in `src/failpoint.rs` and the names that are printed.
const STEPS: [(&str, &str); 7] = [
    ("before_lookup", "killed before a lookup"),
    ("after_lookup", "killed after a lookup, before its answer is recorded"),
    ("before_handoff", "killed before a hand-off"),
    ("after_handoff", "killed after a hand-off, before the event is written"),
    ("acknowledged", "killed after an acknowledgement, before it is recorded"),
    ("confirmed", "killed before a mark is patched"),
    ("marked", "killed after a patch, before its answer is recorded"),
];

/// Starts a server that kills itself at this pass of a fail point.
async fn server_that_dies(env: &TestEnv, point: &str, pass: usize) -> RunningServer {
    let environment = [format!("MODEL_UPDATE_FAILPOINT={point}:{pass}")];
    env.server_with(&environment, &env.cluster.admin_kubeconfig_file(), &[]).await
}

/// Receives until the stream breaks and returns the locations of the models.
async fn receive_until_death(subscriber: &mut Subscriber, tally: &mut Tally) -> BTreeSet<String> {
    let (received, _code) = subscriber.until_end().await;
    received.iter().for_each(|location| tally.delivered(SUBSCRIPTION, location));
    received.into_iter().collect()
}

/// Starts a successor of a dead server at its address, and checks that it delivers everything and repeats only events
/// that were `received` and not marked.
async fn check_successor(
    env: &TestEnv,
    mut tally: Tally,
    mut dead: RunningServer,
    received: BTreeSet<String>,
    runs: &[String],
) {
    let status = dead.process.exited(CATCH_UP).await;
    assert_eq!(status.signal(), Some(9), "{status}");
    let mut unmarked = BTreeSet::new();
    for location in received {
        if env.marks(run_of(&location)).await.is_empty() {
            unmarked.insert(location);
        }
    }
    let successor = ServerProcess::start_at(dead.listen, &env.cluster.admin_kubeconfig_file(), &env.store_url(), &[]);
    let successor = successor.listening().await;
    let mut subscriber = env.subscriber(&successor, SUBSCRIPTION).await;
    let before: BTreeSet<_> = tally.delivered_more_than(1).collect();
    assert!(before.is_empty(), "duplicates before the crash: {before:?}");
    subscriber.receive_all(&mut tally).await;
    env.marked(runs, &[SUBSCRIPTION]).await;
    // One more run: any duplicate would arrive before it.
    env.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
    subscriber.receive_all(&mut tally).await;
    subscriber.receive_buffered(&mut tally);
    for location in tally.delivered_more_than(1) {
        assert!(unmarked.contains(&location), "{location} was delivered again although it was marked");
    }
    tally.conclude(unmarked.len());
}

/// A server killed at any step of a delivery loses nothing, and only events that were read and unmarked are repeated.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(all(feature = "failpoints", feature = "peers")), ignore = "needs real peers and fail points: tests/run")]
async fn a_crash_at_any_step_repeats_only_unmarked_events() {
    for (point, name) in STEPS {
        let env = TestEnv::shared().await;
        let mut tally = Tally::new(name);
        let server = server_that_dies(&env, point, 1).await;
        let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
        let runs = env.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
        let received = receive_until_death(&mut subscriber, &mut tally).await;
        check_successor(&env, tally, server, received, &runs).await;
    }
}

/// The same in the middle of a burst of 50 runs.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(all(feature = "failpoints", feature = "peers")), ignore = "needs real peers and fail points: tests/run")]
async fn a_crash_during_a_burst_repeats_only_unmarked_events() {
    for (point, name) in STEPS {
        let env = TestEnv::shared().await;
        let mut tally = Tally::new(format!("{name}, in a burst"));
        // All runs exist before the server starts, so that it delivers them in a burst.
        let runs = env.succeed(&mut tally, &[SUBSCRIPTION], 50).await;
        // One acknowledgement covers several events.
        let pass = if point == "acknowledged" { 2 } else { 25 };
        let server = server_that_dies(&env, point, pass).await;
        let mut subscriber = env.unaccepted_subscriber(server.listen, SUBSCRIPTION);
        let received = receive_until_death(&mut subscriber, &mut tally).await;
        check_successor(&env, tally, server, received, &runs).await;
    }
}

/// A server killed during a patch repeats the event only if the patch was not applied.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_crash_during_a_patch_repeats_only_an_unmarked_event() {
    for (fault, name, duplicates) in [
        (ApiFault::Unanswered, "killed before a patch is applied", 1),
        (ApiFault::AppliedUnanswered, "killed after a patch is applied, before its answer", 0),
    ] {
        let env = TestEnv::shared().await;
        let mut tally = Tally::new(name);
        let proxy = ApiProxy::start(&env.cluster, Requests::Patches, Some(fault)).await;
        let mut server = env.server_with(&[], &proxy.kubeconfig_file(), &[]).await;
        let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
        let runs = env.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
        subscriber.receive_all(&mut tally).await;
        proxy.injected(1, CATCH_UP).await;
        assert_eq!(env.marks(&runs[0]).await.is_empty(), duplicates == 1);
        server.process.kill();

        let successor = env.server(&[]).await;
        let mut subscriber = env.subscriber(&successor, SUBSCRIPTION).await;
        env.marked(&runs, &[SUBSCRIPTION]).await;
        env.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
        subscriber.receive_all(&mut tally).await;
        subscriber.receive_buffered(&mut tally);
        assert_eq!(tally.duplicated(), duplicates, "{name}");
        tally.conclude(duplicates);
    }
}

/// Deadline for the failure of `/livez`: 30 s after the last turn of the task.
const NOT_ALIVE: Duration = Duration::from_secs(60);

/// The kubelet restarts a server whose delivery task hangs: `/livez` fails, and SIGTERM still ends the process in time.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(all(feature = "failpoints", feature = "peers")), ignore = "needs real peers and fail points: tests/run")]
async fn a_delivery_task_that_hangs_fails_liveness() {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("the delivery task hangs");
    let environment = ["MODEL_UPDATE_FAILPOINT=before_handoff:1:stall".to_owned()];
    let mut server = env.server_with(&environment, &env.cluster.admin_kubeconfig_file(), &[]).await;
    let subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    assert_eq!(server.get("/livez").await.unwrap(), "ok\n");
    env.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
    eventually(NOT_ALIVE, "/livez fails", async || match server.get("/livez").await {
        Err(answer) if answer.contains("delivery: no turn of the task for 3") => Ok(()),
        other => Err(other),
    })
    .await;
    server.process.terminate();
    server.process.exited(SHUTDOWN).await;
    drop(subscriber);

    let server = env.server(&[]).await;
    env.subscriber(&server, SUBSCRIPTION).await.receive_all(&mut tally).await;
    tally.conclude(0);
}
